// SPDX-License-Identifier: MIT OR Apache-2.0
//! A table of a million names in little memory: the names stand one behind the other in one allocation, and the hash table
//! holds their places only.
//!
//! Names come into it from the configuration alone, so that no client can make them meet: its hash need not be the slow kind that
//! withstands such attempts.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::sets::SetId;

/// Names, each with the routes it belongs to.
#[derive(Debug)]
pub(super) struct NameTable {
    hasher: DefaultHashBuilder,
    /// Where in `entries` each name's entry begins.
    places: HashTable<usize>,
    entries: Entries,
}

/// Entries without anything between them: the routes (four bytes), the name's length (one byte), the name.
#[derive(Debug)]
struct Entries(Vec<u8>);

const SET_BYTES: usize = size_of::<SetId>();
const HEADER_BYTES: usize = SET_BYTES + 1;

impl NameTable {
    /// An empty table with the memory for `names`.
    pub(super) fn with_capacity<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let (count, bytes) =
            names.fold((0, 0), |(count, bytes), name| (count + 1, bytes + HEADER_BYTES + name.len()));
        Self {
            hasher: DefaultHashBuilder::default(),
            places: HashTable::with_capacity(count),
            entries: Entries(Vec::with_capacity(bytes)),
        }
    }

    /// Gives a name the routes that `change` makes of those it has. A name of more than 255 bytes, which no client can ask for, is
    /// left out.
    pub(super) fn update(&mut self, name: &str, change: impl FnOnce(Option<SetId>) -> SetId) {
        let Ok(len) = u8::try_from(name.len()) else { return };
        let Self { hasher, places, entries } = self;
        let known = places.entry(
            hasher.hash_one(name.as_bytes()),
            |&place| entries.name(place) == name.as_bytes(),
            |&place| hasher.hash_one(entries.name(place)),
        );
        match known {
            Entry::Occupied(place) => {
                let place = *place.get();
                let set = change(Some(entries.set(place)));
                entries.0[place..place + SET_BYTES].copy_from_slice(&set.to_bytes());
            }
            Entry::Vacant(free) => {
                free.insert(entries.0.len());
                entries.0.extend(change(None).to_bytes());
                entries.0.push(len);
                entries.0.extend(name.as_bytes());
            }
        }
    }

    /// The routes of a name.
    pub(super) fn find(&self, name: &str) -> Option<SetId> {
        self.place(name).map(|place| self.entries.set(place))
    }

    fn place(&self, name: &str) -> Option<usize> {
        let hash = self.hasher.hash_one(name.as_bytes());
        self.places.find(hash, |&place| self.entries.name(place) == name.as_bytes()).copied()
    }
}

impl Entries {
    fn set(&self, place: usize) -> SetId {
        let mut bytes = [0; SET_BYTES];
        bytes.copy_from_slice(&self.0[place..place + SET_BYTES]);
        SetId::from_bytes(bytes)
    }

    fn name(&self, place: usize) -> &[u8] {
        let start = place + HEADER_BYTES;
        &self.0[start..start + usize::from(self.0[start - 1])]
    }
}
