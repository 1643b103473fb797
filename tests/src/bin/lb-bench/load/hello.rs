// SPDX-License-Identifier: MIT OR Apache-2.0
//! A ClientHello in the shape of a browser's (RFC 8446 section 4.1.2): 16 cipher suites, 18 extensions in the order of Chrome
//! before it shuffled them, and padded to 517 bytes as browsers without a post-quantum key share do (RFC 7685). Its session id
//! carries the request to the load server, so that the server needs nothing else.

use super::preface::Request;
use super::{NAME_DIGITS, NAME_PREFIX, route_name};

/// Bytes on the wire: 512 bytes of handshake behind the record header.
pub const SIZE: usize = 517;

/// Where the session id lies: behind record header, handshake header, version, random and its own length.
pub const SESSION_ID: std::ops::Range<usize> = 44..76;

const SUITES: [u16; 16] = [
    0x3a3a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c,
    0x009d, 0x002f, 0x0035,
];

/// Extension types that carry something else than a list of numbers are built in [`extensions`]; names: IANA's TLS registry.
const SERVER_NAME: u16 = 0;
const PADDING: u16 = 21;

/// The record with the ClientHello for `name`.
///
/// # Panics
/// If the name is so long that the hello would outgrow [`SIZE`].
pub fn client_hello(name: &str, request: Request) -> Vec<u8> {
    let extensions = extensions(name);
    let head = head(request);
    let without_padding = 5 + 4 + head.len() + 2 + extensions.len();
    let padding = SIZE.checked_sub(without_padding + 4).expect("names of routes are short");
    let extensions = [extensions, extension(PADDING, &vec![0; padding])].concat();
    let body = [head, with_length16(&extensions)].concat();
    let length = u32::try_from(body.len()).expect("a short message").to_be_bytes();
    let message = [vec![1, length[1], length[2], length[3]], body].concat();
    [vec![22, 3, 1], with_length16(&message)].concat()
}

/// A ClientHello whose name can be changed for next to nothing.
#[derive(Clone, Debug)]
pub struct Template {
    wire: Vec<u8>,
    digits: std::ops::Range<usize>,
}

impl Template {
    /// For the names of [`route_name`].
    ///
    /// # Panics
    /// Never: the name is in the hello.
    pub fn new(request: Request) -> Self {
        let name = route_name(0);
        let wire = client_hello(&name, request);
        let start = wire.windows(name.len()).position(|window| window == name.as_bytes());
        let digits = start.expect("the name is in the hello") + NAME_PREFIX.len();
        Self { wire, digits: digits..digits + NAME_DIGITS }
    }

    /// The hello for a name below a million.
    pub fn named(&mut self, mut number: usize) -> &[u8] {
        for digit in self.wire[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        &self.wire
    }
}

/// Everything before the extensions.
fn head(request: Request) -> Vec<u8> {
    let mut head = vec![3, 3];
    head.extend([7; 32]);
    head.extend(with_length8(&request.to_session_id()));
    head.extend(with_length16(&SUITES.map(u16::to_be_bytes).concat()));
    head.extend([1, 0]);
    head
}

fn extensions(name: &str) -> Vec<u8> {
    let entry = [vec![0], with_length16(name.as_bytes())].concat();
    let groups = numbers(&[0x2a2a, 0x001d, 0x0017, 0x0018]);
    let protocols = [with_length8(b"h2"), with_length8(b"http/1.1")].concat();
    let signatures = numbers(&[0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601]);
    let shares = [numbers(&[0x2a2a, 1]), vec![0], numbers(&[0x001d, 32]), vec![9; 32]].concat();
    [
        extension(0x1a1a, &[]),
        extension(SERVER_NAME, &with_length16(&entry)),
        // extended_master_secret, renegotiation_info
        extension(23, &[]),
        extension(0xff01, &[0]),
        // supported_groups, ec_point_formats, session_ticket, application_layer_protocol_negotiation
        extension(10, &with_length16(&groups)),
        extension(11, &[1, 0]),
        extension(35, &[]),
        extension(16, &with_length16(&protocols)),
        // status_request, signature_algorithms, signed_certificate_timestamp
        extension(5, &[1, 0, 0, 0, 0]),
        extension(13, &with_length16(&signatures)),
        extension(18, &[]),
        // key_share, psk_key_exchange_modes, supported_versions, compress_certificate, application_settings
        extension(51, &with_length16(&shares)),
        extension(45, &[1, 1]),
        extension(43, &with_length8(&numbers(&[0x0a0a, 0x0304, 0x0303]))),
        extension(27, &[2, 0, 2]),
        extension(17513, &with_length16(&with_length8(b"h2"))),
        extension(0x4a4a, &[0]),
    ]
    .concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), with_length16(content)].concat()
}

fn numbers(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn with_length8(content: &[u8]) -> Vec<u8> {
    [&[u8::try_from(content.len()).expect("at most 255 bytes")], content].concat()
}

fn with_length16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).expect("at most 65,535 bytes").to_be_bytes(), content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustls_reads_the_name_from_517_bytes() {
        let wire = client_hello("route-3.bench.example", Request::Echo);
        assert_eq!(wire.len(), SIZE);
        let mut acceptor = rustls::server::Acceptor::default();
        acceptor.read_tls(&mut &wire[..]).unwrap();
        let accepted = acceptor.accept().unwrap().unwrap();
        let hello = accepted.client_hello();
        assert_eq!(hello.server_name(), Some("route-3.bench.example"));
        assert_eq!(hello.alpn().unwrap().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
    }

    #[test]
    fn a_template_makes_the_same_hellos() {
        let mut template = Template::new(Request::Echo);
        for number in [7, 999_999, 0, 123_456] {
            assert_eq!(template.named(number), client_hello(&route_name(number), Request::Echo), "{number}");
        }
    }

    #[test]
    fn the_session_id_is_the_request() {
        let request = Request::Source(123_456_789_012);
        assert_eq!(client_hello("a.example", request)[SESSION_ID], request.to_session_id());
    }
}
