// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hellos that real programs sent (OpenSSL 3.0, curl, GnuTLS, Node.js, Java, Chromium), kept as the fuzzer's corpus.

use std::fs;
use std::path::Path;

use lb::prelude::hello::{ClientHello, HelloOutcome};

use crate::oracle::{compare, ours};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus/hello");

fn check(file: &str, name: Option<&str>, alpn: &str, has_ech: bool) {
    let wire = fs::read(Path::new(CORPUS).join(file)).expect("the corpus has this file");
    let HelloOutcome::Complete(hello) = ours(&wire) else { panic!("{file}: {:?}", ours(&wire)) };
    let ClientHello { server_name, alpn: offered, wire_len, .. } = &hello;
    assert_eq!((server_name.as_deref(), offered.to_string().as_str()), (name, alpn), "{file}");
    assert_eq!((hello.has_ech, *wire_len), (has_ech, wire.len()), "{file}");
}

#[test]
fn hellos_of_real_clients_give_their_names() {
    for shop in 0..3 {
        check(&format!("chromium-{shop}"), Some(&format!("shop{shop}.example")), "h2,http/1.1", true);
    }
    check("curl-default", Some("a.example"), "h2,http/1.1", false);
    check("curl-http11", Some("a.example"), "http/1.1", false);
    check("curl-tls12", Some("a.example"), "h2,http/1.1", false);
    check("curl-ip", None, "h2,http/1.1", false);
    check("java", Some("java.example"), "h2", false);
    check("node", Some("node.example"), "h2,http/1.1", false);
    check("python", Some("python.example"), "", false);
    check("wget-gnutls", Some("localhost"), "", false);
    check("openssl-all-ciphers", Some("many.example"), "", false);
    check("openssl-alpn", Some("a.example"), "h2,http/1.1", false);
    check("openssl-alpn-acme", Some("a.example"), "acme-tls/1", false);
    check("openssl-default", Some("www.fiscalismia.example"), "", false);
    check("openssl-ip-name", None, "", false);
    check("openssl-no-name", None, "", false);
    check("openssl-tls10", Some("old.example"), "", false);
    check("openssl-tls12", Some("a.example"), "", false);
    check("openssl-tls13", Some("a.example"), "", false);
    check("openssl-underscore", Some("_x.a.example"), "", false);
    check("openssl-upper-dot", Some("www.fiscalismia.example"), "", false);
}

#[test]
fn the_whole_corpus_agrees_with_rustls() {
    let files: Vec<_> = fs::read_dir(CORPUS)
        .expect("the corpus is there")
        .map(|file| file.expect("readable").path())
        .collect();
    let accepted = files.iter().filter(|file| compare(&fs::read(file).expect("readable"))).count();
    assert!(files.len() >= 40 && accepted >= 30, "{accepted} of {} accepted by rustls", files.len());
}
