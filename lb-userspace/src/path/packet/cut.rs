// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a flow that the agent decides: both ends get a reset at once, whether they speak or not.

use lb_common::packet::record::Record;

use super::{Common, Spliced};
use crate::kernel::packet::{Outcome, Resets};
use crate::runtime::{sleep, spawn};

impl Spliced {
    /// Ends the flow at both ends. Its port and its place are others' when resets have been sent often enough.
    pub fn cut(mut self) {
        let record = self.stop();
        if !self.station.common.reset(&record, Resets::send) {
            // What an end sends next is answered by the host, if rules let it in: so it stays known.
            self.is_tracked = false;
            return;
        }
        spawn(async move {
            for pause in Resets::AGAIN {
                sleep(pause).await;
                self.station.common.reset(&record, Resets::send_again);
            }
            drop(self);
        });
    }

    /// The same where nobody is there any more to send anything again.
    pub fn cut_once(mut self) {
        let record = self.stop();
        // What the ends answer is part of their connections, which go with the reset.
        self.is_tracked = false;
        self.station.common.reset(&record, Resets::send);
    }

    /// Takes the flow from the programs; how it was then. Nobody finds it any more, and nobody silences what this host sends of it.
    fn stop(&self) -> Record {
        let record = self.slot.end();
        self.station.keys.borrow_mut().withdraw(&self.slot);
        record
    }
}

impl Common {
    /// Sends both ends of a flow resets; whether this process may.
    fn reset(&self, record: &Record, send: fn(&Resets, &Record) -> Outcome) -> bool {
        let Some(resets) = &self.resets else { return false };
        self.resets_sent.note(send(resets, record));
        true
    }
}
