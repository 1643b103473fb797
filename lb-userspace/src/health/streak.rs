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

/// How a server stands between its states; it decides on the interval (HAProxy configuration manual, section 5.2, `fastinter` and
/// `downinter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Up, and the last result says so too.
    Up,
    /// The last results speak against the state.
    Changing,
    /// Down, and the last result says so too.
    Down,
}

impl Streak {
    /// Of a server whose checks begin. It is up, unless it was down when earlier ones ended.
    pub fn new(rise: NonZeroU32, fall: NonZeroU32, state: ServerState) -> Self {
        Self { rise, fall, state, against: 0, has_result: false }
    }

    /// How the server stands.
    pub fn phase(&self) -> Phase {
        match self.state {
            _ if self.against > 0 => Phase::Changing,
            ServerState::Up => Phase::Up,
            ServerState::Down => Phase::Down,
        }
    }

    /// Counts as many failures as a server that is up survives.
    pub fn nearly_down(&mut self) {
        if self.state == ServerState::Up {
            self.has_result = true;
            self.against = self.fall.get() - 1;
        }
    }

    /// Takes the server down, whatever the results were, and returns the new state if it changes with it.
    pub fn force_down(&mut self) -> Option<ServerState> {
        self.has_result = true;
        self.against = 0;
        let old = std::mem::replace(&mut self.state, ServerState::Down);
        (old == ServerState::Up).then_some(ServerState::Down)
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
        check_from(ServerState::Up, rise, fall, results, expected);
    }

    #[track_caller]
    fn check_from(state: ServerState, rise: u32, fall: u32, results: &str, expected: &str) {
        let mut streak = Streak::new(rise.try_into().unwrap(), fall.try_into().unwrap(), state);
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
        // Also of one that was down when it left, and has come back.
        check_from(ServerState::Down, 3, 3, "+---", "UuuD");
        check_from(ServerState::Down, 3, 3, "-+++", "dddU");
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
    fn the_phase_follows_state_and_last_result() {
        let mut streak = Streak::new(2.try_into().unwrap(), 3.try_into().unwrap(), ServerState::Up);
        let mut phase_after = |has_passed| {
            streak.record(has_passed);
            streak.phase()
        };
        let phases = [true, false, true, false, false, false, true, false, true, true].map(&mut phase_after);
        let [up, changing, down] = [Phase::Up, Phase::Changing, Phase::Down];
        assert_eq!(phases, [up, changing, up, changing, changing, down, changing, down, changing, up]);
    }

    #[test]
    fn what_traffic_can_do() {
        let streak = || {
            let mut streak = Streak::new(2.try_into().unwrap(), 3.try_into().unwrap(), ServerState::Up);
            streak.record(true);
            streak
        };
        let mut forced = streak();
        assert_eq!((forced.force_down(), forced.force_down()), (Some(ServerState::Down), None));
        assert_eq!((forced.record(true), forced.record(true)), (None, Some(ServerState::Up)));

        let mut nearly = streak();
        nearly.nearly_down();
        assert_eq!((nearly.phase(), nearly.record(false)), (Phase::Changing, Some(ServerState::Down)));
        let mut recovers = streak();
        recovers.nearly_down();
        assert_eq!((recovers.record(true), recovers.record(false)), (None, None));
        // A server that is down cannot be pushed further.
        forced.force_down();
        forced.nearly_down();
        assert_eq!(forced.phase(), Phase::Down);
    }

    #[test]
    fn further_results_change_nothing() {
        check(1, 1, "----++++", "DdddUuuu");
    }
}
