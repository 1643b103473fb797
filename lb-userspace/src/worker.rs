// SPDX-License-Identifier: MIT OR Apache-2.0
//! A worker: one thread with a runtime of its own that accepts connections and serves them to their end. A connection never
//! changes its worker after accept, so that its own state needs no lock. What it shares with others is atomic, or locked for a moment:
//! whose first bytes are awaited, the queue of a backend that is full, and the queue of log lines.

mod accept;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lb_common::reason::{CloseReason, FallbackReason, PacketObstacle};
use tokio::sync::{mpsc, watch};

use crate::backend::Backend;
use crate::exit;
use crate::frontend::{Frontend, Gate};
use crate::journal::{Journal, Kin};
use crate::kernel::Sockmap;
use crate::kernel::packet::Orphan;
use crate::net::{LocalAddress, Socket};
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::ProcessMetrics;
use crate::path::packet::{Port, Spliced};
use crate::path::sockmap::{Pool, Station, Watch};
use crate::path::{self, PipeBudget, Pipes, Tools, packet};
use crate::prelude::peek::HelloBuffers;
use crate::prelude::pending::PendingHellos;
use crate::recycling::keep_blocks;
use crate::runtime::{self, spawn, yield_now};
use crate::session;

/// How often a shortage is worth a message.
const SHORTAGE_MESSAGE_EVERY: Duration = Duration::from_secs(60);

/// What every worker shares.
#[derive(Clone, Debug)]
pub struct Shared {
    /// By [`crate::config::BackendId`].
    pub backends: Arc<[Arc<Backend>]>,
    /// The process's `max-connections`.
    pub gate: Arc<Gate>,
    /// The memory for connections without a ClientHello.
    pub pending_hellos: PendingHellos,
    /// The process's pipes.
    pub pipes: Arc<PipeBudget>,
    /// Path `packet`, where it is available.
    pub packet: Option<packet::Common>,
    /// The kernel's side of path `sockmap`, where it is available, and the memory for its flows.
    pub sockmap: Option<(Arc<Sockmap>, Arc<Pool>)>,
    /// The sink of log lines.
    pub log: AccessLog,
    /// Counters of the process.
    pub metrics: ProcessMetrics,
    /// The largest `client-hello-wire-max` or `proxy-header-max`, in bytes.
    pub hello_wire_max: usize,
    /// Where each worker takes connections that others accepted.
    pub peers: Arc<[Peer]>,
    /// Listening sockets, by worker, from which connections still come.
    pub accepting: Arc<AtomicUsize>,
}

/// A worker as the others see it.
#[derive(Debug)]
pub struct Peer {
    /// Connections it serves, those on their way to it included.
    serving: AtomicU32,
    inbox: mpsc::UnboundedSender<Arrival>,
}

impl Peer {
    /// A worker to be, and where it will find what others send it.
    pub fn new() -> (Self, Inbox) {
        let (inbox, receiver) = mpsc::unbounded_channel();
        (Self { serving: AtomicU32::new(0), inbox }, Inbox(receiver))
    }
}

/// Connections that other workers accepted for this one, and flows that another agent has left.
#[derive(Debug)]
pub struct Inbox(mpsc::UnboundedReceiver<Arrival>);

/// What a worker finds in its inbox.
#[derive(Debug)]
enum Arrival {
    Accepted(Accepted),
    Adopted(Box<Adopted>),
}

/// A flow of path `packet` that another agent has left, on its way to the worker that will watch it.
#[derive(Debug)]
pub struct Adopted {
    /// Its place.
    pub orphan: Orphan,
    /// Its port towards the server.
    pub port: Option<Port>,
    /// What it belongs to.
    pub kin: Kin,
}

/// A connection on its way to the worker that will serve it. Its journal is written, whatever happens to it from here on.
#[derive(Debug)]
struct Accepted {
    fd: OwnedFd,
    journal: Box<Journal>,
}

/// One shared listening socket and whose connections it brings.
#[derive(Debug)]
pub struct Entrance {
    /// This worker's descriptor of the socket.
    pub fd: OwnedFd,
    /// How connections learn their local address.
    pub local: LocalAddress,
    /// The frontend.
    pub frontend: Arc<Frontend>,
}

/// What a worker is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Accept and serve.
    Run,
    /// Serve what is there, accept no more.
    Drain,
    /// Cut what is left.
    Stop,
}

/// A worker's own view while it runs.
#[derive(Debug)]
pub struct Worker {
    /// By [`crate::config::BackendId`].
    pub backends: Arc<[Arc<Backend>]>,
    /// The memory for connections without a ClientHello.
    pub pending_hellos: PendingHellos,
    /// Buffers for peeking.
    pub hello_buffers: HelloBuffers,
    /// Buffers and pipes for carrying.
    pub tools: Tools,
    /// Path `packet`, where it is available.
    pub packet: Option<Rc<packet::Station>>,
    /// Path `sockmap`, where it is available.
    pub station: Option<Rc<Station>>,
    shared: Shared,
    index: usize,
    warned_at: Cell<Option<Instant>>,
}

/// Runs a worker on the calling thread until it is told to stop.
///
/// # Errors
/// The kernel refuses an epoll instance, a registration or a wait.
pub fn run(
    index: usize,
    shared: Shared,
    entrances: Vec<Entrance>,
    inbox: Inbox,
    mut orders: watch::Receiver<Order>,
) -> io::Result<()> {
    keep_blocks();
    let wakeups = shared.metrics.worker_wakeups.clone();
    let serving = async move {
        let worker = Rc::new(Worker::new(index, shared)?);
        for entrance in entrances {
            // Registered before spawning, so that a refusal ends the start and not just a task.
            let listener = Socket::listener(entrance.fd)?;
            let gate = (entrance.frontend, entrance.local);
            spawn(accept::accept_all(Rc::clone(&worker), listener, gate, orders.clone()));
        }
        if let Some(station) = &worker.station {
            spawn(hear_ends(Rc::clone(&station.watch)));
        }
        spawn(serve_inbox(worker, inbox));
        // An error is the end of the thread that gives orders: nothing is left to wait for.
        let _ = orders.wait_for(|order| *order == Order::Stop).await;
        Ok(())
    };
    runtime::block_on(serving, || {
        wakeups.inc();
    })?
}

impl Shared {
    /// Gives a flow that another agent has left to the worker that has least to do.
    pub fn adopt(&self, adopted: Adopted) {
        let least = self.peers.iter().min_by_key(|peer| peer.serving.load(Ordering::Relaxed));
        let Some(peer) = least else { return };
        peer.serving.fetch_add(1, Ordering::Relaxed);
        // A worker that is gone has ended the process.
        let _ = peer.inbox.send(Arrival::Adopted(Box::new(adopted)));
    }
}

impl Worker {
    fn new(index: usize, shared: Shared) -> io::Result<Self> {
        Ok(Self {
            packet: packet_station(&shared)?,
            station: station(&shared)?,
            backends: Arc::clone(&shared.backends),
            pending_hellos: shared.pending_hellos.clone(),
            hello_buffers: HelloBuffers::new(shared.hello_wire_max),
            tools: Tools {
                pipes: Pipes::new(Arc::clone(&shared.pipes), shared.peers.len()),
                buffer: RefCell::new(vec![0; path::COPY_BUFFER].into_boxed_slice()),
                pipes_exhausted: shared.metrics.pipes_exhausted.clone(),
            },
            index,
            shared,
            warned_at: Cell::new(None),
        })
    }

    /// Counts a flow that path `packet` did not take.
    pub fn note_refusal(&self, obstacle: PacketObstacle) {
        self.shared.metrics.paths.packet.note(obstacle);
    }

    /// Counts a flow that a path inside the kernel did not take.
    pub fn note_fallback(&self, reason: FallbackReason) {
        self.shared.metrics.paths.fallbacks[reason.index()].inc();
    }

    /// Counts a pause of accepting, and tells the operator once in a while.
    fn note_shortage(&self) {
        self.shared.metrics.accept_pauses.inc();
        if self.warned_at.get().is_none_or(|at| at.elapsed() >= SHORTAGE_MESSAGE_EVERY) {
            self.warned_at.set(Some(Instant::now()));
            tracing::warn!(
                open = self.shared.gate.open(),
                "no file descriptors, epoll watches or memory left: accepting pauses, clients wait in the kernel's backlog"
            );
        }
    }

    /// A connection that this worker served has ended.
    pub fn note_end(&self) {
        let was_last = self.shared.peers[self.index].serving.fetch_sub(1, Ordering::Relaxed) == 1;
        if was_last {
            self.tools.pipes.rest();
        }
    }

    /// The worker that should serve one more connection: this one, unless it has clearly more than the one that has least.
    fn choose_peer(&self) -> usize {
        let serving = |index: usize| self.shared.peers[index].serving.load(Ordering::Relaxed);
        let mine = serving(self.index);
        if mine == 0 {
            return self.index;
        }
        let least = (0..self.shared.peers.len()).min_by_key(|&index| serving(index)).unwrap_or(self.index);
        if mine > serving(least) + 1 + serving(least) / 4 { least } else { self.index }
    }
}

/// This worker's part of path `packet`.
fn packet_station(shared: &Shared) -> io::Result<Option<Rc<packet::Station>>> {
    let Some(common) = &shared.packet else { return Ok(None) };
    packet::Station::new(common.clone()).map(|station| Some(Rc::new(station))).map_err(io::Error::other)
}

/// This worker's part of path `sockmap`.
fn station(shared: &Shared) -> io::Result<Option<Rc<Station>>> {
    let Some((kernel, pool)) = &shared.sockmap else { return Ok(None) };
    Ok(Some(Rc::new(Station {
        kernel: Arc::clone(kernel),
        maps: RefCell::new(kernel.maps().map_err(io::Error::other)?),
        watch: Watch::new()?,
        pool: Arc::clone(pool),
        pauses: shared.metrics.paths.sockmap_pauses.clone(),
        withdrawals: shared.metrics.paths.sockmap_withdrawals.clone(),
    })))
}

/// Tells flows inside the kernel of their ends. Without it none would end.
async fn hear_ends(watch: Rc<Watch>) {
    if let Err(error) = watch.serve().await {
        tracing::error!(%error, "a worker cannot hear the ends of connections");
        std::process::exit(exit::OS_ERROR.into());
    }
}

async fn serve_inbox(worker: Rc<Worker>, mut inbox: Inbox) {
    while let Some(arrival) = inbox.0.recv().await {
        match arrival {
            Arrival::Accepted(accepted) => serve(Rc::clone(&worker), accepted),
            Arrival::Adopted(adopted) => adopt(&worker, *adopted),
        }
        yield_now().await;
    }
}

/// Watches a flow that another agent has left, in a task of its own.
fn adopt(worker: &Rc<Worker>, Adopted { orphan, port, kin }: Adopted) {
    let Some(station) = &worker.packet else { return };
    // From here on it counts for itself.
    station.common.stay.note_taken_up();
    session::resume(worker, Spliced::adopt(station, orphan, port), kin);
}

/// Serves a connection in a task of its own.
fn serve(worker: Rc<Worker>, Accepted { fd, journal }: Accepted) {
    match Socket::connection(fd) {
        Ok(client) => {
            spawn(session::run(worker, client, journal));
        }
        // fs.epoll.max_user_watches, or no memory.
        Err(_) => {
            worker.note_shortage();
            journal.finish(CloseReason::Resources);
            worker.note_end();
        }
    }
}
