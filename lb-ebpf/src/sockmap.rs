// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What the verdict on a socket's received bytes needs. The kernel runs it under the lock of that socket (net/ipv4/tcp.c,
//! tcp_read_skb), and a slot belongs to one socket: so [`Moved`] has one writer, and plain additions are exact.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::helpers::{
    bpf_get_socket_cookie, bpf_map_lookup_elem, bpf_sk_release, bpf_skb_adjust_room, bpf_skc_to_tcp_sock,
};
use aya_ebpf::programs::SkBuffContext;
use lb_common::layout::{Allowed, Direction, Filtered, Moved};
use lb_common::verdict;

use crate::log;
use crate::maps::{
    BELLS, COPIED_SEQ_OFFSET, DIRECTIONS, OVERDRAFT, OVERDRAFT_MAX, SLOTS, TARGETS, WRITE_SEQ_OFFSET,
};

/// Where a TCP header has its own length, in its upper half and in words of 4 bytes (RFC 9293 section 3.1).
const DATA_OFFSET: usize = 12;

/// The most that the kernel takes off a segment in one step, in bytes (net/core/filter.c, sk_skb_adjust_room), and in how many steps as much
/// is taken off as can have come twice: 64 KiB. The verifier walks through the rest of the program for each number of steps.
const CUT_MAX: u32 = 0xfff;
const CUTS_MAX: u32 = 17;

/// What became of a segment.
pub enum Outcome {
    /// A bare FIN: there is nothing to carry.
    Empty,
    /// It is on its way to the target.
    Redirected,
    /// The socket is nobody's.
    Unknown,
    /// It is lost, and user space has been told.
    Broken,
}

/// A direction in the map, from this socket.
struct Receiving {
    slot: u32,
    moved: *mut Moved,
    allowed: *const Allowed,
    filtered: *mut Filtered,
}

/// Hands a segment to the target, and does what [`verdict`] says of what then waits.
#[inline(always)]
pub fn carry(ctx: &SkBuffContext) -> Outcome {
    if ctx.len() == 0 {
        return Outcome::Empty;
    }
    // A socket is in the map of slots before and after it is in the one with this program: there is always one.
    let Some(receiving) = find(ctx) else { return Outcome::Unknown };
    let (moved, allowed) = (receiving.moved(), receiving.allowed());
    if moved.dropped > 0 || !cut_taken(ctx) {
        return lose(ctx, &receiving, ctx.len());
    }
    let len = ctx.len();
    if len == 0 {
        // All of it had come before, but for its FIN.
        return Outcome::Empty;
    }
    if verdict::must_look(moved, &allowed) {
        let Some(write_seq) = write_seq(receiving.slot) else { return lose(ctx, &receiving, len) };
        moved.look(write_seq, allowed.outside);
    }
    // SAFETY: the helper gets this program's own context and a map of the kind that it is for; it checks the index itself.
    let found = unsafe { TARGETS.redirect_skb(ctx, receiving.slot, 0) };
    if found != i64::from(SK_PASS) {
        return lose(ctx, &receiving, len);
    }
    moved.add(len, segments(ctx));
    bound(ctx, &receiving, &allowed);
    Outcome::Redirected
}

/// Cuts off what has been taken of a segment already; whether what is left is what comes next.
#[inline(always)]
fn cut_taken(ctx: &SkBuffContext) -> bool {
    // SAFETY: fields of this program's own context. The first word of the control block is the segment's number in struct tcp_skb_cb
    // (include/net/tcp.h), which the kernel leaves alone until the verdict; the self-test would see if it did not.
    let (socket, seq) = unsafe { ((*ctx.skb.skb).__bindgen_anon_2.sk, (*ctx.skb.skb).cb[0]) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: `socket` is one that the kernel holds for this program; the helper returns the same address as a TCP socket's, or null.
    let tcp: *const u8 = unsafe { bpf_skc_to_tcp_sock(socket.cast()) }.cast();
    if tcp.is_null() {
        return false;
    }
    // SAFETY: the offset is that of a u32 in struct tcp_sock, by this kernel's own description. The program runs under the socket's lock.
    let copied_seq = unsafe { tcp.add(COPIED_SEQ_OFFSET.load() as usize).cast::<u32>().read_volatile() };
    let Some(mut taken) = verdict::taken(copied_seq, seq) else { return false };
    if taken > ctx.len() {
        return false;
    }
    for _ in 0..CUTS_MAX {
        if taken == 0 {
            return true;
        }
        let cut = if taken < CUT_MAX { taken } else { CUT_MAX };
        // SAFETY: the helper changes the segment of this program's own context, of which nothing is held here.
        if unsafe { bpf_skb_adjust_room(ctx.skb.skb, -cut.cast_signed(), 0, 0) } != 0 {
            return false;
        }
        taken -= cut;
    }
    taken == 0
}

/// Whether TCP may have this segment. Runs without the socket's lock.
///
/// It counts a segment before it looks what is allowed, so that user space, which does these two the other way round, knows of every
/// segment that may still be on its way from here to TCP.
#[inline(always)]
pub fn admits(ctx: &SkBuffContext) -> bool {
    let Some(receiving) = find(ctx) else { return true };
    let Ok(words) = ctx.load::<u8>(DATA_OFFSET) else { return true };
    let payload = ctx.len().saturating_sub(u32::from(words >> 4) * 4);
    if payload == 0 {
        return true;
    }
    let count = verdict::counted(segments(ctx));
    // SAFETY: `filtered` points into a map's value (see `find`), to words that the filter alone writes, always atomically.
    unsafe { add(&raw mut (*receiving.filtered).entered, count) };
    // SAFETY: `moved` points into a map's value (see `find`). The verdict may be writing: the word is read whole.
    let stopped = unsafe { (&raw const (*receiving.moved).stopped).read_volatile() };
    let allowed = receiving.allowed();
    let is_admitted = verdict::admits(stopped, &allowed, payload)
        && !is_crowded_out(&receiving, &allowed, payload, segments(ctx));
    if !is_admitted {
        // SAFETY: as above.
        unsafe { add(&raw mut (*receiving.filtered).turned_away, count) };
    }
    is_admitted
}

/// Whether a segment would wait where nothing is left for it. Calls user space then, once a round: the verdict, which would, does not run.
#[inline(always)]
fn is_crowded_out(receiving: &Receiving, allowed: &Allowed, payload: u32, segments: u32) -> bool {
    // SAFETY: `moved` points into a map's value (see `find`). The verdict may be writing: each word is read whole, and only grows.
    let (released, charged) = unsafe {
        let moved = receiving.moved;
        ((&raw const (*moved).released).read_volatile(), (&raw const (*moved).charged).read_volatile())
    };
    if !verdict::overdraws(charged, released, allowed, payload, segments) {
        return false;
    }
    let Some(total) = OVERDRAFT.get_ptr(0) else { return true };
    // SAFETY: `total` points to the one word of an array map, which lives as long as the program runs; the word is read whole.
    if unsafe { total.read_volatile() }.cast_signed() < OVERDRAFT_MAX.load().cast_signed() {
        return false;
    }
    // SAFETY: `filtered` points into a map's value (see `find`). Several processors may do this at the same time: then each calls.
    let rung = unsafe { &raw mut (*receiving.filtered).rung };
    // SAFETY: as above; the word is read and written whole.
    if unsafe { rung.read_volatile() } != allowed.round && receiving.ring() {
        // SAFETY: as above.
        unsafe { rung.write_volatile(allowed.round) };
    }
    true
}

/// Finds the direction by the socket's cookie.
#[inline(always)]
fn find(ctx: &SkBuffContext) -> Option<Receiving> {
    // SAFETY: the helper reads the context of this very program, which the kernel handed in.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the value is a u32 that user space writes once, before the socket can be found, and never changes.
    let slot = unsafe { SLOTS.get(cookie) }.copied()?;
    let direction: *mut Direction = DIRECTIONS.get_ptr_mut(slot)?;
    // SAFETY: `direction` points to a value of the array map, which lives as long as the program runs; its fields lie in it.
    let (moved, allowed) = unsafe { (&raw mut (*direction).moved, &raw const (*direction).allowed) };
    // SAFETY: as above.
    let filtered = unsafe { &raw mut (*direction).filtered };
    Some(Receiving { slot, moved, allowed, filtered })
}

/// How far the target has accepted what is for it; `None`: it has been closed, and user space is about to close this socket, too.
#[inline(always)]
fn write_seq(slot: u32) -> Option<u32> {
    // SAFETY: the map is one of sockets; the helper copies the key and returns a socket that this program holds, or null.
    let socket =
        unsafe { bpf_map_lookup_elem((&raw const TARGETS).cast_mut().cast(), (&raw const slot).cast()) };
    if socket.is_null() {
        return None;
    }
    // SAFETY: `socket` is held. The helper returns the same address, as a TCP socket's, or null.
    let tcp: *const u8 = unsafe { bpf_skc_to_tcp_sock(socket) }.cast();
    let write_seq = if tcp.is_null() {
        None
    } else {
        // SAFETY: `tcp` is a struct tcp_sock, held; the offset is that of a u32 in it, by this kernel's own description. The verifier
        // checks that it lies inside. Whoever sends there may be writing: the word is read whole.
        Some(unsafe { tcp.add(WRITE_SEQ_OFFSET.load() as usize).cast::<u32>().read_volatile() })
    };
    // SAFETY: what the lookup returned, once.
    unsafe { bpf_sk_release(socket) };
    write_seq
}

/// How many segments the network interface or the kernel has made one of (struct __sk_buff, include/uapi/linux/bpf.h); 0: none.
#[inline(always)]
fn segments(ctx: &SkBuffContext) -> u32 {
    // SAFETY: the field of this program's own context; the verifier knows it.
    unsafe { (*ctx.skb.skb).gso_segs }
}

/// Calls user space, and has further segments turned away, once too much waits.
#[inline(always)]
fn bound(ctx: &SkBuffContext, receiving: &Receiving, allowed: &Allowed) {
    let moved = receiving.moved();
    let total = draw(moved, verdict::draws(moved, allowed));
    if verdict::rings(moved, allowed) {
        // User space may look as soon as it is called, and has to see that it was.
        let before = core::mem::replace(&mut moved.rung, allowed.round);
        if !receiving.ring() {
            moved.rung = before;
        }
    }
    if verdict::stops(moved, allowed, total, OVERDRAFT_MAX.load().cast_signed()) {
        let before = core::mem::replace(&mut moved.stopped, allowed.round);
        log::stopped(ctx, receiving.slot, before, allowed.round);
    }
}

/// Adds to the direction's part of the overdraft; returns the whole, if the direction has ever had a part.
#[inline(always)]
fn draw(moved: &mut Moved, more: u64) -> i64 {
    moved.overdrawn = moved.overdrawn.wrapping_add(more);
    if moved.overdrawn == 0 && more == 0 {
        return 0;
    }
    let Some(total) = OVERDRAFT.get_ptr_mut(0) else { return i64::MAX };
    // SAFETY: `total` points to the one word of an array map, which lives as long as the program runs. Everybody adds atomically, and
    // the word is read whole.
    unsafe {
        if more != 0 {
            add(total, more);
        }
        total.read_volatile().cast_signed()
    }
}

/// Adds to a word that others add to at the same time. What comes after it in the program happens after it, for everybody.
///
/// The target has no compare-and-swap, without which the language offers no atomic type; the machine can add, nevertheless. It promises an
/// order only to who asks for the value before (kernel's Documentation/bpf/standardization/instruction-set.rst and linux_kernel memory
/// model: a fetch-and-add is fully ordered, an addition is not).
///
/// # Safety
/// `word` is in a map's value, and everybody writes it atomically.
#[inline(always)]
unsafe fn add(word: *mut u64, more: u64) {
    // SAFETY: as the caller says.
    let before = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, more) };
    core::hint::black_box(before);
}

/// Notes what is lost, and calls user space for the first of it.
#[inline(always)]
fn lose(ctx: &SkBuffContext, receiving: &Receiving, len: u32) -> Outcome {
    let moved = receiving.moved();
    if moved.dropped == 0 {
        receiving.ring();
        log::lost(ctx, receiving.slot, len);
    }
    moved.dropped += u64::from(len);
    Outcome::Broken
}

impl Receiving {
    #[inline(always)]
    fn moved<'a>(&self) -> &'a mut Moved {
        // SAFETY: `moved` points into a map's value (see `find`), which lives as long as the program runs. The verdict is its only writer,
        // one run at a time, and takes one reference after the other; everybody else only reads words.
        unsafe { &mut *self.moved }
    }

    #[inline(always)]
    fn allowed(&self) -> Allowed {
        // SAFETY: `allowed` points into a map's value (see `find`). User space may be writing: each word is read whole, and each
        // is right by itself, whenever the others come.
        unsafe { self.allowed.read_volatile() }
    }

    /// Calls user space; whether the call went out.
    #[inline(always)]
    fn ring(&self) -> bool {
        BELLS.output::<u32>(self.slot, 0).is_ok()
    }
}
