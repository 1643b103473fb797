// SPDX-License-Identifier: MIT OR Apache-2.0
//! A certificate authority of the test's own, and a certificate for each server.

use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use crate::process::run;

/// An authority; its files live as long as it does.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    files: TempDir,
}

/// A server's certificate.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The only name in the certificate.
    pub name: String,
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Both in one file, as HAProxy wants them.
    pub both: PathBuf,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "lb end-to-end tests");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a self-signed certificate");
        let files = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(files.path().join("ca.pem"), issuer.pem()).expect("a temporary file");
        Self { issuer, files }
    }

    /// Its own certificate, for clients to trust.
    pub fn certificate(&self) -> PathBuf {
        self.files.path().join("ca.pem")
    }

    /// A certificate for a name.
    pub fn issue(&self, name: &str) -> Identity {
        self.issue_until(name, 4000)
    }

    /// A certificate for a name that ends at the beginning of a year.
    pub fn issue_until(&self, name: &str, year: i32) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a host name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        let both = format!("{certificate}{}", key.serialize_pem());
        Identity {
            name: name.to_owned(),
            certificate: self.file(&format!("{name}.crt"), &certificate),
            key: self.file(&format!("{name}.key"), &key.serialize_pem()),
            both: self.file(&format!("{name}.pem"), &both),
        }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.files.path().join(name);
        std::fs::write(&path, text).expect("a temporary file");
        path
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Identity {
    /// The SHA-256 of its public key in base64, as Chromium's `--ignore-certificate-errors-spki-list` takes it.
    pub fn key_pin(&self) -> String {
        let script = "openssl x509 -in \"$0\" -noout -pubkey | openssl pkey -pubin -outform der \
                      | openssl dgst -sha256 -binary | openssl base64";
        run(Command::new("sh").args(["-c", script]).arg(&self.certificate)).trim().to_owned()
    }

    /// The SHA-256 of a certificate file, as openssl prints it.
    pub fn fingerprint(certificate: &Path) -> String {
        run(Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(certificate))
    }
}
