// SPDX-License-Identifier: MIT OR Apache-2.0
//! The grammar of the ClientHello message (RFC 8446 section 4.1.2) and of the three extensions that routing looks at.
//!
//! tls-parser reads the structures. Where it is lenient the check is repeated here: it takes an extension block that is longer than
//! the message for none, stops at the first name of a server_name list that it cannot read, and knows no difference between
//! the empty server_name of a server and that of a client. The contents of other extensions are the servers' business:
//! tls-parser's own dispatch would refuse hellos that they accept.

use tls_parser::{
    ClientHello as _, SNIType, TlsExtension, TlsExtensionType, parse_tls_extension_sni_hostname,
    parse_tls_extension_unknown, parse_tls_handshake_client_hello,
};

use super::name::{HostName, host_name};
use super::{AlpnList, ClientHello};

/// encrypted_client_hello (RFC 9849 section 11.1), which tls-parser has no name for.
const ENCRYPTED_CLIENT_HELLO: TlsExtensionType = TlsExtensionType(0xfe0d);

/// The message breaks the grammar.
#[derive(Debug)]
pub(super) struct Malformed;

impl<E> From<tls_parser::nom::Err<E>> for Malformed {
    fn from(_: tls_parser::nom::Err<E>) -> Self {
        Self
    }
}

/// Reads a whole ClientHello message without its header. `wire_len` is left to the caller.
pub(super) fn read(body: &[u8]) -> Result<ClientHello, Malformed> {
    let (behind, message) = parse_tls_handshake_client_hello(body)?;
    if !behind.is_empty() || message.ciphers().is_empty() || message.comp().is_empty() {
        return Err(Malformed);
    }
    let mut hello = ClientHello::default();
    let (mut has_name, mut has_alpn) = (false, false);
    let mut extensions = message.ext().unwrap_or_default();
    while !extensions.is_empty() {
        let (behind, TlsExtension::Unknown(kind, content)) = parse_tls_extension_unknown(extensions)? else {
            return Err(Malformed);
        };
        extensions = behind;
        match kind {
            TlsExtensionType::ServerName => {
                first_of_its_kind(&mut has_name)?;
                hello.server_name = server_name(content)?;
            }
            TlsExtensionType::ApplicationLayerProtocolNegotiation => {
                first_of_its_kind(&mut has_alpn)?;
                hello.alpn = AlpnList::from_wire(list_of(content)?).ok_or(Malformed)?;
            }
            ENCRYPTED_CLIENT_HELLO => hello.has_ech = true,
            _ => {}
        }
    }
    Ok(hello)
}

/// An extension must not come twice (RFC 8446 section 4.2); of the ones that routing looks at, the second could be the one that
/// the server believes.
fn first_of_its_kind(seen: &mut bool) -> Result<(), Malformed> {
    if std::mem::replace(seen, true) { Err(Malformed) } else { Ok(()) }
}

/// The content of a list of bytes behind a two-byte length, which must be exact and not 0.
fn list_of(content: &[u8]) -> Result<&[u8], Malformed> {
    match content.split_first_chunk() {
        Some((len, list)) if !list.is_empty() && list.len() == usize::from(u16::from_be_bytes(*len)) => {
            Ok(list)
        }
        _ => Err(Malformed),
    }
}

/// The host name in a server_name extension (RFC 6066 section 3); `None` if it is an IP literal, which no route can match.
///
/// What follows an entry of another type than host_name is not looked at: no such type is defined, and how long such an entry
/// is has been answered in different ways. rustls does the same; OpenSSL and BoringSSL refuse the hello.
fn server_name(content: &[u8]) -> Result<Option<String>, Malformed> {
    let mut list = list_of(content)?;
    let mut found = None;
    while list.first() == Some(&SNIType::HostName.0) {
        let (behind, (_, raw)) = parse_tls_extension_sni_hostname(list)?;
        if found.is_some() {
            return Err(Malformed);
        }
        found = Some(host_name(raw));
        list = behind;
    }
    match found {
        Some(HostName::Usable(name)) => Ok(Some(name)),
        Some(HostName::Literal) => Ok(None),
        Some(HostName::Invalid) | None => Err(Malformed),
    }
}
