// SPDX-License-Identifier: MIT OR Apache-2.0
//! `balance` and the keys that some of its values have beside them.

use super::context::Context;
use super::reader::{Reader, join};
use super::{Backend, BackendId, Balance, BalanceFactor, Frontend, HashOn, Mode, Policy, limits};

/// The values of `balance`, with what holds where the keys beside it are absent.
pub(super) const BALANCES: [(&str, Balance); 5] = [
    ("round-robin", Balance::RoundRobin),
    ("least-connections", Balance::LeastConnections),
    ("random", Balance::Random),
    ("source", Balance::Source { bound: None }),
    ("maglev", Balance::Maglev { on: HashOn::Source, bound: None }),
];

/// The values of `hash-on`.
pub(super) const HASH_ON: [(&str, HashOn); 2] = [("source", HashOn::Source), ("sni", HashOn::Sni)];

/// Reads `balance`, `hash-on` and `hash-balance-factor`.
pub(super) fn read(reader: &Reader<'_, '_>) -> Option<Balance> {
    let balance = reader.key("balance").map_or(Some(Balance::RoundRobin), |value| value.one_of(&BALANCES));
    let on = reader.key("hash-on").map_or(Some(HashOn::Source), |value| value.one_of(&HASH_ON));
    let bound = bound(reader);
    match balance? {
        Balance::Source { .. } => {
            refuse(
                reader,
                "hash-on",
                "needs balance = \"maglev\" beside it: \"source\" always goes by the address",
            );
            on?;
            Some(Balance::Source { bound: bound? })
        }
        Balance::Maglev { .. } => Some(Balance::Maglev { on: on?, bound: bound? }),
        other => {
            refuse(reader, "hash-on", "needs balance = \"maglev\" beside it: nothing is hashed otherwise");
            let needed = "needs balance = \"source\" or \"maglev\" beside it: nothing is hashed otherwise";
            refuse(reader, limits::HASH_BALANCE_FACTOR.key, needed);
            on.and(bound).and(Some(other))
        }
    }
}

/// The word for a way of balancing.
pub(super) fn word(balance: Balance) -> &'static str {
    let is_same = |other: &Balance| std::mem::discriminant(other) == std::mem::discriminant(&balance);
    BALANCES.iter().find(|(_, other)| is_same(other)).map_or("", |(word, _)| word)
}

/// Warns of backends that hash names and are used by frontends alone that see none.
pub(super) fn warn_of_names_not_seen(
    cx: &Context<'_>,
    names: &[(String, usize)],
    backends: &[Option<Backend>],
    frontends: &[Option<Frontend>],
) {
    for (id, backend) in backends.iter().enumerate() {
        let Some(Backend { balance: Balance::Maglev { on: HashOn::Sni, .. }, .. }) = backend else {
            continue;
        };
        let uses = || frontends.iter().flatten().filter(|frontend| leads_to(frontend, BackendId(id)));
        if uses().next().is_some() && uses().all(|frontend| matches!(frontend.mode, Mode::Tcp { .. })) {
            let (name, start) = &names[id];
            let path = join(&join("backend", name), "hash-on");
            let text = "has no effect: only frontends in mode \"tcp\" use the backend, and they see no name; clients go by address";
            cx.warn_if_valid(cx.problem(&(*start..*start), &path, false, text.into()));
        }
    }
}

fn leads_to(frontend: &Frontend, id: BackendId) -> bool {
    match &frontend.mode {
        Mode::Tcp { backend } => *backend == id,
        Mode::TlsPassthrough(settings) => {
            settings.routes.iter().any(|route| route.backend == id)
                || lb_common::reason::HelloReason::ALL
                    .iter()
                    .any(|reason| settings.policy(*reason) == Policy::Backend(id))
        }
    }
}

/// Records that a key of this table does not go with `balance`. Defaults may hold keys for some backends alone.
fn refuse(reader: &Reader<'_, '_>, key: &'static str, text: &str) {
    if let Some(value) = reader.own(key) {
        value.error_with_others(text);
    }
}

fn bound(reader: &Reader<'_, '_>) -> Option<Option<BalanceFactor>> {
    let Some(value) = reader.key(limits::HASH_BALANCE_FACTOR.key) else { return Some(None) };
    let percent = u16::try_from(value.count(&limits::HASH_BALANCE_FACTOR)?).ok()?;
    let factor = BalanceFactor::new(percent);
    if factor.is_none() && percent != 0 {
        value.error(
            "must be above 100, or 0 for no bound: servers together must be able to have all connections",
        );
        return None;
    }
    Some(factor)
}
