// SPDX-License-Identifier: MIT OR Apache-2.0
//! The names of a route, from the configuration and from files of names. A million of them are to take milliseconds, and little memory.

use std::path::Path;
use std::sync::Arc;

use super::NamePattern;
use super::context::{Context, Depends};
use super::problem::{Place, Problem};
use super::source::one_line;
use super::value::Value;

/// Patterns of a route, and where each stands.
#[derive(Default)]
pub(super) struct Names {
    pub(super) patterns: Vec<NamePattern>,
    pub(super) places: Places,
    /// Some are wrong, which is reported.
    pub(super) has_errors: bool,
}

impl Names {
    /// Reads a pattern.
    pub(super) fn read(&mut self, value: &Value<'_, '_>) {
        match value.string().map(|text| NamePattern::parse(text).map_err(|text| value.error(text))) {
            Some(Ok(pattern)) => {
                let Place { file, line, column } = value.place();
                self.add(pattern, &file, line, column);
            }
            Some(Err(())) | None => self.has_errors = true,
        }
    }

    /// Reads a file of patterns: one a line, `#` begins a comment.
    pub(super) fn read_file(&mut self, cx: &Context<'_>, value: &Value<'_, '_>) {
        let Some(written) = value.string() else {
            self.has_errors = true;
            return;
        };
        let folder = Path::new(&*cx.source.file).parent().unwrap_or(Path::new(""));
        let path = folder.join(written);
        let text = match (cx.read_file)(&path) {
            Ok(text) => text,
            Err(err) => {
                value.error(format!("cannot read {}: {err}", path.display()));
                self.has_errors = true;
                return;
            }
        };
        // Without names the route would match every name.
        if !self.read_lines(cx, value, &path.display().to_string().into(), &text) {
            value.error(format!("{} has no names", path.display()));
            self.has_errors = true;
        }
    }

    /// Whether there is a line that is not empty.
    fn read_lines(&mut self, cx: &Context<'_>, value: &Value<'_, '_>, file: &Arc<str>, text: &str) -> bool {
        let mut has_some = false;
        for (index, line) in text.lines().enumerate() {
            let pattern = before_comment(line);
            if pattern.is_empty() {
                continue;
            }
            has_some = true;
            let (line, column) = (index + 1, line.chars().take_while(|c| c.is_whitespace()).count() + 1);
            match NamePattern::parse(pattern) {
                Ok(found) => self.add(found, file, line, column),
                Err(text) => {
                    let place = Place { file: Arc::clone(file), line, column };
                    let (key, found) = (value.path.clone(), Some(format!("\"{}\"", one_line(pattern))));
                    cx.error(Depends::OnItself, Problem { place, key, found, text });
                    self.has_errors = true;
                }
            }
        }
        has_some
    }

    fn add(&mut self, pattern: NamePattern, file: &Arc<str>, line: usize, column: usize) {
        self.patterns.push(pattern);
        self.places.add(file, line, column);
    }
}

/// Where names stand, in the order of the names.
#[derive(Default)]
pub(super) struct Places {
    /// Each file, and which place is the first in it.
    files: Vec<(usize, Arc<str>)>,
    /// Lines and columns, as in [`Place`]; a number too large for this is shown as the largest.
    spots: Vec<(u32, u32)>,
}

impl Places {
    fn add(&mut self, file: &Arc<str>, line: usize, column: usize) {
        if !self.files.last().is_some_and(|(_, last)| Arc::ptr_eq(last, file)) {
            self.files.push((self.spots.len(), Arc::clone(file)));
        }
        let fitting = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        self.spots.push((fitting(line), fitting(column)));
    }

    /// The place of a name.
    pub(super) fn get(&self, name: usize) -> Option<Place> {
        let &(line, column) = self.spots.get(name)?;
        let (_, file) = self.files[..self.files.partition_point(|(first, _)| *first <= name)].last()?;
        Some(Place { file: Arc::clone(file), line: line as usize, column: column as usize })
    }
}

/// A comment begins with `#` at the start of a line or behind white space; a regular expression may hold others.
fn before_comment(line: &str) -> &str {
    if !line.contains('#') {
        return line.trim();
    }
    let comment = line.char_indices().scan(true, |after_space, (at, c)| {
        let begins = *after_space && c == '#';
        *after_space = c.is_whitespace();
        Some((at, begins))
    });
    let end = comment.into_iter().find(|(_, begins)| *begins).map_or(line.len(), |(at, _)| at);
    line[..end].trim()
}
