// SPDX-License-Identifier: MIT OR Apache-2.0
//! ClientHellos made by hand, in the shapes that clients send, and taken apart again for mutation.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::random::Random;

pub(crate) const SERVER_NAME: u16 = 0;
pub(crate) const SUPPORTED_GROUPS: u16 = 10;
pub(crate) const SIGNATURE_ALGORITHMS: u16 = 13;
pub(crate) const ALPN: u16 = 16;
pub(crate) const PADDING: u16 = 21;
pub(crate) const PRE_SHARED_KEY: u16 = 41;
pub(crate) const SUPPORTED_VERSIONS: u16 = 43;
pub(crate) const KEY_SHARE: u16 = 51;
pub(crate) const ECH: u16 = 0xfe0d;

const X25519: u16 = 0x001d;
const X25519_MLKEM768: u16 = 0x11ec;

/// A ClientHello in parts.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) version: u16,
    pub(crate) random: Vec<u8>,
    pub(crate) session_id: Vec<u8>,
    pub(crate) ciphers: Vec<u16>,
    pub(crate) compressions: Vec<u8>,
    /// In order; `None`: the block is missing altogether.
    pub(crate) extensions: Option<Vec<(u16, Vec<u8>)>>,
}

impl Parts {
    /// The least that rustls accepts: no name.
    pub(crate) fn minimal() -> Self {
        Self {
            version: 0x0303,
            random: vec![0x42; 32],
            session_id: vec![0x17; 32],
            ciphers: vec![0x1301, 0x1302, 0xc02f],
            compressions: vec![0],
            extensions: Some(vec![
                (SUPPORTED_VERSIONS, vec![4, 3, 4, 3, 3]),
                (SUPPORTED_GROUPS, list16(&u16s(&[X25519, 0x0017]))),
                (SIGNATURE_ALGORITHMS, list16(&u16s(&[0x0403, 0x0804]))),
                (KEY_SHARE, list16(&key_share(X25519, &[9; 32]))),
            ]),
        }
    }

    /// What a current browser sends: post-quantum key share, GREASE in every place (RFC 8701), GREASE ECH, shuffled extensions.
    pub(crate) fn browser(name: &str, random: &mut Random) -> Self {
        let grease = [0x0a0a, 0x1a1a, 0x5a5a, 0xdada, 0xfafa];
        let (first, last) = (*random.pick(&grease[..3]), *random.pick(&grease[3..]));
        let pq_share = key_share(X25519_MLKEM768, &random.bytes(1216));
        let shares = [key_share(first, &[0]), pq_share, key_share(X25519, &random.bytes(32))].concat();
        let ech = [vec![0, 0, 1, 0, 1, 0x33], list16(&random.bytes(32)), list16(&random.bytes(208))].concat();
        let mut middle = vec![
            (SERVER_NAME, sni(name)),
            (ALPN, alpn(&["h2", "http/1.1"])),
            (SUPPORTED_GROUPS, list16(&u16s(&[first, X25519_MLKEM768, X25519, 0x0017]))),
            (SIGNATURE_ALGORITHMS, list16(&u16s(&[0x0403, 0x0804, 0x0401, 0x0806]))),
            (SUPPORTED_VERSIONS, [vec![6], u16s(&[last, 0x0304, 0x0303])].concat()),
            (KEY_SHARE, list16(&shares)),
            (ECH, ech),
            (5, vec![1, 0, 0, 0, 0]),
            (11, vec![1, 0]),
            (18, vec![]),
            (23, vec![]),
            (27, vec![2, 0, 2]),
            (35, vec![]),
            (45, vec![1, 1]),
            (0x44cd, vec![0, 3, 2, b'h', b'2']),
            (0xff01, vec![0]),
        ];
        random.shuffle(&mut middle);
        middle.insert(0, (first, vec![]));
        middle.push((last, vec![0]));
        let mut parts =
            Self { ciphers: vec![first, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f], ..Self::minimal() };
        parts.random = random.bytes(32);
        parts.session_id = random.bytes(32);
        parts.extensions = Some(middle);
        parts
    }

    /// What OpenSSL 1.0 sent: no TLS 1.3, no session id, many ciphers.
    pub(crate) fn old(name: Option<&str>) -> Self {
        let mut parts = Self { session_id: vec![], ciphers: (0xc001..0xc040).collect(), ..Self::minimal() };
        parts.compressions = vec![1, 0];
        parts.extensions = Some(vec![
            (15, vec![1]),
            (SUPPORTED_GROUPS, list16(&u16s(&[0x0017, 0x0018]))),
            (SIGNATURE_ALGORITHMS, list16(&u16s(&[0x0601, 0x0401, 0x0201]))),
        ]);
        name.map_or(parts.clone(), |name| parts.with(SERVER_NAME, sni(name)))
    }

    /// With one more extension, in front of a pre_shared_key, which must stay last.
    pub(crate) fn with(mut self, kind: u16, content: Vec<u8>) -> Self {
        let extensions = self.extensions.get_or_insert_default();
        let is_psk_last = extensions.last().is_some_and(|(kind, _)| *kind == PRE_SHARED_KEY);
        extensions.insert(extensions.len() - usize::from(is_psk_last), (kind, content));
        self
    }

    pub(crate) fn sni(self, name: &str) -> Self {
        self.with(SERVER_NAME, sni(name))
    }

    /// Padded (RFC 7685) so that the handshake message has exactly this many bytes.
    pub(crate) fn padded_to(self, handshake_len: usize) -> Self {
        let missing = handshake_len - self.clone().with(PADDING, vec![]).handshake().len();
        self.with(PADDING, vec![0; missing])
    }

    /// The message without its header.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = [u16s(&[self.version]), self.random.clone()].concat();
        body.extend(list8(&self.session_id));
        body.extend(list16(&u16s(&self.ciphers)));
        body.extend(list8(&self.compressions));
        if let Some(extensions) = &self.extensions {
            let block: Vec<u8> = extensions
                .iter()
                .flat_map(|(kind, content)| [u16s(&[*kind]), list16(content)].concat())
                .collect();
            body.extend(list16(&block));
        }
        body
    }

    /// The message.
    pub(crate) fn handshake(&self) -> Vec<u8> {
        handshake(&self.body())
    }

    /// The message in as few records as it fits.
    pub(crate) fn wire(&self) -> Vec<u8> {
        records(&self.handshake(), &[1 << 14])
    }

    /// Takes apart the one-record hello of a sane client.
    pub(crate) fn of_wire(wire: &[u8]) -> Self {
        let mut rest = &wire[9..];
        let mut parts = Self::minimal();
        parts.version = u16::from_be_bytes([rest[0], rest[1]]);
        parts.random = rest[2..34].to_vec();
        rest = &rest[34..];
        let (session_id, behind) = split8(rest);
        let (ciphers, behind) = split16(behind);
        let (compressions, behind) = split8(behind);
        parts.session_id = session_id.to_vec();
        parts.ciphers = ciphers.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
        parts.compressions = compressions.to_vec();
        let (mut block, behind) = split16(behind);
        assert!(behind.is_empty());
        let mut extensions = Vec::new();
        while !block.is_empty() {
            let (content, behind) = split16(&block[2..]);
            extensions.push((u16::from_be_bytes([block[0], block[1]]), content.to_vec()));
            block = behind;
        }
        parts.extensions = Some(extensions);
        parts
    }
}

/// The first flight of a rustls client.
pub(crate) fn client_hello(name: &str, alpn: &[&str]) -> Vec<u8> {
    let mut config =
        ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).expect("a host name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a usable configuration");
    let mut wire = Vec::new();
    connection.write_tls(&mut wire).expect("a Vec takes all");
    wire
}

/// A handshake message of type client_hello.
pub(crate) fn handshake(body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32).to_be_bytes();
    [&[1, len[1], len[2], len[3]], body].concat()
}

/// Bytes in handshake records of these sizes; the last size is used for all further ones.
pub(crate) fn records(handshake: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut rest = handshake;
    let mut sizes = sizes.iter();
    let mut size = 1 << 14;
    while !rest.is_empty() {
        size = *sizes.next().unwrap_or(&size);
        let (fragment, behind) = rest.split_at(size.min(rest.len()));
        wire.extend([22, 3, 1]);
        wire.extend(list16(fragment));
        rest = behind;
    }
    wire
}

/// The content of a server_name extension with one host_name.
pub(crate) fn sni(name: impl AsRef<[u8]>) -> Vec<u8> {
    list16(&host_name(name))
}

/// One host_name entry of a server_name list.
pub(crate) fn host_name(name: impl AsRef<[u8]>) -> Vec<u8> {
    [vec![0], list16(name.as_ref())].concat()
}

/// The content of an ALPN extension.
pub(crate) fn alpn(names: &[&str]) -> Vec<u8> {
    list16(&names.iter().flat_map(|name| list8(name.as_bytes())).collect::<Vec<_>>())
}

/// Bytes behind their length in one byte.
pub(crate) fn list8(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

/// Bytes behind their length in two bytes.
pub(crate) fn list16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn key_share(group: u16, key: &[u8]) -> Vec<u8> {
    [u16s(&[group]), list16(key)].concat()
}

fn u16s(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn split8(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes[1..].split_at(usize::from(bytes[0]))
}

fn split16(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes[2..].split_at(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
}
