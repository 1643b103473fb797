// SPDX-License-Identifier: MIT OR Apache-2.0
//! Another implementation of the PROXY protocol: proxy-protocol of the Python Package Index, which `cargo xtask setup` installs.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use crate::process::run;

/// Where `cargo xtask setup` puts Python packages, from this crate's folder.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tests/python");

/// `read HEX` prints what a header says as JSON; `write VERSION SOURCE-IP PORT DESTINATION-IP PORT AUTHORITY` prints one in
/// hexadecimal digits, for an empty source one of an unknown connection.
const SCRIPT: &str = r#"
import json, sys
from ipaddress import ip_address
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.result import ProxyResultIPv4, ProxyResultIPv6, ProxyResultUnknown
from proxyprotocol.tlv import ProxyProtocolTLV
from proxyprotocol.version import ProxyProtocolVersion

if sys.argv[1] == "read":
    result = ProxyProtocolDetect().unpack(bytes.fromhex(sys.argv[2]))
    address = lambda pair: pair and [str(pair[0]), pair[1]]
    tlvs = {str(kind): value.hex() for kind, value in result.tlv.items()}
    print(json.dumps({"type": result.type.name, "source": address(result.source), "dest": address(result.dest), "tlvs": tlvs}))
else:
    version, source, source_port, dest, dest_port, authority = sys.argv[2:]
    if source:
        kind = ProxyResultIPv4 if "." in source else ProxyResultIPv6
        ends = (ip_address(source), int(source_port)), (ip_address(dest), int(dest_port))
        tlv = ProxyProtocolTLV(authority=authority, unique_id=b"from-python") if version == "V2" else ProxyProtocolTLV()
        result = kind(*ends, tlv=tlv)
        if version == "V2":
            from socket import SOCK_STREAM
            result = kind(*ends, protocol=SOCK_STREAM, tlv=tlv)
    else:
        result = ProxyResultUnknown()
    print(ProxyProtocolVersion.get(version).pack(result).hex())
"#;

/// What it reads in a whole header: `type`, `source` and `dest` (address and port, or null), `tlvs` by type in hexadecimal digits.
///
/// # Panics
/// If the package is not installed, or refuses the header.
#[track_caller]
pub fn read(header: &[u8]) -> Value {
    let digits: String = header.iter().map(|byte| format!("{byte:02x}")).collect();
    let printed = python(&["read", &digits]);
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// A header of version `V1` or `V2` that it writes; in `V2` with the unique id `from-python`. Without ends: of an unknown connection.
///
/// # Panics
/// If the package is not installed, or refuses to write.
#[track_caller]
pub fn write(version: &str, ends: Option<(SocketAddr, SocketAddr)>, authority: &str) -> Vec<u8> {
    let words = ends.map_or_else(<[String; 4]>::default, |(source, destination)| {
        let [from, to] = [source, destination].map(|end| (end.ip().to_string(), end.port().to_string()));
        [from.0, from.1, to.0, to.1]
    });
    let mut arguments = vec!["write", version];
    arguments.extend(words.iter().map(String::as_str));
    arguments.push(authority);
    let printed = python(&arguments);
    let digits = printed.trim().as_bytes();
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("digits");
        u8::from_str_radix(pair, 16).unwrap_or_else(|error| panic!("{error}: {printed}"))
    };
    digits.chunks(2).map(byte).collect()
}

#[track_caller]
fn python(arguments: &[&str]) -> String {
    let path = format!("{FOLDER}/proxy-protocol:{FOLDER}/typing-extensions");
    run(Command::new("python3").env("PYTHONPATH", path).args(["-c", SCRIPT]).args(arguments))
}
