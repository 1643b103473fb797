// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is wrong with a configuration, and where.

use std::fmt::{self, Write as _};
use std::sync::Arc;

/// One thing that is wrong, or that looks wrong, at one place of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub place: Place,
    /// The dotted path of the key, entries of arrays counted from 1; empty for errors of syntax.
    pub key: String,
    /// The value as written, shortened; `None` where there is none, or where it is a secret.
    pub found: Option<String>,
    /// What is wrong and what would be right.
    pub text: String,
}

/// A place in a file of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file's name, as the user gave it.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = OneLine(f);
        write!(line, "{}: ", self.place)?;
        match (&self.key[..], &self.found) {
            ("", _) => {}
            (key, Some(found)) => write!(line, "{key} = {found}: ")?,
            (key, None) => write!(line, "{key}: ")?,
        }
        line.write_str(&self.text)
    }
}

/// Writes text with control characters escaped: what a file's name contains must not reach a terminal as it is.
struct OneLine<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c.is_control() {
            true => write!(self.0, "{}", c.escape_default()),
            false => self.0.write_char(c),
        })
    }
}

/// Everything that is wrong with a configuration, in the order of the file. Its text is ready for a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The configuration file's name, as the user gave it.
    pub file: Arc<str>,
    /// What keeps the configuration from being used; at least one.
    pub errors: Vec<Problem>,
    /// What looks wrong beside.
    pub warnings: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.errors.len() == 1 { "" } else { "s" };
        write!(OneLine(f), "error: {}: {} problem{plural}", self.file, self.errors.len())?;
        for error in &self.errors {
            write!(f, "\n  {error}")?;
        }
        for warning in &self.warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: usize, key: &str, found: Option<&str>, text: &str) -> Problem {
        let place = Place { file: "lb.toml".into(), line, column: 5 };
        Problem { place, key: key.into(), found: found.map(Into::into), text: text.into() }
    }

    #[test]
    fn reads_like_a_compiler_message() {
        let mut problems = Problems {
            file: "lb.toml".into(),
            errors: vec![problem(3, "global.workers", Some("0"), "must be between 1 and 1024")],
            warnings: vec![],
        };
        assert_eq!(
            problems.to_string(),
            "error: lb.toml: 1 problem\n  lb.toml:3:5: global.workers = 0: must be between 1 and 1024"
        );
        problems.errors.push(problem(9, "", None, "unclosed array"));
        problems.warnings.push(problem(7, "backend.x", None, "nothing uses it"));
        assert_eq!(
            problems.to_string(),
            "error: lb.toml: 2 problems\n  lb.toml:3:5: global.workers = 0: must be between 1 and 1024\n  \
             lb.toml:9:5: unclosed array\nwarning: lb.toml:7:5: backend.x: nothing uses it"
        );
    }

    #[test]
    fn control_characters_in_names_of_files_do_not_reach_a_terminal() {
        let mut problem = problem(1, "a", None, "cannot read \u{1b}[2J");
        problem.place.file = "b\0".into();
        let problems = Problems { file: "c\n".into(), errors: vec![problem], warnings: vec![] };
        let expected = "error: c\\n: 1 problem\n  b\\u{0}:1:5: a: cannot read \\u{1b}[2J";
        assert_eq!(problems.to_string(), expected);
    }
}
