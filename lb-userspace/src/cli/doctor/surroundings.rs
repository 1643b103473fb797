// SPDX-License-Identifier: MIT OR Apache-2.0
//! What path `packet` goes by on this host besides the kernel's BPF: its ports and interfaces, who keeps its flows, and settings that keep some of them
//! from it.

use std::io;
use std::ops::RangeInclusive;

use crate::config::{Config, Global, PACKET_STATE};
use crate::kernel::packet::kept::{Keeper, Why};
use crate::kernel::packet::{AttachError, has_known_packets};
use crate::net::claim::{Rival, rivals};
use crate::net::conntrack::Conntrack;
use crate::net::routes::Routes;
use crate::net::{self, EcnSetting, PortsError, check_ports};
use crate::path::packet::Grace;

/// What was found. Nothing here needs a privilege but to hear of connection tracking.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// `packet-ports`
    pub(super) ports: RangeInclusive<u16>,
    /// Whether the kernel leaves them alone.
    pub(super) are_ours: Result<(), PortsError>,
    /// Agents that run on ports of the range, one with this configuration perhaps.
    pub(super) agents: Vec<Rival>,
    /// Who keeps flows when the agent ends.
    pub(super) keeper: Result<String, Why>,
    /// `packet-interfaces`
    pub(super) interfaces: Vec<Interface>,
    /// Whether the kernel tells what it tracks; `None`: it tracks nothing.
    pub(super) tracking: Option<io::Result<()>>,
    /// Whether the kernel tells when packets have arrived.
    pub(super) grace: io::Result<()>,
    /// Whether clients get ECN that ask for it, and servers are not asked.
    pub(super) only_grants_ecn: bool,
}

/// One of `packet-interfaces`.
#[derive(Debug)]
pub(super) struct Interface {
    /// As it is written.
    pub(super) name: String,
    /// Whether programs can be there.
    pub(super) state: Result<(), AttachError>,
    /// Of which bridge or bond it is a port.
    pub(super) master: Option<String>,
}

impl Surroundings {
    /// Those of a configuration, or of the defaults.
    pub(super) fn here(config: Option<&Config>) -> Self {
        let ports = config.map_or(Global::DEFAULT_PACKET_PORTS, |config| config.global.packet_ports());
        let state =
            config.map_or(Some(PACKET_STATE.as_ref()), |config| config.global.packet_state.as_deref());
        Self {
            are_ours: check_ports(&ports),
            agents: rivals(&ports, None),
            keeper: Keeper::foresee(state),
            ports,
            interfaces: config.map_or(Vec::new(), interfaces),
            tracking: Conntrack::try_out(),
            grace: Grace::try_out(),
            only_grants_ecn: EcnSetting::open().only_grants(),
        }
    }
}

fn interfaces(config: &Config) -> Vec<Interface> {
    let routes = Routes::open().ok();
    let master = |name: &str| {
        let master = routes.as_ref()?.master(net::interface_number(name).ok()?)?;
        net::interface_name(master).ok()
    };
    let names = config.global.packet_interfaces.iter();
    names
        .map(|name| Interface {
            name: name.to_string(),
            state: has_known_packets(name),
            master: master(name),
        })
        .collect()
}
