// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table in ARCHITECTURE.md of what works on which kernel, from a run.

use std::fs;

use anyhow::{Context as _, Result, bail};

use super::kernel::{KERNELS, Kernel};
use super::results::Results;
use crate::repository::root;

/// Where it is.
const DOCUMENT: &str = "ARCHITECTURE.md";

/// What stands before and behind it.
pub const MARKERS: [&str; 2] = ["<!-- vm:begin -->", "<!-- vm:end -->"];

/// The paths whose tests and bytes are counted.
const PATHS: [&str; 4] = ["packet", "sockmap", "splice", "copy"];

/// The test that a kernel's first column is about.
const SELF_TEST: &str = "this_kernel_passes_the_self_test";

/// One kernel's row.
pub fn row(kernel: &Kernel, version: &str, results: &Results) -> String {
    let has_passed = results.passed.iter().any(|name| name.contains(SELF_TEST));
    let mut cells =
        vec![format!("{} ({version})", kernel.label), if has_passed { "passes" } else { "fails" }.to_owned()];
    for path in PATHS {
        let tests = results.passed.iter().filter(|name| path_of(name) == Some(path)).count();
        let mebibytes = results.carried.get(path).unwrap_or(&0) >> 20;
        cells.push(format!("{tests} tests, {mebibytes} MiB"));
    }
    let said = |(name, said): (&String, &String)| format!("`{name}`: {said}");
    cells.push(results.programs.iter().map(said).collect::<Vec<_>>().join("; "));
    format!("| {} |", cells.join(" | "))
}

/// Writes rows into the document; those of kernels that did not run stay as they are.
///
/// # Errors
/// The document cannot be read or written, or has no place for it.
pub fn write(rows: &[String]) -> Result<()> {
    let file = root().join(DOCUMENT);
    let text = fs::read_to_string(&file).context(DOCUMENT)?;
    fs::write(&file, replaced(&text, rows)?).context(DOCUMENT)
}

/// The document with other rows.
fn replaced(text: &str, rows: &[String]) -> Result<String> {
    let [begin, end] = MARKERS;
    let Some((before, rest)) = text.split_once(begin) else { bail!("{DOCUMENT} has no {begin}") };
    let Some((old, after)) = rest.split_once(end) else { bail!("{DOCUMENT} has no {end}") };
    let heads =
        ["kernel", "self-test of `sockmap`", "`packet`", "`sockmap`", "`splice`", "`copy`", "verifier"];
    let head = format!("| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
    let of = |kernel: &Kernel| {
        let begin = format!("| {} ", kernel.label);
        rows.iter().map(String::as_str).chain(old.lines()).find(|row| row.starts_with(&begin))
    };
    let rows: Vec<&str> = KERNELS.iter().filter_map(of).collect();
    Ok(format!("{before}{begin}\n{head}\n{}\n{end}{after}", rows.join("\n")))
}

/// The path that a test is about, by its module.
fn path_of(name: &str) -> Option<&'static str> {
    let (_, name) = name.split_once(' ')?;
    let is_about = |path: &&str| name.starts_with(*path) || name.split("::").any(|module| module == *path);
    PATHS.into_iter().find(is_about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_about_the_path_in_its_name() {
        for (name, expected) in [
            ("e2e sockmap::messages_wake_nobody", Some("sockmap")),
            ("e2e sockmap_bounds::one_byte_segments", Some("sockmap")),
            ("unit kernel::packet::tests::life::a_quiescing_flow_announces_no_room", Some("packet")),
            ("e2e transfer::copy::single_bytes", Some("copy")),
            ("e2e transfer::auto::single_bytes", None),
            ("unit kernel::tests::a_truncated_object_is_damaged", None),
        ] {
            assert_eq!(path_of(name), expected, "{name}");
        }
    }

    #[test]
    fn only_rows_of_kernels_that_ran_are_replaced() {
        let text = format!("before\n{}\n| 6.12 (a) |\n| 6.1 (a) |\n{}\nbehind\n", MARKERS[0], MARKERS[1]);
        let new = replaced(&text, &["| 6.1 (b) |".to_owned()]).expect("markers");
        assert!(new.starts_with("before\n"), "{new}");
        assert!(new.ends_with("---|\n| 6.1 (b) |\n| 6.12 (a) |\n<!-- vm:end -->\nbehind\n"), "{new}");
        assert!(replaced("no markers", &[]).is_err());
    }
}
