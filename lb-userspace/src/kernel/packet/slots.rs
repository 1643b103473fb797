// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has which slot of the maps, and whom the programs' calls are for.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Instant;

use lb_common::packet::flow::Phase;
use lb_common::packet::record::Record;
use prometheus_client::metrics::gauge::Gauge;

use super::ledger::{Ledger, Tally};
use super::records::Records;
use super::vacancies::Vacancies;
use crate::kernel::bell::Bell;
use crate::kernel::lock;

/// The places for flows.
#[derive(Debug)]
pub struct Slots {
    pub(super) records: Records,
    ledger: Ledger,
    free: Mutex<Vacancies>,
    bells: Box<[Bell]>,
}

/// The place of one flow. To be dropped when no key leads to it any more.
#[derive(Debug)]
pub struct Slot {
    number: u32,
    slots: Arc<Slots>,
    /// In how many parts the ledger has its story; 0: not.
    parts: AtomicU8,
    /// Whether it stays as it is, for the next agent.
    is_left: AtomicBool,
}

/// A flow that an agent has left which is gone.
#[derive(Debug)]
pub struct Orphan {
    /// Its place.
    pub slot: Slot,
    /// Who it is, as that agent told; empty: it did not.
    pub story: Vec<u8>,
}

/// A flow that programs carry, as it is at this moment.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Who it is.
    pub story: Vec<u8>,
    /// What was carried before.
    pub tally: Tally,
    /// What the programs have.
    pub record: Record,
}

/// What the log drops once it has written the line of a flow: nobody writes it again.
#[derive(Clone, Debug)]
pub struct Receipt {
    _signature: Arc<Signature>,
}

#[derive(Debug)]
struct Signature(Arc<Slot>);

impl Slots {
    /// So many places, all free.
    pub fn new(count: u32, records: Records, ledger: Ledger) -> Arc<Self> {
        Arc::new(Self {
            records,
            ledger,
            free: Mutex::new(Vacancies::all(count)),
            bells: (0..count).map(|_| Bell::default()).collect(),
        })
    }

    /// The same as [`Self::inherit`] where there was no agent.
    pub fn of_nobody(count: u32, records: Records, ledger: Ledger) -> (Arc<Self>, Vec<Orphan>) {
        (Self::new(count, records, ledger), Vec::new())
    }

    /// The places that an agent has left, which is gone, and the flows in them that have left user space, unless their line in the log was
    /// written. The other places are free: the sockets of flows in them have died with that agent.
    pub fn inherit(count: u32, records: Records, ledger: Ledger) -> (Arc<Self>, Vec<Orphan>) {
        let told = ledger.stories().into_iter();
        let mut stories: HashMap<u32, (Vec<u8>, u8)> =
            told.map(|(number, story, parts)| (number, (story, parts))).collect();
        let slots = Self::new(count, records, ledger);
        let mut orphans = Vec::new();
        for number in 0..count {
            slots.records.break_lock(number);
            let flow = slots.records.edit(number, |record| record.flow);
            let (tally, told) = (slots.ledger.tally(number), stories.remove(&number));
            let (told, parts) = told.map_or((None, 0), |(story, parts)| (Some(story), parts));
            let story = match flow.phase() {
                _ if tally.logged != 0 => None,
                Phase::Spliced | Phase::Closing => Some(told.unwrap_or_default()),
                // Programs make way for another only where this one had left.
                Phase::Gone if flow.seen_ns != 0 => told,
                Phase::Track | Phase::Armed | Phase::Gone => None,
            };
            if let Some(story) = story {
                let slot = Slot::new(number, &slots, parts);
                // Until somebody takes it up.
                slot.leave();
                orphans.push(Orphan { slot, story });
                continue;
            }
            slots.records.end(number);
            slots.ledger.forget(number, parts);
        }
        // None of a slot, so that nobody will.
        stories.iter().for_each(|(number, (_, parts))| slots.ledger.forget(*number, *parts));
        lock(&slots.free).exclude(&orphans.iter().map(|orphan| orphan.slot.number).collect());
        (slots, orphans)
    }

    /// The flows that programs carry, with their stories.
    pub fn listed(&self) -> Vec<Listed> {
        let mut listed = Vec::new();
        for (number, story, _) in self.ledger.stories() {
            if number as usize >= self.bells.len() {
                continue;
            }
            let record = self.records.edit(number, |record| *record);
            if matches!(record.flow.phase(), Phase::Spliced | Phase::Closing) {
                listed.push(Listed { story, tally: self.ledger.tally(number), record });
            }
        }
        listed
    }

    /// How many places there are.
    pub fn count(&self) -> u32 {
        self.bells.len() as u32
    }

    /// Whether no place has a flow.
    pub fn is_empty(&self) -> bool {
        lock(&self.free).is_all()
    }

    /// Shows from here on how many places flows have.
    pub fn show_taken(&self, taken: Gauge) {
        lock(&self.free).show(taken);
    }

    /// A free place at a time, if there is one.
    pub fn take(self: &Arc<Self>, now: Instant) -> Option<Slot> {
        let number = lock(&self.free).take(now)?;
        Some(Slot::new(number, self, 0))
    }

    /// Wakes the flow that has a slot.
    pub fn ring(&self, slot: u32) {
        if let Some(bell) = self.bells.get(slot as usize) {
            bell.ring();
        }
    }
}

impl Slot {
    fn new(number: u32, slots: &Arc<Slots>, parts: u8) -> Self {
        let (parts, is_left) = (AtomicU8::new(parts), AtomicBool::new(false));
        Self { number, slots: Arc::clone(slots), parts, is_left }
    }

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

    /// Ends the flow for the programs: see [`Records::end`].
    pub fn end(&self) -> Record {
        self.slots.records.end(self.number)
    }

    /// Writes down who the flow is, before it may leave user space for the first time.
    ///
    /// # Errors
    /// See [`Ledger::tell`].
    pub fn tell(&self, story: &[u8]) -> io::Result<()> {
        self.parts.store(self.slots.ledger.tell(self.number, story)?, Ordering::Relaxed);
        Ok(())
    }

    /// Who the flow is, as it was told; empty: it was not.
    pub fn story(&self) -> Vec<u8> {
        self.slots.ledger.story(self.number, self.parts.load(Ordering::Relaxed))
    }

    /// What was carried and counted.
    pub fn tally(&self) -> Tally {
        self.slots.ledger.tally(self.number)
    }

    /// Writes down what was carried before the flow leaves user space: see [`Ledger::note_carried`].
    pub fn note_carried(&self, spliced: [u64; 2], copied: [u64; 2]) {
        self.slots.ledger.note_carried(self.number, spliced, copied);
    }

    /// Writes down how much of what programs have carried is in the counters, from the client and from the server, in bytes.
    pub fn note_counted(&self, counted: [u64; 2]) {
        self.slots.ledger.note_counted(self.number, counted);
    }

    /// Says beforehand that there is no flow whose line would have to be written, whatever an agent finds here.
    pub fn disown(&self) {
        self.slots.ledger.note_logged(self.number);
    }

    /// Leaves flow and place to the next agent.
    pub fn leave(&self) {
        self.is_left.store(true, Ordering::Relaxed);
    }

    /// Takes up what another agent has left.
    pub fn take_up(&self) {
        self.is_left.store(false, Ordering::Relaxed);
    }

    /// Whether flow and place are another agent's, the one before or the next.
    pub fn is_left(&self) -> bool {
        self.is_left.load(Ordering::Relaxed)
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
        if self.is_left() {
            return;
        }
        // In this order: a flow that nobody knows is none.
        self.slots.ledger.forget(self.number, *self.parts.get_mut());
        self.end();
        lock(&self.slots.free).give_back(self.number);
    }
}

impl Receipt {
    /// For the flow that has a place.
    pub fn new(slot: Arc<Slot>) -> Self {
        Self { _signature: Arc::new(Signature(slot)) }
    }
}

impl Drop for Signature {
    fn drop(&mut self) {
        let slot = &self.0;
        if !slot.is_left() {
            slot.slots.ledger.note_logged(slot.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::packet::flow::{End, Flow, Side};
    use lb_common::packet::record::{ENTRY_WORDS, V4, Way, free};
    use lb_common::packet::tcp::Translation;

    use super::*;
    use crate::kernel::packet::vacancies::REST;

    /// Places over files, which take the stead of maps: to user space they are memory either way.
    fn slots(count: u32) -> Arc<Slots> {
        let file = |bytes: u64| {
            let file = tempfile::tempfile().expect("a temporary file");
            file.set_len(u64::from(count) * bytes).expect("room");
            file
        };
        let records = Records::map(file(ENTRY_WORDS as u64 * 8), count).expect("files can be mapped");
        let ledger = Ledger::bare(file(Ledger::TALLY_BYTES), count).expect("likewise");
        Slots::new(count, records, ledger)
    }

    fn record() -> Record {
        let (end, by) = (End::default(), Translation::default());
        Record::new(Flow::tracked([end, end], by, by), V4, Way::default(), Way::default())
    }

    #[test]
    fn what_is_ended_tells_how_it_was_and_is_gone() {
        let slots = slots(1);
        let slot = slots.take(Instant::now()).expect("one slot");
        slot.begin(record());
        slot.edit(|record| (record.flow.phase, record.flow.client.sent) = (Phase::Spliced as u32, 7));
        let before = slot.end();
        assert_eq!((before.flow.phase(), before.flow.client.sent), (Phase::Spliced, 7));
        assert_eq!(slot.edit(|record| *record).flow, Flow { phase: Phase::Gone as u32, ..before.flow });
        assert!(slots.listed().is_empty());
    }

    #[test]
    fn packets_follow_the_routes_where_these_said_how_they_leave() {
        let slots = slots(2);
        let slot = slots.take(Instant::now()).expect("two slots");
        let [to_server, to_client] = [3, 4].map(|interface| Way { interface, ..Way::default() });
        let flags = Side::ALL.map(free).iter().sum();
        slot.begin(Record { to_server, to_client, flags, ..record() });
        let check = |routes: Option<u32>, lost: &[u32], expected: (u32, [u32; 2])| {
            let moved = slots.reroute(|_, _| routes, |interface| lost.contains(&interface), |_| None);
            let interfaces = slot.edit(|record| [record.to_server.interface, record.to_client.interface]);
            assert_eq!((moved, interfaces), expected, "{routes:?} {lost:?}");
        };
        // By a mark, perhaps: no answer explains 3 and 4.
        check(Some(9), &[], (0, [3, 4]));
        assert!(slots.note_routed(slot.number(), |_, _| None), "nothing is known against it");
        assert!(!slots.note_routed(slot.number(), |_, _| Some(3)));
        check(None, &[3, 4], (0, [3, 4]));
        check(Some(9), &[], (1, [9, 4]));
        check(Some(9), &[], (0, [9, 4]));
        check(Some(8), &[4], (1, [8, 8]));
        check(Some(7), &[], (1, [7, 7]));
        slot.edit(|record| record.flags = 0);
        check(Some(6), &[7], (0, [7, 7]));
        assert_eq!(slots.reroute(|_, _| Some(6), |_| true, |number| (number == 7).then_some(5)), 1);
        slot.edit(|record| record.flags = flags);
        slot.end();
        check(Some(6), &[7], (0, [5, 5]));
        drop(slot);
        assert!(slots.is_empty());
    }

    #[test]
    fn a_slot_belongs_to_one_flow_at_a_time_and_rests_between_two() {
        let (slots, now, taken) = (slots(2), Instant::now(), Gauge::default());
        let first = slots.take(now).expect("two slots");
        slots.show_taken(taken.clone());
        assert_eq!(taken.get(), 1);
        let _second = slots.take(now).expect("two slots");
        assert!(slots.take(now).is_none());
        assert_eq!(taken.get(), 2);
        first.begin(record());
        drop(first);
        assert_eq!(taken.get(), 1);
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
