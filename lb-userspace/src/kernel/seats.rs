// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has which slots of the maps, and whom the program's calls are for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use super::bell::Bell;
use super::directions::Directions;
use super::lock;

/// The places for flows: two slots each.
#[derive(Debug)]
pub struct Seats {
    /// What the program counts and may do, by slot; all of it zero for a free place.
    pub directions: Directions,
    /// Taken from the front, given back at the end.
    free: Mutex<VecDeque<u32>>,
    bells: Box<[Bell]>,
}

/// The place of one flow. To be dropped when both sockets are closed: no verdict on them runs after close(2) has returned, for both take
/// the socket's lock (net/ipv4/tcp.c, tcp_close).
#[derive(Debug)]
pub struct Seat {
    number: u32,
    seats: Arc<Seats>,
}

impl Seats {
    /// Places for so many slots.
    pub fn new(slots: u32, directions: Directions) -> Arc<Self> {
        let flows = slots / 2;
        Arc::new(Self {
            directions,
            free: Mutex::new((0..flows).collect()),
            bells: (0..flows).map(|_| Bell::default()).collect(),
        })
    }

    /// A free place, if there is one.
    pub fn take(self: &Arc<Self>) -> Option<Seat> {
        let number = lock(&self.free).pop_front()?;
        Some(Seat { number, seats: Arc::clone(self) })
    }

    /// Wakes the flow that a slot belongs to.
    pub fn ring(&self, slot: u32) {
        if let Some(bell) = self.bells.get(slot as usize / 2) {
            bell.ring();
        }
    }

    /// Wakes the flow with this number, without a call of the program.
    pub fn wake(&self, number: u32) {
        if let Some(bell) = self.bells.get(number as usize) {
            bell.wake();
        }
    }
}

impl Seat {
    /// Its number, below half the capacity of the maps.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its slots.
    pub fn slots(&self) -> [u32; 2] {
        [self.number * 2, self.number * 2 + 1]
    }

    /// Whom to wake from now on.
    pub fn listen(&self, waker: &Waker) {
        self.bell().listen(waker);
    }

    /// Whether the program has called since the last time that this was asked.
    pub fn take_call(&self) -> bool {
        self.bell().take_call()
    }

    fn bell(&self) -> &Bell {
        &self.seats.bells[self.number as usize]
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.bell().clear();
        self.slots().into_iter().for_each(|slot| self.seats.directions.clear(slot));
        lock(&self.seats.free).push_back(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use lb_common::layout::DIRECTION_WORDS;

    use super::*;

    /// Places over files, which take the stead of maps: to user space they are memory either way.
    fn seats(slots: u32) -> Arc<Seats> {
        let file = |words: usize| -> File {
            let file = tempfile::tempfile().expect("a temporary file");
            file.set_len(words as u64 * 8).expect("room");
            file
        };
        let words = file(slots as usize * DIRECTION_WORDS);
        Seats::new(slots, Directions::map(words, slots, file(1)).expect("files can be mapped"))
    }

    #[test]
    fn a_seat_belongs_to_one_flow_at_a_time() {
        let seats = seats(5);
        let (first, second) = (seats.take().expect("two flows"), seats.take().expect("two flows"));
        assert!(seats.take().is_none());
        assert_eq!([first.slots(), second.slots()], [[0, 1], [2, 3]]);
        drop(first);
        assert_eq!(seats.take().expect("given back").number(), 0);
    }

    #[test]
    fn a_call_is_heard_once_and_by_its_flow() {
        let seats = seats(4);
        let (first, second) = (seats.take().expect("two flows"), seats.take().expect("two flows"));
        seats.ring(3);
        seats.ring(99);
        assert_eq!([first.take_call(), second.take_call(), second.take_call()], [false, true, false]);
    }
}
