// SPDX-License-Identifier: MIT OR Apache-2.0
//! "Did you mean …?"

/// The allowed word that a misspelt one most likely stands for, if one is near enough.
pub(super) fn closest<'a>(word: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Beyond this the word is no slip of the fingers, and comparing costs the product of both lengths.
    const WORD_MAX: usize = 64;
    if word.len() > WORD_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('_', "-");
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
}
