// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads one table of the configuration key by key. It remembers which keys it was asked for: whatever else the table holds is
//! unknown, and nobody keeps a second list of keys.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::context::{Context, Depends};
use super::limits::Limit;
use super::suggest::closest;
use super::units::Bytes;
use super::value::Value;

/// One table, which may be absent: then every key is.
pub(super) struct Reader<'c, 't> {
    pub(super) cx: &'c Context<'t>,
    /// The dotted path for messages.
    pub(super) path: String,
    /// The dotted path with `*` for names that the user gives.
    schema: String,
    /// The table's header.
    pub(super) span: Range<usize>,
    own: Option<&'t DeTable<'t>>,
    defaults: Option<Defaults<'t>>,
    asked: RefCell<BTreeSet<&'static str>>,
    inheritable: RefCell<BTreeSet<&'static str>>,
}

/// A table whose values hold for the tables of its kind that do not say otherwise.
#[derive(Clone)]
pub(super) struct Defaults<'t> {
    path: String,
    table: &'t DeTable<'t>,
}

impl<'c, 't> Reader<'c, 't> {
    /// The whole file.
    pub(super) fn root(cx: &'c Context<'t>, table: &'t DeTable<'t>) -> Self {
        Self::new(cx, String::new(), String::new(), 0..0, Some(table))
    }

    pub(super) fn new(
        cx: &'c Context<'t>,
        path: String,
        schema: String,
        span: Range<usize>,
        own: Option<&'t DeTable<'t>>,
    ) -> Self {
        Self {
            cx,
            path,
            schema,
            span,
            own,
            defaults: None,
            asked: RefCell::default(),
            inheritable: RefCell::default(),
        }
    }

    /// Lets keys that this table lacks come from another.
    pub(super) fn with_defaults(mut self, defaults: Option<Defaults<'t>>) -> Self {
        self.defaults = defaults;
        self
    }

    /// Turns a reader into defaults for others; they check its keys.
    pub(super) fn into_defaults(self) -> Option<Defaults<'t>> {
        Some(Defaults { path: self.path, table: self.own? })
    }

    /// Whether the table stands in the file.
    pub(super) fn exists(&self) -> bool {
        self.own.is_some()
    }

    /// The value of a key that does not come from defaults.
    pub(super) fn own(&self, key: &'static str) -> Option<Value<'c, 't>> {
        self.asked.borrow_mut().insert(key);
        self.cx.know(join(&self.schema, key));
        let (_, value) = self.own?.get_key_value(key)?;
        Some(Value::new(self.cx, join(&self.path, key), join(&self.schema, key), value))
    }

    /// The value of a key, from this table or from its defaults.
    pub(super) fn key(&self, key: &'static str) -> Option<Value<'c, 't>> {
        self.inheritable.borrow_mut().insert(key);
        self.own(key).or_else(|| {
            let defaults = self.defaults.as_ref()?;
            let (_, value) = defaults.table.get_key_value(key)?;
            Some(Value::new(self.cx, join(&defaults.path, key), join(&self.schema, key), value))
        })
    }

    /// The value of a key that must be there; `example` shows what to write.
    pub(super) fn required(
        &self,
        value: Option<Value<'c, 't>>,
        key: &str,
        example: &str,
    ) -> Option<Value<'c, 't>> {
        if value.is_none() {
            self.error(Depends::OnOthers, format!("{key} is missing: write {example}"));
        }
        value
    }

    /// A table below this one, read as empty if it is absent.
    pub(super) fn table(&self, key: &'static str) -> Reader<'c, 't> {
        self.own(key).and_then(|value| value.table()).unwrap_or_else(|| self.absent(key))
    }

    /// A table below this one in which every key has its default.
    pub(super) fn absent(&self, key: &'static str) -> Reader<'c, 't> {
        let (path, schema) = (join(&self.path, key), join(&self.schema, key));
        Reader::new(self.cx, path, schema, self.span.clone(), None)
    }

    /// The tables `[key.NAME]`, in the order of the file.
    pub(super) fn named(&self, key: &'static str) -> Vec<(Value<'c, 't>, &'t str, Reader<'c, 't>)> {
        let Some(value) = self.own(key) else { return Vec::new() };
        let DeValue::Table(table) = value.get() else {
            value.error_without_text(format!("must be a table with a name: [{key}.NAME]"));
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, entry) in table.iter() {
            let (path, schema) = (join(&value.path, name.get_ref()), join(&value.schema, "*"));
            let at = Value::at(self.cx, path.clone(), schema.clone(), entry, name.span());
            match entry.get_ref() {
                DeValue::Table(table) => {
                    let reader = Reader::new(self.cx, path, schema, entry.span(), Some(table));
                    found.push((at, &**name.get_ref(), reader));
                }
                _ => at.error_without_text(format!("must be a table with a name: [{key}.NAME]")),
            }
        }
        found.sort_by_key(|(at, _, _)| at.span.start);
        found
    }

    /// The tables `[[key]]`, in the order of the file.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Reader<'c, 't>> {
        let Some(value) = self.own(key) else { return Vec::new() };
        let DeValue::Array(entries) = value.get() else {
            value.error_without_text(format!("must be written in double brackets: [[{}]]", value.path));
            return Vec::new();
        };
        let read = |(index, entry): (usize, &'t toml::Spanned<DeValue<'t>>)| {
            let path = join(&value.path, &(index + 1).to_string());
            Value::new(self.cx, path, value.schema.clone(), entry).table()
        };
        entries.iter().enumerate().filter_map(read).collect()
    }

    /// A duration in a range.
    pub(super) fn duration(&self, limit: &Limit<Duration>) -> Option<Duration> {
        self.key(limit.key).map_or(limit.default, |value| value.duration(limit))
    }

    /// A duration in a range, or `"off"` as `Some(None)`.
    pub(super) fn duration_or_off(&self, limit: &Limit<Duration>) -> Option<Option<Duration>> {
        match self.key(limit.key) {
            Some(value) if value.get().as_str() == Some("off") => Some(None),
            Some(value) => value.duration_with(limit, ", or \"off\"").map(Some),
            None => Some(limit.default),
        }
    }

    /// A size in a range.
    pub(super) fn size(&self, limit: &Limit<Bytes>) -> Option<u64> {
        self.key(limit.key).map_or(limit.default, |value| value.size(limit)).map(|bytes| bytes.0)
    }

    /// A size in a range, for limits without a default.
    pub(super) fn optional_size(&self, limit: &Limit<Bytes>) -> Option<Option<u64>> {
        let Some(value) = self.key(limit.key) else { return Some(None) };
        value.size(limit).map(|bytes| Some(bytes.0))
    }

    /// A number in a range.
    pub(super) fn count(&self, limit: &Limit<u64>) -> Option<u64> {
        self.key(limit.key).map_or(limit.default, |value| value.count(limit))
    }

    /// A number above 0 in a range, for limits without a default.
    pub(super) fn optional_count(&self, limit: &Limit<u64>) -> Option<Option<NonZeroU32>> {
        let Some(value) = self.key(limit.key) else { return Some(None) };
        let count = u32::try_from(value.count(limit)?).ok()?;
        NonZeroU32::new(count).map(Some)
    }

    /// A number above 0 in a range.
    pub(super) fn nonzero(&self, limit: &Limit<u64>) -> Option<NonZeroU32> {
        NonZeroU32::new(u32::try_from(self.count(limit)?).ok()?)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &'static str, default: bool) -> Option<bool> {
        self.key(key).map_or(Some(default), |value| value.boolean())
    }

    /// One of several words, the first of them where the key is absent.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        self.key(key).map_or_else(|| words.first().map(|(_, first)| *first), |value| value.one_of(words))
    }

    /// Records an error of the table as a whole.
    pub(super) fn error(&self, depends: Depends, text: String) {
        self.cx.error(depends, self.cx.problem(&self.span, &self.path, false, text));
    }

    /// Reports the keys that nobody asked for. To be called when all others were.
    pub(super) fn finish(self) {
        if let Some(own) = self.own {
            self.report_unknown(own, &self.path, &self.asked.borrow());
        }
        if let Some(defaults) = &self.defaults {
            self.report_unknown(defaults.table, &defaults.path, &self.inheritable.borrow());
        }
    }

    fn report_unknown(&self, table: &DeTable<'t>, path: &str, allowed: &BTreeSet<&'static str>) {
        for key in table.keys().filter(|key| !allowed.contains(&**key.get_ref())) {
            let text = match closest(key.get_ref(), allowed.iter().copied()) {
                Some(near) => format!("unknown key; did you mean \"{near}\"?"),
                None if allowed.is_empty() => "unknown key".into(),
                None => format!("unknown key; allowed are {}", listed(allowed.iter().copied())),
            };
            let path = join(path, key.get_ref());
            self.cx.error(Depends::OnItself, self.cx.problem(&key.span(), &path, false, text));
        }
    }
}

/// Appends a key to a dotted path, in quotes where TOML needs them.
pub(super) fn join(path: &str, key: &str) -> String {
    let is_bare =
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'*'));
    let key = if is_bare { key.into() } else { format!("{:?}", super::source::one_line(key)) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// Words as `a, b and c`.
pub(super) fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.into_iter().collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}
