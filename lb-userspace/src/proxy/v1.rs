// SPDX-License-Identifier: MIT OR Apache-2.0
//! Version 1: a line of text (section 2.1).

use std::net::{IpAddr, SocketAddr};

use lb_common::reason::ProxyReason;
use ppp::v1::{Addresses, Header};

use super::read::{Endpoints, HeaderOutcome, Received};
use crate::config::ProxyVersion;

/// Most bytes of a line, CRLF included.
const LINE_MAX: usize = 107;

/// The shortest line.
pub(super) const UNKNOWN_LINE: &[u8] = b"PROXY UNKNOWN\r\n";

/// Reads a line; `bytes` begin as one does.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(bytes: &[u8]) -> Result<HeaderOutcome, ProxyReason> {
    let seen = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else { return missing_end(seen) };
    let wire_len = end + 2;
    let mut received = Received::plain(ProxyVersion::V1, wire_len);
    if !is_unknown(&seen[..end]) {
        received.endpoints = Some(endpoints(&seen[..wire_len]).ok_or(ProxyReason::Malformed)?);
    }
    Ok(HeaderOutcome::Complete(received))
}

/// What a beginning without CRLF can still become.
fn missing_end(seen: &[u8]) -> Result<HeaderOutcome, ProxyReason> {
    // Behind UNKNOWN anything may stand. Elsewhere only CR may, as the last byte so far.
    let text = seen.strip_suffix(b"\r").unwrap_or(seen);
    if !is_unknown(text) && text.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return Err(ProxyReason::Malformed);
    }
    if seen.len() == LINE_MAX {
        return Err(ProxyReason::TooLarge);
    }
    let lacking = if seen.ends_with(b"\r") { 1 } else { 2 };
    Ok(HeaderOutcome::NeedMore(lacking.max(UNKNOWN_LINE.len().saturating_sub(seen.len()))))
}

/// Whether the line is one whose rest must be ignored, whatever it holds. ppp refuses such lines where the rest is no UTF-8 or has
/// many words.
fn is_unknown(line: &[u8]) -> bool {
    line.strip_prefix(b"PROXY UNKNOWN").is_some_and(|rest| rest.first().is_none_or(|&byte| byte == b' '))
}

/// The addresses in a line. A TCP6 line may have IPv4-mapped addresses with dots, as nginx writes them.
fn endpoints(line: &[u8]) -> Option<Endpoints> {
    // ppp takes a sign in front of a port for a part of the number; only digits are allowed.
    if line.contains(&b'+') {
        return None;
    }
    let header = Header::try_from(line).ok()?;
    let of = |client: (IpAddr, u16), local: (IpAddr, u16)| {
        Some(Endpoints { client: SocketAddr::from(client), local: SocketAddr::from(local) })
    };
    match header.addresses {
        Addresses::Tcp4(tcp) => of(
            (tcp.source_address.into(), tcp.source_port),
            (tcp.destination_address.into(), tcp.destination_port),
        ),
        Addresses::Tcp6(tcp) => of(
            (tcp.source_address.into(), tcp.source_port),
            (tcp.destination_address.into(), tcp.destination_port),
        ),
        Addresses::Unknown => None,
    }
}

/// The line for two addresses of one family.
pub(super) fn line(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (text(client.ip()), text(local.ip()));
    format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), local.port()).into_bytes()
}

/// An address as the line has it: IPv6 in hexadecimal digits alone, whereas std writes the end of mapped ones with dots.
fn text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            let [.., high, low] = ip.segments();
            format!("::ffff:{high:x}:{low:x}")
        }
        ip => ip.to_string(),
    }
}
