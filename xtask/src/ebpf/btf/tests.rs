// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections made by hand, as the linker may write them for the same sources.

use super::*;

/// What a program has pointers to and no more; two types have one name.
const POINTEES: [&str; 3] = ["b", "a", "b"];

/// All orders in which the linker may declare them.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The flag of a declaration that says union.
const UNION: u32 = 1 << 31;

#[test]
fn all_orders_become_the_one_of_first_use() {
    let [first, ..] = ORDERS.map(linked);
    for order in ORDERS {
        let (types, ext) = linked(order);
        let made = canonical(&types, &ext).expect("it is well formed");
        assert_eq!(meaning(&made), meaning(&first), "{order:?}");
        assert_eq!(made, canonical(&first.0, &first.1).expect("it is well formed"), "{order:?}");
        assert_eq!(made, canonical(&made.0, &made.1).expect("it is well formed"), "{order:?}");
    }
}

#[test]
fn what_nothing_refers_to_comes_last_by_name() {
    let forward_declarations = |names: &[u8]| join(&le(&[1, info(7, 0), 0, 3, info(7, 0), 0]), names);
    let of = |names| forward_declarations(names).and_then(|types| canonical(&types, &ext(&[])));
    let sorted = of(b"\0a\0b\0").expect("it is well formed");
    assert_eq!(of(b"\0b\0a\0").expect("it is well formed"), sorted);
    assert_eq!(meaning(&sorted).0[1][0], "name b");
}

#[test]
fn references_of_every_kind_follow() {
    // Declarations of `x` and `y` are types 2 and 3, and the names stand at 1 and 3. What refers to `y` first gets it as type 2;
    // what names it first gets the name at 1. Threes that are neither stay.
    let check = |record: &[u32], expected: &[u32]| {
        let types = [record, &[1, info(7, 0), 0, 3, info(7, 0), 0]].concat();
        let types = join(&le(&types), b"\0x\0y\0").expect("it is small");
        let (made, _) = canonical(&types, &ext(&[])).expect("it is well formed");
        let words = words::read(&made[HEADER_BYTES as usize..][..record.len() * 4]).expect("they are words");
        assert_eq!(words, expected, "{record:?}");
    };
    check(&[0, info(1, 0), 3, 3], &[0, info(1, 0), 3, 3]);
    for kind in [2, 8, 9, 10, 11, 12, 18] {
        check(&[3, info(kind, 0), 3], &[1, info(kind, 0), 2]);
    }
    check(&[0, info(3, 0), 3, 3, 2, 3], &[0, info(3, 0), 3, 2, 3, 3]);
    for kind in [4, 5] {
        let members = info(kind, 2) | UNION;
        check(&[0, members, 3, 3, 3, 3, 1, 2, 2], &[0, members, 3, 1, 2, 3, 3, 3, 2]);
    }
    check(&[0, info(6, 1), 3, 3, 3], &[0, info(6, 1), 3, 1, 3]);
    check(&[0, info(13, 2), 3, 3, 2, 0, 3], &[0, info(13, 2), 2, 1, 3, 0, 2]);
    for kind in [14, 17] {
        check(&[3, info(kind, 0), 3, 3], &[1, info(kind, 0), 2, 3]);
    }
    check(&[0, info(15, 2), 3, 3, 3, 3, 2, 3, 3], &[0, info(15, 2), 3, 2, 3, 3, 3, 3, 3]);
    check(&[0, info(16, 0), 3], &[0, info(16, 0), 3]);
    check(&[0, info(19, 1), 3, 3, 3, 3], &[0, info(19, 1), 3, 1, 3, 3]);
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let section = |types: &[u32], names: &[u8]| join(&le(types), names).expect("it is small");
    let check = |types: &[u8], ext: &[u8], expected: &str| {
        let error = canonical(types, ext).expect_err(expected);
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    };
    let none = ext(&[]);
    check(b"", &none, "no header");
    check(&[0; 24], &none, "another version");
    let pointer = section(&[0, info(2, 0), 0], b"\0");
    check(&pointer[..pointer.len() - 1], &none, "shorter than its header says");
    check(&section(&[0, info(2, 0)], b"\0"), &none, "cut short");
    check(&section(&[0], b"\0"), &none, "cut short");
    check(&section(&[0, info(4, 2), 0, 0, 0, 0], b"\0"), &none, "cut short");
    check(&section(&[0, info(20, 0), 0], b"\0"), &none, "kind 20");
    check(&section(&[2, info(2, 0), 0], b"\0"), &none, "lies outside");
    check(&section(&[1, info(2, 0), 0], b"\0a"), &none, "has no end");
    check(&pointer, b"", "no header");
    check(&pointer, &[0; 32], "another version");
    check(&pointer, &ext(&[&[12, 0, 1, 0, 0, 0]]), "12 bytes");
    check(&pointer, &ext(&[&[8, 0, 2, 0, 0]]), "cut short");
    check(&pointer, &ext(&[&[8, 0]]), "cut short");
    check(&pointer, &[none.as_slice(), &[0; 4]].concat(), "longer than its header says");
}

/// `info` of a type of this kind with so many members.
const fn info(kind: u32, members: u32) -> u32 {
    kind << 24 | members
}

/// Sections in which two pointers, a member and an adapted instruction refer to what is declared last, in this order. The names of lines
/// come before those of types.
fn linked(declared: [usize; 3]) -> (Vec<u8>, Vec<u8>) {
    let mut names = vec![0];
    let mut name = |name: &str| add(&mut names, name);
    let id = |pointee| 5 + u32::from(declared[0] != pointee) + u32::from(declared[2] == pointee);
    let ext = ext(&[
        &[8, name(".text"), 1, 0, 4],
        &[16, name(".text"), 1, 0, name("lb.rs"), name("fn lb() {"), 1],
        &[16, name(".text"), 1, 0, id(2), name("0:1"), 0],
    ]);
    let mut types = vec![0, info(2, 0), id(0)];
    types.extend([name("s"), info(4, 2), 8, name("m"), 1, 0, name("b"), id(1), 32]);
    types.extend([0, info(13, 1), 0, name("m"), id(2)]);
    types.extend([name("lb"), info(12, 0), 3]);
    for pointee in declared {
        types.extend([name(POINTEES[pointee]), info(7, 0) | if pointee == 2 { UNION } else { 0 }, 0]);
    }
    (join(&le(&types), &names).expect("it is small"), ext)
}

/// Where a name stands, which is added if it is new.
fn add(names: &mut Vec<u8>, name: &str) -> u32 {
    let whole = [b"\0", name.as_bytes(), b"\0"].concat();
    let known = names.windows(whole.len()).position(|window| window == whole);
    let at = known.unwrap_or_else(|| {
        names.extend(&whole[1..]);
        names.len() - whole.len()
    });
    u32::try_from(at + 1).expect("it is small")
}

/// The section .BTF.ext with these tables.
fn ext(tables: &[&[u32]]) -> Vec<u8> {
    let mut words = vec![MAGIC_AND_VERSION, 32];
    let mut at = 0;
    for table in tables.iter().copied().chain([&[][..]; 3]).take(3) {
        let bytes = u32::try_from(table.len() * 4).expect("it is small");
        words.extend([at, bytes]);
        at += bytes;
    }
    words.extend(tables.iter().copied().flatten());
    le(&words)
}

fn le(words: &[u32]) -> Vec<u8> {
    words.iter().copied().flat_map(u32::to_le_bytes).collect()
}

/// What sections say, wherever the names stand.
fn meaning((types, ext): &(Vec<u8>, Vec<u8>)) -> (Vec<Vec<String>>, Vec<String>) {
    let (types, names) = cut(types).expect("it is well formed");
    let say = |word: &Word| match word.role {
        Role::Name => {
            format!("name {}", String::from_utf8_lossy(name(names, word.value).expect("it is well formed")))
        }
        role => format!("{role:?} {}", word.value),
    };
    let types = words::types(types).expect("it is well formed");
    let ext = words::ext(ext).expect("it is well formed");
    (types.iter().map(|record| record.iter().map(say).collect()).collect(), ext.iter().map(say).collect())
}
