// SPDX-License-Identifier: MIT OR Apache-2.0
//! `lb check`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::certificates::{self, Look};
use super::destination::Question;
use super::{Format, explain, output};
use crate::config::{Config, LoadError, Loaded, Problem, parse_name};
use crate::exit;

/// Arguments of `lb check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration.
    #[arg(value_name = "FILE", required_unless_present = "config")]
    file: Option<PathBuf>,

    /// The configuration, as `lb run` takes it.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,

    /// How problems are printed: for people on stderr, or as JSON on stdout.
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Prints the configuration with all defaults, the capabilities and file descriptors it needs, and where a connection goes.
    #[arg(long, conflicts_with = "format")]
    explain: bool,

    /// Makes each check over TLS once, now, and warns where a certificate covers names that lead to another backend. Without this,
    /// nothing goes over the network.
    #[arg(long)]
    certificates: bool,

    /// Says where a connection to this frontend goes; without it, of each frontend.
    #[arg(long, value_name = "NAME", requires = "explain")]
    frontend: Option<String>,

    /// Says where a client goes that asks for this name.
    #[arg(long, value_name = "NAME", requires = "explain", value_parser = parse_name)]
    sni: Option<String>,

    /// Says where a client goes that offers these protocols, such as h2,http/1.1.
    #[arg(long, value_name = "LIST", requires = "explain", value_delimiter = ',')]
    alpn: Vec<String>,

    /// Says where a client with this address goes.
    #[arg(long, value_name = "IP", requires = "explain")]
    from: Option<IpAddr>,
}

/// Checks a configuration: 0 even with warnings, 78 with errors, 66 if it cannot be read.
pub(super) fn run(args: &CheckArgs) -> ExitCode {
    let path = args.file.as_deref().or(args.config.as_deref()).unwrap_or(Path::new(""));
    if args.format == Format::Json {
        return print_json(path, args.certificates);
    }
    let mut loaded = match super::load(path) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let notes = match look(&mut loaded, path, args.certificates) {
        Ok(notes) => notes,
        Err(code) => return code,
    };
    super::print_warnings(&loaded);
    for note in notes {
        output::error_line(format_args!("note: {note}"));
    }
    if !args.explain {
        output::line(format_args!("{}: {}", path.display(), summary(&loaded)));
        return ExitCode::SUCCESS;
    }
    let question = Question {
        frontend: args.frontend.as_deref(),
        name: args.sni.as_deref(),
        alpn: &args.alpn,
        from: args.from,
    };
    match explain::explain(&loaded.config, &question, &explain::System::here()) {
        Ok(text) => {
            output::line(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(text) => {
            output::error_line(format_args!("error: {text}"));
            exit::USAGE.into()
        }
    }
}

/// Looks at certificates, if that is wanted: adds to the warnings, and returns what is to be said beside.
fn look(loaded: &mut Loaded, path: &Path, is_wanted: bool) -> Result<Vec<String>, ExitCode> {
    if !is_wanted {
        return Ok(Vec::new());
    }
    match certificates::look(&loaded.config, &path.display().to_string()) {
        Ok(Look { warnings, notes }) => {
            loaded.warnings.extend(warnings);
            Ok(notes)
        }
        Err(error) => {
            output::error_line(format_args!("error: certificates cannot be looked at: {error}"));
            Err(exit::OS_ERROR.into())
        }
    }
}

/// What a configuration without errors holds, in a line.
fn summary(loaded: &Loaded) -> String {
    let Config { frontends, backends, .. } = &loaded.config;
    let servers = backends.iter().map(|backend| backend.servers.len()).sum();
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let counts =
        [count(frontends.len(), "frontend"), count(backends.len(), "backend"), count(servers, "server")];
    match loaded.warnings.len() {
        0 => format!("valid: {}", counts.join(", ")),
        warnings => format!("valid, {}: {}", count(warnings, "warning"), counts.join(", ")),
    }
}

/// Prints what is wrong as one JSON object, for editors and scripts.
fn print_json(path: &Path, with_certificates: bool) -> ExitCode {
    let (errors, warnings, notes) = match Config::load(path) {
        Ok(mut loaded) => match look(&mut loaded, path, with_certificates) {
            Ok(notes) => (Vec::new(), loaded.warnings, notes),
            Err(code) => return code,
        },
        Err(LoadError::Problems(problems)) => (problems.errors, problems.warnings, Vec::new()),
        Err(LoadError::Unreadable { path, source }) => {
            output::error_line(format_args!("error: {}: {}", path.display(), super::unreadable(&source)));
            return exit::NO_INPUT.into();
        }
    };
    let list = |problems: &[Problem]| problems.iter().map(problem_json).collect::<Value>();
    let mut report = json!({ "errors": list(&errors), "warnings": list(&warnings) });
    if with_certificates {
        report["notes"] = notes.into();
    }
    output::line(report);
    if errors.is_empty() { ExitCode::SUCCESS } else { exit::CONFIG.into() }
}

fn problem_json(problem: &Problem) -> Value {
    let Problem { place, key, found, text } = problem;
    json!({ "file": &*place.file, "line": place.line, "column": place.column, "key": key, "found": found, "text": text })
}
