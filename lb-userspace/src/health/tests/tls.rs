// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks over TLS of real handshakes on loopback.

use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::{Authorities, BytePattern, CheckTls, ScriptStep};

/// An authority, and certificates of it.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    fn trusted(&self) -> Authorities {
        let certificate = CertificateDer::from_pem_slice(self.issuer.pem().as_bytes()).unwrap();
        Authorities { file: "ca.pem".into(), certificates: [certificate].into() }
    }

    /// A server's configuration with a certificate for a name that ends in that year.
    fn server(&self, name: &str, end: i32) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap()
    }
}

/// What a server saw of one check: what came behind the handshake, and whether it ended with close_notify.
type Report = std::io::Result<(Option<String>, Vec<u8>)>;

/// A server that reads a request's head, answers, and then reads to the end.
async fn serving(
    config: ServerConfig,
    answer: &'static [u8],
) -> (SocketAddr, mpsc::UnboundedReceiver<Report>) {
    let (listener, address) = listener().await;
    let (reports, reported) = mpsc::unbounded_channel();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = async {
                let mut stream = acceptor.accept(stream).await?;
                let name = stream.get_ref().1.server_name().map(str::to_owned);
                let mut bytes = Vec::new();
                if !answer.is_empty() {
                    while !bytes.ends_with(b"\r\n\r\n") && stream.read_buf(&mut bytes).await? > 0 {}
                    stream.write_all(answer).await?;
                    stream.shutdown().await?;
                }
                // An end without close_notify is an error here.
                stream.read_to_end(&mut bytes).await?;
                Ok((name, bytes))
            };
            let _ = reports.send(served.await);
        }
    });
    (address, reported)
}

fn over_tls(check: Check, sni: Option<&str>, authorities: Option<Authorities>) -> Check {
    let tls = CheckTls { sni: sni.map(str::to_owned), alpn: Vec::new(), authorities };
    Check { tls: Some(tls), ..check }
}

#[tokio::test]
async fn a_handshake_ends_with_a_goodbye_on_both_sides() {
    let (address, mut reports) = serving(Authority::new("ours").server("a.example", 2040), b"").await;
    assert_eq!(outcome(&over_tls(tcp(), None, None), address).await, Outcome::Encrypted);
    assert_eq!(reports.recv().await.unwrap().unwrap(), (None, Vec::new()));
    assert_eq!(outcome(&over_tls(tcp(), Some("b.example"), None), address).await, Outcome::Encrypted);
    assert_eq!(reports.recv().await.unwrap().unwrap(), (Some("b.example".into()), Vec::new()));
}

#[tokio::test]
async fn certificates_are_judged_only_if_required_and_kept_in_any_case() {
    async fn check(config: ServerConfig, sni: Option<&str>, ca: Option<Authorities>, expected: Outcome) {
        let end = if expected == Outcome::Tls(TlsFailure::Expired) { 946_684_800 } else { 2_208_988_800 };
        let (address, _reports) = serving(config, b"").await;
        let checked = prober(&over_tls(tcp(), sni, ca), address).check().await;
        assert_eq!(checked.outcome, expected);
        assert_eq!(checked.certificate.as_ref().unwrap().not_after, end);
        checked.finish().await;
    }
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = || ours.server("a.example", 2040);
    let failed = |failure| Outcome::Tls(failure);
    check(good(), Some("a.example"), Some(ours.trusted()), Outcome::Encrypted).await;
    check(good(), Some("b.example"), Some(ours.trusted()), failed(TlsFailure::WrongName)).await;
    check(good(), None, Some(ours.trusted()), failed(TlsFailure::WrongName)).await;
    check(good(), Some("a.example"), Some(theirs.trusted()), failed(TlsFailure::UnknownIssuer)).await;
    let expired = ours.server("a.example", 2000);
    check(expired, Some("a.example"), Some(ours.trusted()), failed(TlsFailure::Expired)).await;
    check(ours.server("127.0.0.1", 2040), None, Some(ours.trusted()), Outcome::Encrypted).await;
    check(good(), Some("b.example"), None, Outcome::Encrypted).await;
}

/// Whichever of them was checked last.
#[tokio::test]
async fn of_several_certificates_the_first_to_end_is_shown() {
    let ours = Authority::new("ours");
    let (late, _reports) = serving(ours.server("a.example", 2040), b"").await;
    let (early, _others) = serving(ours.server("a.example", 2030), b"").await;
    let backend = checked(over_tls(tcp(), None, None), vec![at("a", late)]);
    backend.set_addresses(0, &[late, early]);
    let metrics = &backend.servers()[0].metrics;
    metrics.certificate_expiry.set(f64::NAN);
    let _checks = checks_of(&backend);
    until(|| metrics.checks.get() >= 6).await;
    assert_eq!(metrics.certificate_expiry.get() as i64, 1_893_456_000);
}

#[test]
fn the_end_that_is_shown_follows_every_change() {
    let ends = |ends: i64| {
        let certificate = LastCertificate { names: Vec::new(), not_after: ends };
        let mut checked = Checked::new(Outcome::Encrypted, Duration::ZERO);
        checked.certificate = Some(Arc::new(certificate));
        checked
    };
    let at = |last: u8| SocketAddr::from(([127, 0, 0, last], 1));
    let backend = checked(tcp(), vec![super::at("a", at(1))]);
    backend.set_addresses(0, &[at(1), at(2)]);
    let shown = backend.servers()[0].metrics.certificate_expiry.clone();
    // As a registry has it.
    shown.set(f64::NAN);
    let [mut one, mut other] = [0, 1].map(|index| {
        let server = &backend.servers()[index];
        Some(Watch::new(&backend, server, &tcp(), &Arc::default()))
    });
    let note = |watch: &mut Option<Watch>, end: i64| {
        watch.as_mut().unwrap().note_certificate(&ends(end));
        shown.get() as i64
    };
    assert_eq!([note(&mut one, 40), note(&mut other, 30), note(&mut one, 50)], [40, 30, 30]);
    assert_eq!([note(&mut other, 60), note(&mut one, 55), note(&mut other, 55)], [50, 55, 55]);
    assert_eq!(note(&mut other, 20), 20);
    // What does not change costs nothing, however many servers there are.
    shown.set(7.0);
    assert_eq!([note(&mut other, 20), note(&mut one, 55)], [7, 7]);
    shown.set(20.0);
    backend.set_addresses(0, &[at(1)]);
    other = None;
    assert_eq!((shown.get() as i64, other.is_none()), (55, true), "a server that has left shows nothing");
    backend.set_addresses(0, &[]);
    one = None;
    assert!(shown.get().is_nan() && one.is_none());
}

/// A server with a certificate for `first`, and from its second connection on for `then`.
async fn changing(ours: &Authority, first: &str, then: &str) -> SocketAddr {
    let (listener, address) = listener().await;
    let mut configs = [first, then].map(|name| Arc::new(ours.server(name, 2040))).into_iter();
    tokio::spawn(async move {
        let mut config = configs.next().unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            let _ = TlsAcceptor::from(Arc::clone(&config)).accept(stream).await;
            config = configs.next().unwrap_or(config);
        }
    });
    address
}

#[tokio::test]
async fn certificates_for_other_names_are_told() {
    async fn check(then: &str, expected: &[bool]) {
        let address = changing(&Authority::new("ours"), "a.example", then).await;
        let backend = checked(over_tls(tcp(), None, None), vec![at("a", address)]);
        let server = &backend.servers()[0];
        let prober = prober(&over_tls(tcp(), None, None), address);
        let mut watch = Watch::new(&backend, server, &tcp(), &Arc::default());
        for expected in expected {
            assert_eq!(watch.note_certificate(&prober.check().await), *expected, "{then}");
        }
        assert_eq!(server.vitals.certificate().unwrap().names, [then]);
    }
    check("a.example", &[true, false, false]).await;
    check("b.example", &[true, true, false]).await;
    // Of checks that run, somebody hears of it.
    let address = changing(&Authority::new("ours"), "a.example", "b.example").await;
    let backend = checked(over_tls(tcp(), None, None), vec![at("a", address)]);
    let certificates = Arc::<tokio::sync::Notify>::default();
    let guard = Checks::new(Arc::clone(&certificates), 1).start(&backend, &backend.servers()[0]).unwrap();
    for _ in 0..2 {
        timeout(GENEROUS, certificates.notified()).await.expect("a notice");
    }
    drop(guard);
}

#[tokio::test]
async fn what_is_no_tls_has_a_reason() {
    let check = over_tls(tcp(), None, None);
    let address = answering(|| b"HTTP/1.1 400 Bad Request\r\n\r\n".into()).await;
    // This server waits for a whole request, so that it must be told to answer: the check's timeout ends it.
    let short = Check { timeout: Duration::from_millis(200), ..check.clone() };
    assert_eq!(outcome(&short, address).await, Outcome::Timeout);
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
        let (stream, _) = listener.accept().await.unwrap();
        drop(stream);
    });
    assert_eq!(outcome(&check, address).await, Outcome::Tls(TlsFailure::NotTls));
    let ended = outcome(&check, address).await;
    assert!(matches!(ended, Outcome::Closed | Outcome::Reset), "{ended}");
}

#[tokio::test]
async fn https_asks_through_tls() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nready";
    let (address, mut reports) = serving(Authority::new("ours").server("a.example", 2040), answer).await;
    let mut check = over_tls(http(&[(200, 200)]), Some("a.example"), None);
    let Probe::Http { body, .. } = &mut check.probe else { unreachable!() };
    *body = Some(BytePattern::Bytes("ready".into()));
    assert_eq!(outcome(&check, address).await, Outcome::Status(200));
    let (name, request) = reports.recv().await.unwrap().unwrap();
    assert_eq!(name.as_deref(), Some("a.example"));
    assert!(request.starts_with(b"GET /replica HTTP/1.1\r\n"), "{request:?}");
}

#[tokio::test]
async fn a_script_may_be_over_tls() {
    let (address, mut reports) =
        serving(Authority::new("ours").server("a.example", 2040), b"+PONG\r\n").await;
    let steps = vec![
        ScriptStep::Send(b"PING\r\n\r\n".into()),
        ScriptStep::Expect(BytePattern::Bytes(b"+PONG".into())),
    ];
    let check = over_tls(Check { probe: Probe::Script(steps), ..tcp() }, None, None);
    assert_eq!(outcome(&check, address).await, Outcome::Scripted);
    assert_eq!(reports.recv().await.unwrap().unwrap().1, b"PING\r\n\r\n");
}
