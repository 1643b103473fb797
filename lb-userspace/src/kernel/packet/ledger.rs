// SPDX-License-Identifier: MIT OR Apache-2.0
//! What user space alone writes down of a flow, for the agent that comes after: who it is (its *story*, whose text means nothing here), and
//! what was carried and counted before (its *tally*). Programs do not know of either.
#![expect(unsafe_code, reason = "numbers in memory that outlives the process")]

use std::collections::BTreeMap;
use std::io;
#[cfg(test)]
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{HashMap, Map, MapData, MapError};

use crate::kernel::bpf::{self, NewMap};
use crate::kernel::lock;
use crate::kernel::mapped::Mapped;
use crate::kernel::packet::open::SLOTS_LIMIT;

/// Bytes of a part of a story. With the key and the 56 bytes that the kernel puts around both, it fits exactly into a block of 256 (kernel/bpf/hashtab.c,
/// struct htab_elem; kernel/bpf/memalloc.c, LLIST_NODE_SZ). Most stories are one part.
pub const PART_BYTES: usize = 192;

/// Most parts of a story.
const PARTS_MAX: usize = 10;

/// Bits of a key that say which part it is; the others are the slot.
const PART_BITS: u32 = 4;

const _: () = assert!(PARTS_MAX <= 1 << PART_BITS && SLOTS_LIMIT <= 1 << (32 - PART_BITS));

/// So many parts there is room for, for each slot: flows with a long story have those that others do not need.
const PARTS_PER_SLOT: u32 = 2;

/// Most bytes of a story.
pub const STORY_BYTES: usize = PART_BYTES * PARTS_MAX;

/// Numbers of a [`Tally`].
const WORDS: usize = 8;

/// The words of a tally that was logged.
const LOGGED: u64 = 1;

/// What was carried of a flow, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By splice, from the client and from the server, before it left user space.
    pub spliced: [u64; 2],
    /// By copying, likewise.
    pub copied: [u64; 2],
    /// Of what programs have carried since, how much is in the counters of an agent, likewise.
    pub counted: [u64; 2],
    /// Whether it has ended, and its line in the log was written: 1, or else 0.
    pub logged: u64,
    /// Nothing yet; fills a line of the cache.
    pub spare: u64,
}

const _: () = assert!(size_of::<Tally>() == 8 * WORDS);

type Stories = HashMap<MapData, u32, [u8; PART_BYTES]>;

/// Stories and tallies of all slots.
#[derive(Debug)]
pub struct Ledger {
    tallies: Mapped<[u64; WORDS]>,
    stories: Option<Mutex<Shut>>,
}

/// A map that says nothing of itself.
struct Shut(Stories);

/// The maps of a ledger.
#[derive(Debug)]
pub struct Maps {
    /// The array of tallies.
    pub tallies: OwnedFd,
    /// The hash map of stories.
    pub stories: OwnedFd,
}

impl Maps {
    /// Makes them for so many flows.
    ///
    /// # Errors
    /// The kernel refuses: no memory, or a capability is missing.
    pub fn create(slots: u32) -> io::Result<Self> {
        let tallies = bpf::create(NewMap {
            kind: bpf::ARRAY,
            key: size_of::<u32>() as u32,
            value: size_of::<Tally>() as u32,
            entries: slots,
            flags: bpf::MMAPABLE,
            name: bpf::name("lb_tallies"),
            ..NewMap::default()
        })?;
        let stories = bpf::create(NewMap {
            kind: bpf::HASH,
            key: size_of::<u32>() as u32,
            value: PART_BYTES as u32,
            entries: slots * PARTS_PER_SLOT,
            flags: bpf::NO_PREALLOC,
            name: bpf::name("lb_stories"),
            ..NewMap::default()
        })?;
        Ok(Self { tallies, stories })
    }
}

/// What the kernel said, if it was the kernel.
fn why(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

impl Ledger {
    /// Of so many slots, in these maps.
    ///
    /// # Errors
    /// They are not what they should be, or memory lacks.
    pub fn new(maps: &Maps, slots: u32) -> Result<Self, MapError> {
        let fd = maps.stories.try_clone().map_err(MapError::IoError)?;
        let stories: Stories = Map::HashMap(MapData::from_fd(fd)?).try_into()?;
        let tallies = Mapped::new(&maps.tallies, slots as usize).map_err(MapError::IoError)?;
        Ok(Self { tallies, stories: Some(Mutex::new(Shut(stories))) })
    }

    /// Tallies in a file, and no stories, for tests of what needs no kernel.
    #[cfg(test)]
    pub fn bare(tallies: impl AsFd, slots: u32) -> io::Result<Self> {
        Ok(Self { tallies: Mapped::new(tallies, slots as usize)?, stories: None })
    }

    /// Bytes of a tally, for a file that stands for the map.
    #[cfg(test)]
    pub const TALLY_BYTES: u64 = 8 * WORDS as u64;

    /// Writes down who a flow is, before it may leave user space; in how many parts.
    ///
    /// # Errors
    /// The kernel lacks memory, the text is too long, or others have all the room (E2BIG); then nothing is written.
    pub fn tell(&self, slot: u32, story: &[u8]) -> io::Result<u8> {
        let Some(stories) = &self.stories else { return Ok(0) };
        if story.len() > STORY_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut stories = lock(stories);
        for (part, text) in (0_u8..).zip(story.chunks(PART_BYTES)) {
            let mut room = [0; PART_BYTES];
            room[..text.len()].copy_from_slice(text);
            if let Err(error) = stories.0.insert(key(slot, part), room, 0) {
                stories.forget(slot, part);
                return Err(why(error));
            }
        }
        Ok(story.len().div_ceil(PART_BYTES) as u8)
    }

    /// Forgets who it is, which was told in so many parts.
    pub fn forget(&self, slot: u32, parts: u8) {
        if let Some(stories) = &self.stories {
            lock(stories).forget(slot, parts);
        }
    }

    /// Who a flow is, which was told in so many parts.
    pub fn story(&self, slot: u32, parts: u8) -> Vec<u8> {
        let Some(stories) = &self.stories else { return Vec::new() };
        let stories = lock(stories);
        // What is missing cannot be read in the end.
        let parts = (0..parts).filter_map(|part| stories.0.get(&key(slot, part), 0).ok());
        text_of(parts)
    }

    /// All that were told, by slot, and in how many parts.
    pub fn stories(&self) -> Vec<(u32, Vec<u8>, u8)> {
        let Some(stories) = &self.stories else { return Vec::new() };
        let all: BTreeMap<u32, [u8; PART_BYTES]> = lock(stories).0.iter().flatten().collect();
        let parts: Vec<_> = all.into_iter().collect();
        let slots = parts.chunk_by(|(one, _), (other, _)| one >> PART_BITS == other >> PART_BITS);
        let told = |parts: &[(u32, [u8; PART_BYTES])]| {
            let last = (parts[parts.len() - 1].0 & ((1 << PART_BITS) - 1)) as u8;
            (parts[0].0 >> PART_BITS, text_of(parts.iter().map(|(_, part)| *part)), last + 1)
        };
        slots.map(told).collect()
    }

    /// The tally of a slot.
    pub fn tally(&self, slot: u32) -> Tally {
        let [up, down, copied_up, copied_down, counted_up, counted_down, logged, spare] =
            std::array::from_fn(|index| self.word(slot, index).load(Ordering::Relaxed));
        Tally {
            spliced: [up, down],
            copied: [copied_up, copied_down],
            counted: [counted_up, counted_down],
            logged,
            spare,
        }
    }

    /// Writes down what was carried before the flow leaves user space, nothing of which was logged.
    pub fn note_carried(&self, slot: u32, spliced: [u64; 2], copied: [u64; 2]) {
        let words = [spliced[0], spliced[1], copied[0], copied[1], 0, 0, 0, 0];
        for (index, word) in words.into_iter().enumerate() {
            self.word(slot, index).store(word, Ordering::Relaxed);
        }
    }

    /// Writes down how much is in the counters.
    pub fn note_counted(&self, slot: u32, [up, down]: [u64; 2]) {
        self.word(slot, 4).store(up, Ordering::Relaxed);
        self.word(slot, 5).store(down, Ordering::Relaxed);
    }

    /// Writes down that its line in the log was written.
    pub fn note_logged(&self, slot: u32) {
        self.word(slot, 6).store(LOGGED, Ordering::Release);
    }

    fn word(&self, slot: u32, index: usize) -> &AtomicU64 {
        let words = self.tallies.at(slot as usize).as_ptr();
        // SAFETY: the word lies in the mapping, aligned as in the map, which outlives the reference; everybody in this process changes it
        // atomically, and another process has the map only when this one is gone.
        unsafe { AtomicU64::from_ptr(&raw mut (*words)[index]) }
    }
}

impl Shut {
    /// Whoever was never told of is forgotten.
    fn forget(&mut self, slot: u32, parts: u8) {
        for part in 0..parts {
            let _ = self.0.remove(&key(slot, part));
        }
    }
}

/// The key of a part.
const fn key(slot: u32, part: u8) -> u32 {
    slot << PART_BITS | part as u32
}

/// A text that is in parts, without what is behind it.
fn text_of(parts: impl Iterator<Item = [u8; PART_BYTES]>) -> Vec<u8> {
    let mut text: Vec<u8> = parts.flatten().collect();
    let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    text.truncate(end);
    text
}

impl std::fmt::Debug for Shut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stories").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_is_what_was_noted_last() {
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len(2 * Ledger::TALLY_BYTES).expect("room");
        let ledger = Ledger::bare(&file, 2).expect("files can be mapped");
        ledger.note_carried(1, [1, 2], [3, 4]);
        ledger.note_counted(1, [5, 6]);
        ledger.note_logged(1);
        let noted = Tally { spliced: [1, 2], copied: [3, 4], counted: [5, 6], logged: 1, spare: 0 };
        assert_eq!([ledger.tally(0), ledger.tally(1)], [Tally::default(), noted]);
        ledger.note_carried(1, [7, 8], [9, 10]);
        let begun = Tally { spliced: [7, 8], copied: [9, 10], ..Tally::default() };
        // Another process sees the same.
        assert_eq!(Ledger::bare(&file, 2).expect("as before").tally(1), begun);
    }

    #[test]
    fn stories_are_told_and_forgotten() {
        let Ok(maps) = Maps::create(4) else { return };
        let ledger = Ledger::new(&maps, 4).expect("they were just made");
        let long = [b'a'; PART_BYTES * 2 + 1];
        let told =
            [(3, &b"once"[..]), (0, b"upon"), (2, &long)].map(|(slot, story)| ledger.tell(slot, story));
        assert_eq!(told.map(|parts| parts.expect("room")), [1, 1, 3]);
        assert!(ledger.tell(1, &[1; STORY_BYTES + 1]).is_err());
        ledger.forget(0, 1);
        assert_eq!(
            [ledger.story(3, 1), ledger.story(2, 3), ledger.story(0, 1)],
            [b"once".to_vec(), long.to_vec(), Vec::new()]
        );
        let all = [(2, long.to_vec(), 3), (3, b"once".to_vec(), 1)];
        assert_eq!(Ledger::new(&maps, 4).expect("as before").stories(), all);
        // Room for eight parts, of which four are taken: who does not fit leaves nothing behind.
        assert!(ledger.tell(1, &[b'b'; PART_BYTES * 5]).is_err());
        assert_eq!(ledger.stories(), all);
        ledger.forget(2, 3);
        assert_eq!(ledger.tell(1, &[b'b'; PART_BYTES * 5]).expect("room by now"), 5);
    }

    #[test]
    fn a_torn_story_is_what_is_there_and_is_forgotten_as_a_whole() {
        let Ok(maps) = Maps::create(4) else { return };
        let parts = [[b'a'; PART_BYTES], [b'b'; PART_BYTES], [b'c'; PART_BYTES]];
        let check = |missing: &[u8], text: &[[u8; PART_BYTES]], up_to: u8| {
            let killed = Ledger::new(&maps, 4).expect("they were just made");
            killed.tell(2, parts.as_flattened()).expect("room");
            let stories = killed.stories.as_ref().expect("it has maps");
            for part in missing {
                lock(stories).0.remove(&key(2, *part)).expect("it was told");
            }
            let next = Ledger::new(&maps, 4).expect("as before");
            assert_eq!(next.stories(), [(2, text.as_flattened().to_vec(), up_to)], "without {missing:?}");
            next.forget(2, up_to);
            assert_eq!(next.stories(), [], "without {missing:?}");
        };
        // A kill while it is told: the last parts are missing.
        check(&[2], &parts[..2], 2);
        check(&[1, 2], &parts[..1], 1);
        // A kill while it is forgotten: the first ones are.
        check(&[0], &parts[1..], 3);
        check(&[0, 1], &parts[2..], 3);
    }
}
