// SPDX-License-Identifier: MIT OR Apache-2.0
//! What programs say that were built with messages (`cargo xtask ebpf --log`): it goes to the agent's own log, with the target `lb_ebpf`.

use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::{LoadError, absent};

/// The map that holds messages.
const MESSAGES: &str = "AYA_LOGS";

/// Messages that nobody has read.
pub struct Messages(EbpfLogger<&'static dyn log::Log>);

impl Messages {
    /// Those of an object.
    ///
    /// # Errors
    /// [`LoadError::Damaged`]: it was built without messages.
    pub fn of(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        EbpfLogger::init(ebpf).map(Self).map_err(|_| absent("map", MESSAGES))
    }

    /// Logs what has come.
    pub fn log(&mut self) {
        self.0.flush();
    }
}

impl AsFd for Messages {
    /// Readable while there are messages.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
