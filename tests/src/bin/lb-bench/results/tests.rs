// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;

/// Results of one workload with a rate, a cost and a cost less direct: values by contestant and repeat.
pub fn results(rows: &[(&str, &[f64])]) -> Results {
    let metric = |title: &str, is_less_direct| Metric {
        title: title.to_owned(),
        digits: 1,
        is_less_direct,
        role: if is_less_direct { Role::Counted } else { Role::Shown },
        pooled_per_mille: None,
    };
    let planned = Planned {
        suite: "bulk".to_owned(),
        method: "Bytes & more.".to_owned(),
        title: "download <1>".to_owned(),
        work: Value::Null,
        absent: BTreeMap::new(),
        columns: vec![metric("Gb/s", false), metric("CPU, s/GB", false), metric("less direct, s/GB", true)],
    };
    let records = rows.iter().flat_map(|(contestant, values)| {
        values.iter().enumerate().map(|(repeat, value)| Record {
            workload: "download <1>".to_owned(),
            contestant: (*contestant).to_owned(),
            repeat: repeat as u32,
            values: vec![Some(*value), (*contestant != DIRECT).then_some(1.0 / value), Some(*value)],
            stolen_share: 0.0,
            paths: BTreeMap::new(),
            sample: Value::Null,
        })
    });
    let plan = Plan {
        format: FORMAT,
        environment: crate::environment::tests::environment(),
        contestants: rows.iter().map(|(name, _)| (*name).to_owned()).collect(),
        seed: 7,
        repeats: rows.first().map_or(0, |(_, values)| values.len() as u32),
        workloads: vec![planned],
    };
    Results {
        plan,
        resumed: Vec::new(),
        configs: BTreeMap::new(),
        samples: records.collect(),
        failures: vec![],
        program_times: vec![],
        micro: None,
    }
}

#[test]
fn direct_is_taken_off_within_the_same_repeat() {
    let results = results(&[(DIRECT, &[1.0, 2.0]), ("lb-auto", &[4.0, 4.0, 9.0])]);
    let planned = &results.plan.workloads[0];
    assert_eq!(results.series(planned, "lb-auto", 0), BTreeMap::from([(0, 4.0), (1, 4.0), (2, 9.0)]));
    assert_eq!(results.series(planned, "lb-auto", 2), BTreeMap::from([(0, 3.0), (1, 2.0)]));
    assert_eq!(results.spread(planned, DIRECT, 1), None);
    assert_eq!(results.spread(planned, DIRECT, 2), None);
    assert_eq!(results.spread(planned, "lb-auto", 3), None);
}

#[test]
fn ratios_are_of_the_same_repeat() {
    // The medians are 4 and 4, but lb was faster each time.
    let results =
        results(&[("lb-auto", &[2.2, 4.4, 8.8, 2.2, 4.4, 8.8]), (HAPROXY, &[2.0, 4.0, 8.0, 2.0, 4.0, 8.0])]);
    let planned = &results.plan.workloads[0];
    let ratio = results.ratio(planned, ["lb-auto", HAPROXY], 0).unwrap().unwrap();
    assert!((ratio.spread.median - 1.1).abs() < 1e-9);
    assert_eq!(ratio.verdict, crate::statistics::Verdict::Better);
    assert_eq!(results.ratio(planned, ["lb-auto", DIRECT], 0), None);
}

#[test]
fn nobody_is_missed_who_does_not_take_part() {
    let mut results = results(&[("lb-auto", &[1.0, 2.0]), ("sozu", &[])]);
    assert_eq!(results.missing(), 2);
    results.plan.workloads[0].absent.insert("sozu".to_owned(), "too small".to_owned());
    assert_eq!(results.missing(), 0);
    let absences = results.plan.workloads[0].absences(&results.plan.contestants);
    assert_eq!(absences, BTreeMap::from([("too small", vec!["sozu"])]));
}

#[test]
fn the_subject_is_lb_and_the_references_are_haproxys() {
    let results = results(&[(DIRECT, &[]), ("lb-copy", &[]), ("lb-auto", &[]), ("haproxy-splice", &[])]);
    assert_eq!((results.subject(), results.references()), (Some("lb-auto"), vec!["haproxy-splice"]));
    assert_eq!(results.other_paths().collect::<Vec<_>>(), ["lb-copy"]);
    assert_eq!(results.peers().collect::<Vec<_>>(), ["haproxy-splice"]);
}

#[test]
fn what_is_written_can_be_read() {
    let results = results(&[("lb-auto", &[1.0, 2.0])]);
    let file = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&file, &results).unwrap();
    assert_eq!(Results::load(file.path()).unwrap().samples, results.samples);
    let mut old = serde_json::to_value(&results).unwrap();
    // Of before the common settings were kept.
    old["plan"]["environment"].as_object_mut().unwrap().remove("settings").unwrap();
    fs::write(file.path(), old.to_string()).unwrap();
    assert_eq!(Results::load(file.path()).unwrap().samples, results.samples);
    old["plan"]["format"] = 1.into();
    fs::write(file.path(), old.to_string()).unwrap();
    let refused = format!("{:#}", Results::load(file.path()).unwrap_err());
    assert!(refused.contains("is of format 1, this version reads 2"), "{refused}");
    fs::write(file.path(), "{}").unwrap();
    assert!(Results::load(file.path()).is_err());
}

#[test]
fn the_reference_is_the_best_haproxy_in_each_column() {
    let mut results = results(&[
        ("lb-auto", &[3.0; 6]),
        (HAPROXY, &[2.0; 6]),
        ("haproxy-splice", &[4.0; 6]),
        ("haproxy-new", &[5.0; 6]),
        ("nginx", &[9.0; 6]),
    ]);
    for record in results.samples.iter_mut().filter(|record| record.contestant == "haproxy-splice") {
        record.values[1] = Some(0.1);
    }
    let planned = &results.plan.workloads[0];
    let check = |column, expected| assert_eq!(results.reference(planned, column), expected, "{column}");
    // A rate, a cost, and nothing, because there is no direct one to take off.
    check(0, Some("haproxy-new"));
    check(1, Some("haproxy-splice"));
    check(2, None);
    let (reference, ratio) = results.ratio_to_reference(planned, "lb-auto", 0).unwrap();
    assert_eq!((reference, ratio.unwrap().spread.median), ("haproxy-new", 0.6));
    assert_eq!(results.references(), [HAPROXY, "haproxy-splice", "haproxy-new"]);
}

#[test]
fn a_sample_with_stolen_time_counts_for_no_ratio() {
    let mut results = results(&[(DIRECT, &[1.0; 7]), ("lb-auto", &[3.0; 7]), (HAPROXY, &[2.0; 7])]);
    let planned = results.plan.workloads[0].clone();
    let pairs =
        |results: &Results, column| results.pairs(&planned, ["lb-auto", HAPROXY], column).unwrap().len();
    let steal = |results: &mut Results, repeat: u32, name: &str, share: f64| {
        let mut own = results.samples.iter_mut();
        own.find(|one| one.repeat == repeat && one.contestant == name).unwrap().stolen_share = share;
    };
    steal(&mut results, 0, "lb-auto", STOLEN_MAX);
    assert_eq!((pairs(&results, 0), results.disturbed(&planned)), (7, 0));
    steal(&mut results, 1, "lb-auto", 0.03);
    steal(&mut results, 2, HAPROXY, 0.03);
    assert_eq!((pairs(&results, 0), results.disturbed(&planned)), (5, 2));
    let too_few = Some(Err(NoRatio::FewPairs(5)));
    assert_eq!(results.ratio(&planned, ["lb-auto", HAPROXY], 0), too_few);
    // Where direct is taken off, its sample is a part of the number.
    steal(&mut results, 3, DIRECT, 0.03);
    assert_eq!((pairs(&results, 0), pairs(&results, 2)), (5, 4));
    assert_eq!(results.series(&planned, "lb-auto", 0).len(), 7, "tables and plots have all");
}

#[test]
fn the_best_one_is_found_without_disturbed_samples_if_there_are_others() {
    let mut results = results(&[(HAPROXY, &[2.0; 6]), ("haproxy-new", &[9.0, 9.0, 9.0, 9.0, 1.0, 1.0])]);
    for record in results.samples.iter_mut().filter(|one| one.values[0] == Some(9.0)) {
        record.stolen_share = 0.5;
    }
    assert_eq!(results.reference(&results.plan.workloads[0], 0), Some(HAPROXY));
    for record in &mut results.samples {
        record.stolen_share = 0.5;
    }
    assert_eq!(results.reference(&results.plan.workloads[0], 0), Some("haproxy-new"));
}

#[test]
fn paths_are_shares_of_bytes_and_failures_are_counted() {
    let mut results = results(&[("lb-auto", &[3.0; 2])]);
    results.samples[0].paths = BTreeMap::from([("copy".to_owned(), 10), ("splice".to_owned(), 40)]);
    results.samples[1].paths = BTreeMap::from([("splice".to_owned(), 50), ("none".to_owned(), 0)]);
    assert_eq!(results.paths_taken(&results.plan.workloads, "lb-auto"), [("splice", 0.9), ("copy", 0.1)]);
    assert_eq!(results.paths_taken(&results.plan.workloads, "lb-copy"), []);
    let failure = |repeat, reason: &str| Failure {
        workload: "download <1>".to_owned(),
        contestant: "sozu".to_owned(),
        repeat,
        reason: reason.to_owned(),
    };
    results.failures = vec![failure(0, "it ended"), failure(1, "it did not start")];
    assert_eq!(results.failed(), [("sozu", "download <1>", 2, "it ended")]);
}
