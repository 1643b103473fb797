// SPDX-License-Identifier: MIT OR Apache-2.0
//! `lb run`.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

use super::output;
use crate::config::LogLevel;

/// Overrides `log.level`; directives as the tracing-subscriber crate documents for `EnvFilter`.
const FILTER_VARIABLE: &str = "LB_LOG";

/// Loads the configuration and runs the agent on it.
pub(super) fn run(config: &Path) -> ExitCode {
    let loaded = match super::load(config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    super::print_warnings(&loaded);
    start_tracing(loaded.config.log.level);
    crate::agent::run(loaded)
}

/// Sends the agent's own messages to stderr.
fn start_tracing(level: LogLevel) {
    let (filter, problem) = filter(level, std::env::var(FILTER_VARIABLE).ok().as_deref());
    if let Some(problem) = problem {
        output::error_line(format_args!("warning: {problem}"));
    }
    let no_color = std::env::var_os("NO_COLOR");
    let is_coloured = is_coloured(std::io::stderr().is_terminal(), no_color.as_deref());
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_coloured);
    if subscriber.try_init().is_err() {
        output::error_line("warning: messages go where they went before: tracing is set up already");
    }
}

/// The filter in the environment if there is a valid one, or else the configuration's level.
fn filter(level: LogLevel, variable: Option<&str>) -> (EnvFilter, Option<String>) {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    match variable.filter(|text| !text.is_empty()).map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(err)) => (
            EnvFilter::new(level),
            Some(format!("{FILTER_VARIABLE} is ignored, log.level = \"{level}\" holds: {err}")),
        ),
        None => (EnvFilter::new(level), None),
    }
}

/// Colours are for terminals whose user did not set NO_COLOR to something (no-color.org).
fn is_coloured(is_terminal: bool, no_color: Option<&std::ffi::OsStr>) -> bool {
    is_terminal && no_color.is_none_or(std::ffi::OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_overrides_the_level() {
        let check = |variable: Option<&str>, expected: &str, has_problem: bool| {
            let (filter, problem) = filter(LogLevel::Info, variable);
            assert_eq!(
                (filter.to_string().as_str(), problem.is_some()),
                (expected, has_problem),
                "{variable:?}"
            );
        };
        check(None, "info", false);
        check(Some(""), "info", false);
        check(Some("debug"), "debug", false);
        check(Some("lb=trace"), "lb=trace", false);
        check(Some("lb=loud"), "info", true);
    }

    #[test]
    fn colours_are_for_terminals() {
        let check = |is_terminal, no_color: Option<&str>, expected| {
            assert_eq!(is_coloured(is_terminal, no_color.map(std::ffi::OsStr::new)), expected);
        };
        check(true, None, true);
        check(true, Some(""), true);
        check(true, Some("1"), false);
        check(false, None, false);
    }
}
