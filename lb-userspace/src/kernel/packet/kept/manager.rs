// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors that the service manager keeps for the next agent (systemd.service(5), FileDescriptorStoreMax=; sd_notify(3), FDSTORE=1).
//! It knows nothing of what they stand for. Names have a prefix, by which ours are told from sockets that it may hand over, too.

use std::env;
use std::io;
use std::os::fd::BorrowedFd;

use sd_notify::NotifyState;

use super::Found;
use crate::kernel::bpf;

/// In front of our names.
const PREFIX: &str = "lb-packet-";

/// A service manager that keeps descriptors.
#[derive(Debug)]
pub struct Manager(());

impl Manager {
    /// The service manager, if it has handed something over, or says that it keeps descriptors (`FDSTORE` in the environment, since systemd
    /// 254); with what it has handed over.
    pub fn certain() -> Option<(Self, Found)> {
        let passed = match sd_notify::listen_fds_with_names() {
            Ok(passed) => passed,
            Err(error) => {
                tracing::warn!(%error, "what the service manager hands over cannot be understood");
                return None;
            }
        };
        let found: Found = passed
            .filter_map(|(fd, name)| Some((name.strip_prefix(PREFIX)?.to_owned(), bpf::take_over(fd))))
            .collect();
        let has_room = env::var("FDSTORE").is_ok_and(|max| max.parse().is_ok_and(|max: u32| max > 0));
        (!found.is_empty() || (has_room && is_there())).then_some((Self(()), found))
    }

    /// The service manager, if there is one: an older one does not say whether it keeps descriptors.
    pub fn perhaps() -> Option<Self> {
        is_there().then_some(Self(()))
    }

    /// See [`super::Keeper::keep`].
    pub fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.forget(name);
        let name = format!("{PREFIX}{name}");
        // Without FDPOLL=0 it would look at them, as at sockets, and let go of what seems to have ended.
        let states = [NotifyState::FdStore, NotifyState::FdName(&name), NotifyState::Custom("FDPOLL=0")];
        sd_notify::notify_with_fds(&states, &[fd])
    }

    /// See [`super::Keeper::forget`].
    pub fn forget(&self, name: &str) {
        let name = format!("{PREFIX}{name}");
        // A manager that is gone keeps nothing.
        let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
    }
}

fn is_there() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}
