// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exit codes, as sysexits(3) numbers them.

/// EX_USAGE: the command line is wrong.
pub(crate) const USAGE: u8 = 64;

/// EX_DATAERR: standard input is wrong.
pub(crate) const DATA_ERROR: u8 = 65;

/// EX_NOINPUT: the configuration cannot be read.
pub(crate) const NO_INPUT: u8 = 66;

/// EX_UNAVAILABLE: an address cannot be listened on.
pub(crate) const UNAVAILABLE: u8 = 69;

/// EX_SOFTWARE: a library failed for no reason of the user's.
pub(crate) const SOFTWARE: u8 = 70;

/// EX_OSERR: the system has no threads, descriptors or signal handlers left.
pub(crate) const OS_ERROR: u8 = 71;

/// EX_CANTCREAT: the log's target cannot be opened.
pub(crate) const CANNOT_CREATE: u8 = 73;

/// EX_IOERR: a terminal or pipe failed.
pub(crate) const IO_ERROR: u8 = 74;

/// EX_NOPERM: no permission to listen on an address.
pub(crate) const NO_PERMISSION: u8 = 77;

/// EX_CONFIG: the configuration has errors.
pub(crate) const CONFIG: u8 = 78;
