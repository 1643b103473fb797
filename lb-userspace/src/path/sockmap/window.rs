// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much of one direction may be on its way inside the kernel. Pure: what was seen is an argument.
//!
//! The kernel tells how many bytes a direction's target has accepted, but not what the rest costs. So each look keeps a mark of
//! bytes and cost: once the target has accepted the bytes of a mark, their cost is free again.

use std::collections::VecDeque;

/// Most that one direction may have inside, in bytes of cost, however well it runs.
pub const WINDOW_MAX: u64 = 16 << 20;

/// Cost inside from which a direction pauses: half of its window, within these bounds.
const PAUSE_ABOVE_MIN: u64 = 256 << 10;
const PAUSE_ABOVE_MAX: u64 = 4 << 20;

/// Least cost from one call of the program to the next.
const STEP_MIN: u64 = 64 << 10;

/// Cost beyond the window at which the program stops, because user space has not come: on a host whose processors are all busy inside the
/// kernel, that may take some 100 ms. All flows together cannot get there faster than the host receives bytes.
const OVERDRAFT: u64 = 256 << 20;

/// Marks that are kept.
const MARKS_MAX: usize = 16;

/// What a look at a direction shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Cost that was ever handed to the target; read before `redirected`.
    pub charged: u64,
    /// Bytes that were ever handed to it.
    pub redirected: u64,
    /// Of these, the bytes that it has accepted for sending; read before both.
    pub accepted: u64,
}

impl Seen {
    /// Bytes that wait for the target.
    pub fn backlog(&self) -> u64 {
        self.redirected.saturating_sub(self.accepted)
    }
}

/// The bound of one direction.
#[derive(Debug)]
pub struct Window {
    size: u64,
    /// Cost that is certain to be free again.
    released: u64,
    marks: VecDeque<Mark>,
}

/// At some moment so much had been handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    redirected: u64,
    charged: u64,
}

impl Window {
    /// A window of so many bytes of cost, nothing inside.
    pub fn new(size: u64) -> Self {
        Self { size, released: 0, marks: VecDeque::new() }
    }

    /// Its size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Changes the size.
    pub fn resize(&mut self, size: u64) {
        self.size = size;
    }

    /// Takes in what was seen.
    pub fn note(&mut self, seen: &Seen) {
        if seen.backlog() == 0 {
            self.marks.clear();
            self.released = seen.charged;
            return;
        }
        while let Some(mark) = self.marks.front().filter(|mark| mark.redirected <= seen.accepted) {
            self.released = mark.charged;
            self.marks.pop_front();
        }
        let mark = Mark { redirected: seen.redirected, charged: seen.charged };
        if self.marks.back() == Some(&mark) {
            return;
        }
        if self.marks.len() == MARKS_MAX {
            // One long stretch instead of two: its cost is free later, never earlier.
            self.marks.pop_back();
        }
        self.marks.push_back(mark);
    }

    /// Most that may be inside, in bytes of cost.
    pub fn inside(&self, seen: &Seen) -> u64 {
        seen.charged.saturating_sub(self.released)
    }

    /// The cost at which the program has to stop.
    pub fn limit(&self) -> u64 {
        self.released.saturating_add(self.size + OVERDRAFT)
    }

    /// The cost at which the next look is due: soon, unless nearly everything handed over so far has been accepted.
    pub fn bell(&self, seen: &Seen) -> u64 {
        let step = if seen.backlog() <= self.size / 64 { self.size / 2 } else { self.size / 16 };
        seen.charged + step.max(STEP_MIN)
    }

    /// Whether a larger window would serve the direction.
    pub fn wants_more(&self, seen: &Seen) -> bool {
        self.size < WINDOW_MAX && self.inside(seen) >= self.size / 4
    }

    /// Whether the direction has to pause.
    pub fn is_over(&self, seen: &Seen) -> bool {
        self.inside(seen) >= self.pause_above()
    }

    /// Whether a direction that paused may go on.
    pub fn may_resume(&self, seen: &Seen) -> bool {
        seen.backlog() == 0 || self.inside(seen) <= self.pause_above() / 2
    }

    fn pause_above(&self) -> u64 {
        (self.size / 2).clamp(PAUSE_ABOVE_MIN, PAUSE_ABOVE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::verdict::charge;
    use proptest::prelude::*;

    use super::*;

    fn seen(charged: u64, redirected: u64, accepted: u64) -> Seen {
        Seen { charged, redirected, accepted }
    }

    #[test]
    fn what_was_accepted_is_free_again() {
        let mut window = Window::new(1000);
        let limit = |free| OVERDRAFT + 1000 + free;
        assert_eq!(window.limit(), limit(0));
        window.note(&seen(400, 100, 0));
        assert_eq!(window.limit(), limit(0));
        window.note(&seen(600, 150, 99));
        assert_eq!(window.limit(), limit(0));
        window.note(&seen(700, 200, 100));
        assert_eq!(window.limit(), limit(400));
        window.note(&seen(700, 200, 200));
        assert_eq!((window.limit(), window.inside(&seen(700, 200, 200))), (limit(700), 0));
    }

    #[test]
    fn a_direction_pauses_above_and_goes_on_below() {
        let mut window = Window::new(WINDOW_MAX);
        for look in 1..=4 {
            let now = seen(look << 20, look << 20, 0);
            assert!(!window.is_over(&seen((look - 1) << 20, 0, 0)));
            window.note(&now);
        }
        assert!(window.is_over(&seen(4 << 20, 4 << 20, 0)));
        let later = seen(4 << 20, 4 << 20, 1 << 20);
        window.note(&later);
        assert!(!window.may_resume(&later));
        let later = seen(4 << 20, 4 << 20, 2 << 20);
        window.note(&later);
        assert!(window.may_resume(&later));
    }

    proptest! {
        /// Whatever comes and whenever it is looked at: what is taken for free again is free.
        #[test]
        fn no_more_is_inside_than_what_is_taken_for_it(
            steps in prop::collection::vec((1_u32..70_000, 0_usize..4, any::<bool>()), 1..400),
        ) {
            let mut window = Window::new(1 << 20);
            let (mut queue, mut now) = (VecDeque::new(), seen(0, 0, 0));
            for (len, takes, looks) in steps {
                now.charged += charge(len);
                now.redirected += u64::from(len);
                queue.push_back(len);
                for len in queue.drain(..takes.min(queue.len())) {
                    now.accepted += u64::from(len);
                }
                if looks {
                    window.note(&now);
                }
                let inside: u64 = queue.iter().map(|len| charge(*len)).sum();
                prop_assert!(inside <= window.inside(&now), "{inside} of {window:?}");
            }
            // And a direction that has drained has nothing inside.
            now.accepted = now.redirected;
            window.note(&now);
            prop_assert_eq!(window.inside(&now), 0);
        }
    }
}
