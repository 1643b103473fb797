// SPDX-License-Identifier: MIT OR Apache-2.0
//! Options: what is found, what is changed, what is refused, and that it ends.

extern crate std;

use proptest::prelude::*;

use super::model;
use super::translation::{put, words};
use crate::packet::checksum::Difference;
use crate::packet::options::{OPTIONS_MAX, ROOM, translate};
use crate::packet::reason::Untranslatable::{self, *};
use crate::packet::tcp::Translation;

const NOP: u8 = 1;

pub(super) fn copy(options: &[u8]) -> [u8; ROOM] {
    // What is behind the options must not matter.
    let mut copy = [8; ROOM];
    copy[..options.len()].copy_from_slice(options);
    copy
}

/// TSval, if there is one.
fn timestamp(options: &[u8]) -> Result<Option<u32>, Untranslatable> {
    let (mut bytes, len) = (copy(options), u32::try_from(options.len()).expect("a few bytes"));
    let done = translate(&mut bytes, len, &Translation::default())?;
    assert_eq!(bytes, copy(options), "looking has changed something");
    Ok(done.has_timestamp.then_some(done.timestamp))
}

#[track_caller]
fn check_refused(options: &[u8], reason: Untranslatable) {
    assert_eq!(timestamp(options), Err(reason));
    // Wherever it stands.
    assert_eq!(timestamp(&[&[NOP; 7], options].concat()), Err(reason));
}

#[test]
fn options_that_cannot_be_translated_are_refused() {
    check_refused(&[&[19, 18][..], &[0; 16]].concat(), Md5Signature);
    check_refused(&[29, 16, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], TcpAo);
    check_refused(&[30, 4, 0, 0], Mptcp);
    check_refused(&[34, 2], FastOpen);
    check_refused(&[34, 6, 1, 2, 3, 4], FastOpen);
    check_refused(&[254, 4, 0xf9, 0x89], ExperimentalOption);
    check_refused(&[253, 4, 0, 0], ExperimentalOption);
    check_refused(&[172, 2], UnknownOption);
    check_refused(&[6, 6, 0, 0, 0, 0], UnknownOption);
}

#[test]
fn options_that_break_the_grammar_are_refused() {
    let timestamps = [8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    check_refused(&[8], MalformedOptions);
    check_refused(&[8, 0], MalformedOptions);
    check_refused(&[8, 1], MalformedOptions);
    check_refused(&[8, 11], MalformedOptions);
    check_refused(&timestamps[..9], MalformedOptions);
    for len in [2, 9, 11, 16, 17, 19] {
        check_refused(&[&[5, len][..], &[0; 30]].concat(), MalformedOptions);
    }
    check_refused(&[2, 3, 5], MalformedOptions);
    check_refused(&[3, 4, 5, 6], MalformedOptions);
    check_refused(&[4, 3, 5], MalformedOptions);
    check_refused(&[255, 255], MalformedOptions);
    let too_long = translate(&mut [NOP; ROOM], OPTIONS_MAX + 1, &Translation::default());
    assert_eq!(too_long.err(), Some(MalformedOptions));
}

#[test]
fn every_byte_may_be_a_nop_and_nothing_counts_behind_the_end() {
    assert_eq!(timestamp(&[]), Ok(None));
    assert_eq!(timestamp(&[NOP; 40]), Ok(None));
    assert_eq!(timestamp(&[0, 19, 1, 0]), Ok(None));
    let last = [&[NOP; 30][..], &[8, 10, 0, 0, 0, 1, 0, 0, 0, 2]].concat();
    assert_eq!(timestamp(&last), Ok(Some(1)));
}

#[test]
fn every_edge_is_translated_and_nothing_else() {
    let by = Translation { acknowledgement_add: 1, ..Translation::default() };
    for blocks in 1..=4_u8 {
        let edges = usize::from(2 * blocks);
        let option = |edge: [u8; 4]| [&[5, 2 + 8 * blocks][..], &edge.repeat(edges), &[NOP; 2]].concat();
        let mut bytes = copy(&option([0, 0, 0, 255]));
        translate(&mut bytes, 4 + 8 * u32::from(blocks), &by).expect("well-formed");
        assert_eq!(bytes, copy(&option([0, 0, 1, 0])));
    }
}

proptest! {
    /// No bytes make it go on for ever, touch what is behind them, or find something that is not there.
    #[test]
    fn the_walk_ends(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0_u8..11], 0..=40), by: u32) {
        let is_there = bytes.windows(2).any(|pair| pair == [8, 10]);
        prop_assert!(is_there || !matches!(timestamp(&bytes), Ok(Some(_))));
        let (mut result, len) = (copy(&bytes), bytes.len());
        let by = Translation { acknowledgement_add: by, timestamp_add: by, echo_add: by, ..Translation::default() };
        let _ = translate(&mut result, u32::try_from(len).expect("a few bytes"), &by);
        prop_assert!(result[len..].iter().all(|byte| *byte == 8));
    }

    /// A word at any offset changes the sum as if it had been summed anew.
    #[test]
    fn a_word_counts_at_any_offset(bytes in prop::collection::vec(any::<u8>(), 44), at in 0_usize..40, new: u32) {
        let mut changed = bytes.clone();
        put(&mut changed[at..at + 4], &[new]);
        let [old] = words(&bytes[at..]);
        let change = Difference::word_at(u32::try_from(at).expect("a few bytes"), old, new);
        prop_assert_eq!(change.applied_to_sum(model::sum(&bytes)) % 0xffff, model::sum(&changed) % 0xffff);
    }
}
