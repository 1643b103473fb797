// SPDX-License-Identifier: MIT OR Apache-2.0
//! Socket addresses as `IP:port` and `[IPv6]:port`, and which of them a kernel would refuse to bind together.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::Config;
use super::names::parse_host;

/// What an address is for; it decides which are sensible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Bind,
    Connect,
    /// As `Connect`, where a name would do as well.
    Server,
}

/// Where servers are: at an address, or at all addresses of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Ip(SocketAddr),
    /// A name and a port.
    Host(String, u16),
}

/// Reads an address or a name with a port; the error is a sentence for the user.
pub(super) fn parse_named(text: &str) -> Result<Named, String> {
    if text.parse::<SocketAddr>().is_ok() {
        return parse(text, Purpose::Server).map(Named::Ip);
    }
    let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_name = host.contains(|c: char| c.is_alphabetic()) && !host.contains([':', '[', '%', '/']);
    if !is_name {
        return Err(explain(text, Purpose::Server));
    }
    let name = parse_host(host)?;
    match port.map(str::parse::<u16>) {
        None => Err(format!("the port is missing: write \"{name}:443\", say")),
        Some(Ok(port @ 1..)) => Ok(Named::Host(name, port)),
        Some(_) => Err("the port must be a number between 1 and 65535".into()),
    }
}

/// Reads an address; the error is a sentence for the user.
pub(super) fn parse(text: &str, purpose: Purpose) -> Result<SocketAddr, String> {
    let Ok(address) = text.parse::<SocketAddr>() else { return Err(explain(text, purpose)) };
    if let IpAddr::V6(ip) = address.ip()
        && let Some(ip) = ip.to_ipv4_mapped()
    {
        return Err(format!("is an IPv4 address in IPv6 clothes: write \"{ip}:{}\"", address.port()));
    }
    if address.ip().is_multicast() {
        return Err("is a multicast address; TCP needs a unicast one".into());
    }
    match purpose {
        Purpose::Connect | Purpose::Server if address.port() == 0 => {
            Err("the port must be between 1 and 65535".into())
        }
        Purpose::Connect | Purpose::Server if address.ip().is_unspecified() => {
            Err("stands for every address of this host; write the one to connect to".into())
        }
        _ => Ok(address),
    }
}

/// Why a text is no address.
fn explain(text: &str, purpose: Purpose) -> String {
    let example = match purpose {
        Purpose::Bind => "\"0.0.0.0:443\" or \"[::]:443\"",
        Purpose::Connect => "\"10.0.0.1:443\" or \"[fd00::1]:443\"",
        Purpose::Server => "\"10.0.0.1:443\", \"[fd00::1]:443\" or \"web.internal:443\"",
    };
    let must = match purpose {
        Purpose::Server => format!("must be IP:port, [IPv6]:port or name:port, such as {example}"),
        _ => format!("must be IP:port or [IPv6]:port, such as {example}"),
    };
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<IpAddr>().is_ok() {
        return if bare.contains(':') && bare == text {
            format!("the port is missing: {must}")
        } else {
            "the port is missing".into()
        };
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return if text.bytes().all(|b| b.is_ascii_digit()) {
            format!("the address is missing: {must}")
        } else {
            host_name(&must)
        };
    };
    let is_address =
        host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host).parse::<IpAddr>().is_ok();
    match port.parse::<u16>() {
        _ if host.is_empty() || host == "*" => format!("the address is missing: {must}"),
        Ok(_) if host.contains('%') => "the zone of an IPv6 address must be the interface's number".into(),
        Ok(_) if !is_address => host_name(&must),
        Err(_) if is_address => "the port must be a number between 1 and 65535".into(),
        _ => must,
    }
}

fn host_name(must: &str) -> String {
    format!("a host name cannot stand here, an address is needed: {must}")
}

/// Whether two listening sockets exclude each other (ip(7), ipv6(7)): the same port, and the same address or one that covers the other.
pub(super) fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && one.is_ipv4() == other.is_ipv4()
        && (covers || one == other)
}

impl Config {
    /// Whether a listening socket must be IPv6 only (IPV6_V6ONLY, ipv6(7)): `[::]` would otherwise take the IPv4 side of a port
    /// that the configuration binds on IPv4 by itself.
    pub fn is_v6_only(&self, bind: SocketAddr) -> bool {
        let admin = self.admin.iter().map(|admin| admin.bind);
        let mut others =
            self.frontends.iter().flat_map(|frontend| frontend.bind.iter().copied()).chain(admin);
        bind.ip() == Ipv6Addr::UNSPECIFIED
            && bind.port() != 0
            && others.any(|other| other.is_ipv4() && other.port() == bind.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |text: &str| {
            assert_eq!(parse(text, Purpose::Connect).map(|a| a.to_string()), Ok(text.into()));
        };
        check("10.0.0.1:443");
        check("[fd00::1]:443");
        check("[fe80::1%2]:443");
        assert!(parse("[::]:0", Purpose::Bind).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text: &str, part: &str| {
            let message = parse(text, Purpose::Connect).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        };
        check("10.0.0.1", "the port is missing");
        check("[fd00::1]", "the port is missing");
        check("fd00::1", "the port is missing: must be IP:port or [IPv6]:port");
        check("10.0.0.1:443:", "must be IP:port");
        check("443", "the address is missing");
        check(":443", "the address is missing");
        check("*:443", "the address is missing");
        check("web.internal:443", "a host name cannot stand here, an address is needed");
        check("web", "a host name cannot stand here");
        check("", "the address is missing");
        check("10.0.0.1:https", "the port must be a number");
        check("10.0.0.1:65536", "the port must be a number");
        check("10.0.0.1:0", "between 1 and 65535");
        check("0.0.0.0:443", "stands for every address");
        check("[::]:443", "stands for every address");
        check("[::ffff:10.0.0.1]:443", "write \"10.0.0.1:443\"");
        check("224.0.0.1:443", "multicast");
        check("[fe80::1%eth0]:443", "the interface's number");
    }

    #[test]
    fn servers_may_have_names() {
        let check = |text: &str, expected: Named| assert_eq!(parse_named(text), Ok(expected), "{text}");
        let host = |name: &str, port| Named::Host(name.into(), port);
        check("Web.Internal:443", host("web.internal", 443));
        check("web.internal.:443", host("web.internal", 443));
        check("localhost:5432", host("localhost", 5432));
        check("1and1.example:1", host("1and1.example", 1));
        check("10.0.0.1:443", Named::Ip(([10, 0, 0, 1], 443).into()));
        let check = |text: &str, part: &str| {
            let message = parse_named(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        };
        check("web.internal", "the port is missing: write \"web.internal:443\"");
        check("web.internal:0", "between 1 and 65535");
        check("web.internal:https", "the port must be a number");
        check("*.internal:443", "\"*\" may not stand in the name of a host");
        check("https://web.internal:443", "must be IP:port, [IPv6]:port or name:port");
        check("web..internal:443", "an empty label");
        check("a.10:443", "neither an address nor a name");
        check("10.0.0:443", "name:port");
        check("w\u{e4}b:443", "punycode");
        check("0.0.0.0:443", "stands for every address");
        check("10.0.0.1", "the port is missing");
        check("", "the address is missing");
    }

    #[test]
    fn sockets_that_exclude_each_other() {
        let check = |one: &str, other: &str, expected: bool| {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((clash(one, other), clash(other, one)), (expected, expected), "{one} {other}");
        };
        check("0.0.0.0:443", "0.0.0.0:443", true);
        check("0.0.0.0:443", "127.0.0.1:443", true);
        check("127.0.0.1:443", "127.0.0.2:443", false);
        check("127.0.0.1:443", "127.0.0.1:444", false);
        check("127.0.0.1:0", "127.0.0.1:0", false);
        check("[::]:443", "[::1]:443", true);
        check("[::]:443", "0.0.0.0:443", false);
        check("[::]:443", "127.0.0.1:443", false);
    }
}
