// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is kept of a server's certificate. Pure.

use std::sync::Arc;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Most names that are kept of one certificate.
pub const NAMES_MAX: usize = 100;

/// Longest name that is kept, in bytes; as long as a host's may be (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 253;

/// What the last check over TLS saw of the server's certificate, valid or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCertificate {
    /// The hosts that it is for (RFC 5280 section 4.2.1.6, dNSName) in lower case, wildcards included; at most [`NAMES_MAX`].
    pub names: Vec<String>,
    /// Its end, in seconds since 1970 (RFC 5280 section 4.1.2.5, notAfter).
    pub not_after: i64,
}

/// The certificates of one server as its checks see them. The same bytes are read once.
#[derive(Debug, Default)]
pub(super) struct Seen {
    last: Option<(Vec<u8>, Option<Arc<LastCertificate>>)>,
}

impl LastCertificate {
    /// Reads a certificate in DER; `None` if it is none.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let alternatives = certificate.subject_alternative_name().ok().flatten();
        let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
        let host = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) if name.len() <= NAME_MAX => Some(name.to_ascii_lowercase()),
            _ => None,
        };
        let names = names.filter_map(host).take(NAMES_MAX).collect();
        Some(Self { names, not_after: certificate.validity().not_after.timestamp() })
    }
}

impl Seen {
    /// Takes over a certificate in DER.
    pub(super) fn note(&mut self, der: &[u8]) {
        if self.last.as_ref().is_none_or(|(last, _)| last != der) {
            self.last = Some((der.to_vec(), LastCertificate::read(der).map(Arc::new)));
        }
    }

    /// The last one, if it could be read.
    pub(super) fn last(&self) -> Option<Arc<LastCertificate>> {
        self.last.as_ref().and_then(|(_, certificate)| certificate.clone())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn der(names: Vec<String>) -> Vec<u8> {
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_end_are_read() {
        let names = ["A.example", "*.b.example", "10.0.0.1"].map(String::from);
        let certificate = LastCertificate::read(&der(names.into())).unwrap();
        assert_eq!(certificate.names, ["a.example", "*.b.example"]);
        // 2031-02-03T00:00:00Z
        assert_eq!(certificate.not_after, 1_927_843_200);
    }

    #[test]
    fn names_are_bounded() {
        let names = (0..200).map(|index| format!("{index}.example")).collect();
        assert_eq!(LastCertificate::read(&der(names)).unwrap().names.len(), NAMES_MAX);
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        let whole = der(vec!["a.example".into()]);
        for bytes in [&[][..], b"x", &whole[..whole.len() / 2]] {
            assert_eq!(LastCertificate::read(bytes), None);
        }
        let mut seen = Seen::default();
        seen.note(&whole);
        assert!(seen.last().is_some());
        seen.note(b"x");
        assert!(seen.last().is_none());
    }
}
