// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a TLS handshake failed.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error};

/// Why a TLS handshake failed, as far as an operator would do something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// The server answered with something else than TLS.
    NotTls,
    /// The server refused, with this alert (RFC 8446 section 6).
    Alert(AlertDescription),
    /// The certificate's time is over.
    Expired,
    /// The certificate's time has not begun.
    NotYetValid,
    /// The certificate is for another name or address.
    WrongName,
    /// The certificate comes from nobody in `ca-file`.
    UnknownIssuer,
    /// The certificate is broken, or not for servers, or its signature is wrong.
    BadCertificate,
    /// No version, cipher or group that both sides have.
    NothingInCommon,
    /// The server broke the protocol.
    Misbehaved,
}

impl TlsFailure {
    /// What an error of rustls comes to.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::InvalidMessage(_) => Self::NotTls,
            Error::AlertReceived(alert) => Self::Alert(*alert),
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::NothingInCommon,
            Error::InvalidCertificate(error) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Self::WrongName
                }
                CertificateError::UnknownIssuer => Self::UnknownIssuer,
                _ => Self::BadCertificate,
            },
            Error::NoCertificatesPresented => Self::BadCertificate,
            _ => Self::Misbehaved,
        }
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotTls => "not TLS",
            Self::Alert(alert) => return write!(f, "TLS alert {}", u8::from(*alert)),
            Self::Expired => "certificate expired",
            Self::NotYetValid => "certificate not valid yet",
            Self::WrongName => "certificate for another name",
            Self::UnknownIssuer => "certificate of an unknown issuer",
            Self::BadCertificate => "bad certificate",
            Self::NothingInCommon => "no TLS parameters in common",
            Self::Misbehaved => "TLS handshake failed",
        })
    }
}
