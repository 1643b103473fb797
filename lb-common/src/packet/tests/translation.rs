// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets through the translation as a program does it, word by word, beside the model.

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::model::{self, Change, Ends, Shape, cases};
use crate::packet::checksum::{Changes, Difference};
use crate::packet::ip::{Addresses, Ipv4, Ipv6};
use crate::packet::options::{self, PLAIN_TIMESTAMPS, ROOM};
use crate::packet::reason::Untranslatable;
use crate::packet::tcp::{Tcp, Translation};

proptest! {
    /// Byte for byte what the model makes of it, whatever is in the packet and wherever numbers wrap.
    #[test]
    fn a_packet_becomes_that_of_the_other_connection((shape, change) in cases()) {
        let packet = shape.packet();
        let (mut result, changes) = translated(&packet, &change).expect("translatable");
        correct(&mut result, shape.ip_len(), changes);
        prop_assert_eq!(result, model::translated(&packet, shape.padding, &change));
    }

    /// What one direction adds, the other takes away: an acknowledgement comes back to the number that it is of.
    #[test]
    fn there_and_back_is_where_it_was((mut shape, change) in cases()) {
        let back = Change {
            ends: shape.ends.clone(),
            ports: shape.ports,
            sequence_add: change.sequence_add.wrapping_neg(),
            acknowledgement_add: change.acknowledgement_add.wrapping_neg(),
            timestamp_add: change.timestamp_add.wrapping_neg(),
            echo_add: change.echo_add.wrapping_neg(),
            shifts: (0, 0),
        };
        let change = Change { shifts: (0, 0), ..change };
        shape.hops = shape.hops.max(3);
        // A TSecr of 0 stays, and one that becomes 0 stays there.
        shape.options.clear();
        let packet = shape.packet();
        let (mut there, changes) = translated(&packet, &change).expect("translatable");
        correct(&mut there, shape.ip_len(), changes);
        let (mut result, changes) = translated(&there, &back).expect("translatable");
        correct(&mut result, shape.ip_len(), changes);
        shape.hops -= 2;
        prop_assert_eq!(result, shape.packet());
    }

    /// Each segment that the kernel cuts out of a super-packet is translated as if it had come alone.
    #[test]
    fn a_super_packet_is_its_segments((shape, change) in cases(), size in 1_usize..40) {
        let whole = Shape { padding: 0, flags: 0x10, ..shape };
        let (mut translated_whole, changes) = translated(&whole.packet(), &change).expect("translatable");
        correct(&mut translated_whole, whole.ip_len(), changes);
        for (number, part) in whole.payload.chunks(size).enumerate() {
            let offset = u32::try_from(number * size).expect("a short packet");
            let sequence = whole.sequence.wrapping_add(offset);
            let segment = Shape { sequence, payload: part.to_vec(), ..whole.clone() };
            let expected = model::translated(&segment.packet(), 0, &change);
            prop_assert_eq!(segment_of(&translated_whole, whole.ip_len(), offset, size), expected);
        }
    }
}

/// Cuts a segment out of a super-packet as the kernel does: the same header, the size of a segment more for each before.
fn segment_of(whole: &[u8], ip_len: usize, offset: u32, size: usize) -> Vec<u8> {
    let header_len = ip_len + usize::from(whole[ip_len + 12] >> 4) * 4;
    let payload = &whole[header_len..];
    let from = offset as usize;
    let mut segment = [&whole[..header_len], &payload[from..payload.len().min(from + size)]].concat();
    let sequence = u32::from_be_bytes(segment[ip_len + 4..ip_len + 8].try_into().expect("four bytes"));
    segment[ip_len + 4..ip_len + 8].copy_from_slice(&sequence.wrapping_add(offset).to_be_bytes());
    let (at, len) = if ip_len == 20 { (2, segment.len()) } else { (4, segment.len() - 40) };
    segment[at..at + 2].copy_from_slice(&u16::try_from(len).expect("a short packet").to_be_bytes());
    model::fill_checksums(&mut segment);
    segment
}

/// The packet translated but for TCP's checksum, and what that has to follow.
pub fn translated(packet: &[u8], change: &Change) -> Result<(Vec<u8>, Changes), Untranslatable> {
    let mut packet = packet.to_vec();
    let available = u32::try_from(packet.len()).expect("a short packet");
    let (ip_len, segment_len, mut changes) = if packet[0] >> 4 == 4 {
        let header = Ipv4(words(&packet));
        let (new, changes) = header.translated(&addresses_v4(&change.ends))?;
        put(&mut packet, &new.0);
        (20, header.segment_len(available)?, changes)
    } else {
        let header = Ipv6(words(&packet));
        let (new, changes) = header.translated(&addresses_v6(&change.ends))?;
        put(&mut packet, &new.0);
        (40, header.segment_len(available)?, changes)
    };
    let by = translation(change);
    let header = Tcp(words(&packet[ip_len..]));
    let options_len = header.options_len(segment_len)?;
    let (new, in_header) = header.translated(&by);
    put(&mut packet[ip_len..], &new.0);
    let options = &mut packet[ip_len + 20..][..options_len as usize];
    changes.tcp = in_header.and(translate_options(options, &by)?);
    Ok((packet, changes))
}

fn translate_options(options: &mut [u8], by: &Translation) -> Result<Difference, Untranslatable> {
    if options.len() == 12 && words::<1>(options) == [PLAIN_TIMESTAMPS] {
        let (new, change) = options::translated_timestamps(words(options), by);
        put(options, &new);
        return Ok(change);
    }
    let mut copy = [0; ROOM];
    copy[..options.len()].copy_from_slice(options);
    let len = u32::try_from(options.len()).expect("a few bytes");
    let done = options::translate(&mut copy, len, by)?;
    options.copy_from_slice(&copy[..options.len()]);
    Ok(done.change)
}

/// Corrects a checksum that is complete.
pub fn correct(packet: &mut [u8], ip_len: usize, changes: Changes) {
    let field = &mut packet[ip_len + 16..ip_len + 18];
    let checksum = changes.tcp.and(changes.pseudo).applied(u16::from_be_bytes([field[0], field[1]]));
    field.copy_from_slice(&checksum.to_be_bytes());
}

pub fn translation(change: &Change) -> Translation {
    Translation {
        ports: u32::from(change.ports.0) << 16 | u32::from(change.ports.1),
        sequence_add: change.sequence_add,
        acknowledgement_add: change.acknowledgement_add,
        timestamp_add: change.timestamp_add,
        echo_add: change.echo_add,
        shift_from: change.shifts.0,
        shift_to: change.shifts.1,
    }
}

pub fn addresses_v4(ends: &Ends) -> Addresses<u32> {
    let ([source], [destination]) = (words(&ends.0), words(&ends.1));
    Addresses { source, destination }
}

pub fn addresses_v6(ends: &Ends) -> Addresses<[u32; 4]> {
    Addresses { source: words(&ends.0), destination: words(&ends.1) }
}

/// The first words of bytes.
pub fn words<const COUNT: usize>(bytes: &[u8]) -> [u32; COUNT] {
    core::array::from_fn(|word| u32::from_be_bytes(bytes[word * 4..][..4].try_into().expect("four bytes")))
}

/// Writes words to the beginning of bytes.
pub fn put(bytes: &mut [u8], words: &[u32]) {
    for (place, word) in bytes.chunks_mut(4).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}
