// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has which slot of the maps, and whom the programs' calls are for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use lb_common::packet::flow::Phase;
use lb_common::packet::record::Record;

use super::records::Records;
use crate::kernel::bell::Bell;
use crate::kernel::lock;

/// How long a slot rests before another flow gets it: by then no program runs any more that has found the one before. They run with bottom
/// halves off (net/core/dev.c), for some microseconds.
const REST: Duration = Duration::from_millis(10);

/// The places for flows.
#[derive(Debug)]
pub struct Slots {
    records: Records,
    /// Taken from the front, given back at the end: when they were given back, if they were ever taken.
    free: Mutex<VecDeque<(u32, Option<Instant>)>>,
    bells: Box<[Bell]>,
}

/// The place of one flow. To be dropped when no key leads to it any more.
#[derive(Debug)]
pub struct Slot {
    number: u32,
    slots: Arc<Slots>,
}

impl Slots {
    /// So many places, all free.
    pub fn new(count: u32, records: Records) -> Arc<Self> {
        Arc::new(Self {
            records,
            free: Mutex::new((0..count).map(|slot| (slot, None)).collect()),
            bells: (0..count).map(|_| Bell::default()).collect(),
        })
    }

    /// A free place at a time, if there is one.
    pub fn take(self: &Arc<Self>, now: Instant) -> Option<Slot> {
        let mut free = lock(&self.free);
        let is_rested =
            |since: Option<Instant>| since.is_none_or(|since| now.saturating_duration_since(since) >= REST);
        let (number, _) = free.pop_front_if(|(_, since)| is_rested(*since))?;
        Some(Slot { number, slots: Arc::clone(self) })
    }

    /// Wakes the flow that has a slot.
    pub fn ring(&self, slot: u32) {
        if let Some(bell) = self.bells.get(slot as usize) {
            bell.ring();
        }
    }
}

impl Slot {
    /// Its number, below the capacity of the maps.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Begins with a flow. No key may lead to it yet.
    pub fn begin(&self, record: Record) {
        self.edit(|place| *place = Record { generation: place.generation + 1, ..record });
    }

    /// Reads or changes the record, for as short as possible: see [`Records::edit`].
    pub fn edit<R>(&self, change: impl FnOnce(&mut Record) -> R) -> R {
        self.slots.records.edit(self.number, change)
    }

    /// Whom to wake from now on.
    pub fn listen(&self, waker: &Waker) {
        self.bell().listen(waker);
    }

    /// Whether a program has called since the last time that this was asked.
    pub fn take_call(&self) -> bool {
        self.bell().take_call()
    }

    fn bell(&self) -> &Bell {
        &self.slots.bells[self.number as usize]
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.bell().clear();
        self.edit(|record| record.flow.phase = Phase::Gone as u32);
        lock(&self.slots.free).push_back((self.number, Some(Instant::now())));
    }
}

#[cfg(test)]
mod tests {
    use lb_common::packet::flow::{End, Flow};
    use lb_common::packet::record::{ENTRY_WORDS, V4, Way};
    use lb_common::packet::tcp::Translation;

    use super::*;

    /// Places over a file, which takes the stead of a map: to user space it is memory either way.
    fn slots(count: u32) -> Arc<Slots> {
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len(u64::from(count) * ENTRY_WORDS as u64 * 8).expect("room");
        Slots::new(count, Records::map(file, count).expect("files can be mapped"))
    }

    fn record() -> Record {
        let (end, by) = (End::default(), Translation::default());
        Record::new(Flow::tracked([end, end], by, by), V4, Way::default(), Way::default())
    }

    #[test]
    fn a_slot_belongs_to_one_flow_at_a_time_and_rests_between_two() {
        let slots = slots(2);
        let now = Instant::now();
        let first = slots.take(now).expect("two slots");
        let _second = slots.take(now).expect("two slots");
        assert!(slots.take(now).is_none());
        first.begin(record());
        drop(first);
        assert!(slots.take(now).is_none());
        let again = slots.take(Instant::now() + REST).expect("given back");
        assert_eq!((again.number(), again.edit(|record| record.flow.phase())), (0, Phase::Gone));
        again.begin(record());
        assert_eq!(again.edit(|record| (record.generation, record.flow.phase())), (2, Phase::Track));
    }

    #[test]
    fn a_call_is_heard_once_and_by_its_flow() {
        let slots = slots(2);
        let take = || slots.take(Instant::now()).expect("two slots");
        let (first, second) = (take(), take());
        slots.ring(1);
        slots.ring(99);
        assert_eq!([first.take_call(), second.take_call(), second.take_call()], [false, true, false]);
    }

    #[test]
    fn two_threads_do_not_change_a_record_at_the_same_time() {
        let slots = slots(1);
        let slot = slots.take(Instant::now()).expect("a slot");
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..10_000).for_each(|_| slot.edit(|record| record.to_server.bytes += 1)));
            }
        });
        assert_eq!(slot.edit(|record| record.to_server.bytes), 20_000);
    }
}
