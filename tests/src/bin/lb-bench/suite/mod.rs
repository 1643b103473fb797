// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured: suites of workloads, and how their columns come from the samples.

mod columns;
mod estimate;
mod workloads;

use std::time::Duration;

use clap::ValueEnum;

use crate::contestant::{AskedFor, Contestant, Duty, descriptors};
use crate::load::{Errand, TAIL_MIN, Tool, Work};
use crate::run::PAUSE;
pub use columns::{Column, Role};

/// A group of workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// New connections with a ClientHello, routed among up to a million names.
    Connections,
    /// Large transfers.
    Bulk,
    /// Small messages on established flows at fixed rates.
    Latency,
    /// Small messages on established flows, as fast as they go.
    Pingpong,
    /// Memory of flows on which nothing happens.
    Idle,
    /// Downloads from nginx over TLS.
    Https,
    /// How cost grows with names, servers and flows; lb and HAProxy, and flows also without a balancer.
    Scale,
    /// When lb had better go inside the kernel, and leave it: short connections and streams, at once, by default and never. For who asks.
    Promotion,
    /// Times and instruction counts of the decisions of one connection, each alone; also `cargo xtask bench micro` by itself.
    Micro,
}

impl Suite {
    /// As the command line and the report call it.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// How it is measured, for the reader of the report.
    pub fn method(self) -> String {
        let method = match self {
            Self::Connections => {
                "Closed loop, 64 at a time: connect, ClientHello of 517 bytes with one of the names, all in turn, which are spread \
                 over ten backends; 100 bytes of answer; the server closes first, then the client. \
                 Namespaces remember every closed connection for its minute (tcp_max_tw_buckets is 2,000,000: the kernel's own limit \
                 would cut that short in some samples). Times are of a whole connection, \
                 or from its start to the first byte of the answer; one at a time, nobody waits for anybody else. CPU of the balancer is user and system time of its processes, \
                 and of the kernel's workers (kworker threads), which send for it on lb's path sockmap and hardly run otherwise; \
                 CPU of all three adds client and server; CPU of the host is all busy time of all cores, also of whatever else ran."
            }
            Self::Bulk => {
                "A fixed number of bytes, read and written 256 KiB at once, over flows that begin with a ClientHello, and that the \
                 client ends. The kernel does part of a balancer's work outside of its processes: what its workers do counts as the \
                 balancer's, and the host's busy time counts, too (of an otherwise idle machine): in all, and less what direct routing took in the same repeat. GB/CPU-second is of the host. HAProxy and sozu take \
                 part with and without splicing. GB = 10^9 bytes, Gb = 10^9 bits."
            }
            Self::Latency => {
                "Requests and answers of the same size on established flows that take turns, at a fixed rate: about half of what the \
                 slowest balancer reached in a closed loop on two cores, with --thorough also about a fifth. Open loop: the time of an exchange counts \
                 from when its request was due, whether or not the flow was free then, so nothing is omitted when a balancer \
                 stalls. One exchange is outstanding on a flow at most. Where exchanges/s are below the rate, it was too much, and \
                 the times say how long the queue had become. A percentile is shown if TAIL values lie beyond it in each sample; \
                 the 99.9th, where fewer do, is that of the times of all repeats together, if TAIL lie beyond it there: one number, \
                 without a range and without a ratio."
            }
            Self::Pingpong => {
                "Requests and answers of the same size on established flows, one exchange outstanding on each (closed loop: a slow \
                 answer delays the next question, which hides some of the wait). Percentiles as in latency."
            }
            Self::Idle => {
                "Flows that have exchanged two messages, the second when all of them were there, on a balancer started for the purpose. User memory is growth of VmRSS. \
                 Entries of BPF maps are what these say of themselves, without what is there for all flows from the start. Kernel objects are those in slab caches, but for connections in TIME_WAIT, which are of earlier; all memory is what MemAvailable fell by. Both are of the whole host: \
                 what the same flows took without a balancer, in the same repeat, is taken off, because client and server are \
                 inside; the rest is the balancer's (on an otherwise idle machine)."
            }
            Self::Https => {
                "Files from nginx over TLS 1.2 or 1.3 (ECDSA P-256) through the balancer, closed loop: HTTP/1.1 by wrk for a fixed \
                 time, HTTP/2 by h2load for a fixed number, one file outstanding on each connection. Connections are kept unless \
                 the title says otherwise. Nearly all CPU is encryption at the ends: the balancer's own is the column to compare."
            }
            Self::Scale => {
                "A balancer started for each sample. Start is from its launch until it takes a connection (looked at every 2 ms), which \
                 is what new names cost a balancer that is restarted for them. Resident is VmRSS of its processes after the work. \
                 Names and servers: connections as in the suite of that name; what a look-up takes by itself is in micro. Flows: \
                 exchanges of 64 bytes at 2,000 in a second as in the suite latency. There are up to 100,000 of them, and no \
                 more than a balancer's file descriptors allow, of which each flow takes two: DESCRIPTORS a process here."
            }
            Self::Promotion => {
                "lb alone. lb-sockmap and lb-packet go inside the kernel with the first byte, those with -late as by default (promote-after-bytes, \
                 promote-after), lb-auto never; lb-sockmap-inside keeps streams there, which the others splice. Connections of so many exchanges: \
                 closed loop, 64 at a time or one, each with a ClientHello, that many requests and answers of the same size one after the other, \
                 and its end by the client. Downloads: the same, four at a time, of so many bytes each. CPU of the balancer \
                 is that of its processes and of the kernel's workers."
            }
            Self::Micro => "Each decision of one connection alone, in a loop, without network and kernel.",
        };
        method.replace("DESCRIPTORS", &descriptors().to_string()).replace("TAIL", &TAIL_MIN.to_string())
    }

    /// Whether it is measured only where somebody names it, or in continuous integration.
    pub fn is_on_request(self) -> bool {
        self == Self::Promotion
    }

    /// Its workloads.
    pub fn workloads(self, size: Size) -> Vec<Workload> {
        workloads::of(self, size)
    }
}

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Whatever may be of interest, everybody everywhere.
    Thorough,
    /// Enough for numbers that mean something, in a good hour.
    Full,
    /// Enough to see that everything works.
    Quick,
    /// Enough to see that every contestant works in every suite that is for it, in two minutes: nobody is warmed up, and nothing settles.
    Ci,
}

impl Size {
    /// How often each workload is repeated unless the command line says so.
    pub fn repeats(self) -> u32 {
        match self {
            Self::Thorough | Self::Full => 10,
            Self::Quick => 2,
            Self::Ci => 1,
        }
    }

    fn pick<T>(self, thorough: T, full: T, quick: T) -> T {
        match self {
            Self::Thorough => thorough,
            Self::Full => full,
            Self::Quick | Self::Ci => quick,
        }
    }
}

/// Something that a client does, and what is read off it.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Where it belongs.
    pub suite: Suite,
    /// What it is.
    pub title: String,
    /// What the client does.
    pub work: Work,
    /// What the balancer is set up for.
    pub duty: Duty,
    /// What is read off.
    pub columns: &'static [Column],
    /// Who takes part unasked.
    pub field: Field,
    /// Whether the peers take part, too, that are not the most usual ones.
    pub has_further_peers: bool,
    /// Whether a balancer does some of the work before it is measured, and everything settles between samples: without that, figures mean
    /// nothing.
    pub is_warmed_up: bool,
}

/// Who takes part in a workload without having been asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// Each balancer once, as it usually is.
    Balancers,
    /// lb on each of its paths, too.
    Paths,
    /// Peers that are told to splice, too: what is fair to them where many bytes flow.
    Splices,
}

impl Workload {
    /// Whether a contestant takes part without having been asked for.
    pub fn invites(&self, contestant: Contestant) -> bool {
        let is_welcome = match self.suite {
            Suite::Promotion => contestant.may_be_promoted(),
            Suite::Connections if contestant.is_about_beginnings() => true,
            _ => contestant.is_usual() || self.has_further_peers && !contestant.is_on_request(),
        };
        self.field >= contestant.least_field() && is_welcome
    }

    /// Whether each sample needs a balancer of its own: memory that earlier flows left behind would hide the growth.
    pub fn needs_fresh_balancer(&self) -> bool {
        matches!(self.suite, Suite::Idle | Suite::Scale)
    }

    /// How many samples more tell how long a contestant's BPF programs run ([`crate::programs`]): into how many packets the kernel divides the
    /// same bytes differs by half from one to the next.
    pub fn program_samples(&self, contestant: Contestant) -> usize {
        match self.suite {
            Suite::Bulk | Suite::Pingpong if contestant.is_packet() => {
                if self.is_warmed_up {
                    3
                } else {
                    1
                }
            }
            _ => 0,
        }
    }

    /// Why a contestant does not take part; `None` if it does.
    pub fn absence(&self, contestant: Contestant, asked_for: AskedFor) -> Option<&'static str> {
        let is_usual = self.suite != Suite::Promotion && !contestant.is_on_request();
        let is_asked_for = match contestant {
            _ if asked_for.everybody && is_usual => true,
            Contestant::Lb(_) => asked_for.paths,
            _ => asked_for.peers,
        };
        if !is_asked_for && !self.invites(contestant) {
            return Some(
                "ways to carry bytes and further peers are compared where they matter; with --thorough, and if named on the command \
                 line, they are in more",
            );
        }
        match contestant {
            Contestant::Lb(_) | Contestant::Haproxy | Contestant::HaproxyNew => None,
            Contestant::Direct if self.suite == Suite::Scale => match self.work {
                Work::Paced { .. } => None,
                _ => Some("without a balancer there are no names to find and no servers to choose from"),
            },
            _ if self.suite == Suite::Scale => Some("this suite is for lb and HAProxy"),
            _ => contestant.objection(self.duty),
        }
    }

    /// Enough work of the same kind that nothing happens for the first time while it is measured; `None` if nobody is warmed up.
    pub fn warm_up(&self) -> Option<Work> {
        self.is_warmed_up.then(|| self.less_work())
    }

    /// From the end of the work to the next sample, at least.
    pub fn pause(&self) -> Duration {
        if self.is_warmed_up { PAUSE } else { Duration::ZERO }
    }

    fn less_work(&self) -> Work {
        match self.work {
            Work::Connections { total, concurrent, names } => {
                Work::Connections { total: total.min(1_000), concurrent, names }
            }
            Work::Download { flows, bytes } => Work::Download { flows, bytes: bytes.min(80_000_000) },
            Work::Upload { flows, bytes } => Work::Upload { flows, bytes: bytes.min(80_000_000) },
            Work::PingPong { flows, size, .. } => {
                Work::PingPong { flows: flows.min(100), size, exchanges: 1_000 }
            }
            Work::Paced { flows, size, rate, .. } => {
                Work::Paced { flows: flows.min(100), size, rate, exchanges: 1_000.min(rate) }
            }
            Work::Idle { .. } => Work::Connections { total: 10, concurrent: 1, names: 10 },
            Work::Turns { total, concurrent, errand } => {
                let errand = match errand {
                    Errand::Exchanges { count, size } => Errand::Exchanges { count: count.min(1_000), size },
                    Errand::Download { bytes } => Errand::Download { bytes: bytes.min(20_000_000) },
                };
                Work::Turns { total: total.min(64), concurrent, errand }
            }
            Work::Https { bytes, connections, .. } => {
                let tool = Tool::H2load { requests: connections };
                Work::Https { tool, bytes: bytes.min(100_000), connections }
            }
        }
    }
}
