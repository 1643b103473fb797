// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel makes of the differences, in every state that a packet's checksum can be in.

extern crate std;

use proptest::prelude::*;

use super::model::{self, Change, Shape, cases};
use super::translation::translated;

/// Whether the kernel knows BPF_F_IPV6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    /// Before Linux 6.16, and releases of older series without the flag.
    Old,
    /// All others.
    New,
}

/// What the field in the TCP header has (include/linux/skbuff.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    None,
    Complete,
    Partial,
}

/// The field, and the sum that is beside it under `Complete`, both as they lie in memory.
#[derive(Clone, Copy, Debug)]
struct Sums {
    state: State,
    field: u16,
    beside: u32,
}

proptest! {
    /// A checksum that was right is right, one that is still to be made has the right beginning, and the sum of all bytes is that of all bytes.
    #[test]
    fn the_kernel_gets_it_right_in_every_state((shape, change) in cases()) {
        for state in [State::None, State::Complete, State::Partial] {
            for kernel in [Kernel::Old, Kernel::New] {
                let (result, expected) = in_state(&shape, &change, state, kernel);
                prop_assert_eq!(result, expected, "{:?} {:?}", state, kernel);
            }
        }
    }
}

/// The field and the sum beside it after the translation, and what they should be. The sum is in 16 bits, where 0 is as good as 0xffff.
fn in_state(shape: &Shape, change: &Change, state: State, kernel: Kernel) -> ((u16, u16), (u16, u16)) {
    let at = shape.ip_len() + 16;
    let mut packet = Shape { padding: 0, ..shape.clone() }.packet();
    let mut expected = model::translated(&packet, 0, change);
    for packet in [&mut packet, &mut expected] {
        if state == State::Partial {
            let sum = model::pseudo_sum(packet);
            packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
    }
    let field_of = |packet: &[u8]| u16::from_ne_bytes([packet[at], packet[at + 1]]);
    let beside = |packet: &[u8]| if state == State::Complete { model::sum(packet).to_be() } else { 0 };
    let mut sums = Sums { state, field: field_of(&packet), beside: beside(&packet).into() };
    let (_, changes) = translated(&packet, change).expect("translatable");
    let [tcp, pseudo, uncovered] = [changes.tcp, changes.pseudo, changes.uncovered]
        .map(|difference| u32::try_from(difference.for_kernel()).expect("as the helpers take it"));
    let is_ipv6 = shape.ip_len() == 40;
    sums.replace(tcp, false, false);
    sums.replace(pseudo, true, is_ipv6 && kernel == Kernel::New);
    sums.update(uncovered);
    if is_ipv6 && kernel == Kernel::Old {
        sums.update(pseudo);
    }
    let modulo = |sum: u32| u16::try_from(sum % 0xffff).expect("16 bits");
    ((sums.field, modulo(sums.beside)), (field_of(&expected), modulo(beside(&expected).into())))
}

impl Sums {
    /// bpf_l4_csum_replace without `from` and size: see [`crate::packet::checksum`].
    fn replace(&mut self, difference: u32, is_pseudo: bool, is_ipv6: bool) {
        match self.state {
            State::Partial if is_pseudo => self.field = fold(plus(difference, self.field.into())),
            State::Partial => {}
            State::None | State::Complete => {
                self.field = !fold(plus(difference, !u32::from(self.field)));
                if self.state == State::Complete && is_pseudo && !is_ipv6 {
                    self.beside = !plus(difference, !self.beside);
                }
            }
        }
    }

    /// bpf_csum_update.
    fn update(&mut self, difference: u32) {
        if self.state == State::Complete {
            self.beside = plus(self.beside, difference);
        }
    }
}

/// A sum of 32 bits in ones' complement.
fn plus(a: u32, b: u32) -> u32 {
    let (sum, is_over) = a.overflowing_add(b);
    sum + u32::from(is_over)
}

/// The same sum in 16 bits.
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from((sum & 0xffff) + (sum >> 16)).expect("16 bits")
}
