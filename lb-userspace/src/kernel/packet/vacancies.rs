// SPDX-License-Identifier: MIT OR Apache-2.0
//! Places that no flow has, and how many flows have one.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;

/// How long a place rests before another flow gets it: by then no program runs any more that has found the one before. They run with bottom
/// halves off (net/core/dev.c), for some microseconds.
pub(super) const REST: Duration = Duration::from_millis(10);

/// The places of a map that are free.
#[derive(Debug)]
pub(super) struct Vacancies {
    /// Nobody has had them yet. The next one is last.
    fresh: Vec<u32>,
    /// Taken from the front, given back at the end: when they were given back.
    used: VecDeque<(u32, Instant)>,
    /// All places, taken or not.
    count: usize,
    /// How many are taken.
    taken: Gauge,
}

impl Vacancies {
    /// So many places, none of which is taken.
    pub(super) fn all(count: u32) -> Self {
        Self {
            fresh: (0..count).rev().collect(),
            used: VecDeque::new(),
            count: count as usize,
            taken: Gauge::default(),
        }
    }

    /// Shows from here on how many are taken.
    pub(super) fn show(&mut self, taken: Gauge) {
        self.taken = taken;
        self.note();
    }

    /// Takes out those that flows have already.
    pub(super) fn exclude(&mut self, taken: &HashSet<u32>) {
        self.fresh.retain(|number| !taken.contains(number));
        self.note();
    }

    /// Whether no place is taken.
    pub(super) fn is_all(&self) -> bool {
        self.taken() == 0
    }

    /// A place that is free and has rested at a time, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> Option<u32> {
        let is_rested = |(_, since): &mut (u32, Instant)| now.saturating_duration_since(*since) >= REST;
        let fresh = self.fresh.pop();
        let number = fresh.or_else(|| self.used.pop_front_if(is_rested).map(|(number, _)| number));
        self.note();
        number
    }

    /// Gives one back.
    pub(super) fn give_back(&mut self, number: u32) {
        self.used.push_back((number, Instant::now()));
        self.note();
    }

    fn taken(&self) -> usize {
        self.count - self.fresh.len() - self.used.len()
    }

    fn note(&self) {
        self.taken.set(self.taken() as i64);
    }
}
