// SPDX-License-Identifier: MIT OR Apache-2.0
//! `lb doctor`: what this machine and this process have of what `lb run` can use, and what to change where something lacks.

mod findings;
mod machine;
mod paths;
mod render;
mod surroundings;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use self::findings::Wishes;
use self::machine::Machine;
use self::surroundings::Surroundings;
use super::output;
use crate::exit;

/// Arguments of `lb doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The configuration whose wishes count. Without one, every path counts as wished for.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How it is printed: for people, or as JSON.
    #[arg(long, value_enum, default_value_t)]
    format: super::Format,
}

/// Examines everything, as this user and with these privileges: 0 if all that is wished for is available, or else 69.
pub(super) fn run(args: &DoctorArgs) -> ExitCode {
    let loaded = match args.config.as_deref().map(super::load).transpose() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let machine = Machine::here();
    let config = loaded.as_ref().map(|loaded| &loaded.config);
    let wishes = Wishes::new(config, &machine);
    let surroundings = Surroundings::here(config);
    // The last thing that needs privileges; they are given up in there.
    let paths = paths::examine(wishes.flows, wishes.overdraft);
    let findings = findings::all(&machine, &wishes, &paths, &surroundings);
    match args.format {
        super::Format::Human => output::line(render::text(&findings, args.config.as_deref())),
        super::Format::Json => output::line(render::json(&findings)),
    }
    if findings::is_complete(&findings) { ExitCode::SUCCESS } else { exit::UNAVAILABLE.into() }
}

#[cfg(test)]
mod tests;
