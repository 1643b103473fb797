// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all contestants have in common, in words: made of what their configurations are made of.

use super::peers::PEERS;
use super::setting::{CONNECT_TIMEOUT, HELLO_TIMEOUT, IDLE_TIMEOUT, WORKERS, connections_max};
use crate::load::preface::Header;

/// For the reader of a report.
pub fn common_settings() -> String {
    let others = |header: Header| -> String {
        let names = PEERS.iter().filter(|(peer, ..)| peer.header() == header);
        names.map(|(_, name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    format!(
        "All balancers: {WORKERS} threads or worker processes that carry traffic, no access log and of the rest errors only, no active \
         health checks, up to {} connections, {HELLO_TIMEOUT} s for the ClientHello, {CONNECT_TIMEOUT} s to connect, {IDLE_TIMEOUT} s idle, PROXY v2 to \
         the servers ({}: v1; {}: none), which check it.",
        connections_max(),
        others(Header::V1),
        others(Header::None)
    )
}

#[cfg(test)]
mod tests {
    use super::super::Contestant;
    use super::super::setting::tests::setting;
    use super::*;

    /// Lines that say what the sentence says, by contestant; workers of Envoy are an argument.
    fn claims(contestant: Contestant) -> Vec<String> {
        let connections = connections_max();
        let claims: &[&str] = match contestant {
            Contestant::Direct => &[],
            Contestant::Lb(_) => &[
                "workers = WORKERS\n",
                "max-connections = MAX\n",
                "target = \"off\"",
                "client-hello-timeout = \"HELLOs\"",
                "connect-timeout = \"CONNECTs\"",
                "idle-timeout = \"IDLEs\"",
                "send-proxy = \"v2\"",
            ],
            Contestant::Nginx => &[
                "worker_processes WORKERS;",
                "access_log off;",
                "error_log stderr error;",
                "preread_timeout HELLOs;",
                "proxy_connect_timeout CONNECTs;",
                "proxy_timeout IDLEs;",
                "proxy_protocol on;",
            ],
            Contestant::Envoy => &[
                "\"max_connections\": MAX",
                "\"listener_filters_timeout\": \"HELLOs\"",
                "\"connect_timeout\": \"CONNECTs\"",
                "\"idle_timeout\": \"IDLEs\"",
                "\"version\": \"V2\"",
            ],
            Contestant::Sozu | Contestant::SozuSplice => &[
                "worker_count = WORKERS\n",
                "max_connections = MAX\n",
                "log_level = \"error\"",
                "sni_preread_timeout = HELLO\n",
                "connect_timeout = CONNECT\n",
                "front_timeout = IDLE\nback_timeout = IDLE\n",
                "send_proxy = true",
            ],
            _ => &[
                "nbthread WORKERS\n",
                "maxconn MAX\n",
                "inspect-delay HELLOs\n",
                "timeout connect CONNECTs\n",
                "timeout client IDLEs\n    timeout server IDLEs\n",
                "send-proxy-v2",
            ],
        };
        let values = [
            ("WORKERS", WORKERS),
            ("MAX", connections),
            ("HELLO", HELLO_TIMEOUT as usize),
            ("CONNECT", CONNECT_TIMEOUT as usize),
            ("IDLE", IDLE_TIMEOUT as usize),
        ];
        let fill = |claim: &&str| {
            values
                .iter()
                .fold((*claim).to_owned(), |claim, (word, value)| claim.replace(word, &value.to_string()))
        };
        claims.iter().map(fill).collect()
    }

    #[test]
    fn every_configuration_does_what_the_sentence_says() {
        let folder = tempfile::tempdir().unwrap();
        let setting = setting(10, folder.path());
        for contestant in Contestant::all() {
            let config = contestant.config_for(&setting).unwrap_or_default();
            for claim in claims(contestant) {
                assert!(config.contains(&claim), "{contestant:?}: {claim}: {config}");
            }
            let is_checked = ["option tcp-check", "health_checks", "health_check", "httpchk", " check\n"];
            assert!(!is_checked.iter().any(|word| config.contains(word)), "{contestant:?}");
        }
    }

    #[test]
    fn who_sends_another_header_is_named() {
        assert!(common_settings().contains("(nginx: v1; direct: none)"), "{}", common_settings());
    }
}
