// SPDX-License-Identifier: MIT OR Apache-2.0
//! The binary `lb`.

#[global_allocator]
static ALLOCATOR: lb::recycling::Recycling = lb::recycling::Recycling;

fn main() -> std::process::ExitCode {
    lb::cli::main()
}
