// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exit codes, as sysexits(3) numbers them.

/// EX_USAGE: the command line is wrong.
pub(super) const USAGE: u8 = 64;

/// EX_DATAERR: standard input is wrong.
pub(super) const DATA_ERROR: u8 = 65;

/// EX_NOINPUT: the configuration cannot be read.
pub(super) const NO_INPUT: u8 = 66;

/// EX_SOFTWARE: a library failed for no reason of the user's.
pub(super) const SOFTWARE: u8 = 70;

/// EX_IOERR: a terminal or pipe failed.
pub(super) const IO_ERROR: u8 = 74;

/// EX_CONFIG: the configuration has errors.
pub(super) const CONFIG: u8 = 78;
