// SPDX-License-Identifier: MIT OR Apache-2.0
//! Timers of one thread: a binary heap by moment, in which each knows its place, so that one that is not needed any more leaves at once. New
//! ones are mostly the latest, and stay at the bottom.

use std::cell::RefCell;
use std::task::Waker;

use super::Moment;

/// The place of a timer that is not in the heap.
const FIRED: u32 = u32::MAX;

/// The timers of a thread.
#[derive(Default)]
pub(super) struct Timers(RefCell<Heap>);

#[derive(Default)]
struct Heap {
    entries: Vec<Entry>,
    timers: Vec<Timer>,
    free: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Entry {
    at: Moment,
    number: u32,
}

struct Timer {
    /// Its index in the heap, or [`FIRED`].
    place: u32,
    waker: Option<Waker>,
}

impl Timers {
    /// Has somebody woken at a moment; the number is to be given back by [`Self::remove`].
    pub(super) fn add(&self, at: Moment, waker: Waker) -> u32 {
        let heap = &mut *self.0.borrow_mut();
        let place = heap.entries.len();
        let timer = Timer { place: place as u32, waker: Some(waker) };
        let number = match heap.free.pop() {
            Some(number) => {
                heap.timers[number as usize] = timer;
                number
            }
            None => {
                heap.timers.push(timer);
                heap.timers.len() as u32 - 1
            }
        };
        heap.entries.push(Entry { at, number });
        heap.rise(place);
        number
    }

    /// Whether a timer's moment has come; if not, `waker` is the one to wake.
    pub(super) fn has_fired(&self, number: u32, waker: &Waker) -> bool {
        let timer = &mut self.0.borrow_mut().timers[number as usize];
        if timer.place == FIRED {
            return true;
        }
        if !timer.waker.as_ref().is_some_and(|before| before.will_wake(waker)) {
            timer.waker = Some(waker.clone());
        }
        false
    }

    /// Forgets a timer.
    pub(super) fn remove(&self, number: u32) {
        let heap = &mut *self.0.borrow_mut();
        let timer = &mut heap.timers[number as usize];
        timer.waker = None;
        let place = std::mem::replace(&mut timer.place, FIRED);
        heap.free.push(number);
        if place != FIRED {
            heap.take(place as usize);
        }
    }

    /// The moment of the next timer.
    pub(super) fn next(&self) -> Option<Moment> {
        self.0.borrow().entries.first().map(|entry| entry.at)
    }

    /// Wakes all whose moment has come.
    pub(super) fn fire(&self, now: Moment) {
        loop {
            let due = self.0.borrow_mut().pop_due(now);
            let Some(waker) = due else { return };
            waker.wake();
        }
    }
}

impl Heap {
    fn pop_due(&mut self, now: Moment) -> Option<Waker> {
        loop {
            let first = self.entries.first().filter(|first| first.at <= now)?;
            let number = first.number as usize;
            self.take(0);
            let timer = &mut self.timers[number];
            timer.place = FIRED;
            if let Some(waker) = timer.waker.take() {
                return Some(waker);
            }
        }
    }

    /// Takes the entry at a place out.
    fn take(&mut self, place: usize) {
        self.entries.swap_remove(place);
        if place < self.entries.len() {
            self.note_place(place);
            self.sink(place);
            self.rise(place);
        }
    }

    /// Moves the entry at a place up until none above it is later.
    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let above = (place - 1) / 2;
            if self.entries[above].at <= self.entries[place].at {
                return;
            }
            self.swap(place, above);
            place = above;
        }
    }

    /// Moves the entry at a place down until none below it is earlier.
    fn sink(&mut self, mut place: usize) {
        loop {
            let below = [2 * place + 1, 2 * place + 2];
            let earliest = below.into_iter().filter(|&below| below < self.entries.len());
            let Some(earliest) = earliest.min_by_key(|&below| self.entries[below].at) else { return };
            if self.entries[place].at <= self.entries[earliest].at {
                return;
            }
            self.swap(place, earliest);
            place = earliest;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.entries.swap(one, other);
        self.note_place(one);
        self.note_place(other);
    }

    fn note_place(&mut self, place: usize) {
        self.timers[self.entries[place].number as usize].place = place as u32;
    }
}
