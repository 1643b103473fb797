// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What programs do with a packet: all of it by helpers of the kernel, none by pointers into it. For a program that writes through a pointer
//! has the kernel copy the head of every packet that it sees and somebody else holds too (net/core/filter.c, bpf_unclone_prologue), and that
//! is nearly everything that a socket of this host has sent, whether it is for this path or not. A helper copies only what is written to.

use core::mem::MaybeUninit;
use core::ptr;

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, TC_ACT_REDIRECT,
};
use aya_ebpf::helpers::{
    bpf_check_mtu, bpf_csum_update, bpf_l4_csum_replace, bpf_redirect_neigh, bpf_skb_adjust_room,
    bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use lb_common::packet::checksum::Difference;

use super::Fate;

/// Bytes of Ethernet's header, and of the header of an interface that has none.
pub const ETHERNET: u32 = 14;
/// See [`ETHERNET`].
pub const BARE: u32 = 0;

/// The kernel's name for the packet that a program was called for.
pub type Skb = *mut __sk_buff;

/// Numbers without gaps between them.
///
/// # Safety
/// Whatever bytes lie there are a value, and all of them belong to it.
pub unsafe trait Plain: Copy {}

// SAFETY: numbers have no gaps between them, and any bytes are one.
unsafe impl<const COUNT: usize> Plain for [u32; COUNT] {}

/// Bytes of the packet, its link header included.
#[inline(always)]
pub fn len(skb: Skb) -> u32 {
    // SAFETY: a field of this program's own context; the verifier knows it.
    unsafe { (*skb).len }
}

/// How many segments the interface or the kernel has made one of; 0: it is one as it was sent.
#[inline(always)]
pub fn segments(skb: Skb) -> u32 {
    // SAFETY: as in `len`.
    unsafe { (*skb).gso_segs }
}

/// The payload of each of them in bytes; 0: it is one as it was sent.
#[inline(always)]
pub fn gso_size(skb: Skb) -> u32 {
    // SAFETY: as in `len`.
    unsafe { (*skb).gso_size }
}

/// The protocol as in Ethernet's header, in the order of the network; 0: there is a VLAN tag beside the packet, and so it is none of ours.
#[inline(always)]
pub fn protocol(skb: Skb) -> u32 {
    // SAFETY: as in `len`.
    let (protocol, is_tagged) = unsafe { ((*skb).protocol, (*skb).vlan_present) };
    if is_tagged != 0 { 0 } else { protocol }
}

/// The number of the interface that the packet is at.
#[inline(always)]
pub fn interface(skb: Skb) -> u32 {
    // SAFETY: as in `len`.
    unsafe { (*skb).ifindex }
}

/// Whether the packet came in at an interface of this host before it goes out.
#[inline(always)]
pub fn is_forwarded(skb: Skb) -> bool {
    // SAFETY: as in `len`.
    unsafe { (*skb).ingress_ifindex != 0 }
}

/// Copies what stands at an offset; `None`: the packet ends before that.
#[inline(always)]
pub fn load<T: Plain>(skb: Skb, offset: u32, room: &mut MaybeUninit<T>) -> Option<&mut T> {
    // SAFETY: the helper reads the packet of this program's own context, and fills the room in any case: with zeros if it fails.
    let error =
        unsafe { bpf_skb_load_bytes(skb.cast(), offset, room.as_mut_ptr().cast(), size_of::<T>() as u32) };
    // SAFETY: the room was filled, and any bytes are a value.
    let value = unsafe { room.assume_init_mut() };
    if error == 0 { Some(value) } else { None }
}

/// Likewise; zeros: the packet ends before that.
#[inline(always)]
pub fn load_or_zeros<T: Plain>(skb: Skb, offset: u32, room: &mut MaybeUninit<T>) -> &mut T {
    // SAFETY: as in `load`.
    unsafe {
        bpf_skb_load_bytes(skb.cast(), offset, room.as_mut_ptr().cast(), size_of::<T>() as u32);
        room.assume_init_mut()
    }
}

/// Writes to an offset; whether there was memory for that.
#[inline(always)]
pub fn store<T: Plain>(skb: Skb, offset: u32, value: &T) -> bool {
    // SAFETY: the helper changes the packet of this program's own context, of which nothing is held here, and reads the value.
    unsafe { bpf_skb_store_bytes(skb, offset, ptr::from_ref(value).cast(), size_of::<T>() as u32, 0) == 0 }
}

/// Likewise, and the sum of all bytes that the kernel may have beside the packet follows.
#[inline(always)]
pub fn store_summed<T: Plain>(skb: Skb, offset: u32, value: &T) -> bool {
    let (len, flags) = (size_of::<T>() as u32, u64::from(BPF_F_RECOMPUTE_CSUM));
    // SAFETY: as in `store`.
    unsafe { bpf_skb_store_bytes(skb, offset, ptr::from_ref(value).cast(), len, flags) == 0 }
}

/// Has the checksum at an offset follow what was changed in the header that has it.
#[inline(always)]
pub fn correct(skb: Skb, offset: u32, change: Difference) -> bool {
    // SAFETY: as in `store`.
    unsafe { bpf_l4_csum_replace(skb, offset, 0, change.for_kernel(), 0) == 0 }
}

/// Likewise for what was changed in the pseudo header.
#[inline(always)]
pub fn correct_pseudo(skb: Skb, offset: u32, change: Difference) -> bool {
    // SAFETY: as in `store`.
    unsafe { bpf_l4_csum_replace(skb, offset, 0, change.for_kernel(), u64::from(BPF_F_PSEUDO_HDR)) == 0 }
}

/// Has the sum of all bytes follow, if the kernel has one beside the packet. It says so if it has none, and nothing is to be done then.
#[inline(always)]
pub fn correct_sum(skb: Skb, change: Difference) {
    // SAFETY: as in `store`.
    unsafe { bpf_csum_update(skb, change.for_kernel() as u32) };
}

/// Bytes that a packet may have behind the link header to leave by an interface; 0: there is none with this number.
#[inline(always)]
pub fn mtu(skb: Skb, interface: u32) -> u32 {
    let mut mtu = 0;
    // SAFETY: the helper reads this program's own context, and writes the number. What it says of the packet itself is of no use: of one that
    // is to be cut it looks at nothing, or wants a header to be noted that need not be.
    unsafe { bpf_check_mtu(skb.cast(), interface, &raw mut mtu, 0, 0) };
    mtu
}

/// Cuts so many bytes out behind the link header, and has the packet end after so many: one that was made of many is one then. What it has
/// behind the link header is to be written anew.
///
/// A checksum that is still to be made is not made any more if what is cut out has the beginning of what it is over (include/linux/skbuff.h,
/// skb_postpull_rcsum; for these helpers since Linux 6.2 and later releases of older series, "bpf: pull before calling skb_postpull_rcsum()"). One that was checked counts as not checked.
///
/// The end goes first: once the transport header lies before the packet, older kernels take its offset for a length that the packet must have
/// (net/core/filter.c, __bpf_skb_min_len).
#[inline(always)]
pub fn cut(skb: Skb, out: u32, len: u32) -> bool {
    let fixed = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    // SAFETY: the helpers change the packet of this program's own context, of which nothing is held here.
    unsafe {
        bpf_skb_change_tail(skb, len + out, 0) == 0
            && bpf_skb_adjust_room(skb, -(out as i32), BPF_ADJ_ROOM_MAC, fixed) == 0
    }
}

/// Sends the packet out at an interface, to the next hop that the routes say for its addresses there.
///
/// The kernel does so only with what has a link header (net/core/filter.c, __bpf_redirect_neigh), which it takes off again. What came without
/// gets one of zeros.
#[inline(always)]
pub fn send<const LINK: u32>(skb: Skb, interface: u32) -> Fate {
    // SAFETY: as in `store`.
    if LINK == BARE && unsafe { bpf_skb_change_head(skb, ETHERNET, 0) } != 0 {
        return Fate::Dropped;
    }
    // SAFETY: the helper takes numbers alone; without a next hop it asks the routes.
    let action = unsafe { bpf_redirect_neigh(interface, ptr::null_mut(), 0, 0) };
    if action == i64::from(TC_ACT_REDIRECT) { Fate::Sent } else { Fate::Dropped }
}
