// SPDX-License-Identifier: MIT OR Apache-2.0
//! When something in the kernel is broken: bytes wait for a socket that could take them, and it does not.

use std::time::Duration;

use super::{Lane, WAIT_MAX};
use crate::net;
use crate::path::sockmap::legs::Legs;
use crate::runtime::Moment;

/// How long bytes may wait for a socket that has nothing else to send and takes none of them.
const STUCK_MAX: Duration = Duration::from_secs(5);

/// Since when the receiver's socket has had room for what waits, and taken none of it. The default: it has not.
#[derive(Debug, Default)]
pub(super) struct Stuck(Option<Moment>);

impl Stuck {
    /// Takes in whether bytes wait at this moment for a socket that has room; whether they have for too long.
    pub(super) fn look(&mut self, has_room: bool, now: Moment) -> bool {
        if !has_room {
            self.0 = None;
            return false;
        }
        now >= *self.0.get_or_insert(now) + STUCK_MAX
    }
}

impl Lane {
    /// Whether bytes have waited for long for a socket that has nothing else to send: then something in the kernel is broken. Pushes it
    /// before that.
    pub(super) fn is_stuck(&mut self, legs: &Legs, now: Moment) -> bool {
        let receiver = legs.socket(self.sender.other());
        let has_room = self.backlog > 0
            && self.wait == WAIT_MAX
            && net::unacknowledged_bytes(receiver).is_ok_and(|bytes| bytes == 0);
        if has_room {
            net::kick_sending(receiver);
        }
        self.stuck.look(has_room, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_room_for_five_seconds_and_takes_nothing_is_stuck() {
        let (mut stuck, begin) = (Stuck::default(), Moment::now());
        let mut look = |has_room: bool, milliseconds: u64| {
            stuck.look(has_room, begin + Duration::from_millis(milliseconds))
        };
        assert!(!look(true, 0) && !look(true, 4_999));
        // It has taken something, or has something else to send: all begins anew.
        assert!(!look(false, 4_999) && !look(true, 5_000) && !look(true, 9_999));
        assert!(look(true, 10_000) && look(true, 11_000));
    }
}
