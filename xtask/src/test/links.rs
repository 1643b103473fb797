// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end-to-end tests on links that not every kernel can make.

use std::process::{Command, Stdio};

use crate::repository::has_program;

/// Links of a kind.
pub struct Links {
    /// What the names of tests on them begin with.
    pub prefix: &'static str,
    /// What they are called.
    pub title: &'static str,
    /// Makes one in a network namespace of its own, by a shell.
    script: &'static str,
    /// What a kernel lacks that cannot.
    lacks: &'static str,
}

/// Those that lose packets (tc-netem(8)).
pub const FAULTY: Links = Links {
    prefix: "lossy_links::",
    title: "links with faults",
    script: "tc qdisc add dev lo root netem loss 1%",
    lacks: "netem (CONFIG_NET_SCH_NETEM)",
};

/// All kinds (ip-link(8)).
pub const ALL: [Links; 4] = [
    FAULTY,
    Links {
        prefix: "packet_stacked::vlan::",
        title: "VLANs",
        script: "ip link add a type veth peer name b && ip link add link a name c type vlan id 5",
        lacks: "VLANs (CONFIG_VLAN_8021Q)",
    },
    Links {
        prefix: "packet_stacked::ipvlan::",
        title: "ipvlan",
        script: "ip link add a type veth peer name b && ip link add link a name c type ipvlan mode l2",
        lacks: "ipvlan (CONFIG_IPVLAN)",
    },
    Links {
        prefix: "packet_stacked::bond::",
        title: "bonds",
        script: "ip link add a type bond",
        lacks: "bonds (CONFIG_BONDING)",
    },
];

impl Links {
    /// Tries whether this kernel can make them.
    ///
    /// # Errors
    /// Why not.
    pub fn are_possible(&self) -> Result<(), String> {
        if ["ip", "tc", "unshare"].into_iter().any(|program| !has_program(program)) {
            return Err("ip, tc or unshare are missing: `cargo xtask setup`".to_owned());
        }
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sh", "-c", self.script]);
        match command.stdout(Stdio::null()).stderr(Stdio::null()).status() {
            Ok(status) if status.success() => Ok(()),
            _ => Err(format!("this kernel has no {}: `cargo xtask vm {}`", self.lacks, self.prefix)),
        }
    }
}
