// SPDX-License-Identifier: MIT OR Apache-2.0
//! `lb check --explain`: what a configuration amounts to on this machine. All of it is TOML, prose as comments, so that the output
//! is a configuration too.

use std::fmt::Write;

use rustix::process::{Resource, geteuid, getrlimit};

use super::destination::{self, Question};
use crate::config::Config;
use crate::config::needs::{Descriptors, PER_CONNECTION, PIPES_PER_CONNECTION, RESERVE, privileged_binds};

/// Where the kernel tells from which port on binding needs no privilege.
const PORT_START_FILE: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// The kernel's default for it (include/net/ip.h: PROT_SOCK).
const PORT_START_DEFAULT: u16 = 1024;

/// What this machine grants to this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct System {
    /// net.ipv4.ip_unprivileged_port_start
    pub(super) port_start: u16,
    /// Whether the effective user is root.
    pub(super) is_root: bool,
    /// RLIMIT_NOFILE, soft and hard; `None`: unlimited.
    pub(super) descriptors: (Option<u64>, Option<u64>),
}

impl System {
    /// Asks the kernel.
    pub(super) fn here() -> Self {
        let start = std::fs::read_to_string(PORT_START_FILE).ok().and_then(|text| text.trim().parse().ok());
        let limit = getrlimit(Resource::Nofile);
        Self {
            port_start: start.unwrap_or(PORT_START_DEFAULT),
            is_root: geteuid().is_root(),
            descriptors: (limit.current, limit.maximum),
        }
    }
}

/// The whole explanation.
///
/// # Errors
/// The question names no frontend of the configuration.
pub(super) fn explain(config: &Config, question: &Question<'_>, system: &System) -> Result<String, String> {
    let destination = destination::answer(config, question)?;
    let mut text = format!("# The configuration with all defaults.\n\n{}", config.to_toml());
    section(&mut text, "Capabilities", &capabilities(config, system));
    section(&mut text, "File descriptors", &descriptors(config, system));
    if let Some(lines) = destination {
        section(&mut text, &question.to_string(), &lines);
    }
    Ok(text)
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    let body: String = lines.iter().fold(String::new(), |mut body, line| {
        writeln!(body, "#   {line}").expect("a String takes all text");
        body
    });
    write!(text, "\n# {title}\n{body}").expect("a String takes all text");
}

fn capabilities(config: &Config, system: &System) -> Vec<String> {
    let binds = privileged_binds(config, system.port_start);
    if binds.is_empty() {
        return vec!["none".into()];
    }
    let binds: Vec<String> = binds.iter().map(ToString::to_string).collect();
    let why =
        format!("{}: below net.ipv4.ip_unprivileged_port_start = {}", binds.join(", "), system.port_start);
    match system.is_root {
        true => {
            vec![format!("none beyond what root has; another user would need CAP_NET_BIND_SERVICE for {why}")]
        }
        false => vec![format!("CAP_NET_BIND_SERVICE for {why}")],
    }
}

fn descriptors(config: &Config, system: &System) -> Vec<String> {
    let needs = Descriptors::of(config);
    let limit = |limit: Option<u64>| limit.map_or("unlimited".into(), |limit| limit.to_string());
    let (soft, hard) = system.descriptors;
    let Descriptors { listeners, checks, .. } = needs;
    let others = format!("{listeners} listening + {checks} checks + {RESERVE} reserve");
    let mut lines = Vec::new();
    match config.global.max_connections {
        None => {
            let allowed = soft.map_or("any number of".into(), |soft| needs.connections(soft).to_string());
            lines.push(format!("{PER_CONNECTION} a connection + {others}"));
            lines.push(format!("max-connections is not set: RLIMIT_NOFILE allows {allowed} connections"));
        }
        Some(max) => {
            let max = u64::from(max.get());
            lines.push(format!("{} = {PER_CONNECTION} x {max} connections + {others}", needs.needed(max)));
            if needs.has_pipes {
                let pipes = format!("{PIPES_PER_CONNECTION} x {max} for the pipes of splice");
                lines.push(format!(
                    "{} at worst, when bytes wait in every direction: + {pipes}",
                    needs.at_worst(max)
                ));
            }
            lines.push(verdict(&needs, max, soft, hard));
        }
    }
    lines.push(format!("RLIMIT_NOFILE: {} (soft), {} (hard)", limit(soft), limit(hard)));
    lines
}

fn verdict(needs: &Descriptors, max: u64, soft: Option<u64>, hard: Option<u64>) -> String {
    let fits = |limit: Option<u64>, needed: u64| limit.is_none_or(|limit| limit >= needed);
    let (needed, worst) = (needs.needed(max), needs.at_worst(max));
    let cure = |needed: u64| match fits(hard, needed) {
        true => format!("raise it with `ulimit -n {needed}` or LimitNOFILE={needed} in the systemd unit"),
        false => format!("set LimitNOFILE={needed} in the systemd unit; the hard limit must rise too"),
    };
    if fits(soft, worst) {
        "RLIMIT_NOFILE is large enough".into()
    } else if fits(soft, needed) {
        format!(
            "RLIMIT_NOFILE is large enough, but at worst some connections are copied, not spliced: {}",
            cure(worst)
        )
    } else {
        let allowed = needs.connections(soft.unwrap_or(u64::MAX));
        format!("RLIMIT_NOFILE is too small and allows {allowed} connections: {}", cure(needed))
    }
}

#[cfg(test)]
mod tests;
