// SPDX-License-Identifier: MIT OR Apache-2.0
//! "Did you mean …?"

/// Words of HAProxy's (its configuration manual, sections 3 to 5), with spaces and underscores as hyphens, beside what they are called
/// here.
const HAPROXY_WORDS: [(&str, &str); 27] = [
    ("accept-proxy", "accept-proxy-from"),
    ("clitcpka", "keepalive"),
    ("downinter", "down-interval"),
    ("fastinter", "fast-interval"),
    ("hard-stop-after", "drain-timeout"),
    ("inspect-delay", "client-hello-timeout"),
    ("inter", "interval"),
    ("interface", "source-interface"),
    ("leastconn", "least-connections"),
    ("maxconn", "max-connections"),
    ("maxqueue", "max-queue"),
    ("nbthread", "workers"),
    ("roundrobin", "round-robin"),
    ("send-proxy-v2", "send-proxy"),
    ("slowstart", "slow-start"),
    ("srvtcpka", "keepalive"),
    ("static-rr", "round-robin"),
    ("tcp-ut", "user-timeout"),
    ("timeout-check", "timeout"),
    ("timeout-client", "idle-timeout"),
    ("timeout-client-fin", "half-close-timeout"),
    ("timeout-connect", "connect-timeout"),
    ("timeout-queue", "queue-timeout"),
    ("timeout-server", "idle-timeout"),
    ("timeout-server-fin", "half-close-timeout"),
    ("timeout-tunnel", "idle-timeout"),
    ("use-backend", "route"),
];

/// The allowed word that a misspelt one, or one of HAProxy's, most likely stands for, if one is near enough.
pub(super) fn closest<'a>(word: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Beyond this the word is no slip of the fingers, and comparing costs the product of both lengths.
    const WORD_MAX: usize = 64;
    if word.len() > WORD_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase().replace(['_', ' '], "-");
    let allowed: Vec<&str> = allowed.into_iter().collect();
    let meant = HAPROXY_WORDS.iter().find(|(theirs, _)| *theirs == word);
    if let Some(ours) = meant.and_then(|(_, ours)| allowed.iter().find(|allowed| *allowed == ours)) {
        return Some(ours);
    }
    allowed
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= candidate.len().min(word.len()) / 3 || is_beginning(&word, candidate)
        })
        .min()
        .map(|(_, candidate)| candidate)
}

fn distance(word: &str, candidate: &str) -> usize {
    strsim::damerau_levenshtein(word, &candidate.to_ascii_lowercase().replace('_', "-"))
}

/// One is the other's beginning: `interval` and `interval-ms`, `max` and `max-connections`.
fn is_beginning(word: &str, candidate: &str) -> bool {
    word.len().min(candidate.len()) >= 3 && (candidate.starts_with(word) || word.starts_with(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let allowed = ["bind", "mode", "client-hello-timeout", "client-hello-max", "max-connections"];
        let check =
            |word: &str, expected: Option<&str>| assert_eq!(closest(word, allowed), expected, "{word}");
        check("bnid", Some("bind"));
        check("binds", Some("bind"));
        check("client_hello_timeout", Some("client-hello-timeout"));
        check("Client-Hello-Timout", Some("client-hello-timeout"));
        check("max", Some("max-connections"));
        check("xyz", None);
        check("", None);
        check(&"bind".repeat(100), None);
    }

    #[test]
    fn words_of_haproxy_are_known_where_they_have_a_meaning() {
        let allowed = ["max-connections", "idle-timeout", "connect-timeout", "least-connections"];
        let check =
            |word: &str, expected: Option<&str>| assert_eq!(closest(word, allowed), expected, "{word}");
        check("maxconn", Some("max-connections"));
        check("MaxConn", Some("max-connections"));
        check("leastconn", Some("least-connections"));
        check("timeout client", Some("idle-timeout"));
        check("timeout_server", Some("idle-timeout"));
        check("timeout-connect", Some("connect-timeout"));
        // Not allowed here.
        check("nbthread", None);
    }

    #[test]
    fn every_word_of_haproxy_leads_to_a_word_of_the_configuration() {
        let text = include_str!("../../../config/lb.toml");
        for (theirs, ours) in HAPROXY_WORDS {
            let is_known =
                [format!("{ours} = "), format!(" {ours} "), format!("\"{ours}\""), format!(".{ours}]")];
            assert!(is_known.iter().any(|known| text.contains(known)), "{theirs}: {ours}");
            assert!(!text.contains(&format!("# {theirs} = ")), "{theirs} is one of ours");
        }
        assert!(HAPROXY_WORDS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
