// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regular expressions over names, tried in the order of the file.

use regex::{Regex, RegexSet, RegexSetBuilder};

use super::sets::SetId;

/// The regex crate's limit for one compiled expression (`RegexBuilder::size_limit`); a set gets as much for each of its own.
const COMPILED_BYTES_MAX: usize = 10 * (1 << 20);

/// Distinct expressions, each with the routes it belongs to.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    all: Vec<(Regex, SetId)>,
    /// All of them in one automaton; `None` if that would be too large: then they are tried one by one.
    at_once: Option<RegexSet>,
}

impl Patterns {
    /// Gives an expression the routes that `change` makes of those it has.
    pub(super) fn update(&mut self, regex: &Regex, change: impl FnOnce(Option<SetId>) -> SetId) {
        match self.all.iter_mut().find(|(known, _)| known.as_str() == regex.as_str()) {
            Some((_, set)) => *set = change(Some(*set)),
            None => self.all.push((regex.clone(), change(None))),
        }
    }

    /// Makes one automaton of all expressions.
    pub(super) fn compile(&mut self) {
        self.at_once = RegexSetBuilder::new(self.all.iter().map(|(regex, _)| regex.as_str()))
            .size_limit(COMPILED_BYTES_MAX.saturating_mul(self.all.len()))
            .build()
            .ok();
    }

    /// What `choose` makes of the first expression that matches and whose routes it likes.
    pub(super) fn find<T>(&self, name: &str, mut choose: impl FnMut(SetId) -> Option<T>) -> Option<T> {
        match &self.at_once {
            // Most names match none, and asking that allocates nothing.
            Some(set) if !set.is_match(name) => None,
            Some(set) => set.matches(name).iter().find_map(|position| choose(self.all[position].1)),
            None => {
                self.all.iter().filter(|(regex, _)| regex.is_match(name)).find_map(|(_, set)| choose(*set))
            }
        }
    }
}
