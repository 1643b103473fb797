// SPDX-License-Identifier: MIT OR Apache-2.0
//! What runs, what is left, and how long that will take, on standard error.

use std::time::{Duration, Instant};

/// Of samples that are still to be taken when it starts.
pub struct Progress {
    start: Instant,
    taken: usize,
    total: usize,
    workload_start: Instant,
    workload_taken: usize,
    workload_total: usize,
    after: Duration,
}

impl Progress {
    /// So many samples are to be taken, and then something else takes about so long.
    pub fn new(total: usize, after: Duration) -> Self {
        let now = Instant::now();
        Self { start: now, taken: 0, total, workload_start: now, workload_taken: 0, workload_total: 0, after }
    }

    /// A workload begins, of which so many samples are to be taken; `left` workloads come after it.
    pub fn begin(&mut self, title: &str, samples: usize, left: usize) {
        (self.workload_start, self.workload_taken, self.workload_total) = (Instant::now(), 0, samples);
        eprintln!("{title}: {samples} samples to take; then {left} workloads more");
    }

    /// A sample will not be taken.
    pub fn skip(&mut self) {
        self.total = self.total.saturating_sub(1);
        self.workload_total = self.workload_total.saturating_sub(1);
    }

    /// A sample was taken, which is called this.
    pub fn show(&mut self, sample: &str) {
        self.taken += 1;
        self.workload_taken += 1;
        let left = time_to_go(
            (self.workload_start.elapsed(), self.workload_taken, self.workload_total - self.workload_taken),
            (self.start.elapsed(), self.taken, self.total - self.taken),
        );
        eprintln!("[{:3}/{}, {} to go] {sample}", self.taken, self.total, words(left + self.after));
    }
}

/// Of the workload that runs, and of everything: time so far, samples so far, samples left. The rest of the workload will go on as
/// it began; what comes after it, as everything so far.
fn time_to_go(workload: (Duration, usize, usize), all: (Duration, usize, usize)) -> Duration {
    let each = |(time, taken, _): (Duration, usize, usize)| time.div_f64(taken.max(1) as f64);
    let later = all.2.saturating_sub(workload.2);
    each(workload).mul_f64(workload.2 as f64) + each(all).mul_f64(later as f64)
}

/// Tells how long each suite will take, and all of them: names with times, in order.
pub fn announce(suites: &[(String, Duration)]) {
    for (suite, time) in suites {
        eprintln!("{suite}: about {}", words(*time));
    }
    eprintln!("all: about {}", words(suites.iter().map(|(_, time)| *time).sum()));
}

/// A time for people.
pub fn words(time: Duration) -> String {
    let seconds = time.as_secs_f64().round();
    if seconds < 100.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workload_that_runs_is_judged_by_itself() {
        let seconds = Duration::from_secs;
        // 2 s a sample here, of which 3 are left; 1 s a sample on the whole, of which 7 come later.
        assert_eq!(time_to_go((seconds(4), 2, 3), (seconds(10), 10, 10)), seconds(13));
        assert_eq!(time_to_go((seconds(4), 2, 0), (seconds(10), 10, 0)), seconds(0));
    }

    #[test]
    fn long_times_are_in_minutes() {
        assert_eq!(words(Duration::from_millis(99_400)), "99 s");
        assert_eq!(words(Duration::from_secs(3_599)), "60 min");
    }
}
