// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs of path `packet` are at interfaces that come after the start, too, and nothing stays of those that go.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::kernel::packet::Interfaces;
use crate::net::routes::{LinkChange, LinkChanges};

/// How long after an interface could not be taken it is tried again, if nothing else happens.
const RETRY: Duration = Duration::from_secs(2);

/// Takes interfaces that come, and lets go of those that are gone, on a thread of its own: what comes in before the programs are there, TCP answers with
/// a reset, for it knows nothing of flows that have left their sockets.
///
/// # Errors
/// The process has no descriptors left, or no thread.
pub(super) fn follow_links(interfaces: Arc<Interfaces>) -> io::Result<()> {
    let changes = LinkChanges::open()?;
    let follow = move || {
        // Some may have come before anybody listened.
        interfaces.look();
        let Err(error) = follow(&interfaces, &changes);
        tracing::warn!(%error, "path packet hears of no more interfaces that come later");
    };
    thread::Builder::new().name("lb-links".into()).spawn(follow).map(drop)
}

/// Returns only if the kernel tells of no more changes.
fn follow(interfaces: &Interfaces, changes: &LinkChanges) -> io::Result<std::convert::Infallible> {
    loop {
        // Nobody tells when kernel and process have again what they lacked.
        let patience = interfaces.lacks().then_some(RETRY);
        match changes.next(patience)? {
            Some(LinkChange::There(number)) => {
                interfaces.take(number);
            }
            Some(LinkChange::Gone(number)) => interfaces.let_go(number),
            None => interfaces.look(),
        }
    }
}
