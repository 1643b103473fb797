// SPDX-License-Identifier: MIT OR Apache-2.0
//! The files in `config/`: they are valid, and lb.toml has every key and every limit.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::parse;
use crate::config::{Config, Frontend, Mode, Policy, ProxyVersion, limits, load};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// lb.toml with its optional keys set: `# key = value` and `# [table]` without the `# `.
fn complete() -> String {
    // ca-file goes with that alone.
    complete_except(|_| false).replace("verify = \"none\"", "verify = \"required\"")
}

/// The same, some keys left unset.
fn complete_except(is_left: impl Fn(&str) -> bool) -> String {
    let text = text("lb.toml");
    let is_key = |line: &str| {
        let (key, value) = line.split_once(" = ").unwrap_or_default();
        !value.is_empty()
            && !is_left(key)
            && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let is_header = |line: &str| line.starts_with('[') && line.ends_with(']');
    let set = |line: &str| match line.strip_prefix("# ") {
        Some(setting) if is_key(setting) || is_header(setting) => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(set).collect()
}

/// The paths of all keys in a table, the names of frontends and backends as `*`.
fn keys(table: &Table, path: &str, found: &mut BTreeSet<String>) {
    for (key, value) in table {
        let key = if matches!(path, "frontend" | "backend") { "*" } else { key };
        let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        for table in value
            .as_table()
            .into_iter()
            .chain(value.as_array().into_iter().flatten().filter_map(Value::as_table))
        {
            keys(table, &path, found);
        }
        found.insert(path);
    }
}

#[test]
fn every_file_is_valid_and_without_warnings() {
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let loaded = Config::load(&path).unwrap_or_else(|err| panic!("{err}"));
            assert_eq!(loaded.warnings, [], "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 5);
}

#[test]
fn lb_toml_has_every_key() {
    let text = complete();
    let (result, known) = load::parse_known(&text, "conf/lb.toml", &super::read_file);
    // The other way round, a key of the file that no reader knows is an error.
    let loaded = result.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, []);
    let mut present = BTreeSet::new();
    keys(&text.parse().unwrap(), "", &mut present);
    // Steps of scripts are shown by example, in comments.
    let is_shown = |key: &str| {
        let step = key.strip_prefix("backend.*.check.script.");
        step.is_some_and(|step| text.contains(&format!("{{ {step} = ")))
    };
    let missing: Vec<_> =
        known.difference(&present).filter(|key| !key.ends_with(".*") && !is_shown(key)).collect();
    assert_eq!(missing, Vec::<&String>::new());
    assert!(known.contains("backend.*.server.check-port") && known.contains("admin.user.password-hash"));
}

#[test]
fn lb_toml_shows_the_defaults() {
    // Keys shown at a value of their own, since they have no fixed default.
    let sets = [
        "workers",
        "max-connections",
        "mss",
        "sockmap-memory",
        "sni",
        "sni-file",
        "alpn",
        "host",
        "headers",
        "expect-body",
        "port",
        "check-port",
        "default-backend",
        "servers",
        "source",
        "source-interface",
        "packet-ports",
        "packet-interfaces",
        "ca-file",
        "observe",
        "error-limit",
        "on-error",
    ];
    let has_own = |key: &str| sets.contains(&key);
    let shown = complete_except(|key| has_own(key) || ["name", "password-hash"].contains(&key));
    let shown = shown.replacen("[[admin.user]]", "", 1);
    let (shown, silent) = (parse(&shown).unwrap().config, parse(&text("lb.toml")).unwrap().config);
    let explicit_paths = |mut config: Config| {
        config.backends.iter_mut().for_each(|backend| backend.path = None);
        config
    };
    assert_eq!(explicit_paths(shown), explicit_paths(silent));
}

#[test]
fn lb_toml_has_every_limit() {
    let rows: BTreeSet<Vec<String>> = text("lb.toml")
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .map(|line| line.split_whitespace().take(5).map(Into::into).collect())
        .skip_while(|row: &Vec<String>| !row.first().is_some_and(|cell| cell.starts_with("---")))
        .skip(1)
        .collect();
    let limits: BTreeSet<Vec<String>> = limits::rows().into_iter().map(Vec::from).collect();
    assert_eq!(rows, limits);
}

#[test]
fn the_ingress_has_five_names() {
    let config = Config::load(&folder().join("ingress.toml")).unwrap().config;
    let [Frontend { mode: Mode::TlsPassthrough(settings), bind, .. }] = &config.frontends[..] else {
        panic!()
    };
    assert_eq!(bind, &["[::]:443".parse().unwrap()]);
    assert_eq!(settings.routes.len(), 5);
    assert_eq!(settings.policies, [Policy::Reject; 6]);
    for backend in &config.backends {
        let check = backend.check.as_ref().unwrap();
        assert_eq!(
            (check.interval.as_secs(), check.fall.get(), check.rise.get(), check.send_proxy),
            (10, 3, 2, Some(ProxyVersion::V2))
        );
        assert!(backend.send_proxy.is_some());
    }
}

#[test]
fn the_database_sidecar_asks_patroni() {
    let config = Config::load(&folder().join("database.toml")).unwrap().config;
    for (backend, expected) in config.backends.iter().zip(["/master", "/replica"]) {
        let check = backend.check.as_ref().unwrap();
        assert!(
            matches!(&check.probe, crate::config::Probe::Http { path, expect, .. } if path == expected && expect == &[(200, 200)])
        );
        assert_eq!(
            (check.interval.as_secs(), check.fall.get(), check.rise.get(), check.port),
            (3, 3, 2, Some(8008))
        );
        assert!(
            backend.servers.iter().all(|server| server.max_connections.is_some_and(|max| max.get() == 100))
        );
    }
}
