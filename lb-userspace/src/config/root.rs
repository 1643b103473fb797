// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole file: the order in which tables are read, and what only shows when all of them are.

use std::cell::RefCell;

use lb_common::reason::HelloReason;

use super::context::{Context, Depends};
use super::frontend::{self, Backends};
use super::reader::Reader;
use super::value::Value;
use super::{
    Backend, BackendId, BackendNames, Config, Frontend, Mode, PathWish, Policy, backend, balance, process,
    resolver,
};

/// Reads the whole file; `None`: there are errors.
pub(super) fn read(root: Reader<'_, '_>) -> Option<Config> {
    let global = process::global(root.table("global"));
    let mut bound = Vec::new();
    let admin = process::admin(root.table("admin"), &mut bound);
    let log = process::log(root.table("log"));
    let resolver = resolver::read(root.table("resolver"));
    let defaults = root.table("defaults");
    let frontend_defaults = defaults.table("frontend").into_defaults();
    let backend_defaults = defaults.table("backend").into_defaults();
    defaults.finish();

    let backend_tables = root.named("backend");
    if is_empty(&root, "backend") {
        root.error(Depends::OnOthers, "there is no backend: add [backend.NAME] with a server".into());
    }
    let names: Vec<(String, usize)> =
        backend_tables.iter().map(|(at, name, _)| ((*name).into(), at.span.start)).collect();
    let read_backend = |(at, name, table): (Value<'_, '_>, &str, Reader<'_, '_>)| {
        backend::read(&at, name, table.with_defaults(backend_defaults.clone()))
    };
    let read_backends: Vec<Option<Backend>> = backend_tables.into_iter().map(read_backend).collect();

    let backends = Backends {
        names: names
            .iter()
            .enumerate()
            .map(|(id, (name, _))| (name.clone(), BackendId(id)))
            .collect::<BackendNames>(),
        used: RefCell::default(),
    };
    let frontend_tables = root.named("frontend");
    if is_empty(&root, "frontend") {
        root.error(Depends::OnOthers, "there is no frontend: add [frontend.NAME] with bind and mode".into());
    }
    let mut read_frontends: Vec<Option<Frontend>> = Vec::new();
    for (at, name, table) in frontend_tables {
        let table = table.with_defaults(frontend_defaults.clone());
        let read = frontend::read(&at, name, table, &backends, &mut bound);
        warn_of_rejecting(&at, read.as_ref());
        read_frontends.push(read);
    }
    warn_of_unused(root.cx, &names, &backends);
    balance::warn_of_names_not_seen(root.cx, &names, &read_backends, &read_frontends);
    root.finish();
    let mut config = Config {
        global: global?,
        admin: admin?,
        log: log?,
        resolver: resolver?,
        frontends: read_frontends.into_iter().collect::<Option<_>>()?,
        backends: read_backends.into_iter().collect::<Option<_>>()?,
    };
    resolve_auto(&mut config);
    Some(config)
}

/// Puts what it stands for in the place of `path = "auto"`.
fn resolve_auto(config: &mut Config) {
    let auto = config.global.auto();
    let frontends = config.frontends.iter_mut().map(|frontend| &mut frontend.path);
    let backends = config.backends.iter_mut().filter_map(|backend| backend.path.as_mut());
    for choice in frontends.chain(backends).filter(|choice| choice.path == PathWish::Auto) {
        choice.path = auto;
    }
}

/// Whether there is nothing where tables with names should be.
fn is_empty(root: &Reader<'_, '_>, key: &'static str) -> bool {
    root.own(key).is_none_or(|value| value.get().as_table().is_some_and(toml::map::Map::is_empty))
}

fn warn_of_rejecting(at: &Value<'_, '_>, frontend: Option<&Frontend>) {
    if let Some(Frontend { mode: Mode::TlsPassthrough(settings), .. }) = frontend
        && settings.routes.is_empty()
        && HelloReason::ALL.iter().all(|reason| settings.policy(*reason) == Policy::Reject)
    {
        at.warn("rejects every connection: add a [[frontend.NAME.route]] or default-backend");
    }
}

fn warn_of_unused(cx: &Context<'_>, names: &[(String, usize)], backends: &Backends) {
    let used = backends.used.borrow();
    for (name, start) in
        names.iter().filter(|(name, _)| backends.names.get(name).is_none_or(|id| !used.contains(id)))
    {
        let path = super::reader::join("backend", name);
        cx.warn_if_valid(cx.problem(&(*start..*start), &path, false, "no frontend uses it".into()));
    }
}
