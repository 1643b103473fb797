// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys that frontends and backends share: keepalive, user-timeout, path.

use std::time::Duration;

use super::reader::Reader;
use super::value::Value;
use super::{Keepalive, PathChoice, PathWish, Promotion, limits};

/// The values of `path`.
pub(super) const PATHS: [(&str, PathWish); 5] = [
    ("auto", PathWish::Auto),
    ("packet", PathWish::Packet),
    ("sockmap", PathWish::Sockmap),
    ("splice", PathWish::Splice),
    ("copy", PathWish::Copy),
];

/// Reads `keepalive`: `false`, or a table whose keys all have defaults.
pub(super) fn keepalive(reader: &Reader<'_, '_>) -> Option<Option<Keepalive>> {
    let Some(value) = reader.key("keepalive") else {
        return keepalive_table(reader.absent("keepalive")).map(Some);
    };
    match value.get().as_bool() {
        Some(false) => Some(None),
        None if value.get().is_table() => keepalive_table(value.table()?).map(Some),
        _ => {
            value.error("must be false or a table such as { idle = \"60s\", interval = \"10s\", count = 3 }");
            None
        }
    }
}

fn keepalive_table(reader: Reader<'_, '_>) -> Option<Keepalive> {
    let idle = whole_seconds(&reader, &limits::KEEPALIVE_IDLE);
    let interval = whole_seconds(&reader, &limits::KEEPALIVE_INTERVAL);
    let count = reader.count(&limits::KEEPALIVE_COUNT);
    reader.finish();
    Some(Keepalive { idle: idle?, interval: interval?, count: u8::try_from(count?).ok()? })
}

/// TCP_KEEPIDLE and TCP_KEEPINTVL count in seconds (tcp(7)).
fn whole_seconds(reader: &Reader<'_, '_>, limit: &limits::Limit<Duration>) -> Option<Duration> {
    let duration = reader.duration(limit)?;
    match reader.own(limit.key) {
        Some(value) if duration.subsec_nanos() != 0 => {
            value.error("must be whole seconds: the kernel counts no finer here");
            None
        }
        _ => Some(duration),
    }
}

/// Reads `path`, `path-required` and the keys of [`Promotion`]; `None` inside if the table says nothing about them.
pub(super) fn path(reader: &Reader<'_, '_>) -> Option<Option<PathChoice>> {
    let wish = reader.key("path").map(|value| value.one_of(&PATHS));
    let required: Option<Value<'_, '_>> = reader.key("path-required");
    let is_required = required.as_ref().map_or(Some(false), Value::boolean);
    let wish = match wish {
        Some(wish) => Some(wish?),
        None => None,
    };
    let promotion = promotion(reader);
    let objection = match (wish, is_required) {
        (None, _) => Some("needs path beside it: what it says is about that path"),
        (_, Some(true)) => Some("cannot stand beside path-required = true: then the path carries every byte"),
        _ => None,
    };
    if objection.is_some_and(|objection| has_idle_promotion(reader, objection)) {
        return None;
    }
    match (wish, required, is_required?) {
        (None | Some(PathWish::Auto), Some(value), true) => {
            value.error_with_others(
                "needs a path other than \"auto\" beside it: there would be nothing to require",
            );
            None
        }
        (Some(PathWish::Packet), Some(value), true) => {
            value.error_with_others("cannot stand beside path = \"packet\": a flow begins elsewhere");
            None
        }
        // Who may take no other path takes none at first either.
        (Some(path), _, true) => {
            Some(Some(PathChoice { path, is_required: true, promotion: Promotion::AT_ONCE }))
        }
        (Some(path), _, false) => Some(Some(PathChoice { path, is_required: false, promotion: promotion? })),
        (None, ..) => Some(None),
    }
}

fn promotion(reader: &Reader<'_, '_>) -> Option<Promotion> {
    let (after_bytes, after) =
        (reader.size(&limits::PROMOTE_AFTER_BYTES), reader.duration(&limits::PROMOTE_AFTER));
    Some(Promotion { after_bytes: after_bytes?, after: after? })
}

/// Whether a key of [`Promotion`] stands where it would say nothing; each is reported.
fn has_idle_promotion(reader: &Reader<'_, '_>, objection: &str) -> bool {
    let keys = [limits::PROMOTE_AFTER_BYTES.key, limits::PROMOTE_AFTER.key];
    let idle: Vec<_> = keys.into_iter().filter_map(|key| reader.own(key)).collect();
    idle.iter().for_each(|value| value.error_with_others(objection));
    !idle.is_empty()
}
