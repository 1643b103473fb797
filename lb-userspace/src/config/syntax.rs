// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors of TOML syntax, in words for a person who writes a configuration, and what else can be said of a file that has some.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::context::Depends;
use super::problem::Problem;
use super::source::Source;

/// The errors of syntax of a file.
#[derive(Debug, Default)]
pub(super) struct Syntax {
    /// One a line at most: what follows on the same line is mostly a consequence.
    pub(super) problems: Vec<Problem>,
    /// Lines whose meaning the parser guessed.
    guessed: Vec<Range<usize>>,
}

/// Turns the parser's errors into problems.
pub(super) fn problems(source: &Source<'_>, table: &DeTable<'_>, errors: &[Error]) -> Syntax {
    let mut syntax = Syntax::default();
    let open = errors
        .iter()
        .any(|error| error.message().starts_with("unclosed array"))
        .then(|| unclosed(table.values(), source.text().trim_end().len()))
        .flatten();
    if let Some(open) = &open {
        let text = "the array that begins here is not closed: \"]\" is missing";
        let place = source.place(*open);
        syntax.guessed.push(place.line..usize::MAX);
        syntax.problems.push(Problem { place, key: String::new(), found: None, text: text.into() });
    }
    let mut first_of_line: BTreeMap<usize, (usize, &Error)> = BTreeMap::new();
    for error in errors {
        let at = error.span().map_or(source.text().len(), |span| span.start);
        if open.is_some_and(|open| at >= open) {
            continue;
        }
        let entry = first_of_line.entry(source.place(at).line).or_insert((at, error));
        if at < entry.0 {
            *entry = (at, error);
        }
    }
    for (line, (at, error)) in first_of_line {
        let found = error.span().filter(|span| !span.is_empty()).map(|span| source.excerpt(&span));
        let text = in_words(error.message(), found.as_deref(), source.line_at(at));
        syntax.problems.push(Problem { place: source.place(at), key: String::new(), found: None, text });
        syntax.guessed.push(line..guessed_until(source, line));
    }
    syntax
}

/// A broken header leaves the keys below it to the table above; other errors stay on their line.
fn guessed_until(source: &Source<'_>, line: usize) -> usize {
    let is_header = |text: &str| text.trim_start().starts_with('[');
    let mut lines = source.text().lines().enumerate().map(|(index, text)| (index + 1, text)).skip(line - 1);
    match lines.next() {
        Some((_, text)) if is_header(text) => {
            lines.find(|(_, text)| is_header(text)).map_or(usize::MAX, |(at, _)| at)
        }
        _ => line + 1,
    }
}

/// The start of the outermost array that the end of the file cut off.
fn unclosed<'v>(values: impl IntoIterator<Item = &'v Spanned<DeValue<'v>>>, end: usize) -> Option<usize> {
    values.into_iter().find_map(|value| match value.get_ref() {
        DeValue::Array(_) if value.span().end >= end => Some(value.span().start),
        DeValue::Array(array) => unclosed(array, end),
        DeValue::Table(table) => unclosed(table.values(), end),
        _ => None,
    })
}

/// The parser's messages for the mistakes that people make here, in words; the others as they are.
fn in_words(message: &str, found: Option<&str>, line: &str) -> String {
    let is_comment_or_end = |text: &str| text.is_empty() || text.starts_with('#');
    match found {
        Some(found)
            if message.starts_with("string values must be quoted")
                || message.starts_with("invalid boolean") =>
        {
            format!("text must be in quotes: \"{found}\"")
        }
        None if message.starts_with("invalid literal string")
            || message.starts_with("string values must be quoted") =>
        {
            let value = line.split_once('=').map_or("", |(_, value)| value.trim());
            match value {
                _ if is_comment_or_end(value) => "the value behind \"=\" is missing".into(),
                _ if value.starts_with('\'') => "the closing quote is missing".into(),
                _ => "a value is missing".into(),
            }
        }
        None if message.starts_with("invalid basic string") => "the closing quote is missing".into(),
        None if message.starts_with("key with no value") => {
            "\"=\" and a value are missing behind the key".into()
        }
        Some(found) if message == "duplicate key" => {
            format!("the key \"{found}\" stands twice in this table")
        }
        Some(found) => format!("{message}, found {found:?}"),
        None => message.into(),
    }
}

impl Syntax {
    /// Whether a problem of the contents is worth telling beside these errors, or may be their consequence.
    pub(super) fn keeps(&self, depends: Depends, problem: &Problem) -> bool {
        self.problems.is_empty()
            || (depends == Depends::OnItself
                && !self.guessed.iter().any(|lines| lines.contains(&problem.place.line)))
    }
}
