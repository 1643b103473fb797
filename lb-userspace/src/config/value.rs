// SPDX-License-Identifier: MIT OR Apache-2.0
//! One value of the configuration with its place and path, and its conversion to what the key means.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::context::{Context, Depends};
use super::limits::{Limit, Shown};
use super::problem::{Place, Problem};
use super::reader::{Reader, listed};
use super::suggest::closest;
use super::units::{Bytes, parse_duration, parse_size};

/// One value with its place and path. Each conversion records what is wrong and then gives `None`.
pub(super) struct Value<'c, 't> {
    cx: &'c Context<'t>,
    pub(super) path: String,
    pub(super) schema: String,
    pub(super) span: Range<usize>,
    value: &'t DeValue<'t>,
}

impl<'c, 't> Value<'c, 't> {
    pub(super) fn new(
        cx: &'c Context<'t>,
        path: String,
        schema: String,
        value: &'t Spanned<DeValue<'t>>,
    ) -> Self {
        Self::at(cx, path, schema, value, value.span())
    }

    /// A value whose problems are shown at another place, such as its key's.
    pub(super) fn at(
        cx: &'c Context<'t>,
        path: String,
        schema: String,
        value: &'t Spanned<DeValue<'t>>,
        span: Range<usize>,
    ) -> Self {
        Self { cx, path, schema, span, value: value.get_ref() }
    }

    /// The value as TOML has it.
    pub(super) fn get(&self) -> &'t DeValue<'t> {
        self.value
    }

    /// Where it stands.
    pub(super) fn place(&self) -> Place {
        self.cx.place(&self.span)
    }

    /// Records that the value is wrong.
    pub(super) fn error(&self, text: impl Into<String>) {
        self.cx.error(Depends::OnItself, self.problem(text.into()));
    }

    /// Records that the value does not go with the rest of the file.
    pub(super) fn error_with_others(&self, text: impl Into<String>) {
        self.cx.error(Depends::OnOthers, self.problem(text.into()));
    }

    /// Records that the value is wrong, and does not repeat it: a secret, or a whole table.
    pub(super) fn error_without_text(&self, text: impl Into<String>) {
        self.cx.error(Depends::OnItself, self.cx.problem(&self.span, &self.path, false, text.into()));
    }

    /// Records that the value looks wrong.
    pub(super) fn warn(&self, text: impl Into<String>) {
        self.cx.warn(self.problem(text.into()));
    }

    fn problem(&self, text: String) -> Problem {
        self.cx.problem(&self.span, &self.path, !self.value.is_table(), text)
    }

    /// A string.
    pub(super) fn string(&self) -> Option<&'t str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.error("must be a string in quotes");
        }
        text
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        let is = self.value.as_bool();
        if is.is_none() {
            self.error("must be true or false");
        }
        is
    }

    /// A table, such as `{ type = "tcp" }`.
    pub(super) fn table(&self) -> Option<Reader<'c, 't>> {
        let Some(table) = self.value.as_table() else {
            self.error("must be a table");
            return None;
        };
        Some(Reader::new(self.cx, self.path.clone(), self.schema.clone(), self.span.clone(), Some(table)))
    }

    /// The entries of an array; a single value counts as an array of one.
    pub(super) fn list(&self) -> Vec<Value<'c, 't>> {
        let Some(entries) = self.value.as_array() else {
            let Self { cx, path, schema, span, value } = self;
            return vec![Self { cx, path: path.clone(), schema: schema.clone(), span: span.clone(), value }];
        };
        if entries.is_empty() {
            self.error("must not be empty");
        }
        let entry = |(index, entry): (usize, &'t Spanned<DeValue<'t>>)| {
            // The key's path and the place say enough; `bind.2` would look like a table.
            let path =
                if entries.len() == 1 { self.path.clone() } else { format!("{}[{}]", self.path, index + 1) };
            Self::new(self.cx, path, self.schema.clone(), entry)
        };
        entries.iter().enumerate().map(entry).collect()
    }

    /// The entries of a table whose keys the user chooses, in the order of the keys.
    pub(super) fn entries(&self, table: &'t toml::de::DeTable<'t>) -> Vec<(&'t str, Value<'c, 't>)> {
        let schema = format!("{}.*", self.schema);
        self.cx.know(schema.clone());
        let entry = |(name, entry): (&'t Spanned<std::borrow::Cow<'t, str>>, _)| {
            let path = super::reader::join(&self.path, name.get_ref());
            (&**name.get_ref(), Self::new(self.cx, path, schema.clone(), entry))
        };
        table.iter().map(entry).collect()
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let words = || choices.iter().map(|(word, _)| *word);
        let Some(text) = self.value.as_str() else {
            self.error(format!("must be one of {}", quoted(words())));
            return None;
        };
        let choice = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        if choice.is_none() {
            match closest(text, words()) {
                Some(near) => {
                    self.error(format!("must be one of {}; did you mean \"{near}\"?", quoted(words())))
                }
                None => self.error(format!("must be one of {}", quoted(words()))),
            }
        }
        choice
    }

    /// A whole number in a range.
    pub(super) fn count(&self, limit: &Limit<u64>) -> Option<u64> {
        let number = self.integer();
        if number.is_none() && !self.value.is_integer() {
            self.error(format!("must be a whole number between {} and {}", limit.min, limit.max));
            return None;
        }
        // A number that no u64 holds is out of every range.
        let number = number.unwrap_or(u64::MAX);
        self.in_range(number, limit, "")
    }

    /// A whole number that is not negative, if it is one.
    pub(super) fn integer(&self) -> Option<u64> {
        let integer = self.value.as_integer()?;
        u64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    /// A duration in a range.
    pub(super) fn duration(&self, limit: &Limit<Duration>) -> Option<Duration> {
        self.duration_with(limit, "")
    }

    /// A duration in a range; `or` says what else the key allows.
    pub(super) fn duration_with(&self, limit: &Limit<Duration>, or: &str) -> Option<Duration> {
        let example = if limit.max < Duration::from_secs(1) { "5ms" } else { "5s" };
        let duration = self.with_unit(parse_duration, example, or)?;
        self.in_range(duration, limit, or)
    }

    /// A size in a range.
    pub(super) fn size(&self, limit: &Limit<Bytes>) -> Option<Bytes> {
        let size = self.with_unit(parse_size, "16KiB", "")?;
        self.in_range(size, limit, "")
    }

    fn with_unit<T>(&self, parse: fn(&str) -> Result<T, String>, example: &str, or: &str) -> Option<T> {
        let parsed = match self.value {
            DeValue::String(text) => parse(text),
            DeValue::Integer(_) => {
                Err(format!("the unit is missing: write it in quotes, such as \"{example}\""))
            }
            _ => Err(format!("must be text with a unit, such as \"{example}\"")),
        };
        parsed.map_err(|text| self.error(format!("{text}{or}"))).ok()
    }

    fn in_range<T: PartialOrd + Shown>(&self, value: T, limit: &Limit<T>, or: &str) -> Option<T> {
        if value < limit.min || value > limit.max {
            self.error(format!("must be between {} and {}{or}", limit.min.shown(), limit.max.shown()));
            return None;
        }
        Some(value)
    }
}

/// Words as `"a", "b" and "c"`.
pub(super) fn quoted<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("\"{word}\"")).collect();
    listed(words.iter().map(String::as_str))
}
