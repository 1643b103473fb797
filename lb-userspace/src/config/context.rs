// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all readers of one configuration share: its text, the files it names, and the list of problems.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::Path;

use super::problem::{Place, Problem};
use super::source::Source;

/// Gives the text of a file that the configuration names.
pub type ReadFile<'t> = &'t dyn Fn(&Path) -> io::Result<String>;

/// Whether a problem can be told from the value alone. Where the syntax is broken, what depends on the rest is left out: a table
/// that seems to be missing may only be unreadable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depends {
    /// Wrong wherever it stands.
    OnItself,
    /// Wrong because of what stands elsewhere, or does not.
    OnOthers,
}

/// What the readers had to say.
pub(super) struct Recorded {
    pub(super) errors: Vec<(Depends, Problem)>,
    pub(super) warnings: Vec<Problem>,
    /// Warnings that an error may explain.
    pub(super) warnings_if_valid: Vec<Problem>,
    pub(super) known: BTreeSet<String>,
}

/// What all readers of one configuration share.
pub(super) struct Context<'t> {
    pub(super) source: Source<'t>,
    pub(super) read_file: ReadFile<'t>,
    errors: RefCell<Vec<(Depends, Problem)>>,
    warnings: RefCell<Vec<Problem>>,
    warnings_if_valid: RefCell<Vec<Problem>>,
    /// Every key that a reader asked for, as `backend.*.check.interval`.
    known: RefCell<BTreeSet<String>>,
}

impl<'t> Context<'t> {
    pub(super) fn new(source: Source<'t>, read_file: ReadFile<'t>) -> Self {
        let (errors, warnings, warnings_if_valid, known) = Default::default();
        Self { source, read_file, errors, warnings, warnings_if_valid, known }
    }

    /// Records what keeps the configuration from being used.
    pub(super) fn error(&self, depends: Depends, problem: Problem) {
        self.errors.borrow_mut().push((depends, problem));
    }

    /// Records what looks wrong.
    pub(super) fn warn(&self, problem: Problem) {
        self.warnings.borrow_mut().push(problem);
    }

    /// Records what looks wrong unless an error elsewhere explains it.
    pub(super) fn warn_if_valid(&self, problem: Problem) {
        self.warnings_if_valid.borrow_mut().push(problem);
    }

    /// Records that a key has a meaning.
    pub(super) fn know(&self, key: String) {
        self.known.borrow_mut().insert(key);
    }

    /// A problem at a span of the configuration file; `found` repeats the text of the span.
    pub(super) fn problem(&self, span: &Range<usize>, key: &str, is_shown: bool, text: String) -> Problem {
        let found = is_shown.then(|| self.source.excerpt(span));
        Problem { place: self.place(span), key: key.into(), found, text }
    }

    /// Where a span begins.
    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        self.source.place(span.start)
    }

    /// Gives up everything that was recorded.
    pub(super) fn into_recorded(self) -> Recorded {
        Recorded {
            errors: self.errors.into_inner(),
            warnings: self.warnings.into_inner(),
            warnings_if_valid: self.warnings_if_valid.into_inner(),
            known: self.known.into_inner(),
        }
    }
}
