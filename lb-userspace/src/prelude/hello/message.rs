// SPDX-License-Identifier: MIT OR Apache-2.0
//! The grammar of the ClientHello message (RFC 8446 section 4.1.2) and of the three extensions that routing looks at.
//!
//! Every length is checked against the one that encloses it, and nothing is kept but what routing needs: tls-parser, which has the
//! numbers and in the tests a say, makes lists of all the ciphers. The contents of other extensions are the servers' business.

use tls_parser::{SNIType, TlsExtensionType};

use super::name::{HostName, host_name};
use super::{AlpnList, ClientHello};

/// encrypted_client_hello (RFC 9849 section 11.1), which tls-parser has no name for.
const ENCRYPTED_CLIENT_HELLO: TlsExtensionType = TlsExtensionType(0xfe0d);

/// The message breaks the grammar.
#[derive(Debug)]
pub(super) struct Malformed;

/// Bytes of legacy_version and random, which a message begins with.
const VERSION_AND_RANDOM: usize = 2 + 32;

/// Most bytes of legacy_session_id.
const SESSION_ID_MAX: usize = 32;

/// Reads a whole ClientHello message without its header. `wire_len` is left to the caller.
pub(super) fn read(body: &[u8]) -> Result<ClientHello, Malformed> {
    let mut hello = ClientHello::default();
    let (mut has_name, mut has_alpn) = (false, false);
    let mut extensions = extensions(body)?;
    while let Some((kind, behind)) = extensions.split_first_chunk() {
        let (content, behind) = vector16(behind)?;
        extensions = behind;
        match TlsExtensionType(u16::from_be_bytes(*kind)) {
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
    if extensions.is_empty() { Ok(hello) } else { Err(Malformed) }
}

/// The block of extensions, without its length; empty if there is none.
fn extensions(body: &[u8]) -> Result<&[u8], Malformed> {
    let behind = body.get(VERSION_AND_RANDOM..).ok_or(Malformed)?;
    let (session_id, behind) = vector8(behind)?;
    let (ciphers, behind) = vector16(behind)?;
    let (compressions, behind) = vector8(behind)?;
    let is_sound = session_id.len() <= SESSION_ID_MAX
        && !ciphers.is_empty()
        && ciphers.len().is_multiple_of(2)
        && !compressions.is_empty();
    if !is_sound {
        return Err(Malformed);
    }
    if behind.is_empty() {
        return Ok(&[]);
    }
    match vector16(behind)? {
        (extensions, []) => Ok(extensions),
        _ => Err(Malformed),
    }
}

/// What is behind a length of one byte, and what is behind that.
fn vector8(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (&len, behind) = bytes.split_first().ok_or(Malformed)?;
    behind.split_at_checked(len.into()).ok_or(Malformed)
}

/// The same with a length of two bytes.
fn vector16(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (len, behind) = bytes.split_first_chunk().ok_or(Malformed)?;
    behind.split_at_checked(u16::from_be_bytes(*len).into()).ok_or(Malformed)
}

/// An extension must not come twice (RFC 8446 section 4.2); of the ones that routing looks at, the second could be the one that
/// the server believes.
fn first_of_its_kind(seen: &mut bool) -> Result<(), Malformed> {
    if std::mem::replace(seen, true) { Err(Malformed) } else { Ok(()) }
}

/// The content of a list of bytes behind a two-byte length, which must be exact and not 0.
fn list_of(content: &[u8]) -> Result<&[u8], Malformed> {
    match vector16(content)? {
        (list, []) if !list.is_empty() => Ok(list),
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
    while let [kind, behind @ ..] = list
        && *kind == SNIType::HostName.0
    {
        let (raw, behind) = vector16(behind)?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tls_parser::{ClientHello as _, parse_tls_extension_unknown, parse_tls_handshake_client_hello};

    use super::*;

    /// The structure by tls-parser, which takes an extension block that is longer than the message for none.
    fn is_sound_by_tls_parser(body: &[u8]) -> bool {
        let Ok((&[], message)) = parse_tls_handshake_client_hello(body) else { return false };
        let mut extensions = message.ext().unwrap_or_default();
        while let Ok((behind, _)) = parse_tls_extension_unknown(extensions) {
            extensions = behind;
        }
        !message.ciphers().is_empty() && !message.comp().is_empty() && extensions.is_empty()
    }

    /// Extensions that nothing looks into.
    fn is_sound(body: &[u8]) -> bool {
        read(body).is_ok()
    }

    proptest! {
        #[test]
        fn the_structure_is_what_tls_parser_says(
            session_id in proptest::collection::vec(any::<u8>(), 0..34),
            ciphers in proptest::collection::vec(any::<u8>(), 0..6),
            compressions in proptest::collection::vec(any::<u8>(), 0..3),
            extensions in proptest::option::of(proptest::collection::vec((20_u16..0xfe00, 0_usize..4), 0..3)),
            change in proptest::option::of((34_usize..60, any::<u8>())),
            cut in 0_usize..3,
        ) {
            let mut body = vec![3; VERSION_AND_RANDOM];
            body.push(session_id.len() as u8);
            body.extend(&session_id);
            body.extend((ciphers.len() as u16).to_be_bytes());
            body.extend(&ciphers);
            body.push(compressions.len() as u8);
            body.extend(&compressions);
            if let Some(extensions) = extensions {
                let block: Vec<u8> = extensions.iter().flat_map(|(kind, len)| {
                    [&kind.to_be_bytes()[..], &(*len as u16).to_be_bytes(), &vec![9; *len]].concat()
                }).collect();
                body.extend((block.len() as u16).to_be_bytes());
                body.extend(block);
            }
            if let Some((at, byte)) = change && let Some(place) = body.get_mut(at) {
                *place = byte;
            }
            body.truncate(body.len() - cut);
            prop_assert_eq!(is_sound(&body), is_sound_by_tls_parser(&body), "{}", body.escape_ascii());
        }
    }
}
