// SPDX-License-Identifier: MIT OR Apache-2.0
//! The surface as a whole, over loopback.

use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use argon2::password_hash::{PasswordHasher, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::*;
use crate::config::{AdminUser, Config, Global, Log, LogFormat, LogLevel, LogTarget, Resolver};

/// A user whose password is hashed with the least that argon2 allows, so that tests do not take long.
pub(super) fn user(name: &str, password: &str) -> AdminUser {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    let salt = SaltString::encode_b64(b"a salt of tests").unwrap();
    let hash = argon2.hash_password(password.as_bytes(), &salt).unwrap();
    AdminUser { name: name.to_owned(), password_hash: hash.to_string() }
}

/// A surface that is being served until it is dropped.
struct Site {
    address: std::net::SocketAddr,
    is_draining: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    task: tokio::task::JoinHandle<()>,
}

impl Site {
    fn start(users: Vec<AdminUser>, limits: Limits) -> Self {
        let listener = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let surface = surface();
        let (metrics, is_draining) = (surface.metrics.clone(), surface.is_draining.clone());
        let settings = Admin { bind: address, users };
        let task = tokio::spawn(Service::within(limits, listener, &settings, surface).unwrap().run());
        Self { address, is_draining, metrics, task }
    }

    /// A connection from 127.0.0.`host`.
    async fn connect_from(&self, host: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// The public pages, and a scrape by `admin` with the password `s3cret`.
    async fn check_all(&self) {
        self.check("GET /healthz", "", "200 OK", &[]).await;
        self.check("GET /readyz", "", "200 OK", &[]).await;
        let credentials = "Authorization: Basic YWRtaW46czNjcmV0\r\n";
        self.check("GET /metrics", credentials, "200 OK", &["lb_build_info"]).await;
    }

    /// Sends bytes on a connection of their own and reads until the server closes it.
    async fn exchange(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        // A server that refuses early may reset; what it said before counts.
        let _ = stream.read_to_string(&mut response).await;
        response
    }

    async fn request(&self, line: &str, headers: &str) -> String {
        self.exchange(&format!("{line} HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n{headers}\r\n")).await
    }

    async fn check(&self, line: &str, headers: &str, status: &str, parts: &[&str]) {
        let response = self.request(line, headers).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{line}: {response}");
        for part in ["x-content-type-options: nosniff\r\n", "cache-control: no-store\r\n"].iter().chain(parts)
        {
            assert!(response.contains(part), "{line}: {part} is missing in {response}");
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn every_page_is_where_it_should_be() {
    let site = Site::start(Vec::new(), LIMITS);
    site.check("GET /healthz", "", "200 OK", &["text/plain; charset=utf-8", "\r\n\r\nok\n"]).await;
    site.check("GET /readyz", "", "200 OK", &["\r\n\r\nready\n"]).await;
    site.check("GET /", "", "200 OK", &["/metrics", "/healthz", "/readyz"]).await;
    site.check("GET /nothing", "", "404 Not Found", &[]).await;
    site.check("GET /metrics/", "", "404 Not Found", &[]).await;
    site.check("POST /metrics", "Content-Length: 0\r\n", "405 Method Not Allowed", &["allow: GET, HEAD\r\n"])
        .await;
    site.check("DELETE /healthz", "", "405 Method Not Allowed", &["allow: GET, HEAD\r\n"]).await;
    site.is_draining.store(true, Ordering::Relaxed);
    site.check("GET /readyz?x=1", "", "503 Service Unavailable", &["\r\n\r\ndraining\n"]).await;
    site.check("GET /healthz", "", "200 OK", &["\r\n\r\nok\n"]).await;
}

#[tokio::test]
async fn a_head_request_has_the_same_header_and_no_body() {
    let site = Site::start(Vec::new(), LIMITS);
    let response = site.request("HEAD /healthz", "").await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.contains("content-length: 3\r\n"));
    assert!(response.ends_with("\r\n\r\n"), "{response}");
}

#[tokio::test]
async fn a_scrape_comes_in_the_format_it_asks_for() {
    let site = Site::start(Vec::new(), LIMITS);
    site.metrics.process.accept_pauses.inc_by(3);
    let counter = "\nlb_accept_pauses_total 3\n";
    let text = ["content-type: text/plain; version=0.0.4; charset=utf-8\r\n", counter];
    site.check("GET /metrics", "", "200 OK", &text).await;
    let openmetrics = "Accept: text/plain;q=0.1\r\nAccept: application/openmetrics-text;version=1.0.0\r\n";
    let parts = [
        "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n",
        counter,
        "\n# EOF\n",
    ];
    site.check("GET /metrics", openmetrics, "200 OK", &parts).await;
}

#[tokio::test]
async fn with_users_only_health_and_readiness_are_public() {
    let site = Site::start(vec![user("admin", "s3cret")], LIMITS);
    let challenge = ["www-authenticate: Basic realm=\"lb\", charset=\"UTF-8\"\r\n"];
    // `admin:s3cret` and `admin:guess`.
    let (right, wrong) =
        ("Authorization: Basic YWRtaW46czNjcmV0\r\n", "Authorization: Basic YWRtaW46Z3Vlc3M=\r\n");
    for line in ["GET /metrics", "GET /", "GET /nothing", "POST /metrics"] {
        site.check(line, "", "401 Unauthorized", &challenge).await;
    }
    site.check("GET /healthz", "", "200 OK", &[]).await;
    site.check("GET /readyz", wrong, "200 OK", &[]).await;
    site.check("GET /metrics", right, "200 OK", &["lb_build_info"]).await;
    site.check("GET /nothing", right, "404 Not Found", &[]).await;
}

#[tokio::test]
async fn wrong_credentials_wait_and_nobody_else_does() {
    let site = Site::start(vec![user("admin", "s3cret")], LIMITS);
    let begun = Instant::now();
    let guess = async {
        site.check("GET /metrics", "Authorization: Basic YWRtaW46Z3Vlc3M=\r\n", "401 Unauthorized", &[])
            .await;
        begun.elapsed()
    };
    let others = async {
        site.check("GET /healthz", "", "200 OK", &[]).await;
        site.check("GET /metrics", "Authorization: Basic YWRtaW46czNjcmV0\r\n", "200 OK", &[]).await;
        begun.elapsed()
    };
    let (guess, others) = tokio::join!(guess, others);
    assert!(guess >= LIMITS.failure_delay, "{guess:?}");
    assert!(others < guess, "{others:?} {guess:?}");
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    let short = Duration::from_millis(300);
    let site = Site::start(Vec::new(), Limits { header_timeout: short, ..LIMITS });
    let begun = Instant::now();
    let mut slow = site.connect_from(1).await;
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost:").await.unwrap();
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    assert!((short..LIMITS.header_timeout).contains(&begun.elapsed()));
}

#[tokio::test]
async fn silent_clients_of_one_address_keep_nobody_out() {
    let site = Site::start(vec![user("admin", "s3cret")], LIMITS);
    let begun = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(site.connect_from(1).await);
    }
    site.check_all().await;
    // Those of another address are none of its business.
    let mut other = site.connect_from(2).await;
    for _ in 0..200 {
        silent.push(site.connect_from(1).await);
    }
    site.check_all().await;
    assert!(begun.elapsed() < LIMITS.header_timeout, "somebody waited for a place");
    other.write_all(b"GET /healthz HTTP/1.1\r\nHost: lb\r\n\r\n").await.unwrap();
    let mut response = String::new();
    other.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
}

#[tokio::test]
async fn silent_clients_of_many_addresses_keep_nobody_out() {
    let site = Site::start(vec![user("admin", "s3cret")], LIMITS);
    let begun = Instant::now();
    let mut silent = Vec::new();
    for client in 0..200 {
        let mut stream = site.connect_from(2 + client % 100).await;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:").await.unwrap();
        silent.push(stream);
    }
    site.check_all().await;
    assert!(begun.elapsed() < LIMITS.header_timeout, "somebody waited for a place");
}

#[tokio::test]
async fn wrong_passwords_keep_nobody_out() {
    // As if the answer to each took for ever.
    let limits = Limits { failure_delay: Duration::from_secs(60), ..LIMITS };
    let site = Site::start(vec![user("admin", "s3cret")], limits);
    site.check_all().await;
    let begun = Instant::now();
    let mut guessing = Vec::new();
    for client in 0..200 {
        let mut stream = site.connect_from(2 + client % 100).await;
        let guess = "GET /metrics HTTP/1.1\r\nHost: lb\r\nAuthorization: Basic YWRtaW46Z3Vlc3M=\r\n\r\n";
        // It may have had to make room already.
        let _ = stream.write_all(guess.as_bytes()).await;
        guessing.push(stream);
    }
    site.check_all().await;
    assert!(begun.elapsed() < LIMITS.header_timeout, "somebody waited for a place");
}

#[tokio::test]
async fn connections_are_bounded() {
    let site = Site::start(Vec::new(), LIMITS);
    let mut silent = Vec::new();
    for client in 0..100 {
        silent.push(site.connect_from(2 + client).await);
    }
    site.check_all().await;
    let mut open = 0;
    for stream in &mut silent {
        let wait = Duration::from_millis(10);
        // What was closed says so at once; the rest of the connections is silent.
        open += usize::from(tokio::time::timeout(wait, stream.read(&mut [0])).await.is_err());
    }
    assert!((1..=LIMITS.connections).contains(&open), "{open} of 100 are open");
}

#[tokio::test]
async fn a_connection_ends_with_its_life() {
    let short = Duration::from_millis(200);
    let site = Site::start(vec![user("a", "b")], Limits { connection_life: short, ..LIMITS });
    // The answer to wrong credentials would take longer.
    let response = site.request("GET /metrics", "Authorization: Basic YWRtaW46Z3Vlc3M=\r\n").await;
    assert_eq!(response, "");
}

#[tokio::test]
async fn a_request_has_a_bounded_size() {
    let site = Site::start(Vec::new(), LIMITS);
    let long = format!("X-Long: {}\r\n", "x".repeat(2 * HEADER_MAX));
    let response = site.request("GET /healthz", &long).await;
    assert!(!response.starts_with("HTTP/1.1 200"), "{response}");
    let many: String = (0..200).map(|index| format!("X-{index}: y\r\n")).collect();
    let response = site.request("GET /healthz", &many).await;
    assert!(!response.starts_with("HTTP/1.1 200"), "{response}");
    let response = site.exchange("\0\r\n\r\n").await;
    assert!(!response.starts_with("HTTP/1.1 200"), "{response}");
    site.check("GET /healthz", "X: y\r\n", "200 OK", &[]).await;
}

#[tokio::test]
async fn a_bad_password_hash_is_an_error_at_the_start() {
    let users = vec![AdminUser { name: "admin".to_owned(), password_hash: "plain".to_owned() }];
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let settings = Admin { bind: listener.local_addr().unwrap(), users };
    let error = Service::new(listener, &settings, surface()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

fn surface() -> Surface {
    Surface {
        metrics: Arc::new(Metrics::new(&config())),
        backends: Arc::new([]),
        is_draining: Arc::default(),
        packet: None,
        findings: Arc::default(),
    }
}

fn config() -> Config {
    Config {
        global: Global {
            workers: NonZeroUsize::MIN,
            max_connections: None,
            pending_hello_memory: 1 << 20,
            sockmap_memory: None,
            sockmap_direction_memory: 16 << 20,
            packet_ports: None,
            packet_interfaces: Vec::new(),
            packet_state: None,
            drain_timeout: Duration::from_secs(1),
        },
        admin: None,
        log: Log { format: LogFormat::Json, target: LogTarget::Off, level: LogLevel::Info },
        resolver: Resolver::default(),
        frontends: Vec::new(),
        backends: Vec::new(),
    }
}
