// SPDX-License-Identifier: MIT OR Apache-2.0
//! One demo server: a thread a connection, each with a deadline, and not more of them than a demo needs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::header::{self, Origin};

/// How long a connection may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Pause after a failed accept, such as one for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Most connections at a time; further ones are closed.
const CONNECTIONS_MAX: usize = 512;

/// Most bytes of a request's head that are read.
const REQUEST_HEAD_MAX: u64 = 16 * 1024;

/// Serves connections for as long as the process lives.
pub fn serve(name: &'static str, listener: &TcpListener, tls: &Arc<ServerConfig>) {
    let open = Arc::new(());
    loop {
        let Ok((stream, peer)) = listener.accept() else {
            thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        if Arc::strong_count(&open) > CONNECTIONS_MAX {
            continue;
        }
        let (tls, ticket) = (Arc::clone(tls), Arc::clone(&open));
        thread::spawn(move || {
            if let Err(error) = converse(name, stream, tls) {
                eprintln!("demo {name}: connection from {peer}: {error:#}");
            }
            drop(ticket);
        });
    }
}

/// PROXY header, TLS, one request, one answer. Ends silently after a header that nothing follows: a health check.
fn converse(name: &str, mut stream: TcpStream, tls: Arc<ServerConfig>) -> Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let origin = header::read(&mut stream)?;
    if stream.peek(&mut [0]).is_ok_and(|count| count == 0) {
        return Ok(());
    }
    let mut stream = StreamOwned::new(ServerConnection::new(tls)?, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).context("TLS handshake")?;
    }
    let sni = stream.conn.server_name().map(str::to_owned);
    read_request(&mut stream)?;
    let body = body(name, &origin, sni.as_deref());
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.conn.send_close_notify();
    stream.flush().context("answering")
}

/// Reads to the end of a request's head.
fn read_request(stream: &mut StreamOwned<ServerConnection, TcpStream>) -> Result<()> {
    let mut lines = BufReader::new(stream.take(REQUEST_HEAD_MAX));
    let mut line = Vec::new();
    loop {
        line.clear();
        lines.read_until(b'\n', &mut line).context("reading the request")?;
        ensure!(!line.is_empty(), "the request has no end");
        if matches!(line.as_slice(), b"\r\n" | b"\n") {
            return Ok(());
        }
    }
}

/// What the server saw, for a person to read.
fn body(name: &str, origin: &Origin, sni: Option<&str>) -> String {
    let client =
        origin.client.map_or_else(|| "the balancer itself".to_owned(), |client| client_text(&client));
    let authority = origin.authority.as_deref().unwrap_or("(none)");
    let sni = sni.unwrap_or("(none)");
    format!(
        "server: {name}\nclient: {client}\nauthority in the PROXY header: {authority}\nserver name in TLS: {sni}\n"
    )
}

fn client_text(client: &SocketAddr) -> String {
    format!("{} port {}", client.ip(), client.port())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ppp::v2;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;
    use crate::demo::certificates::Authority;

    /// Starts a server on a port of the kernel's choice and connects.
    fn connect(authority: &Authority) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let tls = authority.server_config("app.localhost").expect("a certificate");
        thread::spawn(move || serve("app", &listener, &tls));
        TcpStream::connect(address).expect("the server listens")
    }

    fn client(authority: &Authority) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("a CA");
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        ClientConnection::new(Arc::new(config), "app.localhost".try_into().expect("a name"))
            .expect("a client")
    }

    #[test]
    fn a_client_reads_what_the_server_saw() {
        let authority = Authority::new().expect("an authority");
        let mut socket = connect(&authority);
        let addresses: (SocketAddr, SocketAddr) =
            ("192.0.2.7:4711".parse().expect("an address"), "192.0.2.8:443".parse().expect("an address"));
        let header = v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Proxy,
            v2::Protocol::Stream,
            addresses,
        )
        .write_tlv(v2::Type::Authority, b"app.localhost")
        .and_then(v2::Builder::build)
        .expect("a header");
        socket.write_all(&header).expect("sent");
        let mut stream = StreamOwned::new(client(&authority), socket);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n").expect("sent");
        let mut answer = String::new();
        // A clean end: without close_notify this would be an error.
        stream.read_to_string(&mut answer).expect("a whole answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(
            body,
            "server: app\nclient: 192.0.2.7 port 4711\nauthority in the PROXY header: app.localhost\nserver name in TLS: app.localhost\n"
        );
    }

    #[test]
    fn without_a_proxy_header_there_is_no_answer() {
        let authority = Authority::new().expect("an authority");
        let socket = connect(&authority);
        let mut stream = StreamOwned::new(client(&authority), socket);
        let sent =
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").and_then(|()| stream.read_to_end(&mut Vec::new()));
        assert!(sent.is_err());
    }
}
