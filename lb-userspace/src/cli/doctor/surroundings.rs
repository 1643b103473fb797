// SPDX-License-Identifier: MIT OR Apache-2.0
//! What path `packet` goes by on this host besides the kernel: its ports, and who keeps its flows.

use std::ops::RangeInclusive;

use crate::config::{Config, Global, PACKET_STATE};
use crate::kernel::packet::kept::{Keeper, Why};
use crate::net::claim::{Rival, rivals};
use crate::net::{PortsError, check_ports};

/// What was found. Nothing here needs a privilege.
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
        }
    }
}
