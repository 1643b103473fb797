// SPDX-License-Identifier: MIT OR Apache-2.0
//! The TLS part of a check.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate::{LastCertificate, Seen};
use super::outcome::Outcome;
use crate::config::{Authorities, CheckTls};

/// The one crypto provider of all checks.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

/// Why the TLS of a check cannot be set up. A valid configuration gives no cause.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No root can be made of the certificates of the `ca-file`.
    #[error("the certificates of ca-file cannot be used")]
    Authorities(#[source] rustls::Error),
    /// The verifier does not take the roots.
    #[error("the certificates of ca-file cannot be used")]
    Verifier(#[from] VerifierBuilderError),
    /// No protocol version is left.
    #[error("the crypto provider cannot be used")]
    Versions(#[source] rustls::Error),
    /// The name is none that TLS can send.
    #[error("sni cannot be sent")]
    Name(#[from] InvalidDnsNameError),
}

/// The verifiers of all checks, one for each list of authorities: the list of a system is several hundred kilobytes.
#[derive(Debug, Default)]
pub(super) struct Verifiers {
    known: Vec<(Authorities, Arc<WebPkiServerVerifier>)>,
}

impl Verifiers {
    fn of(&mut self, authorities: &Authorities) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
        if let Some((_, verifier)) = self.known.iter().find(|(known, _)| known == authorities) {
            return Ok(verifier.clone());
        }
        let mut roots = RootCertStore::empty();
        for certificate in &*authorities.certificates {
            roots.add(certificate.clone()).map_err(TlsError::Authorities)?;
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), PROVIDER.clone()).build()?;
        self.known.push((authorities.clone(), verifier.clone()));
        Ok(verifier)
    }
}

/// Makes the handshakes of one server's checks, one at a time.
pub(super) struct TlsProbe {
    connector: TlsConnector,
    name: ServerName<'static>,
    verifier: Arc<Verifier>,
}

impl TlsProbe {
    /// For a server at `target`.
    ///
    /// # Errors
    /// [`TlsError`]
    pub(super) fn new(
        tls: &CheckTls,
        target: SocketAddr,
        verifiers: &mut Verifiers,
    ) -> Result<Self, TlsError> {
        let inner = match &tls.authorities {
            Some(authorities) => Some(verifiers.of(authorities)?),
            None => None,
        };
        let verifier = Arc::new(Verifier { inner, seen: Mutex::default() });
        let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        // A resumed session would say nothing about the certificate.
        config.resumption = Resumption::disabled();
        config.enable_sni = tls.sni.is_some();
        config.alpn_protocols = tls.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = match &tls.sni {
            Some(name) => ServerName::try_from(name.clone())?,
            None => ServerName::IpAddress(target.ip().into()),
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name, verifier })
    }

    /// Makes a handshake.
    ///
    /// # Errors
    /// The outcome, if it fails. The certificate is kept all the same, if it came.
    pub(super) async fn handshake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Outcome> {
        let done = self.connector.connect(self.name.clone(), stream).await;
        done.map_err(|error: io::Error| Outcome::of_io(&error))
    }

    /// What the last handshake saw of the server's certificate.
    pub(super) fn certificate(&self) -> Option<Arc<LastCertificate>> {
        self.verifier.seen.lock().unwrap_or_else(PoisonError::into_inner).last()
    }
}

impl std::fmt::Debug for TlsProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsProbe").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Judges certificates, or not, and keeps the last one whatever the judgement.
#[derive(Debug)]
struct Verifier {
    /// `None`: every certificate will do.
    inner: Option<Arc<WebPkiServerVerifier>>,
    seen: Mutex<Seen>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).note(end_entity);
        match &self.inner {
            Some(inner) => {
                inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match &self.inner {
            Some(inner) => inner.verify_tls12_signature(message, certificate, signature),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match &self.inner {
            Some(inner) => inner.verify_tls13_signature(message, certificate, signature),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
