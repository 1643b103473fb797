// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[[frontend.NAME.route]]`, with the files of names.

use std::path::Path;

use super::context::{Context, Depends};
use super::frontend::Backends;
use super::problem::{Place, Problem};
use super::reader::Reader;
use super::source::one_line;
use super::value::Value;
use super::{NamePattern, Route};

/// A route, where it stands, and where each of its names does.
pub(super) struct RouteRead {
    pub(super) route: Route,
    pub(super) place: Place,
    /// The dotted path of the table.
    pub(super) path: String,
    pub(super) places: Vec<Place>,
}

/// Reads one route.
pub(super) fn read(reader: Reader<'_, '_>, backends: &Backends) -> Option<RouteRead> {
    let place = reader.cx.place(&reader.span);
    let (sni, files, alpn) = (reader.own("sni"), reader.own("sni-file"), reader.own("alpn"));
    if sni.is_none() && files.is_none() && alpn.is_none() {
        let text =
            "matches nothing: give sni, sni-file or alpn; for all other names there is default-backend";
        reader.error(Depends::OnOthers, text.into());
    }
    let mut names = Some(Vec::new());
    for found in sni.iter().flat_map(Value::list).map(|value| name(&value)) {
        collect(&mut names, found.map(std::iter::once));
    }
    for value in files.iter().flat_map(Value::list) {
        collect(&mut names, file(reader.cx, &value));
    }
    let alpn: Vec<_> = alpn.iter().flat_map(Value::list).map(|value| protocol(&value)).collect();
    let backend = reader.required(reader.own("backend"), "backend", "backend = \"…\"");
    let backend = backend.and_then(|value| backends.named(&value));
    let path = reader.path.clone();
    reader.finish();
    let (places, names) = names?.into_iter().unzip();
    let alpn = alpn.into_iter().collect::<Option<_>>()?;
    Some(RouteRead { route: Route { names, alpn, backend: backend?, line: place.line }, place, path, places })
}

type Named = (Place, NamePattern);

fn collect(all: &mut Option<Vec<Named>>, more: Option<impl IntoIterator<Item = Named>>) {
    match (all.as_mut(), more) {
        (Some(all), Some(more)) => all.extend(more),
        _ => *all = None,
    }
}

fn name(value: &Value<'_, '_>) -> Option<Named> {
    let pattern = NamePattern::parse(value.string()?).map_err(|text| value.error(text)).ok()?;
    Some((value.place(), pattern))
}

/// An ALPN protocol name is 1 to 255 bytes (RFC 7301 section 3.1).
fn protocol(value: &Value<'_, '_>) -> Option<String> {
    let name = value.string()?;
    if name.is_empty() || name.len() > 255 {
        value.error("must be an ALPN protocol name of 1 to 255 bytes, such as \"h2\" or \"http/1.1\"");
        return None;
    }
    Some(name.into())
}

/// Reads a file of names: one pattern a line, `#` begins a comment.
fn file(cx: &Context<'_>, value: &Value<'_, '_>) -> Option<Vec<Named>> {
    let written = value.string()?;
    let folder = Path::new(&*cx.source.file).parent().unwrap_or(Path::new(""));
    let path = folder.join(written);
    let text = match (cx.read_file)(&path) {
        Ok(text) => text,
        Err(err) => {
            value.error(format!("cannot read {}: {err}", path.display()));
            return None;
        }
    };
    let file = path.display().to_string().into();
    let mut names = Some(Vec::new());
    for (index, line) in text.lines().enumerate() {
        let pattern = before_comment(line);
        if pattern.is_empty() {
            continue;
        }
        let column = line.chars().take_while(|c| c.is_whitespace()).count() + 1;
        let place = Place { file: std::sync::Arc::clone(&file), line: index + 1, column };
        match NamePattern::parse(pattern) {
            Ok(found) => collect(&mut names, Some([(place, found)])),
            Err(text) => {
                let (key, found) = (value.path.clone(), Some(format!("\"{}\"", one_line(pattern))));
                cx.error(Depends::OnItself, Problem { place, key, found, text });
                names = None;
            }
        }
    }
    // Without names the route would match every name.
    if names.as_ref().is_some_and(Vec::is_empty) {
        value.error(format!("{} has no names", path.display()));
        return None;
    }
    names
}

/// A comment begins with `#` at the start of a line or behind white space; a regular expression may hold others.
fn before_comment(line: &str) -> &str {
    let comment = line.char_indices().scan(true, |after_space, (at, c)| {
        let begins = *after_space && c == '#';
        *after_space = c.is_whitespace();
        Some((at, begins))
    });
    let end = comment.into_iter().find(|(_, begins)| *begins).map_or(line.len(), |(at, _)| at);
    line[..end].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_end_a_line() {
        let check = |line: &str, expected: &str| assert_eq!(before_comment(line), expected, "{line}");
        check("a.example # shop", "a.example");
        check("  a.example\t#shop", "a.example");
        check("# a.example", "");
        check("~^a#b$ # c", "~^a#b$");
        check("", "");
    }
}
