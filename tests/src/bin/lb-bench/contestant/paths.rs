// SPDX-License-Identifier: MIT OR Apache-2.0
//! The paths of lb, each of which takes part as `lb-PATH`. A further one is one more entry in [`PATHS`].

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::audit::Claim;

/// What the names of contestants that are lb begin with.
pub const PREFIX: &str = "lb-";

/// All paths, in the order of reports.
pub const PATHS: &[LbPath] = &[
    LbPath {
        word: "auto",
        help: "The path that lb chooses itself",
        settings: "path = \"auto\"",
        is_choice: true,
        is_on_request: false,
        ports: None,
    },
    LbPath {
        word: "splice",
        help: "splice(2)",
        settings: "path = \"splice\"\npath-required = true",
        is_choice: false,
        is_on_request: false,
        ports: None,
    },
    LbPath {
        word: "sockmap",
        help: "From socket to socket inside the kernel, by a BPF program",
        // Not required: who is refused would be reset, and nobody would know why.
        settings: "path = \"sockmap\"\npromote-after-bytes = \"0B\"",
        is_choice: false,
        is_on_request: false,
        ports: None,
    },
    LbPath {
        word: "sockmap-inside",
        help: "The same, and streams stay there",
        settings: "path = \"sockmap\"\npath-required = true",
        is_choice: false,
        is_on_request: true,
        ports: None,
    },
    LbPath {
        word: "sockmap-late",
        help: "The same, by its defaults: not with the first byte",
        settings: "path = \"sockmap\"",
        is_choice: false,
        is_on_request: true,
        ports: None,
    },
    LbPath {
        word: "packet",
        help: "From interface to interface inside the kernel, by BPF programs that translate packets",
        // Not to be had as required: every flow begins in user space.
        settings: "path = \"packet\"\npromote-after-bytes = \"0B\"",
        is_choice: false,
        is_on_request: false,
        ports: None,
    },
    LbPath {
        word: "packet-late",
        help: "The same, by its defaults: what auto is where packet-ports are written",
        settings: "path = \"packet\"",
        is_choice: false,
        is_on_request: true,
        // Two agents beside each other share no port: these are of nobody else in the balancer's namespace.
        ports: Some("3000-8999"),
    },
    LbPath {
        word: "copy",
        help: "recv(2) and send(2)",
        settings: "path = \"copy\"\npath-required = true",
        is_choice: false,
        is_on_request: false,
        ports: None,
    },
];

/// A way in which lb carries bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LbPath {
    /// As the command line, the configuration and lb's counters call it.
    pub word: &'static str,
    help: &'static str,
    /// The lines of a frontend's configuration that choose it.
    pub settings: &'static str,
    /// Whether lb chooses the path for each flow.
    pub is_choice: bool,
    /// Whether it takes part only where somebody names it, and in suites that are about it.
    pub is_on_request: bool,
    /// Its `packet-ports`, where they are not the default.
    pub ports: Option<&'static str>,
}

impl LbPath {
    /// Whether connections leave user space.
    pub fn goes_inside(&self) -> bool {
        ["sockmap", "packet"].iter().any(|path| self.word.starts_with(path))
    }

    /// Whether it takes part without having been named where connections begin: what is different from the others there is their beginning.
    pub fn is_about_beginnings(&self) -> bool {
        self.word == "packet-late"
    }

    /// What lb's counters must say.
    pub fn claim(&self) -> Claim {
        match self.word {
            // Without packet-ports it never leaves user space.
            _ if self.is_choice => Claim::Choice("splice"),
            // What a reader does not keep up with is spliced.
            "sockmap" => Claim::Either(self.word, "splice"),
            "sockmap-inside" => Claim::Path("sockmap"),
            "sockmap-late" => Claim::Late("sockmap", "splice"),
            "packet-late" => Claim::Late("packet", "packet"),
            // What ends before its first pause never leaves user space.
            "packet" => Claim::Lasting("packet"),
            word => Claim::Path(word),
        }
    }
}

impl ValueEnum for LbPath {
    fn value_variants<'a>() -> &'a [Self] {
        PATHS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.word).help(self.help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_was_asked_for_is_checked() {
        for path in PATHS {
            let is_late = path.word.ends_with("-late");
            assert_eq!(matches!(path.claim(), Claim::Choice(_)), path.word == "auto", "{path:?}");
            assert_eq!(matches!(path.claim(), Claim::Late(..)), is_late, "{path:?}");
            assert_eq!(
                path.goes_inside() && !is_late,
                path.settings.contains("promote-after-bytes") || path.word == "sockmap-inside"
            );
            let is_demanded = !is_late && !["auto", "sockmap", "packet"].contains(&path.word);
            assert_eq!(path.settings.contains("path-required"), is_demanded, "{path:?}");
            let named = path.word.trim_end_matches("-inside").trim_end_matches("-late");
            assert!(path.settings.contains(&format!("path = \"{named}\"")), "{path:?}");
        }
    }
}
