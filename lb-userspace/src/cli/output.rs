// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines on stdout and stderr. Unlike `println!`, a reader that has gone away (`lb check … | head`) is no reason to panic.

use std::fmt::Display;
use std::io::Write;

/// A line on stdout.
pub(super) fn line(text: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A line on stderr.
pub(super) fn error_line(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
