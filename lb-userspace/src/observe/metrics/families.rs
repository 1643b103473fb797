// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every metric family: its name, its labels, what it says, its buckets; and the handles of one frontend, backend or server.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use lb_common::reason::{CloseReason, HelloReason, PathKind, ProxyReason, ResolutionResult};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;

use super::paths::PathMetrics;
use super::process::ProcessCollector;
use super::register::{Counters, Description, Histograms, Kind, Labels, Registrar};
use super::server::ServerFamilies;
use super::{BackendMetrics, FrontendMetrics, ProcessMetrics};

const FRONTEND: &[&str] = &["frontend"];
const FRONTEND_REASON: &[&str] = &["frontend", "reason"];
const FRONTEND_PATH: &[&str] = &["frontend", "path"];
const RESULT: &[&str] = &["result"];
const BACKEND: &[&str] = &["backend"];

/// A ClientHello is there within a round trip or is being trickled: from 1 ms to past the default deadline of 5 s.
const HELLO_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// From a server in the same rack (0.1 ms) over the first SYN's retransmission (1 s, RFC 6298) to a long time-out.
const CONNECT_SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// From one request to a day of WebSocket.
const SESSION_SECONDS: &[f64] =
    &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];

/// Classical hellos are near 500 bytes, post-quantum ones near 1,800; the cap is 16 KiB.
const HELLO_BYTES: &[f64] =
    &[256.0, 512.0, 768.0, 1024.0, 1536.0, 2048.0, 3072.0, 4096.0, 8192.0, 16_384.0, 32_768.0];

/// Powers of four from 256 B to 4 GiB.
const SESSION_BYTES: &[f64] = &[
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
];

/// Every family, registered.
pub(super) struct Families {
    /// Metrics without labels.
    pub(super) process: ProcessMetrics,
    frontend: FrontendFamilies,
    hello: HelloFamilies,
    backend: BackendFamilies,
    /// Of servers.
    pub(super) server: ServerFamilies,
}

struct FrontendFamilies {
    connections: Counters,
    active: Family<Labels, Gauge>,
    received_bytes: Counters,
    sent_bytes: Counters,
    certificate_overlaps: Family<Labels, Gauge>,
    proxy_rejected: Counters,
    closed: Counters,
    path_flows: Counters,
    path_bytes: Counters,
    session_duration: Histograms,
    session_received: Histograms,
    session_sent: Histograms,
}

/// Labelled like [`FrontendFamilies`].
struct HelloFamilies {
    exceptions: Counters,
    ech: Counters,
    duration: Histograms,
    size: Histograms,
}

struct BackendFamilies {
    retries: Counters,
    redispatches: Counters,
    unavailable: Counters,
    source_ports_exhausted: Counters,
    queue_length: Family<Labels, Gauge>,
    queue_duration: Histograms,
    connect_duration: Histograms,
}

impl Families {
    /// Registers every family; those with labels are empty.
    pub(super) fn register(registrar: &mut Registrar) -> Self {
        Self {
            process: register_process(registrar),
            frontend: FrontendFamilies::register(registrar),
            hello: HelloFamilies::register(registrar),
            backend: BackendFamilies::register(registrar),
            server: ServerFamilies::register(registrar),
        }
    }

    /// The handles of one frontend.
    pub(super) fn frontend(&self, name: &Arc<str>) -> FrontendMetrics {
        let (families, hello) = (&self.frontend, &self.hello);
        let labels: Labels = vec![("frontend", name.clone())];
        let with = |key: &'static str, value: &str| vec![("frontend", name.clone()), (key, Arc::from(value))];
        let by_reason = |family: &Counters, reason: &str| family.get_or_create_owned(&with("reason", reason));
        let by_path = |family: &Counters, path: &str| family.get_or_create_owned(&with("path", path));
        FrontendMetrics {
            connections: families.connections.get_or_create_owned(&labels),
            active: families.active.get_or_create_owned(&labels),
            received_bytes: families.received_bytes.get_or_create_owned(&labels),
            sent_bytes: families.sent_bytes.get_or_create_owned(&labels),
            certificate_overlaps: families.certificate_overlaps.get_or_create_owned(&labels),
            hello_exceptions: HelloReason::ALL.map(|reason| by_reason(&hello.exceptions, reason.label())),
            hello_ech: hello.ech.get_or_create_owned(&labels),
            proxy_rejected: ProxyReason::ALL
                .map(|reason| by_reason(&families.proxy_rejected, reason.label())),
            closed: CloseReason::ALL.map(|reason| by_reason(&families.closed, reason.label())),
            path_flows: PathKind::ALL.map(|path| by_path(&families.path_flows, path.label())),
            path_bytes: PathKind::ALL.map(|path| by_path(&families.path_bytes, path.label())),
            hello_duration: hello.duration.get_or_create_owned(&labels),
            hello_size: hello.size.get_or_create_owned(&labels),
            session_duration: families.session_duration.get_or_create_owned(&labels),
            session_received: families.session_received.get_or_create_owned(&labels),
            session_sent: families.session_sent.get_or_create_owned(&labels),
        }
    }

    /// The handles of one backend.
    pub(super) fn backend(&self, name: &Arc<str>) -> BackendMetrics {
        let families = &self.backend;
        let labels: Labels = vec![("backend", name.clone())];
        BackendMetrics {
            retries: families.retries.get_or_create_owned(&labels),
            redispatches: families.redispatches.get_or_create_owned(&labels),
            unavailable: families.unavailable.get_or_create_owned(&labels),
            source_ports_exhausted: families.source_ports_exhausted.get_or_create_owned(&labels),
            queue_length: families.queue_length.get_or_create_owned(&labels),
            queue_duration: families.queue_duration.get_or_create_owned(&labels),
            connect_duration: families.connect_duration.get_or_create_owned(&labels),
        }
    }
}

fn register_process(to: &mut Registrar) -> ProcessMetrics {
    to.add(
        Description {
            name: "lb_build_info",
            kind: Kind::Gauge,
            labels: &["version"],
            help: "Always 1; says which version runs",
        },
        Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
    );
    let started: Gauge<f64, AtomicU64> =
        to.gauge("lb_process_start_time_seconds", &[], "When the agent started, since the Unix epoch");
    started.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    to.registry.register_collector(Box::new(ProcessCollector));
    ProcessMetrics {
        pending_hello_memory: to.gauge(
            "lb_pending_hello_memory_bytes",
            &[],
            "Memory that connections hold while their ClientHello is awaited, kernel receive buffers counted",
        ),
        pipes: to.gauge("lb_pipes", &[], "Pipes of path splice, idle and lent"),
        pipes_exhausted: to.counter(
            "lb_pipes_exhausted_total",
            &[],
            "Chunks that path splice copied because no pipe was free, or the user had no pages left for one",
        ),
        paths: PathMetrics::register(to),
        accept_pauses: to.counter(
            "lb_accept_pauses_total",
            &[],
            "Times that accepting paused for want of file descriptors or memory",
        ),
        log_lines_dropped: to.counter(
            "lb_log_lines_dropped_total",
            &[],
            "Lines of the access log that its target did not take, or not fast enough",
        ),
        worker_wakeups: to.counter("lb_worker_wakeups_total", &[], "Times that a worker woke up"),
        resolutions: {
            let family: Counters = to.counter(
                "lb_resolutions_total",
                RESULT,
                "Resolutions of servers' names, by what came of them",
            );
            ResolutionResult::ALL
                .map(|result| family.get_or_create_owned(&vec![("result", Arc::from(result.label()))]))
        },
    }
}

impl FrontendFamilies {
    fn register(to: &mut Registrar) -> Self {
        Self {
            connections: to.counter("lb_frontend_connections_total", FRONTEND, "Connections accepted"),
            active: to.gauge("lb_frontend_connections_active", FRONTEND, "Client connections open"),
            received_bytes: to.counter(
                "lb_frontend_received_bytes_total",
                FRONTEND,
                "Bytes from clients, delivered to servers",
            ),
            sent_bytes: to.counter(
                "lb_frontend_sent_bytes_total",
                FRONTEND,
                "Bytes from servers, delivered to clients",
            ),
            certificate_overlaps: to.gauge(
                "lb_frontend_certificate_overlaps",
                FRONTEND,
                "Names in certificates of servers that cover names of another backend, once for each pair of backends",
            ),
            closed: to.counter(
                "lb_connections_closed_total",
                FRONTEND_REASON,
                "Client connections that ended, by why",
            ),
            path_flows: to.counter(
                "lb_path_flows_total",
                FRONTEND_PATH,
                "Flows that a path carried bytes of; a flow that changes its path counts for each",
            ),
            path_bytes: to.counter(
                "lb_path_bytes_total",
                FRONTEND_PATH,
                "Bytes that a path carried, both directions",
            ),
            session_duration: to.histogram(
                "lb_session_duration_seconds",
                FRONTEND,
                "From accept to the end of a connection",
                SESSION_SECONDS,
            ),
            session_received: to.histogram(
                "lb_session_received_bytes",
                FRONTEND,
                "Bytes of a session from the client, delivered to the server",
                SESSION_BYTES,
            ),
            session_sent: to.histogram(
                "lb_session_sent_bytes",
                FRONTEND,
                "Bytes of a session from the server, delivered to the client",
                SESSION_BYTES,
            ),
            proxy_rejected: to.counter(
                "lb_proxy_header_rejected_total",
                FRONTEND_REASON,
                "Connections from accept-proxy-from without a valid PROXY header, by what was wrong",
            ),
        }
    }
}

impl HelloFamilies {
    fn register(to: &mut Registrar) -> Self {
        Self {
            exceptions: to.counter(
                "lb_client_hello_exceptions_total",
                FRONTEND_REASON,
                "Connections whose first bytes did not name a backend, whatever the policy made of them",
            ),
            ech: to.counter(
                "lb_client_hello_ech_total",
                FRONTEND,
                "ClientHellos with encrypted_client_hello, routed by their outer name",
            ),
            duration: to.histogram(
                "lb_client_hello_duration_seconds",
                FRONTEND,
                "From accept to a complete ClientHello",
                HELLO_SECONDS,
            ),
            size: to.histogram(
                "lb_client_hello_size_bytes",
                FRONTEND,
                "Size of ClientHellos on the wire, record headers included",
                HELLO_BYTES,
            ),
        }
    }
}

impl BackendFamilies {
    fn register(to: &mut Registrar) -> Self {
        Self {
            retries: to.counter("lb_backend_retries_total", BACKEND, "Tries to connect after the first"),
            redispatches: to.counter(
                "lb_backend_redispatches_total",
                BACKEND,
                "Tries to connect on another server than the first",
            ),
            unavailable: to.counter(
                "lb_backend_unavailable_total",
                BACKEND,
                "Connections that got no place on a server: none was up, or all were full and so was the queue or the time in it",
            ),
            source_ports_exhausted: to.counter(
                "lb_backend_source_ports_exhausted_total",
                BACKEND,
                "Connects for which a source address had no local port left",
            ),
            queue_length: to.gauge(
                "lb_backend_queue_length",
                BACKEND,
                "Connections that wait for a place on a server",
            ),
            queue_duration: to.histogram(
                "lb_backend_queue_duration_seconds",
                BACKEND,
                "How long connections waited for a place on a server, of those that had to, whatever came of it",
                CONNECT_SECONDS,
            ),
            connect_duration: to.histogram(
                "lb_backend_connect_duration_seconds",
                BACKEND,
                "Duration of connects that succeeded",
                CONNECT_SECONDS,
            ),
        }
    }
}
