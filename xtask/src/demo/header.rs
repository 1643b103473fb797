// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PROXY header that a demo server demands in front of the client's bytes.

use std::io::Read;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use ppp::v2;

/// Bytes before the length is known (HAProxy's doc/proxy-protocol.txt, section 2.2).
const FIXED_BYTES: usize = 16;

/// What a header said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client; `None`: the balancer itself (command LOCAL), as for a health check.
    pub client: Option<SocketAddr>,
    /// The name in PP2_TYPE_AUTHORITY.
    pub authority: Option<String>,
}

/// Reads one version 2 header, and not a byte more.
///
/// # Errors
///
/// The stream ends, or starts with something else.
pub fn read(stream: &mut impl Read) -> Result<Origin> {
    let mut bytes = vec![0; FIXED_BYTES];
    stream.read_exact(&mut bytes).context("ended within the PROXY header")?;
    ensure!(bytes.starts_with(v2::PROTOCOL_PREFIX), "does not start with a PROXY header of version 2");
    let length = u16::from_be_bytes([bytes[FIXED_BYTES - 2], bytes[FIXED_BYTES - 1]]);
    bytes.resize(FIXED_BYTES + usize::from(length), 0);
    stream.read_exact(&mut bytes[FIXED_BYTES..]).context("ended within the PROXY header")?;
    let header = v2::Header::try_from(bytes.as_slice()).context("malformed PROXY header")?;
    let client = match (header.command, header.addresses) {
        (v2::Command::Local, _) => None,
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some((ip.source_address, ip.source_port).into()),
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some((ip.source_address, ip.source_port).into()),
        (v2::Command::Proxy, _) => bail!("the PROXY header names no IP address"),
    };
    let mut authority = None;
    for tlv in header.tlvs() {
        let tlv = tlv.context("malformed TLV in the PROXY header")?;
        if tlv.kind == u8::from(v2::Type::Authority) {
            authority = Some(String::from_utf8_lossy(&tlv.value).into_owned());
        }
    }
    Ok(Origin { client, authority })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(client: &str, local: &str) -> v2::Builder {
        let client: SocketAddr = client.parse().expect("an address");
        let local: SocketAddr = local.parse().expect("an address");
        v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Proxy,
            v2::Protocol::Stream,
            (client, local),
        )
    }

    #[track_caller]
    fn check(bytes: &[u8], client: Option<&str>, authority: Option<&str>) {
        let mut stream = bytes;
        let origin = read(&mut stream).expect("a header");
        assert_eq!(origin.client.map(|client| client.to_string()).as_deref(), client);
        assert_eq!(origin.authority.as_deref(), authority);
        assert_eq!(stream, b"hello", "what follows the header is not read");
    }

    #[test]
    fn the_client_and_the_name_are_read_and_nothing_after_them() {
        let with_name =
            proxy("192.0.2.1:5000", "192.0.2.2:443").write_tlv(v2::Type::Authority, b"app.localhost");
        let bytes = |builder: v2::Builder| [builder.build().expect("a header"), b"hello".to_vec()].concat();
        check(&bytes(with_name.expect("a TLV")), Some("192.0.2.1:5000"), Some("app.localhost"));
        check(&bytes(proxy("[2001:db8::1]:5000", "[2001:db8::2]:443")), Some("[2001:db8::1]:5000"), None);
        let local = v2::Builder::new(
            v2::Version::Two | v2::Command::Local,
            v2::AddressFamily::Unspecified | v2::Protocol::Unspecified,
        );
        check(&bytes(local), None, None);
    }

    #[test]
    fn what_is_no_whole_header_is_refused() {
        let whole = proxy("192.0.2.1:5000", "192.0.2.2:443").build().expect("a header");
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n"[..],
            b"",
            &whole[..whole.len() - 1],
            &whole[..10],
        ] {
            assert!(read(&mut { bytes }).is_err(), "{bytes:?}");
        }
    }
}
