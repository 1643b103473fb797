// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any text is a configuration or has problems, each at a place of it; and what a configuration writes, it reads as the same.
#![no_main]

use std::io;
use std::path::Path;

use lb::config::{Config, Loaded, Problems};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match parse(text) {
        Ok(loaded) => {
            let written = loaded.config.to_toml();
            let again = parse(&written).unwrap_or_else(|problems| panic!("{problems}\n{written}"));
            assert_eq!(again.config, loaded.config, "{written}");
        }
        Err(problems) => {
            assert!(!problems.errors.is_empty());
            for problem in problems.errors.iter().chain(&problems.warnings) {
                let is_inside = problem.place.line <= text.lines().count() + 1;
                assert!(is_inside || problem.place.file != problems.file, "{problem}");
                assert!(!problem.to_string().chars().any(char::is_control), "{problem:?}");
            }
        }
    }
});

/// Every file that the text names has the same three lines.
fn parse(text: &str) -> Result<Loaded, Problems> {
    let read_file = |_: &Path| -> io::Result<String> { Ok("a.example\n*.b.example # comment\n~^c[0-9]\n".into()) };
    Config::parse(text, "fuzz.toml", &read_file)
}
