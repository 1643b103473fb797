// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is there and what lacks, with what to change. Pure.

mod packet;

use std::error::Error;
use std::time::Duration;

use super::machine::Machine;
use super::paths::Paths;
use super::surroundings::Surroundings;
use crate::config::Config;
use crate::config::needs::{self, Descriptors};
use crate::kernel::LoadError;
use crate::path::sockmap::Limits;
use crate::privileges::{Capability, Lack};

/// Flows that path `sockmap` is tried for where no configuration says how many there may be.
const FLOWS_DEFAULT: u32 = 1_000;

/// Bytes that they may then have waiting beyond their shares; it makes no difference to what is examined.
const OVERDRAFT_DEFAULT: u64 = 64 << 20;

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Fine,
    /// Not there, or worth knowing; nothing that was asked for needs it.
    Note,
    /// Asked for and not there.
    Lacking,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The heading that it stands under.
    pub(super) section: &'static str,
    /// What was looked at.
    pub(super) subject: String,
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) text: String,
    /// What to change.
    pub(super) cure: Option<String>,
    /// How long it took, where that matters.
    pub(super) took: Option<Duration>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Wishes {
    /// Whether path `sockmap` is.
    pub(super) sockmap: bool,
    /// Whether path `packet` is.
    pub(super) packet: bool,
    /// The capabilities that this needs.
    pub(super) capabilities: Vec<Capability>,
    /// How many flows path `sockmap` is for.
    pub(super) flows: u32,
    /// Bytes that all of them may have waiting beyond their shares.
    pub(super) overdraft: u64,
    /// Of `max-connections`: why the limit of open files is too low, and the one that is enough.
    pub(super) too_few_descriptors: Option<(String, u64)>,
}

impl Wishes {
    /// Those of a configuration; without one, every path.
    pub(super) fn new(config: Option<&Config>, machine: &Machine) -> Self {
        let Some(config) = config else {
            return Self {
                sockmap: true,
                packet: true,
                capabilities: Capability::FOR_SOCKMAP.to_vec(),
                flows: FLOWS_DEFAULT,
                overdraft: OVERDRAFT_DEFAULT,
                too_few_descriptors: None,
            };
        };
        let divided = Descriptors::divide(machine.descriptors(), config);
        Self {
            sockmap: needs::wants_sockmap(config),
            packet: needs::wants_packet(config),
            capabilities: needs::capabilities(config, machine.system.port_start),
            flows: divided.connections,
            overdraft: Limits::new(config.global.sockmap_memory, config.global.sockmap_direction_memory)
                .overdraft(),
            too_few_descriptors: too_few(config, divided.connections),
        }
    }
}

fn too_few(config: &Config, connections: u32) -> Option<(String, u64)> {
    if connections == 0 {
        return Some(("not enough for one connection".into(), Descriptors::least(config)));
    }
    let wished = config.global.max_connections.filter(|wished| wished.get() > connections)?;
    let needed = Descriptors::needed(wished.get().into(), config);
    Some((format!("room for {connections} of max-connections = {wished}"), needed))
}

/// Everything, in the order in which people read it.
pub(super) fn all(
    machine: &Machine,
    wishes: &Wishes,
    paths: &Paths,
    surroundings: &Surroundings,
) -> Vec<Finding> {
    let mut findings = kernel(machine, wishes);
    findings.extend(process(machine, wishes));
    findings.extend(carried(machine, wishes, paths));
    if wishes.packet {
        findings.extend(packet::all(surroundings));
    }
    for (section, steps) in
        [("self-test of path sockmap", &paths.steps), ("self-test of path packet", &paths.packet_steps)]
    {
        findings.extend(steps.iter().map(|step| {
            let finding = Finding::fine(section, step.behaviour, "holds");
            Finding { took: Some(step.took), ..finding }
        }));
    }
    findings
}

/// Whether nothing lacks that was asked for.
pub(super) fn is_complete(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.verdict != Verdict::Lacking)
}

impl Finding {
    fn fine(section: &'static str, subject: &str, text: impl Into<String>) -> Self {
        let (subject, text) = (subject.to_owned(), text.into());
        Self { section, subject, verdict: Verdict::Fine, text, cure: None, took: None }
    }

    /// Something that is not there: `is_wanted` makes the difference between a note and a lack.
    fn absent(
        section: &'static str,
        subject: &str,
        is_wanted: bool,
        text: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        let verdict = if is_wanted { Verdict::Lacking } else { Verdict::Note };
        Self { verdict, cure: Some(cure.into()), ..Self::fine(section, subject, text) }
    }
}

fn kernel(machine: &Machine, wishes: &Wishes) -> Vec<Finding> {
    const SECTION: &str = "kernel";
    let bpf = match machine.bpf_disabled.as_deref() {
        // Whether this process may use it is told by path sockmap.
        Some(value) => {
            Finding::fine(SECTION, "bpf(2)", format!("there, kernel.unprivileged_bpf_disabled = {value}"))
        }
        None => Finding::absent(SECTION, "bpf(2)", false, "not in this kernel", "CONFIG_BPF_SYSCALL=y"),
    };
    let btf = if machine.has_btf {
        Finding::fine(SECTION, "BTF", "there: the kernel tells its types")
    } else {
        let cure = "a kernel with CONFIG_DEBUG_INFO_BTF=y, and /sys/kernel/btf readable";
        Finding::absent(SECTION, "BTF", wishes.sockmap, "not there", cure)
    };
    let cgroup = match &machine.cgroup {
        Some(place) => Finding::fine(SECTION, "cgroup v2", format!("mounted at {}", place.display())),
        None => Finding::absent(SECTION, "cgroup v2", false, "not mounted; no path needs it", "nothing"),
    };
    vec![Finding::fine(SECTION, "release", &*machine.kernel), bpf, btf, cgroup]
}

fn process(machine: &Machine, wishes: &Wishes) -> Vec<Finding> {
    const SECTION: &str = "this process";
    let namespace = if machine.is_in_initial_user_namespace { "the initial" } else { "its own" };
    let mut findings =
        vec![Finding::fine(SECTION, "user", format!("uid {} in {namespace} user namespace", machine.user))];
    for capability in Capability::ALL {
        findings.push(if machine.held.contains(&capability) {
            Finding::fine(SECTION, capability.name(), format!("held: {}", capability.purpose()))
        } else {
            let is_wanted = wishes.capabilities.contains(&capability);
            let text = format!("not held: {}", capability.purpose());
            let lacking = Finding::absent(SECTION, capability.name(), is_wanted, text, grant(&[capability]));
            // Path sockmap's own line names all that it lacks.
            let cure = lacking.cure.filter(|_| !Capability::FOR_SOCKMAP.contains(&capability));
            Finding { cure, ..lacking }
        });
    }
    findings.push(if machine.is_filtered {
        let cure = "SystemCallFilter=bpf beside what the filter allows, if path sockmap is forbidden";
        Finding::absent(SECTION, "seccomp", false, "a filter judges system calls", cure)
    } else {
        Finding::fine(SECTION, "seccomp", "no filter")
    });
    findings.push(descriptors(SECTION, machine, wishes));
    findings
}

fn descriptors(section: &'static str, machine: &Machine, wishes: &Wishes) -> Finding {
    let shown = |limit: Option<u64>| limit.map_or("unlimited".into(), |limit| limit.to_string());
    let (hard, soft) = (shown(machine.system.descriptors), shown(machine.soft_descriptors));
    let text = format!("{hard} (the soft limit, {soft}, is raised to it)");
    match &wishes.too_few_descriptors {
        None => Finding::fine(section, "open files", text),
        Some((why, needed)) => {
            let cure = format!("LimitNOFILE={needed} in the systemd unit, or `ulimit -Hn {needed}` as root");
            Finding::absent(section, "open files", true, format!("{text}: {why}"), cure)
        }
    }
}

fn carried(machine: &Machine, wishes: &Wishes, paths: &Paths) -> Vec<Finding> {
    const SECTION: &str = "paths";
    let splice = match &paths.splice {
        Ok(()) => Finding::fine(SECTION, "splice", "available"),
        Err(error) => {
            let cure = "a seccomp filter that allows splice(2) and pipe2(2); until then flows are copied";
            Finding::absent(SECTION, "splice", true, format!("off: {error}"), cure)
        }
    };
    let inside = |name, is_wanted: bool, path: &Result<(), LoadError>| match path {
        Ok(()) => Finding::fine(SECTION, name, "available"),
        Err(error) => {
            let unasked = if is_wanted { "" } else { " (the configuration does not ask for it)" };
            let text = format!("off: {}{unasked}", chain(error));
            Finding::absent(SECTION, name, is_wanted, text, cure(error, machine))
        }
    };
    let sockmap = inside("sockmap", wishes.sockmap, &paths.sockmap);
    let packet = inside("packet", wishes.packet, &paths.packet);
    vec![Finding::fine(SECTION, "copy", "available"), splice, sockmap, packet]
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What to change so that a path inside the kernel is available.
fn cure(error: &LoadError, machine: &Machine) -> String {
    match error {
        LoadError::NoPrivilege(Lack::Capabilities(missing)) => grant(missing),
        LoadError::NoPrivilege(Lack::UserNamespace) => {
            "PrivateUsers=no in the systemd unit; no rootless container".into()
        }
        LoadError::NoPrivilege(Lack::Forbidden) if machine.is_filtered => {
            "SystemCallFilter=bpf in the systemd unit beside what it allows; in a container, a seccomp profile that allows bpf(2)".into()
        }
        LoadError::NoPrivilege(Lack::Forbidden) => {
            "a security policy (SELinux, AppArmor, kernel lockdown) that allows lb to load BPF programs: see the kernel's log".into()
        }
        LoadError::KernelTooOld(_) if machine.is_filtered => {
            "SystemCallFilter=bpf in the systemd unit, or a container's seccomp profile that allows bpf(2); or else a newer kernel".into()
        }
        LoadError::KernelTooOld(_) => {
            "a kernel with CONFIG_BPF_SYSCALL=y and CONFIG_BPF_STREAM_PARSER=y; Debian's, from 6.1 on, have both".into()
        }
        LoadError::NoBtf(_) => "a kernel with CONFIG_DEBUG_INFO_BTF=y; Debian's have it".into(),
        LoadError::Memory(_) => "a higher LimitNOFILE= in the systemd unit, more memory, or a smaller global.max-connections".into(),
        LoadError::Damaged(_) => "install lb anew".into(),
        LoadError::SelfTest(_) | LoadError::Refused(_) => {
            "another kernel; until then path = \"auto\" carries the same flows".into()
        }
    }
}

/// How a process gets capabilities.
fn grant(missing: &[Capability]) -> String {
    let names: Vec<&str> = missing.iter().map(|capability| capability.name()).collect();
    let names = names.join(" ");
    format!(
        "AmbientCapabilities={names} and CapabilityBoundingSet={names} in the systemd unit, as config/lb.service has them"
    )
}
