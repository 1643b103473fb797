// SPDX-License-Identifier: MIT OR Apache-2.0
//! The workloads of each suite.

use super::columns::{
    BULK, CONNECTIONS, CONNECTIONS_ALONE, Column, HTTPS, HTTPS_LARGE, IDLE, LATENCY, PINGPONG,
    SCALE_CONNECTIONS, SCALE_FLOWS, STREAMS, TURNS,
};
use super::{Field, Size, Suite, Workload};
use crate::contestant::{Duty, Servers, connections_max, descriptors};
use crate::load::{Errand, Reuse, TAIL_MIN, Tool, Work};
use crate::statistics::PAIRS_MIN;

/// Names that balancers route among.
const NAMES: [u32; 3] = [10, 10_000, 1_000_000];

/// Flows of [`Suite::Bulk`].
const BULK_FLOWS: [u32; 3] = [1, 8, 64];

/// Sizes of messages in [`Suite::Pingpong`], and numbers of flows.
const PING_PONG: ([u32; 3], [u32; 3]) = ([64, 1_024, 8_192], [1, 100, 1_000]);

/// Rates of [`Suite::Latency`] by size of a message and number of flows: exchanges in a second, about a fifth and about half of what
/// the slowest balancer reached in a closed loop on two cores.
const PACES: [(u32, u32, [u32; 2]); 9] = [
    (64, 1, [2_000, 4_500]),
    (64, 100, [8_000, 20_000]),
    (64, 1_000, [5_000, 12_000]),
    (1_024, 1, [2_000, 4_500]),
    (1_024, 100, [8_000, 20_000]),
    (1_024, 1_000, [5_000, 12_000]),
    (8_192, 1, [1_200, 3_000]),
    (8_192, 100, [4_000, 9_000]),
    (8_192, 1_000, [3_000, 8_000]),
];

/// A sample of [`Suite::Latency`] lasts so long at least, in seconds, and longer up to the second number if its 99.9th percentile then
/// rests on enough values.
const LATENCY_SECONDS: [u32; 2] = [3, 10];

/// The same where all has to fit into a good hour: ten short samples spread over the run tell more about its median than as many
/// seconds at a stretch, and one second holds the 2,000 values that a 99th percentile takes.
const LATENCY_SECONDS_SHORT: [u32; 2] = [1, 1];

/// Exchanges of a sample at least: as many repeats as give a ratio have enough together for a 99.9th percentile.
const EXCHANGES_MIN: u32 = (TAIL_MIN as u32 * 1000).div_ceil(PAIRS_MIN as u32);

/// Files from this size on are bulk, in bytes.
const LARGE: u64 = 100_000;

/// Most flows of [`Suite::Scale`].
const FLOWS_WANTED: u32 = 100_000;

/// Exchanges in a second while the number of flows grows.
const SCALE_RATE: u32 = 2_000;

pub fn of(suite: Suite, size: Size) -> Vec<Workload> {
    let is_for_all = size == Size::Thorough || matches!(suite, Suite::Connections | Suite::Bulk);
    let workloads = of_suite(suite, size).into_iter();
    let is_warmed_up = size != Size::Ci;
    workloads.map(|workload| Workload { has_further_peers: is_for_all, is_warmed_up, ..workload }).collect()
}

fn of_suite(suite: Suite, size: Size) -> Vec<Workload> {
    match suite {
        Suite::Connections => connections(size),
        Suite::Bulk => bulk(size),
        Suite::Latency => latency(size),
        Suite::Pingpong => ping_pong(size),
        Suite::Idle => {
            let flows = size.pick(4_000, 4_000, 1_000);
            let idle = workload(suite, format!("idle, {} flows", count(flows)), Work::Idle { flows }, IDLE);
            vec![Workload { field: Field::Paths, ..idle }]
        }
        Suite::Https => https(size),
        Suite::Scale => scale(size),
        Suite::Promotion => promotion(size),
        // Measured elsewhere: [`crate::micro`].
        Suite::Micro => Vec::new(),
    }
}

fn workload(suite: Suite, title: impl Into<String>, work: Work, columns: &'static [Column]) -> Workload {
    Workload {
        suite,
        title: title.into(),
        work,
        duty: Duty::default(),
        columns,
        field: Field::Balancers,
        has_further_peers: false,
        is_warmed_up: true,
    }
}

fn connections(size: Size) -> Vec<Workload> {
    let names = if size == Size::Ci { &NAMES[..2] } else { &NAMES };
    let among = |names: &u32| {
        let work = Work::Connections { total: size.pick(20_000, 10_000, 500), concurrent: 64, names: *names };
        let title = format!("new connections, {} names", count(*names));
        Workload {
            duty: Duty::names(*names as usize),
            field: if *names == NAMES[0] { Field::Paths } else { Field::Balancers },
            ..workload(Suite::Connections, title, work, CONNECTIONS)
        }
    };
    let alone = Work::Connections { total: size.pick(4_000, 2_500, 200), concurrent: 1, names: NAMES[0] };
    let title = format!("new connections, {} names, one at a time", NAMES[0]);
    let alone = workload(Suite::Connections, title, alone, CONNECTIONS_ALONE);
    names.iter().map(among).chain([alone]).collect()
}

fn bulk(size: Size) -> Vec<Workload> {
    let bytes = size.pick(4_000_000_000, 2_000_000_000, 100_000_000);
    let flows = if size == Size::Ci { &BULK_FLOWS[1..2] } else { &BULK_FLOWS };
    let downloads = flows.iter().map(|flows| {
        let title = format!("download, {}", plural(*flows, "flow"));
        workload(Suite::Bulk, title, Work::Download { flows: *flows, bytes }, BULK)
    });
    let uploads = flows.iter().map(|flows| {
        let title = format!("upload, {}", plural(*flows, "flow"));
        workload(Suite::Bulk, title, Work::Upload { flows: *flows, bytes }, BULK)
    });
    let all = downloads.chain(uploads);
    all.map(|workload| Workload { field: Field::Splices, ..workload }).collect()
}

fn latency(size: Size) -> Vec<Workload> {
    let paced = |(bytes, flows, rates): (u32, u32, [u32; 2])| {
        rates.map(|rate| {
            let [long, short] =
                [LATENCY_SECONDS, LATENCY_SECONDS_SHORT].map(|seconds| latency_exchanges(rate, seconds));
            let exchanges = size.pick(long, short, rate / 5).max(flows);
            let work = Work::Paced { flows, size: bytes, rate, exchanges };
            let title = format!("{bytes} B, {}, {}/s", plural(flows, "flow"), count(rate));
            let field = if rate == rates[1] { Field::Paths } else { Field::Balancers };
            Workload { field, ..workload(Suite::Latency, title, work, LATENCY) }
        })
    };
    let all = PACES.into_iter().flat_map(paced);
    match size {
        Size::Thorough => all.collect(),
        // The higher rates.
        Size::Full | Size::Quick => all.skip(1).step_by(2).collect(),
        // One of each size of message, and of each number of flows, at the lower rate.
        Size::Ci => all.step_by(8).collect(),
    }
}

fn latency_exchanges(rate: u32, seconds: [u32; 2]) -> u32 {
    let [least, most] = seconds.map(|seconds| seconds * rate);
    let wanted = u32::try_from(TAIL_MIN * 1000).unwrap_or(u32::MAX);
    if wanted > most { least.max(EXCHANGES_MIN) } else { wanted.max(least) }
}

fn ping_pong(size: Size) -> Vec<Workload> {
    let (sizes, flows) = PING_PONG;
    let work = |flows: u32, bytes: u32| {
        let exchanges = match flows {
            1 => size.pick(20_000, 8_000, 1_000),
            _ => size.pick(200_000, 60_000, 5_000),
        };
        let title = format!("ping-pong, {} B, {}", count(bytes), plural(flows, "flow"));
        let workload =
            workload(Suite::Pingpong, title, Work::PingPong { flows, size: bytes, exchanges }, PINGPONG);
        Workload { field: Field::Paths, ..workload }
    };
    let sizes = if size == Size::Thorough { &sizes[..] } else { &sizes[..1] };
    let flows = if size == Size::Ci { &flows[..2] } else { &flows };
    sizes.iter().flat_map(|bytes| flows.iter().map(|flows| work(*flows, *bytes))).collect()
}

fn https(size: Size) -> Vec<Workload> {
    let kept = Tool::Wrk { seconds: size.pick(3, 1, 1), reuse: Reuse::Kept };
    // Some 2,000 in a second, and as many values take a 99th percentile.
    let once = Tool::Wrk { seconds: size.pick(3, 2, 1), reuse: Reuse::Once };
    let large = Tool::Wrk { seconds: size.pick(5, 2, 2), reuse: Reuse::Kept };
    let h2 = |requests| Tool::H2load { requests };
    let all = [
        ("HTTP/1.1, 1 KB", kept, 1_000, 32),
        ("HTTP/1.1, 1 KB, a connection each", once, 1_000, 32),
        ("HTTP/1.1, 100 KB", kept, 100_000, 32),
        ("HTTP/1.1, 100 MB", large, 100_000_000, 2),
        ("HTTP/2, 1 KB", h2(size.pick(50_000, 20_000, 1_000)), 1_000, 32),
        ("HTTP/2, 100 KB", h2(size.pick(10_000, 4_000, 500)), 100_000, 32),
        ("HTTP/2, 100 MB", h2(size.pick(20, 10, 2)), 100_000_000, 2),
    ];
    let picked = match size {
        Size::Thorough | Size::Full | Size::Quick => all.to_vec(),
        // Two that together use both tools, short and long connections.
        Size::Ci => vec![all[1], all[5]],
    };
    let duty = Duty { names: 10, servers: Servers::Https };
    let download = |(title, tool, bytes, connections)| {
        let work = Work::Https { tool, bytes, connections };
        let columns = if bytes > 10 * LARGE { HTTPS_LARGE } else { HTTPS };
        let field = if bytes >= LARGE { Field::Splices } else { Field::Paths };
        Workload { duty, field, ..workload(Suite::Https, title, work, columns) }
    };
    picked.into_iter().map(download).collect()
}

fn scale(size: Size) -> Vec<Workload> {
    let connections = |names, title, duty| {
        let work = Work::Connections { total: size.pick(10_000, 5_000, 500), concurrent: 64, names };
        Workload { duty, ..workload(Suite::Scale, title, work, SCALE_CONNECTIONS) }
    };
    let routes: &[u32] = match size {
        Size::Thorough => &[10, 100, 1_000, 10_000, 100_000, 1_000_000],
        Size::Full | Size::Quick => &[10, 10_000, 1_000_000],
        Size::Ci => &[10_000],
    };
    let routes =
        routes.iter().map(|names| connections(*names, plural(*names, "name"), Duty::names(*names as usize)));
    let servers: &[usize] = match size {
        Size::Thorough => &[1, 10, 100, 1_000, 10_000],
        Size::Full => &[1, 100, 10_000],
        Size::Quick => &[1, 10_000],
        Size::Ci => &[1_000],
    };
    let servers = servers.iter().map(|servers| {
        let duty = Duty { names: 1, servers: Servers::Many(*servers) };
        connections(1, format!("{} in one backend", plural(*servers as u32, "server")), duty)
    });
    let flows = scale_flows(connections_max());
    let most = flows[flows.len() - 1];
    let flows = match size {
        Size::Thorough => flows,
        Size::Full => flows.into_iter().filter(|flows| *flows != 100 && *flows != 1_000).collect(),
        Size::Quick => [&flows[..1], &flows[flows.len() - 1..]].concat(),
        Size::Ci => vec![flows[flows.len() - 1].min(1_000)],
    };
    let flows = flows.iter().map(|flows| {
        let exchanges = size.pick(5 * SCALE_RATE, SCALE_RATE, SCALE_RATE / 5).max(*flows);
        let work = Work::Paced { flows: *flows, size: 64, rate: SCALE_RATE, exchanges };
        workload(Suite::Scale, flows_title(*flows, most, descriptors()), work, SCALE_FLOWS)
    });
    routes.chain(servers).chain(flows).collect()
}

/// Where going inside the kernel may pay, and where leaving it may: [`Suite::Promotion`].
fn promotion(size: Size) -> Vec<Workload> {
    let messages = |bytes: u32, exchanges: u32, concurrent: u32| {
        let errand = Errand::Exchanges { count: exchanges, size: bytes };
        // A connection costs about as much as eight exchanges. Its port is taken for a minute: no more than the client has may come in one.
        let total = (size.pick(40_000, 20_000, 2_000) / (exchanges + 8)).max(4);
        let title = format!(
            "{} of {} B a connection, {concurrent} at a time",
            plural(exchanges, "exchange"),
            count(bytes)
        );
        turns(title, Work::Turns { total, concurrent, errand }, TURNS)
    };
    let download = |mebibytes: u32| {
        let bytes = u64::from(mebibytes) << 20;
        let total = size.pick(4_096, 1_024, 64) / mebibytes;
        let work = Work::Turns { total: total.max(1), concurrent: 4, errand: Errand::Download { bytes } };
        turns(format!("downloads of {mebibytes} MiB, 4 at a time"), work, STREAMS)
    };
    let (sizes, counts, downloads): (&[u32], &[u32], &[u32]) = match size {
        Size::Thorough => (&[64, 1_024, 8_192], &[1, 4, 8, 16, 32, 64, 128, 512], &[1, 4, 16, 64, 256]),
        Size::Full | Size::Quick => (&[64, 8_192], &[1, 8, 32, 128], &[1, 16, 64, 256]),
        Size::Ci => (&[64], &[8], &[16]),
    };
    let short = sizes.iter().flat_map(|bytes| counts.iter().map(|count| messages(*bytes, *count, 64)));
    // Messages just below the segments of which a stream consists, and just above, one flow after the other so that it is quick enough.
    let large: &[u32] = if size == Size::Ci { &[] } else { &[8_192, 16_384, 32_768] };
    let large = large.iter().map(|bytes| messages(*bytes, 4_096, 1));
    short.chain(large).chain(downloads.iter().map(|mebibytes| download(*mebibytes))).collect()
}

fn turns(title: String, work: Work, columns: &'static [Column]) -> Workload {
    Workload { field: Field::Paths, ..workload(Suite::Promotion, title, work, columns) }
}

/// Numbers of flows up to 100,000, or as many as a balancer may have.
fn scale_flows(connections_max: usize) -> Vec<u32> {
    let mut flows = vec![10, 100, 1_000, 10_000, FLOWS_WANTED];
    let most = u32::try_from(connections_max / 20 * 19).unwrap_or(u32::MAX);
    if most < FLOWS_WANTED {
        flows.retain(|flows| *flows < most);
        flows.push((most - most % 100).max(10));
        flows.dedup();
    }
    flows
}

/// Says why there are no more of them.
fn flows_title(flows: u32, most: u32, descriptors: usize) -> String {
    let title = plural(flows, "flow");
    if flows < most || flows >= FLOWS_WANTED {
        return title;
    }
    let descriptors = u32::try_from(descriptors).unwrap_or(u32::MAX);
    format!("{title}, all that {} descriptors allow", count(descriptors))
}

fn plural(number: u32, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A number with commas.
fn count(number: u32) -> String {
    let digits = number.to_string();
    let grouped: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    grouped.join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::ValueEnum as _;

    use super::*;
    use crate::contestant::{AskedFor, Contestant};

    #[test]
    fn ways_to_carry_bytes_are_compared_where_bytes_flow() {
        for suite in Suite::value_variants() {
            let workloads = suite.workloads(Size::Full);
            let takes_part = |name: &str| {
                let contestant = Contestant::all().into_iter().find(|one| one.name() == name).unwrap();
                workloads.iter().filter(|one| one.absence(contestant, AskedFor::default()).is_none()).count()
            };
            let splices = match suite {
                Suite::Bulk => workloads.len(),
                Suite::Https => 4,
                _ => 0,
            };
            assert_eq!(takes_part("haproxy-splice"), splices, "{suite:?}");
            if *suite == Suite::Promotion {
                let ways = ["auto", "sockmap", "sockmap-inside", "sockmap-late", "packet", "packet-late"];
                assert!(ways.iter().all(|way| takes_part(&format!("lb-{way}")) == workloads.len()));
                assert_eq!(takes_part("lb-copy") + takes_part("direct") + takes_part("haproxy"), 0);
                continue;
            }
            assert_eq!(takes_part("lb-copy") > 0, ![Suite::Scale, Suite::Micro].contains(suite), "{suite:?}");
            assert_eq!(takes_part("lb-splice"), takes_part("lb-copy"), "{suite:?}");
            assert_eq!(takes_part("lb-sockmap"), takes_part("lb-copy"), "{suite:?}");
            let has_further = [Suite::Connections, Suite::Bulk].contains(suite);
            assert_eq!(
                takes_part("envoy") == workloads.len(),
                has_further || workloads.is_empty(),
                "{suite:?}"
            );
        }
    }

    #[test]
    fn numbers_are_grouped() {
        let check = |number, expected| assert_eq!(count(number), expected);
        check(7, "7");
        check(1_000, "1,000");
        check(1_000_000, "1,000,000");
    }

    #[test]
    fn samples_are_long_enough_for_their_tail_or_short() {
        let check = |rate, expected| assert_eq!(latency_exchanges(rate, LATENCY_SECONDS), expected, "{rate}");
        check(1_100, 3_334);
        check(1_200, 3_600);
        check(2_000, 20_000);
        check(4_500, 20_000);
        check(8_000, 24_000);
    }

    #[test]
    fn flows_grow_as_far_as_descriptors_reach() {
        assert_eq!(scale_flows(7_800), [10, 100, 1_000, 7_400]);
        assert_eq!(scale_flows(20_000), [10, 100, 1_000, 10_000, 19_000]);
        assert_eq!(scale_flows(120_000), [10, 100, 1_000, 10_000, 100_000]);
        assert_eq!(scale_flows(300), [10, 100, 200]);
        assert_eq!(flows_title(1_000, 7_400, 20_000), "1,000 flows");
        assert_eq!(flows_title(7_400, 7_400, 20_000), "7,400 flows, all that 20,000 descriptors allow");
        assert_eq!(flows_title(100_000, 100_000, 1_048_576), "100,000 flows");
    }

    #[test]
    fn titles_name_one_workload_each() {
        for size in [Size::Thorough, Size::Full, Size::Quick, Size::Ci] {
            let workloads: Vec<_> =
                Suite::value_variants().iter().flat_map(|suite| suite.workloads(size)).collect();
            let titles: BTreeSet<_> = workloads.iter().map(|workload| &workload.title).collect();
            assert_eq!(titles.len(), workloads.len(), "{size:?}");
            let mut all = workloads.iter();
            let auto = Contestant::all()[1];
            assert!(all.all(|workload| workload.absence(auto, AskedFor::default()).is_none()), "{size:?}");
        }
    }

    #[test]
    fn the_smallest_size_still_has_every_suite() {
        for suite in Suite::value_variants() {
            assert_eq!(suite.workloads(Size::Ci).is_empty(), *suite == Suite::Micro, "{suite:?}");
        }
    }
}
