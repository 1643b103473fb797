// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a workload will take, before anything has run: what two cores of a virtual machine took, to be right within a third.

use std::time::Duration;

use super::Workload;
use crate::contestant::Contestant;
use crate::load::{Errand, Tool, Work};

/// Connections in a second one after the other, and many at a time.
const CONNECTIONS: [f64; 2] = [6_000.0, 12_000.0];

/// Bytes in a second.
const BYTES: f64 = 2.2e9;

/// Exchanges in a second on one flow, and on many.
const EXCHANGES: [f64; 2] = [12_000.0, 95_000.0];

/// Flows in a second that exchange one message.
const OPENED: f64 = 6_000.0;

/// Files and bytes in a second over TLS.
const FILES: (f64, f64) = (18_000.0, 0.55e9);

/// The client's start.
const AROUND: f64 = 0.1;

/// A start, and what each name adds to it, the file that it stands in included.
const START: (f64, f64) = (0.1, 3e-6);

/// What follows a start unless nobody is warmed up.
const WARM_UP: f64 = 0.2;

/// The same for Envoy, where filter chains hold the names, and for sozu, where each is a message to each worker.
const START_BY_NAME_SLOW: f64 = 50e-6;

impl Workload {
    /// About how long so many samples of a contestant take, with its starts.
    pub fn estimate(&self, contestant: Contestant, samples: usize) -> Duration {
        let starts = if self.needs_fresh_balancer() { samples } else { samples.min(1) };
        let names = self.duty.names as f64;
        let by_name = match contestant {
            Contestant::Direct => 0.0,
            Contestant::Envoy | Contestant::Sozu | Contestant::SozuSplice => START_BY_NAME_SLOW,
            _ => START.1,
        };
        let start = START.0 + names * by_name + if self.is_warmed_up { WARM_UP } else { 0.0 };
        let sample = AROUND + work(self.work) + self.pause().as_secs_f64();
        let seconds = samples as f64 * sample + starts as f64 * start;
        Duration::from_secs_f64(seconds)
    }
}

/// Seconds of one sample.
fn work(work: Work) -> f64 {
    match work {
        Work::Connections { total, concurrent: 1, .. } => f64::from(total) / CONNECTIONS[0],
        Work::Connections { total, .. } => f64::from(total) / CONNECTIONS[1],
        Work::Download { bytes, .. } | Work::Upload { bytes, .. } => bytes as f64 / BYTES,
        Work::PingPong { flows: 1, exchanges, .. } => f64::from(exchanges) / EXCHANGES[0],
        Work::PingPong { exchanges, .. } => f64::from(exchanges) / EXCHANGES[1],
        Work::Paced { flows, rate, exchanges, .. } => {
            f64::from(flows) / OPENED + f64::from(exchanges) / f64::from(rate)
        }
        Work::Idle { flows } => f64::from(flows) / OPENED + crate::run::SETTLING.as_secs_f64(),
        Work::Turns { total, concurrent, errand } => {
            let many = usize::from(concurrent > 1);
            let of = match errand {
                Errand::Exchanges { count, .. } => f64::from(count) / EXCHANGES[many],
                Errand::Download { bytes } => bytes as f64 / BYTES,
            };
            f64::from(total) * (1.0 / CONNECTIONS[many] + of)
        }
        Work::Https { tool: Tool::Wrk { seconds, .. }, .. } => f64::from(seconds),
        Work::Https { tool: Tool::H2load { requests }, bytes, .. } => {
            f64::from(requests) * (1.0 / FILES.0 + bytes as f64 / FILES.1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Size, Suite};
    use super::*;

    #[test]
    fn work_at_a_fixed_rate_takes_its_time() {
        for workload in Suite::Latency.workloads(Size::Thorough) {
            let Work::Paced { flows, .. } = workload.work else { panic!("{workload:?}") };
            let seconds = workload.estimate(Contestant::Direct, 10).as_secs_f64();
            assert!((30.0..110.0).contains(&seconds), "{flows} flows: {seconds}");
        }
    }

    #[test]
    fn who_starts_anew_each_time_takes_longer() {
        let workload =
            |suite: Suite| suite.workloads(Size::Full).into_iter().find(|one| one.duty.names == 1_000_000);
        let (standing, fresh) = (workload(Suite::Connections).unwrap(), workload(Suite::Scale).unwrap());
        let of_starts = |workload: &Workload| {
            workload.estimate(Contestant::Haproxy, 10) - workload.estimate(Contestant::Direct, 10)
        };
        assert_eq!(of_starts(&fresh).as_secs(), 10 * of_starts(&standing).as_secs());
    }
}
