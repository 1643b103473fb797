// SPDX-License-Identifier: MIT OR Apache-2.0
//! From results to states. Pure.

use std::num::NonZeroU32;

use lb_common::reason::ServerState;

/// The results of a server's checks in a row. As with HAProxy (configuration manual, section 5.2, `rise` and `fall`) a server
/// counts as up before its first check and that check decides alone; afterwards only `fall` failures in a row take it down and
/// `rise` successes in a row bring it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streak {
    rise: NonZeroU32,
    fall: NonZeroU32,
    state: ServerState,
    /// Results in a row that speak against `state`.
    against: u32,
    has_result: bool,
}

impl Streak {
    /// Of a server that was not checked yet.
    pub fn new(rise: NonZeroU32, fall: NonZeroU32) -> Self {
        Self { rise, fall, state: ServerState::Up, against: 0, has_result: false }
    }

    /// Counts one result, and returns the new state if it changes with it.
    pub fn record(&mut self, has_passed: bool) -> Option<ServerState> {
        let (needed, other) = match self.state {
            ServerState::Up => (self.fall.get(), ServerState::Down),
            ServerState::Down => (self.rise.get(), ServerState::Up),
        };
        let needed = if self.has_result { needed } else { 1 };
        self.has_result = true;
        if has_passed == (self.state == ServerState::Up) {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.state = other;
        Some(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `results`: `+` passed, `-` failed. `expected`: the state after each, `U` or `D`; lower case where it did not change.
    #[track_caller]
    fn check(rise: u32, fall: u32, results: &str, expected: &str) {
        let mut streak = Streak::new(rise.try_into().unwrap(), fall.try_into().unwrap());
        let states: String = results
            .chars()
            .map(|result| {
                let change = streak.record(result == '+');
                let letter = if streak.state == ServerState::Up { 'U' } else { 'D' };
                assert!(change.is_none_or(|state| state == streak.state));
                if change.is_some() { letter } else { letter.to_ascii_lowercase() }
            })
            .collect();
        assert_eq!(states, expected, "rise {rise}, fall {fall}, results {results}");
    }

    #[test]
    fn the_first_result_decides() {
        check(3, 3, "-", "D");
        check(3, 3, "+", "u");
        // After a first success it takes all failures.
        check(3, 3, "+---", "uuuD");
        check(3, 3, "-+++", "DddU");
    }

    #[test]
    fn only_results_in_a_row_count() {
        check(2, 3, "+--+--+---", "uuuuuuuuuD");
        check(2, 3, "-+-+-++", "DdddddU");
        check(2, 3, "-++--+---", "DdUuuuuuD");
    }

    #[test]
    fn one_is_at_once() {
        check(1, 1, "+-+-", "uDUD");
        check(1, 2, "-+--+", "DUuDU");
        check(2, 1, "+-++-", "uDdUD");
    }

    #[test]
    fn further_results_change_nothing() {
        check(1, 1, "----++++", "DdddUuuu");
    }
}
