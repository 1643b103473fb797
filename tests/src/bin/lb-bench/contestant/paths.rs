// SPDX-License-Identifier: MIT OR Apache-2.0
//! The paths of lb, each of which takes part as `lb-PATH`. A further one is one more entry in [`PATHS`].

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::audit::Claim;
use crate::suite::Suite;

/// What the names of contestants that are lb begin with.
pub const PREFIX: &str = "lb-";

/// The suites that tell ways to carry bytes apart.
pub const CARRYING: &[Suite] = &[Suite::Bulk];

/// All paths, in the order of reports.
pub const PATHS: &[LbPath] = &[
    LbPath {
        word: "auto",
        help: "The path that lb chooses itself",
        settings: "path = \"auto\"",
        differs_in: None,
    },
    LbPath {
        word: "splice",
        help: "splice(2)",
        settings: "path = \"splice\"\npath-required = true",
        differs_in: Some(CARRYING),
    },
    LbPath {
        word: "copy",
        help: "recv(2) and send(2)",
        settings: "path = \"copy\"\npath-required = true",
        differs_in: Some(CARRYING),
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
    /// The suites that tell it from `auto`; `None` for `auto` itself, which is everywhere.
    differs_in: Option<&'static [Suite]>,
}

impl LbPath {
    /// Whether it takes part in a suite without having been asked for.
    pub fn is_usual_in(&self, suite: Suite) -> bool {
        self.differs_in.is_none_or(|suites| suites.contains(&suite))
    }

    /// What lb's counters must say.
    pub fn claim(&self) -> Claim {
        if self.differs_in.is_none() { Claim::Any } else { Claim::Path(self.word) }
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
    fn only_bulk_tells_paths_apart_unasked() {
        let usual = |suite| -> Vec<_> {
            PATHS.iter().filter(|path| path.is_usual_in(suite)).map(|path| path.word).collect()
        };
        assert_eq!(usual(Suite::Bulk), ["auto", "splice", "copy"]);
        assert_eq!(usual(Suite::Latency), ["auto"]);
    }

    #[test]
    fn a_path_that_was_asked_for_is_demanded_and_checked() {
        for path in PATHS {
            assert_eq!(path.claim() == Claim::Any, path.word == "auto", "{path:?}");
            assert_eq!(path.settings.contains("path-required"), path.word != "auto", "{path:?}");
            assert!(path.settings.contains(&format!("path = \"{}\"", path.word)), "{path:?}");
        }
    }
}
