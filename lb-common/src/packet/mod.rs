// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the packets of one TCP connection become those of another: what two connections that carry the same bytes differ in are
//! constants. Pure, so that the host can test it.
//!
//! Headers are words of 32 bits in the order of the network, read as numbers (`u32::from_be`), and are passed by value: a BPF program
//! loads and stores them itself, by constant offsets, as the verifier wants it. Options are the exception, for where they stand
//! is only known when a packet comes; they are reached through [`options::Bytes`]. Nothing here allocates, panics or loops without a
//! bound.
//!
//! A packet for the other end is made in this order: [`ip`] says whether it can be translated and where its payload ends, [`flow`] whether
//! it is to be, [`ip`], [`tcp`] and [`options`] translate, and [`checksum`] says to what the sums must be corrected, and how the kernel is
//! told. [`syn`] is what has to be agreed before, [`offer`] how it comes to that, [`icmp`] what comes back from routers, [`too_big`] what goes back from here, [`record`] how all that is kept between packets,
//! [`stall`] what comes of those that cannot be translated once nobody else has them.
//!
//! **Super-packets.** What the kernel has made of many segments (GRO), or has not yet cut into them (GSO), is translated once, as
//! one packet. This is right because the segments differ in nothing that the translation looks at: the kernel merges only segments with
//! the same acknowledgement, the same window and the same options, whose numbers follow each other (net/ipv4/tcp_offload.c,
//! tcp_gro_receive), and cuts by copying the header, adding the size of a segment to the number and leaving FIN and PSH to the last, CWR
//! to the first (there, tcp_gso_segment). Adding a constant to the first number adds it to all. The checksum of each segment is made of the one in
//! the header and the change of the length, so one that is right stays right. Not so where GRO keeps a list of whole packets
//! (SKB_GSO_FRAGLIST, for TCP since Linux 6.10, off unless an interface has `rx-gro-list` on): there each segment has a header of its own,
//! of which the kernel corrects ports and addresses alone (there, __tcpv4_gso_segment_list_csum). An interface that has it on is not for this path.

pub mod checksum;
pub mod flow;
pub mod icmp;
pub mod ip;
pub mod offer;
pub mod options;
pub mod reason;
pub mod record;
pub mod sequence;
pub mod stall;
pub mod syn;
pub mod tcp;
pub mod too_big;

#[cfg(test)]
mod tests;
