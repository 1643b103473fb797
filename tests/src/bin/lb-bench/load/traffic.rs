// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a balancer must have carried, and how much of it a path that takes flows late can have had: by workload.

use super::{ANSWER_SIZE, Errand, MESSAGE_SIZE, Outcome, Reuse, Tool, Work, hello};

/// Bytes of a flow after which its stream has left user space if it may: some MiB, during which it is asked to pause.
const STREAM_BEGINNING: u64 = 4 << 20;

/// Messages that flows in a closed loop exchange at most until those have left user space that may: for some milliseconds.
const EAGER: u64 = 256;

/// Files that a connection gets at most until it has left user space if it may.
const FILES_BEFORE: u64 = 8;

/// Files from this size on may be taken for streams, in bytes.
const BURST: u64 = 100_000;

/// Files from this size on are streams, in bytes.
const STREAM_FILE: u64 = 10_000_000;

/// What went through a balancer, both ways together, PROXY headers not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// All of it.
    pub bytes: u64,
    /// Whether it was no more.
    pub is_exact: bool,
    /// What of it went over flows that had lasted for a while.
    pub lasting: Lasting,
}

/// Bytes of flows that have lasted: those that a path can have that takes flows only after their beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// Flows begin and end, and that is all.
    Nothing,
    /// Small messages with pauses between them, in bytes.
    Messages(u64),
    /// Bursts with pauses between them, which may be taken for streams, in bytes.
    Bursts(u64),
    /// Streams that never pause, in bytes.
    Stream(u64),
}

impl Work {
    /// What a balancer must have carried for this outcome.
    pub fn traffic(&self, outcome: &Outcome) -> Traffic {
        let exact = |flows: u32, bytes: u64| {
            let hellos = u64::from(flows) * hello::SIZE as u64;
            Traffic { bytes: hellos + bytes, is_exact: true, lasting: self.lasting(outcome) }
        };
        // Each flow of these has exchanged one message before it counts.
        let exchanged = |flows: u32, exchanges: u64, size: u32| {
            exact(flows, 2 * (exchanges + u64::from(flows)) * u64::from(size))
        };
        let units = outcome.units;
        match *self {
            Self::Connections { total, .. } => exact(total, u64::from(total) * ANSWER_SIZE as u64),
            Self::Download { flows, .. } => exact(flows, units),
            Self::Upload { flows, .. } => exact(flows, units + u64::from(flows) * size_of::<u64>() as u64),
            Self::PingPong { flows, size, .. } | Self::Paced { flows, size, .. } => {
                exchanged(flows, units, size)
            }
            Self::Idle { flows } => exchanged(flows, flows.into(), MESSAGE_SIZE),
            Self::Turns { total, errand, .. } => exact(total, u64::from(total) * errand.bytes()),
            // What TLS adds counts for the balancer, too, and the tools do not say how much it is.
            Self::Https { .. } => Traffic {
                bytes: outcome.bytes.unwrap_or_default(),
                is_exact: false,
                lasting: self.lasting(outcome),
            },
        }
    }

    fn lasting(&self, outcome: &Outcome) -> Lasting {
        let units = outcome.units;
        let messages = |flows: u64, exchanges: u64, size: u32| {
            Lasting::Messages(2 * flows * exchanges.saturating_sub(EAGER) * u64::from(size))
        };
        let stream = |flows: u32, bytes: u64| {
            let each = (bytes / u64::from(flows.max(1))).saturating_sub(STREAM_BEGINNING);
            Lasting::Stream(u64::from(flows) * each)
        };
        match *self {
            Self::Connections { .. } => Lasting::Nothing,
            Self::Download { flows, .. } | Self::Upload { flows, .. } => stream(flows, units),
            Self::PingPong { size, .. } | Self::Paced { size, .. } => messages(1, units, size),
            Self::Idle { flows } => messages(1, flows.into(), MESSAGE_SIZE),
            Self::Turns { total, errand: Errand::Exchanges { count, size }, .. } => {
                messages(total.into(), count.into(), size)
            }
            Self::Turns { total, errand: Errand::Download { bytes }, .. } => {
                stream(total, u64::from(total) * bytes)
            }
            Self::Https { tool, .. } if is_once(tool) => Lasting::Nothing,
            Self::Https { bytes, connections, .. } if bytes >= STREAM_FILE => {
                stream(connections, outcome.bytes.unwrap_or_default())
            }
            Self::Https { bytes, connections, .. } => {
                let lasting = units.saturating_sub(u64::from(connections) * FILES_BEFORE) * bytes;
                if bytes < BURST { Lasting::Messages(lasting) } else { Lasting::Bursts(lasting) }
            }
        }
    }
}

/// Whether each file has a connection of its own.
fn is_once(tool: Tool) -> bool {
    matches!(tool, Tool::Wrk { reuse: Reuse::Once, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(work: Work, units: u64, bytes: Option<u64>) -> Traffic {
        work.traffic(&Outcome { units, bytes, ..Outcome::default() })
    }

    #[test]
    fn traffic_is_hellos_requests_and_answers() {
        let check = |work: Work, units, bytes| {
            let traffic = traffic(work, units, None);
            assert_eq!((traffic.bytes, traffic.is_exact), (bytes, true), "{work:?}");
        };
        check(Work::Connections { total: 3, concurrent: 1, names: 10 }, 3, 3 * (517 + 100));
        check(Work::Upload { flows: 2, bytes: 1001 }, 1000, 2 * 517 + 1000 + 2 * 8);
        check(Work::PingPong { flows: 2, size: 100, exchanges: 5 }, 4, 2 * 517 + (4 + 2) * 200);
        check(Work::Paced { flows: 2, size: 64, rate: 9, exchanges: 4 }, 4, 2 * 517 + (4 + 2) * 128);
        check(Work::Idle { flows: 3 }, 3, 3 * (517 + 400));
        let turns = |errand| Work::Turns { total: 3, concurrent: 2, errand };
        check(turns(Errand::Exchanges { count: 5, size: 64 }), 3, 3 * (517 + 5 * 2 * 64));
        check(turns(Errand::Download { bytes: 1000 }), 3, 3 * (517 + 1000));
    }

    fn https(reuse: Reuse, bytes: u64) -> Work {
        Work::Https { tool: Tool::Wrk { seconds: 1, reuse }, bytes, connections: 3 }
    }

    #[test]
    fn what_tools_say_is_the_least_that_went_over() {
        let traffic = traffic(https(Reuse::Once, 1000), 7, Some(9000));
        assert_eq!((traffic.bytes, traffic.is_exact), (9000, false));
    }

    #[test]
    fn flows_last_that_outlive_their_beginning() {
        let check = |work: Work, units, bytes, lasting| {
            assert_eq!(traffic(work, units, bytes).lasting, lasting, "{work:?}");
        };
        check(Work::Connections { total: 3, concurrent: 1, names: 10 }, 3, None, Lasting::Nothing);
        check(Work::Download { flows: 2, bytes: 0 }, 20 << 20, None, Lasting::Stream(12 << 20));
        check(Work::Upload { flows: 64, bytes: 0 }, 80_000_000, None, Lasting::Stream(0));
        check(Work::PingPong { flows: 2, size: 100, exchanges: 300 }, 300, None, Lasting::Messages(44 * 200));
        check(Work::Idle { flows: 1_000 }, 1_000, None, Lasting::Messages(744 * 200));
        let turns = |errand| Work::Turns { total: 3, concurrent: 2, errand };
        check(turns(Errand::Exchanges { count: 8, size: 64 }), 3, None, Lasting::Messages(0));
        check(turns(Errand::Exchanges { count: 512, size: 64 }), 3, None, Lasting::Messages(3 * 256 * 128));
        check(turns(Errand::Download { bytes: 5 << 20 }), 3, None, Lasting::Stream(3 << 20));
        check(https(Reuse::Once, 1000), 7, Some(9000), Lasting::Nothing);
        check(https(Reuse::Kept, 1000), 100, Some(110_000), Lasting::Messages(76 * 1000));
        check(https(Reuse::Kept, 100_000), 100, Some(11_000_000), Lasting::Bursts(76 * 100_000));
        check(https(Reuse::Kept, 100_000_000), 1, Some(15 << 20), Lasting::Stream(3 << 20));
    }
}
