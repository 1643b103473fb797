// SPDX-License-Identifier: MIT OR Apache-2.0
//! A tree over the loads of servers that is kept up while connections come and go, without a lock.
//!
//! Each node is the summary of its children, each leaf that of a server. Who has changed a server's load calls
//! [`Summary::settle`], which goes from the leaf upwards and writes, at each node, what the children amount to, until it *reads* in
//! the node what they amount to. Threads that do this at the same time may write what is outdated, but who writes looks once more,
//! so that whatever their order, the last word is right: **whenever no change is under way, every node is exact.** (Suppose a node
//! were not. Who wrote it last looked again after that and saw it right, so a child has changed since; who changed it has then
//! looked as well and would have written.) While changes are under way a node may lack those, and only those.
//!
//! This holds for nodes because their accesses are sequentially consistent, and for leaves because a fence comes between any change
//! of a load and the reading of the leaf, and another between writing the leaf and reading the load again.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Children of a node: those fill a cache line.
const FAN: usize = 8;

/// What the numbers of several servers come to.
pub(super) trait Fold {
    /// Of no server.
    const NONE: u64;

    /// Of two parts.
    fn join(one: u64, other: u64) -> u64;
}

/// The least number.
#[derive(Debug)]
pub(super) struct Least;

impl Fold for Least {
    const NONE: u64 = u64::MAX;

    fn join(one: u64, other: u64) -> u64 {
        one.min(other)
    }
}

/// The sum.
#[derive(Debug)]
pub(super) struct Sum;

impl Fold for Sum {
    const NONE: u64 = 0;

    fn join(one: u64, other: u64) -> u64 {
        one.wrapping_add(other)
    }
}

/// The tree. Leaves go by number from 0.
#[derive(Debug)]
pub(super) struct Summary<F> {
    /// From the leaves to the root; each filled up to whole groups with [`Fold::NONE`].
    levels: Box<[Box<[Group]>]>,
    fold: PhantomData<F>,
}

#[derive(Debug)]
#[repr(align(64))]
struct Group([AtomicU64; FAN]);

impl<F: Fold> Summary<F> {
    /// A tree of so many leaves, each with the number that `leaf` gives.
    pub(super) fn new(leaves: usize, leaf: impl Fn(usize) -> u64) -> Self {
        let level = |count: usize, number: &dyn Fn(usize) -> u64| -> Box<[Group]> {
            let at = |index| AtomicU64::new(if index < count { number(index) } else { F::NONE });
            let group = |group: usize| Group(std::array::from_fn(|child| at(group * FAN + child)));
            (0..count.div_ceil(FAN).max(1)).map(group).collect()
        };
        let mut levels = vec![level(leaves, &leaf)];
        while let Some(below) = levels.last().filter(|below| below.len() > 1) {
            let above = level(below.len(), &|group| below[group].total::<F>());
            levels.push(above);
        }
        Self { levels: levels.into(), fold: PhantomData }
    }

    /// What all leaves amount to.
    pub(super) fn total(&self) -> u64 {
        self.levels.last().map_or(F::NONE, |root| root[0].total::<F>())
    }

    /// Brings a leaf up to date, which `number` gives, and all that depends on it.
    pub(super) fn settle(&self, leaf: usize, number: impl Fn() -> u64) {
        fence(Ordering::SeqCst);
        let changed = self.node(0, leaf).settle(|| {
            fence(Ordering::SeqCst);
            number()
        });
        if !changed {
            return;
        }
        let mut index = leaf;
        for level in 1..self.levels.len() {
            index /= FAN;
            let children = &self.levels[level - 1][index];
            // Who did change it goes on from here.
            if !self.node(level, index).settle(|| children.total::<F>()) {
                return;
            }
        }
    }

    fn node(&self, level: usize, index: usize) -> &AtomicU64 {
        &self.levels[level][index / FAN].0[index % FAN]
    }
}

impl Summary<Least> {
    /// The least number of a leaf not in `except`.
    pub(super) fn least(&self, except: &[usize]) -> u64 {
        if except.is_empty() { self.total() } else { self.least_under(self.levels.len(), 0, except) }
    }

    /// The first leaf from `from` on that is at most `most` and not in `except`. `None` also if it was changed meanwhile.
    pub(super) fn first(&self, from: usize, most: u64, except: &[usize]) -> Option<usize> {
        let mut start = from;
        for level in 0..self.levels.len() {
            let group = start / FAN;
            if group >= self.levels[level].len() {
                return None;
            }
            let mut found =
                (start..(group + 1) * FAN).filter(|index| self.least_under(level, *index, except) <= most);
            if let Some(leaf) = found.find_map(|index| self.descend(level, index, most, except)) {
                return Some(leaf);
            }
            start = group + 1;
        }
        None
    }

    /// The first leaf under a node that is at most `most`.
    fn descend(&self, level: usize, index: usize, most: u64, except: &[usize]) -> Option<usize> {
        let mut index = index;
        for level in (0..level).rev() {
            let mut children = index * FAN..(index + 1) * FAN;
            index = children.find(|child| self.least_under(level, *child, except) <= most)?;
        }
        Some(index)
    }

    /// What a node amounts to without `except`; one level above the highest is the root itself.
    fn least_under(&self, level: usize, index: usize, except: &[usize]) -> u64 {
        let span = FAN.pow(level as u32);
        if level < self.levels.len() {
            if index / FAN >= self.levels[level].len() {
                return Least::NONE;
            }
            if !except.iter().any(|leaf| leaf / span == index) {
                return self.node(level, index).load(Ordering::SeqCst);
            }
        }
        if level == 0 {
            return Least::NONE;
        }
        let children = index * FAN..(index + 1) * FAN;
        children.map(|child| self.least_under(level - 1, child, except)).fold(Least::NONE, Least::join)
    }
}

impl Group {
    fn total<F: Fold>(&self) -> u64 {
        self.0.iter().map(|child| child.load(Ordering::SeqCst)).fold(F::NONE, F::join)
    }
}

/// Writing until what is read is right.
trait Settle {
    /// Whether anything was written.
    fn settle(&self, right: impl Fn() -> u64) -> bool;
}

impl Settle for AtomicU64 {
    fn settle(&self, right: impl Fn() -> u64) -> bool {
        let mut has_written = false;
        loop {
            let right = right();
            if self.load(Ordering::SeqCst) == right {
                return has_written;
            }
            self.store(right, Ordering::SeqCst);
            has_written = true;
        }
    }
}
