// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::contestant::AskedFor;
use crate::results::Failure;
use crate::results::tests::results as rows;
use crate::suite::{Size, Suite};

/// A rate and its inverse in a suite, under these titles.
fn results(suite: &str, titles: [&str; 2], contestants: &[(&str, &[f64])]) -> Results {
    let mut results = rows(contestants);
    let planned = &mut results.plan.workloads[0];
    planned.suite = suite.to_owned();
    for (metric, title) in planned.columns.iter_mut().zip(titles) {
        metric.title = title.to_owned();
    }
    results
}

/// What is found of the aim whose text has these words, in order.
fn outcomes(results: &Results, words: &str) -> Vec<(String, Outcome)> {
    let own = judge(results).into_iter().filter(|judgement| judgement.aim.text.contains(words));
    let findings = own.flat_map(|judgement| judgement.findings);
    findings.map(|finding| (finding.who.to_owned(), finding.outcome)).collect()
}

#[track_caller]
fn check(results: &Results, words: &str, expected: &[(&str, Outcome)]) {
    let expected: Vec<_> = expected.iter().map(|(who, outcome)| ((*who).to_owned(), *outcome)).collect();
    assert_eq!(outcomes(results, words), expected);
}

#[test]
fn every_aim_is_about_something_that_is_measured() {
    let suites =
        [Suite::Connections, Suite::Bulk, Suite::Latency, Suite::Pingpong, Suite::Idle, Suite::Https];
    let workloads = suites.into_iter().flat_map(|suite| suite.workloads(Size::Full));
    let all = workloads.map(|workload| Planned::new(&workload, AskedFor::default()).unwrap());
    let all: Vec<_> = all.collect();
    for aim in AIMS {
        for suite in aim.suites {
            let mut own = all.iter().filter(|planned| planned.suite == *suite);
            let is_measured =
                own.any(|planned| planned.columns.iter().any(|metric| aim.is_about(planned, metric)));
            assert!(is_measured, "{} in {suite}", aim.text);
        }
    }
    let about = |text: &str| {
        let aim = AIMS.iter().find(|aim| aim.text.contains(text)).unwrap();
        let own = all.iter().flat_map(|planned| planned.columns.iter().map(move |metric| (planned, metric)));
        own.filter(|(planned, metric)| aim.is_about(planned, metric)).count()
    };
    assert_eq!(about("new connections in a second"), 3, "not of those that wait for each other");
    assert_eq!(about("64 B"), 6, "three numbers of flows at a rate, and three in a closed loop");
    assert_eq!(about("bytes per CPU-second of lb-splice"), 6);
}

#[test]
fn a_bound_with_a_least_is_held_held_at_least_missed_or_unknown() {
    let packet = |values: &[f64]| {
        let contestants = [("lb-packet", values), ("haproxy", &[1.0; 6])];
        results("bulk", ["GB/CPU-second", "s/GB"], &contestants)
    };
    let check = |values: &[f64], expected| check(&packet(values), "3 times", &[("lb-packet", expected)]);
    check(&[3.1; 6], Outcome::Held);
    check(&[2.6; 6], Outcome::LeastHeld { least: 2.5, aim: 3.0 });
    check(&[2.9, 2.9, 2.9, 3.1, 3.1, 3.1], Outcome::LeastHeld { least: 2.5, aim: 3.0 });
    check(&[2.4; 6], Outcome::Missed);
    check(&[2.4, 2.4, 2.4, 2.6, 2.6, 2.6], Outcome::Missed);
    check(&[2.4, 2.9, 2.9, 2.9, 2.9, 3.1], Outcome::Unknown(None));
    check(&[3.1; 5], Outcome::Unknown(Some(NoRatio::FewPairs(5))));
}

#[test]
fn a_cost_holds_a_bound_below_it() {
    let auto = |rate: f64| {
        let contestants: [(&str, &[f64]); 2] = [("lb-auto", &[rate; 6]), ("haproxy", &[1.0; 6])];
        results("connections", ["per second", "balancer CPU, µs/connection"], &contestants)
    };
    check(&auto(1.3), "0.8 of", &[("lb-auto", Outcome::Held)]);
    check(&auto(1.2), "0.8 of", &[("lb-auto", Outcome::Missed)]);
}

#[test]
fn more_is_enough_where_the_ends_can_do_no_more() {
    let auto = |ours: f64, ends: Option<f64>| {
        let ends = ends.map(|ends| [ends; 6]);
        let mut contestants: Vec<(&str, &[f64])> = vec![("lb-auto", &[0.0; 0]), ("haproxy", &[1.0; 6])];
        let ours = [ours; 6];
        contestants[0].1 = &ours;
        contestants.extend(ends.as_ref().map(|ends| (DIRECT, &ends[..])));
        outcomes(&results("connections", ["connections/s", "time"], &contestants), "in a second")
    };
    let is = |outcome| vec![("lb-auto".to_owned(), outcome)];
    assert_eq!(auto(1.1, Some(1.15)), is(Outcome::Held));
    assert_eq!(auto(0.9, Some(1.15)), is(Outcome::Missed));
    let least = Outcome::LeastHeld { least: 1.0, aim: 1.2 };
    assert_eq!(auto(1.1, Some(2.0)), is(least));
    assert_eq!(auto(1.1, None), is(least));
    assert_eq!(auto(1.3, Some(2.0)), is(Outcome::Held));
}

#[test]
fn level_is_enough_where_only_worse_misses() {
    let splice = |values: &[f64]| {
        let contestants = [("lb-splice", values), ("haproxy", &[1.0; 6]), ("haproxy-splice", &[2.0; 6])];
        results("bulk", ["GB/CPU-second", "s/GB"], &contestants)
    };
    let check =
        |values: &[f64], expected| check(&splice(values), "of lb-splice: level", &[("lb-splice", expected)]);
    check(&[2.0; 6], Outcome::Held);
    check(&[1.99; 6], Outcome::Held);
    check(&[1.8; 6], Outcome::Missed);
    check(&[1.7, 2.0, 2.0, 2.0, 2.0, 2.0], Outcome::Unknown(Some(NoRatio::Uncertain)));
}

#[test]
fn every_path_has_the_aim_for_memory() {
    let contestants: [(&str, &[f64]); 4] =
        [("lb-auto", &[3.0; 6]), ("lb-packet", &[1.5; 6]), ("haproxy", &[1.0; 6]), ("nginx", &[9.0; 6])];
    let results = results("idle", ["x/s", "balancer's user memory, KiB/flow"], &contestants);
    check(&results, "user memory", &[("lb-auto", Outcome::Held), ("lb-packet", Outcome::Missed)]);
}

#[test]
fn auto_is_held_against_the_better_of_the_two_in_each_number() {
    let contestants: [(&str, &[f64]); 4] = [
        ("lb-auto", &[2.0; 6]),
        ("lb-splice", &[1.0; 6]),
        ("lb-sockmap", &[2.5; 6]),
        ("lb-packet", &[9.0; 6]),
    ];
    let mut results = results("bulk", ["Gb/s", "time"], &contestants);
    for record in results.samples.iter_mut().filter(|record| record.contestant == "lb-sockmap") {
        record.values[1] = Some(9.0);
    }
    let judgements = judge(&results);
    let [judgement] = &judgements[..] else { panic!("{judgements:?}") };
    let found = judgement.findings.iter().map(|finding| (finding.reference, finding.outcome));
    let found: Vec<_> = found.collect();
    assert_eq!(found, [("lb-sockmap", Outcome::Missed), ("lb-splice", Outcome::Held)]);
    assert_eq!(judgement.counts(), [1, 0, 1, 0]);
    assert_eq!(judgement.notable().map(|finding| finding.place).collect::<Vec<_>>(), [(0, 0)]);
    assert_eq!(judgement.worst().map(|finding| finding.place), Some((0, 0)));
}

#[test]
fn who_failed_is_not_left_out_and_who_does_not_take_part_is() {
    let mut results =
        results("bulk", ["GB/CPU-second", "s/GB"], &[("lb-packet", &[]), ("haproxy", &[1.0; 6])]);
    check(&results, "lb-packet", &[]);
    results.failures.push(Failure {
        workload: "download <1>".to_owned(),
        contestant: "lb-packet".to_owned(),
        repeat: 0,
        reason: "it ended".to_owned(),
    });
    let unknown = Outcome::Unknown(Some(NoRatio::FewPairs(0)));
    check(&results, "3 times", &[("lb-packet", unknown)]);
    assert_eq!(judge(&results)[0].worst().map(|finding| finding.place), None);
}

#[test]
fn what_counts_aside_and_other_sizes_of_messages_are_not_held_against_it() {
    let contestants: [(&str, &[f64]); 2] = [("lb-packet", &[2.0; 6]), ("haproxy", &[1.0; 6])];
    let mut results = results("latency", ["x/s", "p50, µs"], &contestants);
    check(&results, "64 B", &[]);
    results.plan.workloads[0].work = serde_json::json!({"paced": {"size": 1024}});
    check(&results, "64 B", &[]);
    results.plan.workloads[0].work = serde_json::json!({"ping-pong": {"size": 64}});
    check(&results, "64 B", &[("lb-packet", Outcome::Held)]);
    results.plan.workloads[0].columns[1].role = Role::Aside;
    check(&results, "64 B", &[]);
}
