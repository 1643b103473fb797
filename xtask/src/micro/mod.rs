// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench micro`: what the decisions of one connection cost, each alone, in time and in instructions. Times say how much
//! it is; instructions repeat, so they are the guard against regressions: `--check` compares them with [`COMMITTED`].

mod times;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use toml::Table;

use crate::report::Outcome;
use crate::repository::{cargo, executable, has_program, output, root};
use times::{Effort, Time, duration};

/// The counts that were accepted last, and what counted them.
const COMMITTED: &str = "lb-userspace/benches/instructions.toml";

/// How far a count may be from the committed one before it is worth a word, in percent. Less would tell of inlining, which changes
/// elsewhere in the crate move by up to 8 %.
const TOLERANCE_PERCENT: f64 = 10.0;

/// How a new count is accepted.
const ACCEPT: &str = "cargo xtask bench micro --accept";

/// The function whose calls are counted, one case a call.
const MEASURED: &str = "lb_instructions::measured";

/// Has glibc copy and compare memory with SSE2 on every x86-64 CPU (glibc manual, "Hardware Capability Tunables").
const TUNABLES: &str =
    "glibc.cpu.hwcaps=-AVX2,-AVX512F,-ERMS,-FSRM,-BMI2,-AVX_Fast_Unaligned_Load,-SSSE3,-SSE4_1,-SSE4_2";

/// What the suite `micro` can be told; beside [`crate::bench::Args`], so without a group of the same name.
#[derive(clap::Args)]
#[group(skip)]
pub struct Args {
    /// Suite micro: counts instructions only, and fails if one of the counts has grown by more than 10 %
    #[arg(long, conflicts_with = "accept")]
    check: bool,
    /// Suite micro: counts instructions only, and makes them what --check compares with
    #[arg(long)]
    accept: bool,
    /// Suite micro: writes times and counts into this file instead of showing them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "accept"])]
    json: Option<PathBuf>,
    /// Suite micro: short times, which show that everything works
    #[arg(long)]
    brief: bool,
}

/// Measures times and counts, and prints a table; or what `args` say instead.
///
/// # Errors
///
/// valgrind is missing, a build or a run fails; with `--check` also a count that has grown.
pub fn run(args: &Args) -> Result<()> {
    if args.check {
        return check();
    }
    ensure!(has_program("valgrind"), "valgrind is missing: `cargo xtask setup`");
    if args.accept {
        let counts = count()?;
        std::fs::write(root().join(COMMITTED), file(&environment()?, &counts))?;
        println!("{COMMITTED} has the counts of {} cases", counts.len());
        return Ok(());
    }
    let times = times::measure(if args.brief { Effort::Little } else { Effort::Full })?;
    let counts = count()?;
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&document(&environment()?, &counts, &times))?;
        return std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()));
    }
    print!("{}", table(&compare(&counts, &Committed::read()?.counts), &times));
    Ok(())
}

/// What lb-bench reads.
fn document(
    environment: &BTreeMap<String, String>,
    counts: &Counts,
    times: &BTreeMap<String, Time>,
) -> Value {
    let case = |(name, count): &(String, f64)| {
        let time = times.get(name);
        json!({
            "name": name,
            "instructions": count,
            "median_ns": time.map(|time| time.median),
            "fastest_ns": time.map(|time| time.fastest),
        })
    };
    json!({ "environment": environment, "cases": counts.iter().map(case).collect::<Vec<_>>() })
}

/// [`Args::check`] as a stage of continuous integration.
///
/// # Errors
///
/// As [`run`].
pub fn stage() -> Result<Outcome> {
    if !has_program("valgrind") {
        return Ok(Outcome::NotRun("valgrind is missing: `cargo xtask setup`".to_owned()));
    }
    let committed = Committed::read()?;
    if committed.environment.get("architecture").map(String::as_str) != Some(std::env::consts::ARCH) {
        return Ok(Outcome::NotRun(format!("{COMMITTED} was counted on another architecture")));
    }
    check().map(|()| Outcome::Passed)
}

/// Counts, prints what has changed by more than the tolerance, and fails if something has grown.
fn check() -> Result<()> {
    let committed = Committed::read()?;
    let rows = compare(&count()?, &committed.counts);
    let changed: Vec<Row> = rows.iter().filter(|row| row.verdict() != Verdict::Same).cloned().collect();
    if changed.is_empty() {
        println!("{} cases: no count is more than {TOLERANCE_PERCENT} % off", rows.len());
        return Ok(());
    }
    print!("{}", table(&changed, &BTreeMap::new()));
    let foreign = differences(&committed.environment, &environment()?);
    if !foreign.is_empty() {
        println!("The committed counts come from elsewhere, which may be why: {foreign}.");
    }
    let failed = rows.iter().filter(|row| row.verdict() == Verdict::Failed).count();
    ensure!(
        failed == 0,
        "{failed} of {} counts are above {COMMITTED}, or in one of the two only; if that is meant: `{ACCEPT}`",
        rows.len()
    );
    println!("Counts have fallen; so that they stay there: `{ACCEPT}`");
    Ok(())
}

/// Instructions of one round of each case, in the order of the cases.
type Counts = Vec<(String, f64)>;

/// Builds the cases as the agent is built and has callgrind count them.
fn count() -> Result<Counts> {
    let messages = output(cargo("build").args([
        "--locked",
        "--release",
        "--package=lb-instructions",
        "--message-format=json-render-diagnostics",
    ]))?;
    let binary = executable(&messages).context("cargo built lb-instructions but did not say where")?;
    let folder = tempfile::tempdir()?;
    let dump = folder.path().join("dump");
    let mut command = Command::new("valgrind");
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("GLIBC_TUNABLES", TUNABLES).current_dir(folder.path());
    command.args(["--tool=callgrind", "--quiet"]);
    command.arg(format!("--toggle-collect={MEASURED}")).arg(format!("--dump-after={MEASURED}"));
    let mut out = std::ffi::OsString::from("--callgrind-out-file=");
    out.push(&dump);
    let ran = output(command.arg(out).arg(binary))?;
    ran.lines()
        .enumerate()
        .map(|(index, line)| counted(line, &dump.with_extension(format!("{}", index + 1))))
        .collect()
}

/// The count of a case: `NAME ROUNDS` as the binary printed it, and the dump that callgrind made after it.
fn counted(line: &str, dump: &Path) -> Result<(String, f64)> {
    let (name, rounds) = line.split_once(' ').with_context(|| format!("not `NAME ROUNDS`: {line}"))?;
    let text = std::fs::read_to_string(dump).with_context(|| format!("callgrind did not dump {name}"))?;
    let total = total(&text).filter(|total| *total > 0.0);
    let total =
        total.with_context(|| format!("callgrind saw nothing of {name}: was `{MEASURED}` inlined?"))?;
    // A digit behind the point, so that rounding does not show in the small ones.
    let count = (total / rounds.parse::<f64>()? * 10.0).round() / 10.0;
    Ok((name.to_owned(), count))
}

/// The sum in a dump (Valgrind manual, "Callgrind Format Specification": `totals`).
fn total(dump: &str) -> Option<f64> {
    dump.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

/// What the counts depend on beside the sources.
fn environment() -> Result<BTreeMap<String, String>> {
    let text = |program: &str, argument: &str| -> Result<String> {
        Ok(output(Command::new(program).current_dir(root()).arg(argument))?.trim().to_owned())
    };
    // Valgrind shows programs one of a few fixed CPUs: one with AVX2 if the machine has it.
    let has_avx2 = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default().contains(" avx2 ");
    let entries = [
        ("architecture", std::env::consts::ARCH.to_owned()),
        ("cpu", if has_avx2 { "with AVX2" } else { "without AVX2" }.to_owned()),
        ("libc", text("getconf", "GNU_LIBC_VERSION")?),
        ("rustc", text("rustc", "--version")?),
        ("valgrind", text("valgrind", "--version")?),
    ];
    Ok(entries.map(|(key, value)| (key.to_owned(), value)).into())
}

/// What differs, as `KEY: HERE instead of THERE`.
fn differences(there: &BTreeMap<String, String>, here: &BTreeMap<String, String>) -> String {
    let of = |key: &String| there.get(key).map_or("unknown", String::as_str);
    let differ = here.iter().filter(|(key, value)| of(key) != *value);
    differ.map(|(key, value)| format!("{key}: {value} instead of {}", of(key))).collect::<Vec<_>>().join(", ")
}

/// The file [`COMMITTED`].
#[derive(Debug, Default, PartialEq)]
struct Committed {
    environment: BTreeMap<String, String>,
    counts: BTreeMap<String, f64>,
}

impl Committed {
    fn read() -> Result<Self> {
        let text = std::fs::read_to_string(root().join(COMMITTED))
            .with_context(|| format!("cannot read {COMMITTED}; `{ACCEPT}` makes it"))?;
        Self::parse(&text).with_context(|| COMMITTED.to_owned())
    }

    fn parse(text: &str) -> Result<Self> {
        let table: Table = text.parse()?;
        let section = |name: &str| {
            table
                .get(name)
                .and_then(|value| value.as_table())
                .cloned()
                .with_context(|| format!("no [{name}]"))
        };
        let mut committed = Self::default();
        for (key, value) in section("environment")? {
            committed.environment.insert(key, value.as_str().context("not a text")?.to_owned());
        }
        for (name, value) in section("instructions")? {
            committed.counts.insert(name, value.as_float().context("not a number with a point")?);
        }
        Ok(committed)
    }
}

/// The text of [`COMMITTED`].
fn file(environment: &BTreeMap<String, String>, counts: &Counts) -> String {
    let mut text = format!(
        "# Instructions of one round of each case of the suite micro. Written by `{ACCEPT}`, compared in continuous\n\
         # integration: above {TOLERANCE_PERCENT} % more is a failure.\n\n[environment]\n"
    );
    for (key, value) in environment {
        let _ = writeln!(text, "{key} = {value:?}");
    }
    text.push_str("\n[instructions]\n");
    for (name, count) in counts {
        let _ = writeln!(text, "{name:?} = {count:.1}");
    }
    text
}

/// A case: what was counted, what is committed.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    name: String,
    counted: Option<f64>,
    committed: Option<f64>,
}

/// What a row means for the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Within the tolerance.
    Same,
    /// More than the tolerance below.
    Fallen,
    /// More than the tolerance above, or counted without being committed, or the other way round.
    Failed,
}

impl Row {
    fn verdict(&self) -> Verdict {
        match self.change_percent() {
            Some(change) if change < -TOLERANCE_PERCENT => Verdict::Fallen,
            Some(change) if change <= TOLERANCE_PERCENT => Verdict::Same,
            _ => Verdict::Failed,
        }
    }

    fn change_percent(&self) -> Option<f64> {
        Some((self.counted? / self.committed? - 1.0) * 100.0)
    }
}

/// Every case that was counted, and behind them those that are committed alone.
fn compare(counts: &Counts, committed: &BTreeMap<String, f64>) -> Vec<Row> {
    let row = |(name, count): &(String, f64)| Row {
        name: name.clone(),
        counted: Some(*count),
        committed: committed.get(name).copied(),
    };
    let is_counted = |name: &String| counts.iter().any(|(counted, _)| counted == name);
    let gone = committed.iter().filter(|(name, _)| !is_counted(name));
    let gone = gone.map(|(name, count)| Row { name: name.clone(), counted: None, committed: Some(*count) });
    counts.iter().map(row).chain(gone).collect()
}

/// The rows as a Markdown table; with times, if there are any.
fn table(rows: &[Row], times: &BTreeMap<String, Time>) -> String {
    let mut text = String::from("| case | instructions | committed | change |");
    text.push_str(if times.is_empty() {
        "\n|---|--:|--:|--:|"
    } else {
        " median | fastest |\n|---|--:|--:|--:|--:|--:|"
    });
    for row in rows {
        let count = |count: Option<f64>| count.map_or("none".to_owned(), |count| format!("{count:.1}"));
        let change = row.change_percent().map_or("?".to_owned(), |change| format!("{change:+.1} %"));
        let _ =
            write!(text, "\n| {} | {} | {} | {change} |", row.name, count(row.counted), count(row.committed));
        if let Some(time) = times.get(&row.name) {
            let _ = write!(text, " {} | {} |", duration(time.median), duration(time.fastest));
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(counted: Option<f64>, committed: Option<f64>, expected: Verdict) {
        assert_eq!(Row { name: "a".to_owned(), counted, committed }.verdict(), expected);
    }

    #[test]
    fn more_than_the_tolerance_above_fails_and_below_does_not() {
        check(Some(1099.0), Some(1000.0), Verdict::Same);
        check(Some(1101.0), Some(1000.0), Verdict::Failed);
        check(Some(901.0), Some(1000.0), Verdict::Same);
        check(Some(899.0), Some(1000.0), Verdict::Fallen);
        check(Some(1.0), None, Verdict::Failed);
        check(None, Some(1.0), Verdict::Failed);
    }

    #[test]
    fn what_is_accepted_is_read_back() {
        let environment = BTreeMap::from([("rustc".to_owned(), "rustc 1 (\"x\")".to_owned())]);
        let counts = vec![("b/2".to_owned(), 12.3), ("a/1".to_owned(), 4000.0)];
        let committed = Committed::parse(&file(&environment, &counts)).expect("TOML");
        assert_eq!(committed.environment, environment);
        assert!(compare(&counts, &committed.counts).iter().all(|row| row.verdict() == Verdict::Same));
        assert!(Committed::parse("[environment]\n").is_err());
    }

    #[test]
    fn a_case_that_is_gone_is_seen() {
        let rows = compare(&vec![("a".to_owned(), 1.0)], &BTreeMap::from([("b".to_owned(), 2.0)]));
        assert!(rows.len() == 2 && rows.iter().all(|row| row.verdict() == Verdict::Failed));
    }

    #[test]
    fn sums_are_found() {
        assert_eq!(total("events: Ir\nfn=(1) x\n1 2\ntotals: 5010\n"), Some(5010.0));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn a_table_has_times_if_there_are_any() {
        let rows = compare(&vec![("a".to_owned(), 110.0)], &BTreeMap::from([("a".to_owned(), 100.0)]));
        let times = BTreeMap::from([("a".to_owned(), Time { median: 1500.0, fastest: 999.0 })]);
        assert!(table(&rows, &times).ends_with("| a | 110.0 | 100.0 | +10.0 % | 1.50 µs | 999.0 ns |\n"));
        assert!(table(&rows, &BTreeMap::new()).ends_with("| a | 110.0 | 100.0 | +10.0 % |\n"));
    }

    #[test]
    fn the_document_has_counts_and_the_times_that_there_are() {
        let times = BTreeMap::from([("a".to_owned(), Time { median: 1500.0, fastest: 999.0 })]);
        let counts = vec![("a".to_owned(), 110.0), ("b".to_owned(), 7.5)];
        let document = document(&BTreeMap::new(), &counts, &times);
        let timed = json!({"name": "a", "instructions": 110.0, "median_ns": 1500.0, "fastest_ns": 999.0});
        assert_eq!(document["cases"][0], timed);
        assert_eq!(document["cases"][1]["median_ns"], Value::Null);
    }

    #[test]
    fn another_environment_is_named() {
        let map = |value: &str| BTreeMap::from([("libc".to_owned(), value.to_owned())]);
        assert_eq!(
            differences(&map("glibc 2.36"), &map("glibc 2.41")),
            "libc: glibc 2.41 instead of glibc 2.36"
        );
        assert_eq!(differences(&map("glibc 2.36"), &map("glibc 2.36")), "");
    }
}
