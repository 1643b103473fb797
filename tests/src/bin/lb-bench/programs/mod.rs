// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long the BPF programs of path packet run for a workload. The kernel counts that for who asks (bpf(2), BPF_ENABLE_STATS), and the
//! counting costs time itself: so these are samples of their own, which are compared with nobody's.

mod measure;

use serde::{Deserialize, Serialize};

use crate::contestant::Contestant;
use crate::journal::Journal;
use crate::statistics::STOLEN_MAX;
use crate::suite::Workload;
pub use measure::run;

/// What the programs may take, in CPU-seconds for 10^9 bytes of a bulk transfer.
pub const AIM: f64 = 0.02;

/// What reports say of [`AIM`].
pub const AIM_TEXT: &str = "time in the BPF programs of path packet: at most 0.02 CPU-seconds per GB";

/// How the numbers come about, for the reader of the report.
pub const METHOD: &str = "Three samples more of each workload of bulk and pingpong (one with --ci), taken together, in which the kernel counts runs and time of each program \
     (BPF_ENABLE_STATS). Two readings of the clock a run are part of the time, and an interrupt that comes meanwhile. A packet has up to \
     64 KiB here, and is seen twice: where it comes in, and is translated, and where it goes out. Not among them is what the kernel does between \
     the two, which is in the CPU of the host.";

/// The programs of a contestant in one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgramTimes {
    /// Title of the workload.
    pub workload: String,
    /// Name of the contestant.
    pub contestant: String,
    /// What the balancer carried.
    pub done: Done,
    /// Share of the cores' time that the host of this virtual machine took away, of the sample of which it took most.
    pub stolen_share: f64,
    /// By name, those that ran.
    pub programs: Vec<ProgramTime>,
}

/// What was carried meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    /// Bytes of a bulk transfer.
    Bytes(u64),
    /// Requests with their answers.
    Exchanges(u64),
}

/// What the kernel counted of one program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramTime {
    /// As the kernel shows it.
    pub name: String,
    /// How often it ran.
    pub runs: u64,
    /// How long, all runs together, in nanoseconds.
    pub nanoseconds: u64,
}

/// A column of the table: its title, digits behind the point, and where the number is from.
pub struct Column {
    /// With its unit.
    pub title: &'static str,
    digits: usize,
    value: fn(&ProgramTimes) -> Option<f64>,
}

/// The columns.
pub const COLUMNS: [Column; 6] = [
    Column { title: "coming in, ns/packet", digits: 0, value: |times| times.each("ingress") },
    Column { title: "going out, ns/packet", digits: 0, value: |times| times.each("egress") },
    Column { title: "packets/GB", digits: 0, value: |times| Some(times.packets() / times.gigabytes()?) },
    Column { title: "CPU, s/GB", digits: 4, value: ProgramTimes::seconds_per_gigabyte },
    Column {
        title: "packets/exchange",
        digits: 2,
        value: |times| Some(times.packets() / times.exchanges()?),
    },
    Column {
        title: "CPU, µs/exchange",
        digits: 2,
        value: |times| Some(times.nanoseconds() as f64 / 1e3 / times.exchanges()?),
    },
];

impl Column {
    /// Its number, in words.
    pub fn show(&self, times: &ProgramTimes) -> String {
        let digits = self.digits;
        (self.value)(times).map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
    }
}

impl ProgramTimes {
    /// CPU-seconds for 10^9 bytes of a bulk transfer.
    pub fn seconds_per_gigabyte(&self) -> Option<f64> {
        Some(self.nanoseconds() as f64 / 1e9 / self.gigabytes()?)
    }

    /// Whether [`AIM`] is held, where it is for this workload; `Some(None)`: too much time was stolen to tell.
    pub fn holds_aim(&self) -> Option<Option<bool>> {
        let seconds = self.seconds_per_gigabyte()?;
        let is_held = seconds <= AIM;
        // Stolen time only adds to what is counted.
        Some((is_held || self.stolen_share <= STOLEN_MAX).then_some(is_held))
    }

    /// Whose numbers these are, and where.
    pub fn place(&self) -> String {
        format!("{}: {}", self.contestant, self.workload)
    }

    fn gigabytes(&self) -> Option<f64> {
        if let Done::Bytes(bytes) = self.done { Some(bytes as f64 / 1e9) } else { None }
    }

    fn exchanges(&self) -> Option<f64> {
        if let Done::Exchanges(count) = self.done { Some(count as f64) } else { None }
    }

    fn nanoseconds(&self) -> u64 {
        self.programs.iter().map(|program| program.nanoseconds).sum()
    }

    /// Packets that came in: each of them is seen so once.
    fn packets(&self) -> f64 {
        self.runs_and_nanoseconds("ingress").0 as f64
    }

    /// Nanoseconds of a run of the programs whose names have this word.
    fn each(&self, word: &str) -> Option<f64> {
        let (runs, nanoseconds) = self.runs_and_nanoseconds(word);
        (runs > 0).then(|| nanoseconds as f64 / runs as f64)
    }

    fn runs_and_nanoseconds(&self, word: &str) -> (u64, u64) {
        let own = self.programs.iter().filter(|program| program.name.contains(word));
        own.fold((0, 0), |(runs, time), program| (runs + program.runs, time + program.nanoseconds))
    }
}

/// Those whose programs are still to be timed in a workload, as places in the list of contestants.
pub fn left(workload: &Workload, contestants: &[Contestant], journal: &Journal) -> Vec<usize> {
    let planned = journal.plan.workloads.iter().find(|planned| planned.title == workload.title);
    let is_left = |(_, contestant): &(usize, &Contestant)| {
        let name = contestant.name();
        workload.program_samples(**contestant) > 0
            && planned.is_none_or(|planned| !planned.absent.contains_key(&name))
            && !journal.has_program_times(&workload.title, &name)
    };
    contestants.iter().enumerate().filter(is_left).map(|(index, _)| index).collect()
}

/// How often the aim is held, held at least, missed, and unknown, and the sample that takes most; `None` if there is none that it is for.
pub fn tally(times: &[ProgramTimes]) -> Option<([usize; 4], &ProgramTimes)> {
    let mut counts = [0; 4];
    for outcome in times.iter().filter_map(ProgramTimes::holds_aim) {
        counts[outcome.map_or(3, |is_held| if is_held { 0 } else { 2 })] += 1;
    }
    let seconds = |times: &&ProgramTimes| times.seconds_per_gigabyte();
    let with_bytes = times.iter().filter(|times| seconds(times).is_some());
    let worst = with_bytes.max_by(|one, other| {
        seconds(one).unwrap_or_default().total_cmp(&seconds(other).unwrap_or_default())
    })?;
    Some((counts, worst))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A packet that came in and went out for each 40,000 bytes, in so many nanoseconds both.
    pub fn times(nanoseconds: u64) -> ProgramTimes {
        let program =
            |name: &str, nanoseconds| ProgramTime { name: name.to_owned(), runs: 1000, nanoseconds };
        ProgramTimes {
            workload: "download <1>".to_owned(),
            contestant: "lb-packet".to_owned(),
            done: Done::Bytes(40_000_000),
            stolen_share: 0.0,
            programs: vec![
                program("packet_ingress", 1000 * (nanoseconds - 50)),
                program("packet_egress", 50_000),
            ],
        }
    }

    fn shown(times: &ProgramTimes) -> Vec<String> {
        COLUMNS.iter().map(|column| column.show(times)).collect()
    }

    #[test]
    fn numbers_are_of_a_packet_and_of_the_work() {
        assert_eq!(shown(&times(600)), ["550", "50", "25000", "0.0150", "–", "–"]);
        let exchanges = ProgramTimes { done: Done::Exchanges(400), ..times(600) };
        assert_eq!(shown(&exchanges), ["550", "50", "–", "–", "2.50", "1.50"]);
        let nothing = ProgramTimes { programs: Vec::new(), ..times(600) };
        assert_eq!(shown(&nothing)[..2], ["–", "–"]);
    }

    #[test]
    fn the_aim_is_for_bytes_and_stolen_time_is_no_excuse_for_less() {
        let stolen = |nanoseconds| ProgramTimes { stolen_share: 0.5, ..times(nanoseconds) };
        assert_eq!(times(800).holds_aim(), Some(Some(true)));
        assert_eq!(times(801).holds_aim(), Some(Some(false)));
        assert_eq!(stolen(800).holds_aim(), Some(Some(true)));
        assert_eq!(stolen(801).holds_aim(), Some(None));
        let exchanges = ProgramTimes { done: Done::Exchanges(1), ..times(900) };
        assert_eq!(exchanges.holds_aim(), None);
        let all = [times(600), times(900), stolen(1000), exchanges];
        assert_eq!(tally(&all), Some(([1, 0, 1, 1], &all[2])));
        assert_eq!(tally(&all[3..]), None);
    }
}
