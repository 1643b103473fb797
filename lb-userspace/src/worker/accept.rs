// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accepting: connections come in batches from a listening socket, and go to the worker that should serve them.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketFlags;
use tokio::sync::watch;

use super::{Accepted, Arrival, Order, Worker, serve};
use crate::frontend::{Frontend, Permit};
use crate::journal::Journal;
use crate::net::{self, LocalAddress, Socket};
use crate::runtime::{sleep, yield_now};

/// Connections that a worker accepts before it serves those it has.
const ACCEPT_BATCH: u32 = 16;

/// How long accepting pauses when the host is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts from one listening socket until told to drain.
pub(super) async fn accept_all(
    worker: Rc<Worker>,
    listener: Socket,
    (frontend, local): (Arc<Frontend>, LocalAddress),
    mut orders: watch::Receiver<Order>,
) {
    let accepting = async {
        loop {
            worker.shared.gate.room().await;
            frontend.gate.room().await;
            listener.readable().await;
            match accept_some(&worker, &listener, &frontend, local) {
                Batch::More => yield_now().await,
                Batch::Full => {}
                Batch::Empty => listener.clear_read_ready(),
                Batch::Shortage => {
                    worker.note_shortage();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = orders.wait_for(|order| *order != Order::Run) => {}
    }
    empty_backlog(&worker, &listener, &frontend, local).await;
    // Others have copies: closing this one would leave it in epoll, to be woken in a living worker's place.
    drop(listener.into_inner());
    worker.shared.accepting.fetch_sub(1, Ordering::Release);
}

/// Accepts the clients whose connection the kernel had completed when draining began: closing the socket would reset them. At a
/// limit they wait for room as before. New ones may come meanwhile, so that it ends after as many as the backlog can hold.
async fn empty_backlog(
    worker: &Rc<Worker>,
    listener: &Socket,
    frontend: &Arc<Frontend>,
    local: LocalAddress,
) {
    let mut batches_left = frontend.settings.backlog.get() / ACCEPT_BATCH + 1;
    while batches_left > 0 {
        worker.shared.gate.room().await;
        frontend.gate.room().await;
        match accept_some(worker, listener, frontend, local) {
            Batch::More => {
                batches_left -= 1;
                yield_now().await;
            }
            Batch::Full => {}
            Batch::Empty => return,
            Batch::Shortage => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// What is to be expected of the next accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batch {
    /// Another connection, perhaps.
    More,
    /// There is no room for one.
    Full,
    /// None for now.
    Empty,
    /// The host is out of descriptors or memory.
    Shortage,
}

fn accept_some(
    worker: &Rc<Worker>,
    listener: &Socket,
    frontend: &Arc<Frontend>,
    local: LocalAddress,
) -> Batch {
    for _ in 0..ACCEPT_BATCH {
        let Some(permit) = Permit::take(&worker.shared.gate, frontend) else { return Batch::Full };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, client) = match rustix::net::acceptfrom_with(listener.get_ref(), flags) {
            Ok((fd, Some(client))) => (fd, client),
            Err(Errno::WOULDBLOCK) => return Batch::Empty,
            Err(errno) if is_of_connection(errno) => continue,
            // Out of something, or forbidden by a security module: the connection is still there, and so would the error be.
            Err(_) => return Batch::Shortage,
            Ok((_, None)) => continue,
        };
        let Ok(client) = SocketAddr::try_from(client) else { continue };
        let (client, local) = (net::canonical(client), local.of(&fd));
        let accepted = Accepted {
            fd,
            journal: Box::new(Journal::new(permit, client, local, worker.shared.log.clone())),
        };
        let peer = worker.choose_peer();
        worker.shared.peers[peer].serving.fetch_add(1, Ordering::Relaxed);
        if peer == worker.index {
            serve(Rc::clone(worker), accepted);
        } else if worker.shared.peers[peer].inbox.send(Arrival::Accepted(accepted)).is_err() {
            // The other worker has stopped: so will this one.
            worker.shared.peers[peer].serving.fetch_sub(1, Ordering::Relaxed);
        }
    }
    Batch::More
}

/// Whether accept(2) reports the end of the connection that was first in the backlog: it is gone, the next one may be fine.
fn is_of_connection(errno: Errno) -> bool {
    let errors = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::NETDOWN,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
        Errno::TIMEDOUT,
    ];
    errors.contains(&errno)
}
