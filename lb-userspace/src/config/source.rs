// SPDX-License-Identifier: MIT OR Apache-2.0
//! A configuration's text, with byte offsets turned into what a person reads.

use std::ops::Range;
use std::sync::Arc;

use super::problem::Place;

/// Longest piece of the text that a message repeats, in characters.
const EXCERPT_MAX: usize = 60;

/// The text of one file.
#[derive(Debug)]
pub(super) struct Source<'t> {
    pub(super) file: Arc<str>,
    text: &'t str,
    line_starts: Vec<usize>,
}

impl<'t> Source<'t> {
    /// Indexes the lines of a text.
    pub(super) fn new(file: &str, text: &'t str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file: file.into(), text, line_starts }
    }

    /// Line and column of a byte offset; offsets beyond the end count as the end.
    pub(super) fn place(&self, offset: usize) -> Place {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts[line - 1];
        Place { file: self.file.clone(), line, column: self.text[start..offset].chars().count() + 1 }
    }

    /// The text of a span as one short line without control characters.
    pub(super) fn excerpt(&self, span: &Range<usize>) -> String {
        let text = self.text.get(span.clone()).unwrap_or_default();
        one_line(text)
    }

    /// The line of a byte offset, from 0, without its end.
    pub(super) fn line_at(&self, offset: usize) -> &'t str {
        let line = self.place(offset).line;
        self.text[self.line_starts[line - 1]..].lines().next().unwrap_or_default()
    }

    /// The whole text.
    pub(super) fn text(&self) -> &'t str {
        self.text
    }
}

/// Text from a file as one short line: runs of white space become a space, control characters are escaped.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if line.chars().count() > EXCERPT_MAX {
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        // Not the whole word: a file of one long line must not be escaped for sixty characters of it.
        for c in word.chars().take(EXCERPT_MAX + 1) {
            if c.is_control() {
                line.extend(c.escape_default());
            } else {
                line.push(c);
            }
        }
    }
    if let Some((end, _)) = line.char_indices().nth(EXCERPT_MAX) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_lines_and_columns_in_characters() {
        let source = Source::new("f", "a = 1\nü = \"é\" # x\n");
        let check = |offset, line, column| {
            let place = source.place(offset);
            assert_eq!((place.line, place.column), (line, column), "offset {offset}");
        };
        check(0, 1, 1);
        check(5, 1, 6);
        check(6, 2, 1);
        check(8, 2, 2);
        check(7, 2, 1);
        check(source.text().len(), 3, 1);
        check(10_000, 3, 1);
    }

    #[test]
    fn excerpts_are_one_short_line() {
        let text = "[\"a\",\n   \"b\"]\u{7}";
        assert_eq!(Source::new("f", text).excerpt(&(0..text.len())), "[\"a\", \"b\"]\\u{7}");
        assert_eq!(one_line(&"x".repeat(61)), format!("{}…", "x".repeat(60)));
        assert_eq!(one_line(&"x y ".repeat(1000)).chars().count(), 61);
        assert_eq!(Source::new("f", "abc").excerpt(&(2..9)), "");
    }
}
