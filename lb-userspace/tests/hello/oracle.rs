// SPDX-License-Identifier: MIT OR Apache-2.0
//! What rustls' server side makes of the same bytes, and real hellos of its client side.

use std::sync::Arc;

use lb::prelude::hello::{HelloLimits, HelloOutcome, parse};
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// The largest limits that the configuration can ask for: what is left out because of its size is not compared.
pub(crate) const LIMITS: HelloLimits = HelloLimits { handshake_max: 16 * 1024, wire_max: 128 * 1024 };

/// What rustls says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted { name: Option<String>, alpn: Vec<Vec<u8>> },
    NeedsMore,
    Refused(String),
}

/// What we say.
pub(crate) fn ours(wire: &[u8]) -> HelloOutcome {
    parse(wire, LIMITS, &mut Vec::new())
}

/// Asks rustls, its name normalised as ours is.
pub(crate) fn rustls(mut wire: &[u8]) -> Verdict {
    let mut acceptor = Acceptor::default();
    loop {
        match acceptor.read_tls(&mut wire) {
            Ok(0) => return Verdict::NeedsMore,
            Ok(_) => {}
            Err(error) => return Verdict::Refused(error.to_string()),
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().map(|name| name.trim_end_matches('.').to_lowercase());
                let alpn = hello.alpn().map(|names| names.map(<[u8]>::to_vec).collect());
                return Verdict::Accepted { name, alpn: alpn.unwrap_or_default() };
            }
            Err((error, _)) => return Verdict::Refused(error.to_string()),
        }
    }
}

/// The first flight of a rustls client.
pub(crate) fn client_hello(name: &str, alpn: &[&str]) -> Vec<u8> {
    let mut config =
        ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).expect("a host name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a usable configuration");
    let mut wire = Vec::new();
    connection.write_tls(&mut wire).expect("a Vec takes all");
    wire
}
