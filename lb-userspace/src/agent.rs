// SPDX-License-Identifier: MIT OR Apache-2.0
//! Start, run, drain, stop. The order of start-up: descriptors, sockets, log, workers, checks, "ready".

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout_at};

use crate::admin::{self, Surface};
use crate::backend::Backend;
use crate::config::needs::Descriptors;
use crate::config::{Config, Loaded, Mode};
use crate::frontend::{Frontend, Gate};
use crate::health;
use crate::net::{ListenError, Listener};
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::path::PipeBudget;
use crate::prelude::pending::PendingHellos;
use crate::worker::{self, Entrance, Inbox, Order, Peer, Shared};

/// How long log lines may take to be written at the end.
const LOG_FLUSH_MAX: Duration = Duration::from_secs(2);

/// How often a draining agent looks whether the last connection has gone.
const DRAIN_POLL: Duration = Duration::from_millis(20);

// Exit codes of sysexits(3).
const EX_UNAVAILABLE: u8 = 69;
const EX_OSERR: u8 = 71;
const EX_CANTCREAT: u8 = 73;
const EX_NOPERM: u8 = 77;

/// Why the agent could not start. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A frontend's address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The admin surface's address.
    #[error("admin: cannot listen on {address}")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The log's target.
    #[error("log: cannot open the target {target}")]
    Log {
        /// As configured.
        target: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The limit of open files leaves no connection.
    #[error(
        "the limit of open files ({limit}) is too low: at least {needed} are needed for one connection: raise it (`ulimit -n`, LimitNOFILE=)"
    )]
    Descriptors {
        /// The limit.
        limit: u64,
        /// What one connection would need with everything else.
        needed: u64,
    },
    /// Threads, epoll instances, signal handlers.
    #[error("cannot start {what}")]
    System {
        /// What.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl StartError {
    /// The exit code for it (sysexits(3)).
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Listen(ListenError::NoPermission { .. }) => EX_NOPERM,
            Self::Admin { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => EX_NOPERM,
            Self::Listen(_) | Self::Admin { .. } => EX_UNAVAILABLE,
            Self::Log { .. } => EX_CANTCREAT,
            Self::Descriptors { .. } | Self::System { .. } => EX_OSERR,
        })
    }
}

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
    config: Config,
    metrics: Arc<Metrics>,
    shared: Shared,
    admin: Option<TcpListener>,
    orders: watch::Sender<Order>,
    workers: Vec<JoinHandle<()>>,
    is_draining: Arc<AtomicBool>,
}

impl Agent {
    fn start(config: Config) -> Result<Self, StartError> {
        let descriptors = divide_descriptors(&config)?;
        let metrics = Arc::new(Metrics::new(&config));
        let listeners = listen(&config, &metrics)?;
        let admin = config.admin.as_ref().map(|admin| bind_admin(admin.bind)).transpose()?;
        let log = AccessLog::start(&config.log, metrics.process.log_lines_dropped.clone())
            .map_err(|source| StartError::Log { target: config.log.target.to_string(), source })?;
        let (peers, inboxes): (Vec<Peer>, Vec<Inbox>) =
            (0..config.global.workers.get()).map(|_| Peer::new()).unzip();
        let shared = share(&config, &metrics, log, &descriptors, peers);
        let (orders, _) = watch::channel(Order::Run);
        let mut agent =
            Self { config, metrics, shared, admin, orders, workers: Vec::new(), is_draining: Arc::default() };
        agent.start_workers(&listeners, inboxes)?;
        for (frontend, listener) in &listeners {
            tracing::info!(frontend = %frontend.settings.name, address = %listener.address, "listening");
        }
        Ok(agent)
    }

    fn start_workers(
        &mut self,
        listeners: &[(Arc<Frontend>, Listener)],
        inboxes: Vec<Inbox>,
    ) -> Result<(), StartError> {
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let entrances = listeners
                .iter()
                .map(|(frontend, listener)| {
                    let (fd, local) = (listener.share()?, listener.local_address());
                    Ok(Entrance { fd, local, frontend: Arc::clone(frontend) })
                })
                .collect::<io::Result<Vec<_>>>()
                .map_err(|source| StartError::System { what: "a worker's listeners", source })?;
            let (shared, orders) = (self.shared.clone(), self.orders.subscribe());
            let worker = std::thread::Builder::new()
                .name(format!("lb-worker-{index}"))
                .spawn(move || {
                    if let Err(error) = worker::run(index, shared, entrances, inbox, orders) {
                        tracing::error!(index, %error, "a worker could not start");
                        std::process::exit(EX_OSERR.into());
                    }
                })
                .map_err(|source| StartError::System { what: "a worker thread", source })?;
            self.workers.push(worker);
        }
        Ok(())
    }

    fn run_to_end(self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "cannot start the control thread's runtime"),
        };
        let control = LocalSet::new();
        control.block_on(&runtime, self.control());
        // Spawned checks and admin connections end with the runtime; blocking work must not hold up the end.
        drop(control);
        runtime.shutdown_timeout(Duration::ZERO);
    }

    /// What the control thread does: checks, the admin surface, signals; then drains and stops.
    async fn control(mut self) {
        spawn_local(health::run(Arc::clone(&self.shared.backends)));
        if let (Some(listener), Some(settings)) = (self.admin.take(), self.config.admin.clone()) {
            spawn_local(serve_admin(listener, settings, self.surface()));
        }
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
        {
            (Ok(terminate), Ok(interrupt), Ok(hangup)) => self.obey(terminate, interrupt, hangup).await,
            _ => tracing::error!("cannot install signal handlers"),
        }
        let _ = self.orders.send(Order::Stop);
        for worker in self.workers.drain(..) {
            // A worker that panicked has aborted the process.
            let _ = worker.join();
        }
        self.shared.log.flush(LOG_FLUSH_MAX);
    }

    async fn obey(&self, mut terminate: Signal, mut interrupt: Signal, mut hangup: Signal) {
        let log = self.shared.log.clone();
        tokio::task::spawn_local(async move {
            while hangup.recv().await.is_some() {
                tracing::info!("re-opening the log");
                log.reopen();
            }
        });
        notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        self.is_draining.store(true, Ordering::Relaxed);
        notify(&[sd_notify::NotifyState::Stopping]);
        let _ = self.orders.send(Order::Drain);
        let timeout = self.config.global.drain_timeout;
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
            // Workers accept what the kernel had completed before they close their listeners: look after that.
            loop {
                sleep(DRAIN_POLL).await;
                if self.shared.gate.open() == 0 {
                    return;
                }
            }
        };
        timeout_at(deadline, last_gone).await.is_ok()
    }

    fn surface(&self) -> Surface {
        Surface {
            metrics: Arc::clone(&self.metrics),
            backends: Arc::clone(&self.shared.backends),
            is_draining: Arc::clone(&self.is_draining),
        }
    }
}

/// Raises the limit of open files and divides it.
fn divide_descriptors(config: &Config) -> Result<Descriptors, StartError> {
    let limit = raise_limit();
    let descriptors = Descriptors::divide(limit, config);
    if descriptors.connections == 0 {
        return Err(StartError::Descriptors { limit, needed: Descriptors::needed(1, config) });
    }
    if let Some(wished) = config.global.max_connections
        && wished.get() > descriptors.connections
    {
        let needed = Descriptors::needed(u64::from(wished.get()), config);
        tracing::warn!(
            limit,
            needed,
            "global.max-connections = {wished} needs more open files than the limit allows; at most {} are accepted",
            descriptors.connections
        );
    }
    Ok(descriptors)
}

/// Raises the limit of open files as far as it may be raised, and returns it.
fn raise_limit() -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // A refusal leaves the limit as it is, and it is read again below.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Opens every address of every frontend.
fn listen(config: &Config, metrics: &Metrics) -> Result<Vec<(Arc<Frontend>, Listener)>, StartError> {
    let mut listeners = Vec::new();
    for (settings, metrics) in config.frontends.iter().zip(&metrics.frontends) {
        let frontend = Arc::new(Frontend::new(settings.clone(), metrics.clone()));
        for &address in &settings.bind {
            let listener = Listener::open(settings, address, config.is_v6_only(address))?;
            listeners.push((Arc::clone(&frontend), listener));
        }
    }
    Ok(listeners)
}

fn bind_admin(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| StartError::Admin { address, source })
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
    let wire_maxima = config.frontends.iter().map(|frontend| match &frontend.mode {
        Mode::TlsPassthrough(tls) => tls.client_hello_wire_max,
        Mode::Tcp { .. } => 0,
    });
    Shared {
        backends: backends.collect(),
        gate: Arc::new(Gate::new(descriptors.connections)),
        pending_hellos: PendingHellos::new(
            config.global.pending_hello_memory,
            metrics.process.pending_hello_memory.clone(),
        ),
        pipes: PipeBudget::new(descriptors.pipes as usize, metrics.process.pipes.clone()),
        log,
        metrics: metrics.process.clone(),
        hello_wire_max: wire_maxima.max().unwrap_or(0),
        peers: peers.into(),
    }
}

async fn serve_admin(listener: TcpListener, settings: crate::config::Admin, surface: Surface) {
    if let Err(error) = admin::serve(listener, settings, surface).await {
        tracing::error!(%error, "the admin surface has ended");
    }
}

/// Tells the service manager, if there is one (sd_notify(3)).
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}
