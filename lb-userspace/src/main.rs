// SPDX-License-Identifier: MIT OR Apache-2.0
//! The binary `lb`.

fn main() -> std::process::ExitCode {
    lb::cli::main()
}
