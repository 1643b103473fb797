// SPDX-License-Identifier: MIT OR Apache-2.0
//! What there is to say of the surroundings of path `packet`.

use std::io;

use super::{Finding, Surroundings, chain, grant};
use crate::cli::doctor::surroundings::Interface;
use crate::kernel::packet::AttachError;
use crate::net::claim::Rival;
use crate::privileges::Capability;

/// Their heading.
const SECTION: &str = "around path packet";

/// All of it.
pub(super) fn all(surroundings: &Surroundings) -> Vec<Finding> {
    let mut findings = vec![ports(surroundings)];
    findings.extend(interfaces(surroundings));
    findings.extend([
        keeper(surroundings),
        grace(surroundings),
        tracking(surroundings),
        notification(surroundings),
    ]);
    findings
}

fn ports(surroundings: &Surroundings) -> Finding {
    const SUBJECT: &str = "packet-ports";
    let Surroundings { ports, are_ours, agents, .. } = surroundings;
    let range = format!("{}-{}", ports.start(), ports.end());
    if let Err(error) = are_ours {
        let cure = format!(
            "net.ipv4.ip_local_reserved_ports = {range} in a file of /etc/sysctl.d, or packet-ports outside net.ipv4.ip_local_port_range"
        );
        return Finding::absent(SECTION, SUBJECT, true, format!("{range}: {}", chain(error)), cure);
    }
    let Some(Rival { ports: theirs, process }) = agents.first() else {
        return Finding::fine(SECTION, SUBJECT, format!("{range}, which the kernel gives to nobody"));
    };
    let text =
        format!("{}-{} are those of the lb that runs (process {process})", theirs.start(), theirs.end());
    // It may be the one with this configuration.
    let cure = "another range, if that is another lb";
    Finding::absent(SECTION, SUBJECT, false, text, cure)
}

fn keeper(surroundings: &Surroundings) -> Finding {
    const SUBJECT: &str = "packet-state";
    match &surroundings.keeper {
        Ok(keeper) => {
            Finding::fine(SECTION, SUBJECT, format!("{keeper} keeps flows while lb is started anew"))
        }
        Err(why) => {
            let text = format!("{why}: flows end with lb, unless systemd keeps them");
            let cure = "FileDescriptorStoreMax= in the systemd unit, as config/lb.service has it; or lb as root, and packet-state in a BPF file system";
            Finding::absent(SECTION, SUBJECT, false, text, cure)
        }
    }
}

fn interfaces(surroundings: &Surroundings) -> Vec<Finding> {
    let named = &surroundings.interfaces;
    let mut findings: Vec<_> = named.iter().filter_map(|interface| trouble(interface, named)).collect();
    if findings.is_empty() {
        let names: Vec<&str> = named.iter().map(|interface| &*interface.name).collect();
        let text = if names.is_empty() { "all but lo".into() } else { names.join(", ") };
        findings.push(Finding::fine(SECTION, INTERFACES, text));
    }
    findings
}

const INTERFACES: &str = "packet-interfaces";

/// What is wrong with one of `packet-interfaces`.
fn trouble(interface: &Interface, named: &[Interface]) -> Option<Finding> {
    let name = &interface.name;
    if let Err(error) = &interface.state {
        // The agent waits for one that is missing, and for nothing else.
        let (is_fatal, text, cure) = match error {
            AttachError::NoInterface { .. } => {
                (false, format!("{error}: it is taken once it comes"), "its name, if it never will".into())
            }
            error => (true, chain(error), format!("packet-interfaces without {name}")),
        };
        return Some(Finding::absent(SECTION, INTERFACES, is_fatal, text, cure));
    }
    let master = interface.master.as_ref()?;
    if named.iter().any(|other| other.name == *master) {
        return None;
    }
    let text = format!("{name} is a port of {master}, by which connections leave: they stay in user space");
    Some(Finding::absent(SECTION, INTERFACES, true, text, format!("{master} instead of {name}")))
}

fn grace(surroundings: &Surroundings) -> Finding {
    const SUBJECT: &str = "membarrier(2)";
    match &surroundings.grace {
        Ok(()) => Finding::fine(SECTION, SUBJECT, "tells when packets have arrived"),
        Err(error) => {
            let cure = "SystemCallFilter=membarrier in the systemd unit beside what it allows; or a kernel with CONFIG_MEMBARRIER=y, not one for real time and not with nohz_full=";
            Finding::absent(SECTION, SUBJECT, true, format!("does not wait: {error}"), cure)
        }
    }
}

fn tracking(surroundings: &Surroundings) -> Finding {
    const SUBJECT: &str = "connection tracking";
    match &surroundings.tracking {
        None => Finding::fine(SECTION, SUBJECT, "not in this kernel"),
        Some(Ok(())) => Finding::fine(SECTION, SUBJECT, "the kernel tells of it, and is told"),
        Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            let text = "not to be asked without CAP_NET_ADMIN";
            Finding::absent(SECTION, SUBJECT, false, text, grant(&[Capability::NetAdmin]))
        }
        Some(Err(error)) => {
            let text =
                format!("the kernel does not tell of it: NAT is not seen, and entries stay behind: {error}");
            let cure = "the module nf_conntrack_netlink (a file of /etc/modules-load.d)";
            Finding::absent(SECTION, SUBJECT, true, text, cure)
        }
    }
}

/// Explicit congestion notification (RFC 3168).
fn notification(surroundings: &Surroundings) -> Finding {
    const SUBJECT: &str = "net.ipv4.tcp_ecn";
    if surroundings.only_grants_ecn {
        let text =
            "2: clients that ask for ECN stay in user space, for servers are not asked; with 1 they do not";
        let cure = "net.ipv4.tcp_ecn = 1 in a file of /etc/sysctl.d";
        return Finding::absent(SECTION, SUBJECT, false, text, cure);
    }
    Finding::fine(SECTION, SUBJECT, "no obstacle to clients that ask for ECN")
}
