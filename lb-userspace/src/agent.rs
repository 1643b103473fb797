// SPDX-License-Identifier: MIT OR Apache-2.0
//! Start, run, drain, stop. The order of start-up: signals, descriptors, what needs privileges, log, threads, listening, "ready". A client
//! can connect as soon as a socket listens, so that whatever may fail comes before.

mod descriptors;
mod error;
mod listeners;
mod packet;
mod signals;
mod sockmap;

pub(crate) use descriptors::raise_limit;

use std::io;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout_at};

use crate::admin::{self, Surface};
use crate::backend::{Backend, slow_start};
use crate::coalescing::{self, Findings};
use crate::config::needs::{self, Descriptors};
use crate::config::{Config, Loaded, Mode};
use crate::exit;
use crate::frontend::{Frontend, Gate};
use crate::health::{self, Checks};
use crate::net::Listener;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::path::PipeBudget;
use crate::prelude::pending::PendingHellos;
use crate::privileges::{self, Capability};
use crate::resolve::{self, Resolution};
use crate::worker::{self, Entrance, Inbox, Order, Peer, Shared};

use listeners::Listeners;
use signals::Signals;

pub use error::StartError;

/// How long log lines may take at the end: first those of the connections that are cut to be queued, then all to be written.
const LOG_FLUSH_MAX: Duration = Duration::from_secs(2);

/// How long the first answers to the questions for servers' names may take, before clients are let in without them.
const NAMES_WAIT: Duration = Duration::from_secs(2);

/// How often a draining agent looks whether the last connection has gone.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// Runs the agent until it is told to stop.
pub fn run(loaded: Loaded) -> ExitCode {
    let agent = match Agent::start(loaded.config) {
        Ok(agent) => agent,
        Err(error) => {
            let code = error.exit_code();
            tracing::error!("{:#}", anyhow::Error::new(error));
            return code;
        }
    };
    agent.run_to_end();
    ExitCode::SUCCESS
}

/// The running agent, as the control thread has it.
struct Agent {
    runtime: Runtime,
    signals: Signals,
    control: Control,
}

/// What the control thread goes by.
struct Control {
    admin: Option<admin::Service>,
    /// Ends with the agent.
    resolution: Option<Resolution>,
    coalescing: coalescing::Watch,
    /// Health checks that may run at the same time.
    checks_max: u64,
    drain_timeout: Duration,
    shared: Shared,
    orders: watch::Sender<Order>,
    workers: Vec<Worker>,
    is_draining: Arc<AtomicBool>,
}

/// A worker's thread. It waits for its listening sockets, so that there is no socket before there are threads.
struct Worker {
    thread: JoinHandle<()>,
    entrances: mpsc::Sender<Vec<Entrance>>,
}

impl Agent {
    fn start(config: Config) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::system("the control thread's runtime"))?;
        // Signal handlers and the admin surface belong to it.
        let context = runtime.enter();
        let signals = Signals::install().map_err(StartError::system("signal handlers"))?;
        let descriptors = descriptors::divide(&config)?;
        let metrics = Arc::new(Metrics::new(&config));
        // Before there is another thread: each has privileges of its own, and takes those of the one that starts it.
        let inside = sockmap::load(&config, descriptors.connections);
        let away = packet::load(&config, descriptors.connections);
        let mut listeners = Listeners::bind(&config, &metrics, packet::narrowest(away.as_ref()))?;
        let is_loaded = matches!(away, Some(Ok(_)));
        give_up_privileges(if is_loaded { needs::kept_capabilities(&config) } else { &[] });
        let inside = sockmap::open(inside, &config, &metrics.process);
        let (away, orphans) = packet::open(away, &config, &metrics.process).unzip();
        let log = AccessLog::start(&config.log, metrics.process.log_lines_dropped.clone())
            .map_err(|source| StartError::Log { target: config.log.target.to_string(), source })?;
        let (peers, inboxes): (Vec<Peer>, Vec<Inbox>) =
            (0..config.global.workers.get()).map(|_| Peer::new()).unzip();
        let shared =
            Shared { packet: away, sockmap: inside, ..share(&config, &metrics, log, &descriptors, peers) };
        let (orders, _) = watch::channel(Order::Run);
        let workers = start_workers(&shared, &orders, inboxes)?;
        let is_draining = Arc::default();
        let resolution = resolve_names(&runtime, &config, &metrics, &shared, &descriptors);
        let findings = Arc::default();
        let admin =
            prepare_admin(&config, listeners.open_admin()?, &metrics, &shared, &is_draining, &findings)?;
        packet::adoption::adopt(orphans.unwrap_or_default(), &shared, &listeners.frontends);
        listeners.open_frontends()?;
        let listeners = listeners.frontends;
        open(&workers, &listeners, &shared)?;
        for backend in shared.backends.iter() {
            for error in backend.source_problems() {
                tracing::warn!(backend = %backend.settings.name, %error, "connections to servers fail until this is mended");
            }
        }
        for (frontend, listener) in &listeners {
            tracing::info!(frontend = %frontend.settings.name, address = %listener.address, "listening");
        }
        let frontends = listeners.iter().map(|(frontend, _)| Arc::clone(frontend));
        let coalescing = coalescing::Watch::new(frontends, &shared.backends, findings);
        drop(context);
        let drain_timeout = config.global.drain_timeout;
        let checks_max = descriptors.checks;
        let control = Control {
            admin,
            resolution,
            coalescing,
            checks_max,
            drain_timeout,
            shared,
            orders,
            workers,
            is_draining,
        };
        Ok(Self { runtime, signals, control })
    }

    fn run_to_end(self) {
        let Self { runtime, signals, control } = self;
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, control.run(signals));
        // Spawned checks and admin connections end with the runtime; blocking work must not hold up the end.
        drop(tasks);
        runtime.shutdown_timeout(Duration::ZERO);
    }
}

impl Control {
    /// What the control thread does: checks, the admin surface, signals; then drains and stops.
    async fn run(mut self, signals: Signals) {
        let _resolution = self.resolution.take();
        spawn_local(self.coalescing.clone().run());
        let checks = Checks::new(self.coalescing.certificates(), self.checks_max);
        spawn_local(health::run(Arc::clone(&self.shared.backends), checks));
        spawn_local(slow_start::run(Arc::clone(&self.shared.backends)));
        if let Some(admin) = self.admin.take() {
            spawn_local(admin.run());
        }
        let packet = self.shared.packet.as_ref().map(|packet| Arc::clone(&packet.kernel));
        spawn_local(signals::reopen_when_told(signals.hangup, self.shared.log.clone()));
        spawn_local(packet::dismiss_askers(packet.clone()));
        spawn_local(signals::be_last_when_told(signals.last, packet, Arc::clone(&self.is_draining)));
        self.obey(signals.terminate, signals.interrupt).await;
        // The lines of all connections that are left come in one burst.
        self.shared.log.hurry(LOG_FLUSH_MAX);
        let _ = self.orders.send(Order::Stop);
        for worker in self.workers.drain(..) {
            // A worker that panicked has aborted the process.
            let _ = worker.thread.join();
        }
        let lines = self.shared.log.flush(LOG_FLUSH_MAX);
        if lines > 0 {
            tracing::warn!(lines, "the access log's target is too slow or fails; the last lines are missing");
        }
    }

    async fn obey(&self, mut terminate: Signal, mut interrupt: Signal) {
        notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        self.is_draining.store(true, Ordering::Relaxed);
        notify(&[sd_notify::NotifyState::Stopping]);
        let _ = self.orders.send(Order::Drain);
        let timeout = self.drain_timeout;
        tracing::info!(
            connections = self.shared.gate.open(),
            ?timeout,
            "draining; a second signal ends at once"
        );
        tokio::select! {
            is_empty = self.drained(Instant::now() + timeout) => tracing::info!(is_empty, "drained"),
            _ = terminate.recv() => tracing::warn!(connections = self.shared.gate.open(), "ending at once"),
            _ = interrupt.recv() => tracing::warn!(connections = self.shared.gate.open(), "ending at once"),
        }
    }

    /// Waits for the last connection to end. `false`: the deadline passed first.
    async fn drained(&self, deadline: Instant) -> bool {
        let last_gone = async {
            loop {
                sleep(DRAIN_POLL).await;
                // Flows that go on without the agent are not waited for.
                let leaving = self.shared.packet.as_ref().map_or(0, |packet| packet.stay.flows());
                if self.shared.accepting.load(Ordering::Acquire) == 0 && self.shared.gate.open() <= leaving {
                    return;
                }
            }
        };
        timeout_at(deadline, last_gone).await.is_ok()
    }
}

/// Begins to resolve the names of servers, and waits for the first answers, but not for long: a name that has none is no reason not
/// to start.
fn resolve_names(
    runtime: &Runtime,
    config: &Config,
    metrics: &Metrics,
    shared: &Shared,
    descriptors: &Descriptors,
) -> Option<Resolution> {
    let queries = descriptors.queries;
    let mut resolution =
        resolve::start(config, queries, &shared.backends, &metrics.servers, &metrics.process)?;
    if !runtime.block_on(resolution.first(NAMES_WAIT)) {
        let names = resolution.names();
        tracing::warn!(names, waited = ?NAMES_WAIT, "not all names of servers have been resolved: starting without them");
    }
    Some(resolution)
}

/// Starts the workers' threads.
fn start_workers(
    shared: &Shared,
    orders: &watch::Sender<Order>,
    inboxes: Vec<Inbox>,
) -> Result<Vec<Worker>, StartError> {
    let start = |(index, inbox)| {
        let (shared, orders) = (shared.clone(), orders.subscribe());
        let (entrances, opened) = mpsc::channel();
        let body = move || {
            // An error is the end of the start: there is nothing to serve.
            let Ok(entrances) = opened.recv() else { return };
            if let Err(error) = worker::run(index, shared, entrances, inbox, orders) {
                tracing::error!(index, %error, "a worker cannot go on");
                std::process::exit(exit::OS_ERROR.into());
            }
        };
        let thread = std::thread::Builder::new().name(format!("lb-worker-{index}")).spawn(body)?;
        Ok(Worker { thread, entrances })
    };
    let workers = inboxes.into_iter().enumerate().map(start).collect::<io::Result<_>>();
    workers.map_err(StartError::system("a worker's thread"))
}

/// Gives the workers their descriptors of the listening sockets.
fn open(
    workers: &[Worker],
    listeners: &[(Arc<Frontend>, Listener)],
    shared: &Shared,
) -> Result<(), StartError> {
    // Counted here and not by the workers: a SIGTERM that comes before they run must wait for their clients, too.
    shared.accepting.store(workers.len() * listeners.len(), Ordering::Relaxed);
    for worker in workers {
        let entrance = |(frontend, listener): &(Arc<Frontend>, Listener)| {
            let (fd, local) = (listener.share()?, listener.local_address());
            Ok(Entrance { fd, local, frontend: Arc::clone(frontend) })
        };
        let entrances = listeners.iter().map(entrance).collect::<io::Result<_>>();
        // A worker that is gone has ended the process.
        let _ = worker.entrances.send(entrances.map_err(StartError::system("a worker's listeners"))?);
    }
    Ok(())
}

/// Puts the admin surface behind its listening socket, if there is one.
fn prepare_admin(
    config: &Config,
    listener: Option<TcpListener>,
    metrics: &Arc<Metrics>,
    shared: &Shared,
    is_draining: &Arc<AtomicBool>,
    findings: &Arc<Findings>,
) -> Result<Option<admin::Service>, StartError> {
    let Some((settings, listener)) = config.admin.as_ref().zip(listener) else { return Ok(None) };
    let surface = Surface {
        metrics: Arc::clone(metrics),
        backends: Arc::clone(&shared.backends),
        is_draining: Arc::clone(is_draining),
        packet: shared.packet.as_ref().map(|packet| Arc::clone(&packet.kernel)),
        findings: Arc::clone(findings),
    };
    admin::Service::new(listener, settings, surface)
        .map(Some)
        .map_err(StartError::system("the admin surface"))
}

/// From here on the agent may do what any user may, and so may whoever takes it over; and what these permit.
fn give_up_privileges(kept: &[Capability]) {
    if let Err(error) = privileges::give_up_but(kept) {
        tracing::warn!(%error, "privileges cannot be given up");
    }
}

/// Builds what every worker shares.
fn share(
    config: &Config,
    metrics: &Metrics,
    log: AccessLog,
    descriptors: &Descriptors,
    peers: Vec<Peer>,
) -> Shared {
    let backends = config.backends.iter().enumerate().map(|(index, settings)| {
        let servers = metrics.servers[index].clone();
        Arc::new(Backend::new(settings.clone(), metrics.backends[index].clone(), servers))
    });
    let wire_maxima = config.frontends.iter().map(|frontend| {
        let header_max = frontend.accept_proxy.as_ref().map_or(0, |accept| accept.header_max);
        match &frontend.mode {
            Mode::TlsPassthrough(tls) => tls.client_hello_wire_max.max(header_max),
            Mode::Tcp { .. } => header_max,
        }
    });
    Shared {
        backends: backends.collect(),
        gate: Arc::new(Gate::new(descriptors.connections)),
        pending_hellos: PendingHellos::new(
            config.global.pending_hello_memory,
            metrics.process.pending_hello_memory.clone(),
        ),
        packet: None,
        sockmap: None,
        pipes: PipeBudget::new(descriptors.pipes as usize, metrics.process.pipes.clone()),
        log,
        metrics: metrics.process.clone(),
        hello_wire_max: wire_maxima.max().unwrap_or(0),
        peers: peers.into(),
        accepting: Arc::default(),
    }
}

/// Tells the service manager, if there is one (sd_notify(3)).
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}
