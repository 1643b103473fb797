// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs at an interface: by links of tcx where the kernel has them (since Linux 6.6), behind all that are there already, and as
//! filters of the queueing discipline clsact otherwise (tc-bpf(8)).

use std::io;

use aya::programs::ProgramError;
use lb_common::packet::record::{PACKET_EGRESS, PACKET_EGRESS_L3, PACKET_INGRESS, PACKET_INGRESS_L3};

use super::Programs;
use super::hooks::{Direction, Hook, Place};
use super::kept::Keeper;
use crate::net;
use crate::net::routes::Routes;

/// The programs at one interface. Dropping it takes them off, unless somebody keeps them.
#[derive(Debug)]
pub struct Attachment {
    hooks: [Hook; 2],
    name: String,
    number: u32,
    mtu: u32,
}

/// Why packets of an interface are not seen.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is none of this name in this network namespace.
    #[error("there is no interface {interface}")]
    NoInterface {
        /// The name.
        interface: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The kernel does not say whether there is one, or which there are: it or the process lacks something.
    #[error("cannot ask the kernel for interfaces")]
    Unknown(#[source] io::Error),
    /// Its packets begin with a header that is neither Ethernet's nor none.
    #[error(
        "interface {interface} has packets of link type {link_type}, which is neither Ethernet nor IP alone"
    )]
    LinkType {
        /// The name.
        interface: String,
        /// ARPHRD_* (include/uapi/linux/if_arp.h).
        link_type: u16,
    },
    /// The programs are at as many as this process has descriptors for.
    #[error(
        "path packet is at {most} interfaces, which is all that it can be at: name those that matter in packet-interfaces"
    )]
    TooMany {
        /// How many.
        most: usize,
    },
    /// The kernel refuses: a capability is missing, or it was built without CONFIG_NET_CLS_BPF.
    #[error("the kernel refuses a program at interface {interface}")]
    Refused {
        /// The name.
        interface: String,
        /// What the kernel says.
        #[source]
        source: Box<ProgramError>,
    },
}

/// Two link types that the C library's headers lack: ARPHRD_RAWIP and ARPHRD_IP6GRE (include/uapi/linux/if_arp.h).
const RAW_IP: u16 = 519;
const IP6_GRE: u16 = 823;

/// With what the packets of an interface begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkHeader {
    Ethernet,
    None,
}

/// Attaches the loaded programs to an interface of this network namespace.
///
/// # Errors
/// See [`AttachError`]; then none of them stays there.
pub fn attach(
    Programs { ebpf, hooks }: &mut Programs,
    keeper: &Keeper,
    interface: &str,
) -> Result<Attachment, AttachError> {
    let missing = |source| AttachError::missing(interface, source);
    let programs = match LinkHeader::at(interface)? {
        LinkHeader::Ethernet => [PACKET_INGRESS, PACKET_EGRESS],
        LinkHeader::None => [PACKET_INGRESS_L3, PACKET_EGRESS_L3],
    };
    let refused = |source: ProgramError| AttachError::Refused {
        interface: interface.to_owned(),
        source: Box::new(source),
    };
    let place = Place { name: interface, number: net::interface_number(interface).map_err(missing)? };
    let [ingress, egress] = programs;
    // First: what comes in before it is there is answered by TCP.
    let ingress = hooks.hook(ebpf, ingress, keeper, &place, Direction::Ingress).map_err(refused)?;
    let egress = match hooks.hook(ebpf, egress, keeper, &place, Direction::Egress) {
        Ok(egress) => egress,
        Err(error) => {
            ingress.detach();
            hooks.bury(keeper, place.number);
            return Err(refused(error));
        }
    };
    let (hooks, name) = ([ingress, egress], interface.to_owned());
    let mut attachment = Attachment { hooks, name, number: place.number, mtu: u32::MAX };
    attachment.measure();
    Ok(attachment)
}

/// Finds out whether programs understand the packets of an interface of this network namespace.
///
/// # Errors
/// [`AttachError::NoInterface`], [`AttachError::Unknown`] or [`AttachError::LinkType`].
pub fn has_known_packets(interface: &str) -> Result<(), AttachError> {
    LinkHeader::at(interface).map(drop)
}

impl Attachment {
    /// The name that the interface had.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of the interface.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Finds out how large packets may be there by now. One that cannot be asked takes what it took.
    pub fn measure(&mut self) {
        let mtu = net::interface_name(self.number).and_then(|name| net::mtu(&name));
        self.mtu = mtu.unwrap_or(self.mtu);
    }

    /// Bytes that packets may have at the interface, behind the link header, when it was measured.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Whether one of the programs is not there any more, and the interface with them: only if the kernel says so.
    pub(super) fn is_gone(&self, routes: &Routes) -> bool {
        self.hooks.iter().any(|hook| hook.is_gone(self.number, routes))
    }

    /// Takes the programs off, whoever keeps them.
    pub fn detach(self) {
        self.hooks.into_iter().for_each(Hook::detach);
    }

    /// Forgets them: the interface has gone, and they with it.
    pub(super) fn bury(self) {
        self.hooks.into_iter().for_each(Hook::bury);
    }
}

impl AttachError {
    /// Why an interface cannot be asked.
    fn missing(interface: &str, source: io::Error) -> Self {
        if !net::is_absence(&source) {
            return Self::Unknown(source);
        }
        Self::NoInterface { interface: interface.to_owned(), source }
    }
}

impl LinkHeader {
    /// That of an interface.
    fn at(interface: &str) -> Result<Self, AttachError> {
        let link_type =
            net::link_type(interface).map_err(|source| AttachError::missing(interface, source))?;
        Self::of(link_type)
            .ok_or_else(|| AttachError::LinkType { interface: interface.to_owned(), link_type })
    }

    /// By the link type (include/linux/if_arp.h, dev_is_mac_header_xmit, for those that have none). Of others the header may be anything.
    fn of(link_type: u16) -> Option<Self> {
        match link_type {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(Self::Ethernet),
            libc::ARPHRD_NONE
            | libc::ARPHRD_TUNNEL
            | libc::ARPHRD_TUNNEL6
            | libc::ARPHRD_SIT
            | libc::ARPHRD_IPGRE
            | RAW_IP
            | IP6_GRE => Some(Self::None),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_packets_begin_with_is_known_or_they_are_left_alone() {
        let check = |link_type, expected| assert_eq!(LinkHeader::of(link_type), expected);
        check(libc::ARPHRD_ETHER, Some(LinkHeader::Ethernet));
        check(libc::ARPHRD_LOOPBACK, Some(LinkHeader::Ethernet));
        check(libc::ARPHRD_NONE, Some(LinkHeader::None));
        check(libc::ARPHRD_INFINIBAND, None);
        check(libc::ARPHRD_PPP, None);
    }
}
