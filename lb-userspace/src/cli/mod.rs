// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: one file a verb.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Config, LoadError, Loaded};
use crate::exit;

mod certificates;
mod check;
mod destination;
mod doctor;
mod explain;
mod hash_password;
mod output;
mod run;
mod sessions;
mod stop;

/// TCP and TLS load balancer.
#[derive(Debug, Parser)]
#[command(name = "lb", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Carries connections until SIGTERM or SIGINT.
    Run(RunArgs),
    /// Reports every problem of a configuration, and with --explain what it amounts to.
    Check(check::CheckArgs),
    /// Says what this machine and this process offer, tries every path, and tells what to change where something lacks.
    Doctor(doctor::DoctorArgs),
    /// Lists the open connections of path packet.
    Sessions(sessions::SessionsArgs),
    /// Ends the agent that runs on a configuration, and with --flush the flows that would go on without it.
    Stop(stop::StopArgs),
    /// Reads a password from standard input and prints its hash for `password-hash` in [[admin.user]].
    HashPassword,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// How a verb prints what it has to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Human,
    Json,
}

/// Runs the verb that the command line names.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => {
            // Nowhere left to complain if the terminal is gone.
            let _ = err.print();
            return if err.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match cli.verb {
        Verb::Run(args) => run::run(&args.config),
        Verb::Check(args) => check::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Sessions(args) => sessions::run(&args),
        Verb::Stop(args) => stop::run(&args),
        Verb::HashPassword => hash_password::run(),
    }
}

/// Loads a configuration. What keeps it from being used goes to stderr, and the result is the code to exit with.
fn load(path: &Path) -> Result<Loaded, ExitCode> {
    match Config::load(path) {
        Ok(loaded) => Ok(loaded),
        Err(LoadError::Problems(problems)) => {
            output::error_line(problems);
            Err(exit::CONFIG.into())
        }
        Err(LoadError::Unreadable { path, source }) => {
            output::error_line(format_args!("error: {}: {}", path.display(), unreadable(&source)));
            Err(exit::NO_INPUT.into())
        }
    }
}

/// What keeps a file from being read, and what to do about it.
fn unreadable(err: &std::io::Error) -> String {
    use std::io::ErrorKind::{InvalidData, IsADirectory, NotFound, PermissionDenied};
    match err.kind() {
        NotFound => "there is no such file: give the path of the configuration".into(),
        PermissionDenied => "permission denied: let the user that runs lb read it".into(),
        IsADirectory => "is a directory: give the path of the file inside".into(),
        InvalidData => "is not UTF-8 text: save it in that encoding".into(),
        _ => format!("cannot be read: {err}"),
    }
}

/// Prints what looks wrong in a configuration.
fn print_warnings(loaded: &Loaded) {
    for warning in &loaded.warnings {
        output::error_line(format_args!("warning: {warning}"));
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn verbs_and_flags() {
        let check = |line: &str, is_valid: bool| {
            assert_eq!(Cli::try_parse_from(line.split(' ')).is_ok(), is_valid, "{line}");
        };
        check("lb run --config lb.toml", true);
        check("lb run", false);
        check("lb check lb.toml", true);
        check("lb check --config lb.toml", true);
        check("lb check", false);
        check("lb check a.toml --config b.toml", false);
        check(
            "lb check lb.toml --explain --frontend https --sni a.example --alpn h2,http/1.1 --from 192.0.2.1",
            true,
        );
        check("lb check lb.toml --sni a.example", false);
        check("lb check lb.toml --explain --from a.example", false);
        check("lb check lb.toml --explain --sni 10.0.0.1", false);
        check("lb check lb.toml --format json", true);
        check("lb check lb.toml --format json --explain", false);
        check("lb check lb.toml --certificates", true);
        check("lb check lb.toml --certificates --explain", true);
        check("lb check lb.toml --certificates --format json", true);
        check("lb doctor", true);
        check("lb doctor --config lb.toml --format json", true);
        check("lb doctor lb.toml", false);
        check("lb sessions --config lb.toml", true);
        check("lb sessions --config lb.toml --user operator --format json", true);
        check("lb sessions", false);
        check("lb stop --config lb.toml", true);
        check("lb stop --flush --config lb.toml", true);
        check("lb stop --flush", false);
        check("lb hash-password", true);
        check("lb hash-password secret", false);
        check("lb", false);
    }

    #[test]
    fn unreadable_files_have_a_cure() {
        let check = |kind: std::io::ErrorKind, part: &str| {
            assert!(unreadable(&kind.into()).contains(part), "{kind}");
        };
        check(std::io::ErrorKind::NotFound, "give the path");
        check(std::io::ErrorKind::PermissionDenied, "let the user");
        check(std::io::ErrorKind::IsADirectory, "directory");
        check(std::io::ErrorKind::InvalidData, "UTF-8");
        check(std::io::ErrorKind::FileTooLarge, "cannot be read: file too large");
    }
}
