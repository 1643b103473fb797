// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What the verdict on a socket's received bytes needs. The kernel runs it under the lock of that socket (net/ipv4/tcp.c,
//! tcp_read_skb), and a slot belongs to one socket: so [`Moved`] has one writer, and plain additions are exact.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::programs::SkBuffContext;
use lb_common::layout::{Allowed, Direction, Moved};
use lb_common::verdict::{self, Verdict};

use crate::maps::{BELLS, DIRECTIONS, SLOTS, TARGETS};

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
}

/// Does with a segment what [`verdict::judge`] says.
#[inline(always)]
pub fn carry(ctx: &SkBuffContext) -> Outcome {
    let len = ctx.len();
    if len == 0 {
        return Outcome::Empty;
    }
    // A socket is in the map of slots before and after it is in the one with this program: there is always one.
    let Some(receiving) = find(ctx) else { return Outcome::Unknown };
    match verdict::judge(&receiving.moved(), &receiving.allowed()) {
        Verdict::Redirect => redirect(ctx, &receiving, len),
        Verdict::Break => lose(&receiving, len),
    }
}

/// Finds the direction by the socket's cookie.
#[inline(always)]
fn find(ctx: &SkBuffContext) -> Option<Receiving> {
    // SAFETY: the helper reads the context of this very program, which the kernel handed in.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the value is a u32 that user space writes once, before the socket can be found, and never changes.
    let slot = unsafe { SLOTS.get(cookie) }.copied()?;
    let direction: *mut Direction = DIRECTIONS.get_ptr_mut(slot)?;
    // SAFETY: `direction` points to a value of the array map, which lives as long as the program runs; both fields lie in it.
    let (moved, allowed) = unsafe { (&raw mut (*direction).moved, &raw const (*direction).allowed) };
    Some(Receiving { slot, moved, allowed })
}

#[inline(always)]
fn redirect(ctx: &SkBuffContext, receiving: &Receiving, len: u32) -> Outcome {
    // SAFETY: the helper gets this program's own context and a map of the kind that it is for; it checks the index itself.
    let found = unsafe { TARGETS.redirect_skb(ctx, receiving.slot, 0) };
    if found != i64::from(SK_PASS) {
        // The target has been closed: user space is about to close this socket, too.
        return lose(receiving, len);
    }
    receiving.change(|moved| {
        moved.charged += verdict::charge(len);
        moved.redirected += u64::from(len);
        moved.segments += 1;
    });
    let (moved, allowed) = (receiving.moved(), receiving.allowed());
    if verdict::rings(&moved, &allowed) && receiving.ring() {
        receiving.change(|moved| moved.rung = allowed.bell);
    }
    Outcome::Redirected
}

/// Notes what is lost, and calls user space for the first of it.
#[inline(always)]
fn lose(receiving: &Receiving, len: u32) -> Outcome {
    let is_first = receiving.moved().dropped == 0;
    receiving.change(|moved| moved.dropped += u64::from(len));
    if is_first {
        receiving.ring();
    }
    Outcome::Broken
}

impl Receiving {
    #[inline(always)]
    fn moved(&self) -> Moved {
        // SAFETY: `moved` points into a map's value (see `find`); this program is its only writer, one run at a time.
        unsafe { self.moved.read() }
    }

    #[inline(always)]
    fn allowed(&self) -> Allowed {
        // SAFETY: `allowed` points into a map's value (see `find`). User space may be writing: each word is read whole, and each
        // is right by itself, whenever the others come.
        unsafe { self.allowed.read_volatile() }
    }

    #[inline(always)]
    fn change(&self, change: impl FnOnce(&mut Moved)) {
        // SAFETY: `moved` points into a map's value (see `find`); no other reference to it exists during the call, for the kernel runs one
        // verdict on a socket at a time and user space only reads words.
        change(unsafe { &mut *self.moved });
    }

    /// Calls user space; whether the call went out.
    #[inline(always)]
    fn ring(&self) -> bool {
        BELLS.output::<u32>(self.slot, 0).is_ok()
    }
}
