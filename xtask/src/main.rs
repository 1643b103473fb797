// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask <verb>`: the chores of this repository, one file a verb. Nothing needs to be installed but Rust and a C compiler;
//! `cargo xtask setup` brings the rest.
#![forbid(unsafe_code)]

mod bench;
mod ci;
mod demo;
mod ebpf;
mod lint;
mod micro;
mod report;
mod repository;
mod run;
mod setup;
mod soak;
mod test;
#[cfg(test)]
mod tidy;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The chores of this repository.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Builds lb and runs it in front of the demo servers, or with a configuration of your own
    Run(run::Args),
    /// Runs the demo servers alone
    Demo,
    /// Installs what the tests need
    Setup(setup::Args),
    /// Builds the BPF object that the agent embeds
    Ebpf(ebpf::Args),
    /// Checks formatting and lints
    Lint,
    /// Runs all tests: unit, end to end, fuzz
    Test(test::Args),
    /// Runs the end-to-end tests with sizes and durations that find rare faults
    Soak(soak::Args),
    /// Measures lb beside its peers
    Bench(bench::Args),
    /// Runs the tests that depend on the kernel on other kernels, in virtual machines
    Vm(vm::Args),
    /// Runs what must pass before a change lands
    Ci,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Run(args) => run::run(&args),
        Verb::Demo => demo::run(),
        Verb::Setup(args) => setup::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Ebpf(args) => ebpf::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Lint => lint::run().map(|()| ExitCode::SUCCESS),
        Verb::Test(args) => test::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Soak(args) => soak::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Bench(args) => bench::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Vm(args) => vm::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Ci => ci::run().map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
