// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLS of a check: which name is asked for, and what certificate is accepted.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName};

use super::super::context::Depends;
use super::super::reader::Reader;
use super::super::value::Value;
use super::super::{Authorities, CheckTls, Probe, parse_name};
use super::{Kind, VERIFY};

/// Reads the keys of TLS; `None` inside if the check does without. `request` tells whom type `https` asks.
pub(super) fn read(
    reader: &Reader<'_, '_>,
    kind: Option<Kind>,
    request: Option<&Probe>,
) -> Option<Option<CheckTls>> {
    let is_wanted = reader.own("tls").map_or(Some(false), |value| wanted(&value, kind));
    let is_on = match (kind, is_wanted) {
        (Some(Kind::Tls | Kind::Https), _) => true,
        (Some(Kind::Tcp | Kind::Http), _) => false,
        (Some(Kind::Script), Some(is_wanted)) => is_wanted,
        (Some(Kind::Script), None) | (None, _) => return forget(reader),
    };
    if !is_on {
        for key in ["sni", "alpn", "verify", "ca-file"] {
            if let Some(value) = reader.own(key) {
                value.error_with_others(
                    "only for checks over TLS: types \"tls\" and \"https\", and \"script\" with tls = true",
                );
            }
        }
        return Some(None);
    }
    let sni = match reader.own("sni") {
        Some(value) => sni(&value).map(Some),
        None => Some(host_name(request)),
    };
    let alpn = reader.own("alpn").map_or(Some(Vec::new()), |value| alpn(&value));
    let authorities = authorities(reader);
    Some(Some(CheckTls { sni: sni?, alpn: alpn?, authorities: authorities? }))
}

/// Knows the keys, whatever they say: what would tell their meaning is wrong.
fn forget(reader: &Reader<'_, '_>) -> Option<Option<CheckTls>> {
    ["sni", "alpn", "verify", "ca-file"].into_iter().for_each(|key| drop(reader.own(key)));
    None
}

fn wanted(value: &Value<'_, '_>, kind: Option<Kind>) -> Option<bool> {
    if !matches!(kind, None | Some(Kind::Script)) {
        value.error_with_others(
            "only for type \"script\": types \"tls\" and \"https\" are over TLS, the others never",
        );
        return None;
    }
    value.boolean()
}

fn sni(value: &Value<'_, '_>) -> Option<String> {
    let name = parse_name(value.string()?).map_err(|text| value.error(text)).ok()?;
    if !is_sent(&name) {
        value.error("has a label that begins or ends with a hyphen: checks cannot send it");
        return None;
    }
    Some(name)
}

/// Whether TLS sends such a name. Routes take hyphens anywhere (`parse_name`), rustls does not.
fn is_sent(name: &str) -> bool {
    DnsName::try_from(name).is_ok()
}

/// The host of a request, without its port, if it is a name.
fn host_name(request: Option<&Probe>) -> Option<String> {
    let Some(Probe::Http { host: Some(host), .. }) = request else { return None };
    let name = host.rsplit_once(':').map_or(&**host, |(name, _)| name);
    parse_name(name).ok().filter(|name| is_sent(name))
}

/// A protocol's name is 1 to 255 bytes (RFC 7301 section 3.1).
fn alpn(value: &Value<'_, '_>) -> Option<Vec<String>> {
    let name = |value: &Value<'_, '_>| {
        let name = value.string()?;
        if name.is_empty() || name.len() > 255 {
            value.error("must be an ALPN protocol name of 1 to 255 bytes, such as \"h2\" or \"http/1.1\"");
            return None;
        }
        Some(name.to_owned())
    };
    let names: Vec<_> = value.list().iter().map(name).collect();
    names.into_iter().collect()
}

/// As with HAProxy's servers, certificates are verified unless somebody writes that they are not, and verifying needs a file.
fn authorities(reader: &Reader<'_, '_>) -> Option<Option<Authorities>> {
    let is_required = reader.own("verify").map_or(Some(true), |value| value.one_of(&VERIFY));
    let file = reader.own("ca-file");
    match (is_required?, file) {
        (true, Some(value)) => certificates(reader, &value).map(Some),
        (true, None) => {
            let text = "ca-file is missing: write ca-file = \"…\" with the certificates that the server's must come from, or \
                        verify = \"none\"";
            reader.error(Depends::OnOthers, text.into());
            None
        }
        (false, Some(value)) => {
            value.error_with_others("needs verify = \"required\": with \"none\" every certificate will do");
            None
        }
        (false, None) => Some(None),
    }
}

fn certificates(reader: &Reader<'_, '_>, value: &Value<'_, '_>) -> Option<Authorities> {
    let file = value.string()?;
    let folder = Path::new(&*reader.cx.source.file).parent().unwrap_or(Path::new(""));
    let path = folder.join(file);
    let text = (reader.cx.read_file)(&path)
        .map_err(|err| value.error(format!("cannot read {}: {err}", path.display())))
        .ok()?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let usable = |found: &Vec<CertificateDer<'static>>| {
        // The store says which of them a chain can end in.
        let mut store = rustls::RootCertStore::empty();
        !found.is_empty() && found.iter().all(|certificate| store.add(certificate.clone()).is_ok())
    };
    match found {
        Ok(found) if usable(&found) => Some(Authorities { file: file.into(), certificates: found.into() }),
        _ => {
            value.error(format!("{} is not a list of certificates in PEM", path.display()));
            None
        }
    }
}
