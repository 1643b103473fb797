// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: one file a verb.

use std::process::ExitCode;

/// Runs the verb that the command line names.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
