// SPDX-License-Identifier: MIT OR Apache-2.0
//! ClientHellos made byte by byte (RFC 8446 section 4.1.2, RFC 6066 section 3, RFC 7301 section 3.1), so that a test can cut,
//! bend and break them anywhere.

/// A ClientHello with a post-quantum key share, as browsers send it. The server name comes last, where it is cut most easily.
#[derive(Clone, Debug)]
pub struct Hello {
    /// `server_name`, as bytes because tests also send what is not a name.
    pub server_name: Option<Vec<u8>>,
    /// ALPN protocols.
    pub alpn: Vec<String>,
    /// Adds encrypted_client_hello (RFC 9849).
    pub has_ech: bool,
    /// Pads the handshake message to this size in bytes, its header included.
    pub size: Option<usize>,
    /// Further extensions: type and content.
    pub extensions: Vec<(u16, Vec<u8>)>,
    /// `random`
    pub random: [u8; 32],
}

impl Hello {
    /// One with a server name.
    pub fn named(name: &str) -> Self {
        Self { server_name: Some(name.into()), ..Self::nameless() }
    }

    /// One without a server name.
    pub fn nameless() -> Self {
        Self {
            server_name: None,
            alpn: vec!["h2".into(), "http/1.1".into()],
            has_ech: false,
            size: None,
            extensions: Vec::new(),
            random: [7; 32],
        }
    }

    /// The same with these ALPN protocols.
    #[must_use]
    pub fn alpn(self, protocols: &[&str]) -> Self {
        Self { alpn: protocols.iter().map(ToString::to_string).collect(), ..self }
    }

    /// The same, padded to a size in bytes of the handshake message, its header included (RFC 7685).
    #[must_use]
    pub fn sized(self, size: usize) -> Self {
        Self { size: Some(size), ..self }
    }

    /// The same with encrypted_client_hello.
    #[must_use]
    pub fn ech(self) -> Self {
        Self { has_ech: true, ..self }
    }

    /// The handshake message.
    ///
    /// # Panics
    /// If it does not fit into the size asked for.
    pub fn handshake(&self) -> Vec<u8> {
        let mut extensions = self.extensions();
        let bare = message(&self.body(&extensions)).len();
        if let Some(size) = self.size.filter(|size| *size != bare) {
            let padding = size.checked_sub(bare + 4).expect("room for the padding extension's header");
            let name = extensions.pop();
            extensions.push((21, vec![0; padding]));
            extensions.extend(name);
        }
        message(&self.body(&extensions))
    }

    /// As it goes over the wire, in records as large as the protocol allows.
    pub fn wire(&self) -> Vec<u8> {
        records(&self.handshake(), &[])
    }

    fn body(&self, extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend(self.random);
        body.extend(with_length8(&[9; 32]));
        // A GREASE value (RFC 8701) first, then the three suites of TLS 1.3 and two of TLS 1.2.
        let suites: [u16; 6] = [0x3a3a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f];
        body.extend(with_length16(&suites.map(u16::to_be_bytes).concat()));
        body.extend([1, 0]);
        let list = extensions.iter().flat_map(|(kind, content)| {
            kind.to_be_bytes().into_iter().chain(with_length16(content)).collect::<Vec<u8>>()
        });
        body.extend(with_length16(&list.collect::<Vec<u8>>()));
        body
    }

    fn extensions(&self) -> Vec<(u16, Vec<u8>)> {
        let shares = [share(0x2a2a, 1), share(0x11ec, 1216), share(0x001d, 32)].concat();
        let mut extensions = vec![
            (0x5a5a, Vec::new()),
            // supported_groups: GREASE, X25519MLKEM768, x25519, secp256r1.
            (10, with_length16(&[0x2a, 0x2a, 0x11, 0xec, 0x00, 0x1d, 0x00, 0x17])),
            // signature_algorithms
            (13, with_length16(&[0x04, 0x03, 0x08, 0x04, 0x04, 0x01, 0x08, 0x05])),
            // supported_versions: GREASE, 1.3, 1.2
            (43, with_length8(&[0x6a, 0x6a, 3, 4, 3, 3])),
            (51, with_length16(&shares)),
            // ec_point_formats, extended_master_secret
            (11, vec![1, 0]),
            (23, Vec::new()),
        ];
        if !self.alpn.is_empty() {
            let names: Vec<u8> = self.alpn.iter().flat_map(|name| with_length8(name.as_bytes())).collect();
            extensions.push((16, with_length16(&names)));
        }
        if self.has_ech {
            extensions.push((0xfe0d, outer_ech()));
        }
        extensions.extend(self.extensions.iter().cloned());
        if let Some(name) = &self.server_name {
            let entry = [vec![0], with_length16(name)].concat();
            extensions.push((0, with_length16(&entry)));
        }
        extensions
    }
}

/// Puts handshake bytes into TLS records of the given fragment sizes; what is left goes into as few records as possible.
pub fn records(handshake: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut rest = handshake;
    let mut wire = Vec::new();
    for size in sizes.iter().copied().chain(std::iter::repeat(1 << 14)) {
        if rest.is_empty() {
            break;
        }
        let (fragment, behind) = rest.split_at(size.min(rest.len()));
        wire.extend([22, 3, 1]);
        wire.extend(with_length16(fragment));
        rest = behind;
    }
    wire
}

/// An ECHClientHello of type outer: HPKE suite, configuration id, encapsulated key, payload.
fn outer_ech() -> Vec<u8> {
    let suite = [0, 0, 1, 0, 1, 42];
    [suite.to_vec(), with_length16(&[5; 32]), with_length16(&[6; 144])].concat()
}

fn share(group: u16, length: usize) -> Vec<u8> {
    [group.to_be_bytes().to_vec(), with_length16(&vec![0xa5; length])].concat()
}

fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a ClientHello").to_be_bytes();
    [&[1, length[1], length[2], length[3]], body].concat()
}

fn with_length8(content: &[u8]) -> Vec<u8> {
    [&[u8::try_from(content.len()).expect("at most 255 bytes")], content].concat()
}

fn with_length16(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("at most 65,535 bytes").to_be_bytes();
    [&length, content].concat()
}

/// What rustls makes of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A ClientHello with this server name.
    Name(String),
    /// A ClientHello without a server name.
    NoName,
    /// The beginning of a ClientHello.
    NeedMore,
    /// Not a ClientHello.
    Invalid,
}

/// Asks rustls.
pub fn judge(mut wire: &[u8]) -> Verdict {
    let mut acceptor = rustls::server::Acceptor::default();
    while !wire.is_empty() {
        if acceptor.read_tls(&mut wire).is_err() {
            return Verdict::Invalid;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return name.map_or(Verdict::NoName, Verdict::Name);
            }
            Ok(None) => {}
            Err(_) => return Verdict::Invalid,
        }
    }
    Verdict::NeedMore
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustls_understands_our_hellos() {
        let name = Verdict::Name("a.example".into());
        check(&Hello::named("a.example").wire(), name.clone());
        check(&Hello::named("a.example").sized(1800).wire(), name.clone());
        check(&Hello::named("a.example").ech().sized(16384).wire(), name.clone());
        check(&records(&Hello::named("a.example").handshake(), &[1; 2000]), name);
        check(&Hello::nameless().wire(), Verdict::NoName);
        check(&Hello::named("a.example").wire()[..1000], Verdict::NeedMore);
        check(b"GET / HTTP/1.1\r\n\r\n", Verdict::Invalid);
    }

    #[test]
    fn sizes_are_exact() {
        assert_eq!(Hello::named("a.example").sized(1800).handshake().len(), 1800);
    }

    fn check(wire: &[u8], expected: Verdict) {
        assert_eq!(judge(wire), expected);
    }
}
