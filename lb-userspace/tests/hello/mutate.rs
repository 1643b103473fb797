// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes to hellos: some that a sane client could make, some that break them.

use crate::build::{
    ALPN, ECH, PADDING, PRE_SHARED_KEY, Parts, SERVER_NAME, alpn, handshake, host_name, list16, records, sni,
};
use crate::random::Random;

/// Mutates a hello and puts it on the wire.
pub(crate) fn mutated(seed: &Parts, random: &mut Random) -> Vec<u8> {
    let mut parts = seed.clone();
    for _ in 0..random.below(4) {
        change_parts(&mut parts, random);
    }
    let mut body = parts.body();
    if random.one_in(3) {
        break_body(&mut body, random);
    }
    let mut message = handshake(&body);
    if random.one_in(30) {
        let at = random.below(4);
        message[at] = message[at].wrapping_add(random.next() as u8);
    }
    if random.one_in(30) {
        message.extend(random.bytes(8));
    }
    let mut wire = records(&message, &record_sizes(random));
    if random.one_in(12) {
        break_wire(&mut wire, random);
    }
    wire
}

/// Records of one size, one cut, tiny ones or a mixture. One-byte records are rare because rustls is slow with them.
fn record_sizes(random: &mut Random) -> Vec<usize> {
    match random.below(100) {
        0 => vec![1],
        1..20 => vec![1 + random.below(600), 1 << 14],
        20..30 => (0..100).map(|_| 1 + random.below(300)).collect(),
        30..50 => vec![1 + random.below(16), 1 + random.below(2000)],
        _ => vec![1 << 14],
    }
}

/// Changes that keep the grammar, though not always the sense.
fn change_parts(parts: &mut Parts, random: &mut Random) {
    let names = [
        "b.example",
        "UPPER.Example",
        "dot.example.",
        "_u.example",
        "10.0.0.1",
        "::1",
        "x",
        "a-b.c--d.example",
    ];
    match random.below(14) {
        0 => reorder(parts, random),
        1 => duplicate(parts, random),
        2 => {
            parts.session_id = {
                let len = random.below(33);
                random.bytes(len)
            }
        }
        3 => parts.random = random.bytes(32),
        4 => parts.ciphers = (0..random.below(300)).map(|_| random.next() as u16).collect(),
        5 => parts.compressions.push(random.next() as u8),
        6 => parts.version = 0x0300 + random.below(5) as u16,
        7 => *parts = parts.clone().with(0x0a0a + 0x1010 * random.below(16) as u16, vec![0; random.below(3)]),
        8 => rename(parts, sni(random.pick(&names))),
        9 => rename(parts, odd_server_name(random)),
        10 => {
            let bits = random.below(15);
            *parts = parts.clone().with(PADDING, vec![0; random.below(1 << bits)]);
        }
        11 => {
            set(parts, ALPN, alpn(&["h3", "\n\n", "x".repeat(1 + random.below(255)).as_str()]));
        }
        12 => {
            let payload = random.bytes(100);
            set(parts, ECH, [vec![0, 0, 1, 0, 1, 5], list16(&[1; 32]), list16(&payload)].concat());
        }
        _ => remove_one(parts, random),
    }
}

/// Server name extensions at and over the edge of the grammar.
fn odd_server_name(random: &mut Random) -> Vec<u8> {
    let label = "a".repeat(1 + random.below(65));
    match random.below(6) {
        0 => list16(&[host_name("one.example"), host_name("two.example")].concat()),
        1 => list16(&[&host_name("one.example")[..], &[1 + random.next() as u8 % 9, 0, 1, 7]].concat()),
        2 => list16(&[&[1 + random.next() as u8 % 9, 0, 1, 7], &host_name("two.example")[..]].concat()),
        3 => sni(random.bytes(9)),
        4 => sni([label.as_str(); 4].join(".")),
        _ => sni(*random.pick(&[
            "",
            ".",
            "-a.example",
            "a-.example",
            "a..b",
            "1.2.3",
            "0x7f.1",
            "a.1",
            "a\0b",
            "a b",
            "*.a",
        ])),
    }
}

/// Shuffles the extensions; pre_shared_key stays last, as it must.
fn reorder(parts: &mut Parts, random: &mut Random) {
    let Some(extensions) = &mut parts.extensions else { return };
    random.shuffle(extensions);
    extensions.sort_by_key(|(kind, _)| *kind == PRE_SHARED_KEY);
}

fn duplicate(parts: &mut Parts, random: &mut Random) {
    let Some(extensions) = parts.extensions.as_mut().filter(|all| !all.is_empty()) else { return };
    let twin = random.pick(extensions).clone();
    extensions.insert(random.below(extensions.len() + 1), twin);
}

fn remove_one(parts: &mut Parts, random: &mut Random) {
    let Some(extensions) = parts.extensions.as_mut().filter(|all| !all.is_empty()) else { return };
    extensions.remove(random.below(extensions.len()));
}

fn rename(parts: &mut Parts, content: Vec<u8>) {
    set(parts, SERVER_NAME, content);
}

/// Replaces the extension, or adds it.
fn set(parts: &mut Parts, kind: u16, content: Vec<u8>) {
    match parts.extensions.iter_mut().flatten().find(|(other, _)| *other == kind) {
        Some((_, old)) => *old = content,
        None => *parts = parts.clone().with(kind, content),
    }
}

/// Changes inside the message that do not know the grammar.
fn break_body(body: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let at = random.below(body.len().max(1)).min(body.len().saturating_sub(1));
        match random.below(6) {
            0 if !body.is_empty() => body[at] ^= 1 << random.below(8),
            1 if !body.is_empty() => body[at] = body[at].wrapping_add(1),
            2 if !body.is_empty() => body[at] = body[at].wrapping_sub(1),
            3 if !body.is_empty() => body[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            4 => body.truncate(at),
            _ => body.insert(at, random.next() as u8),
        }
    }
}

/// Changes that do not even know records.
fn break_wire(wire: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(wire.len());
    match random.below(4) {
        0 => wire.truncate(at),
        1 => wire[at] ^= 1 << random.below(8),
        2 => {
            let header = at.min(4);
            wire[header] = random.next() as u8;
        }
        _ => drop(wire.splice(at..at, [22, 3, 3, 0, 0])),
    }
}
