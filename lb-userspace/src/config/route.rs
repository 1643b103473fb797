// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[[frontend.NAME.route]]`.

use super::Route;
use super::context::Depends;
use super::frontend::Backends;
use super::problem::Place;
use super::reader::Reader;
use super::route_names::{Names, Places};
use super::value::Value;

/// A route, where it stands, and where each of its names does.
pub(super) struct RouteRead {
    pub(super) route: Route,
    pub(super) place: Place,
    /// The dotted path of the table.
    pub(super) path: String,
    pub(super) places: Places,
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
    let mut names = Names::default();
    for value in sni.iter().flat_map(Value::list) {
        names.read(&value);
    }
    for value in files.iter().flat_map(Value::list) {
        names.read_file(reader.cx, &value);
    }
    let alpn: Vec<_> = alpn.iter().flat_map(Value::list).map(|value| protocol(&value)).collect();
    let backend = reader.required(reader.own("backend"), "backend", "backend = \"…\"");
    let backend = backend.and_then(|value| backends.named(&value));
    let path = reader.path.clone();
    reader.finish();
    let Names { patterns, places, .. } = Some(names).filter(|names| !names.has_errors)?;
    let alpn = alpn.into_iter().collect::<Option<_>>()?;
    let route = Route { names: patterns, alpn, backend: backend?, line: place.line };
    Some(RouteRead { route, place, path, places })
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
