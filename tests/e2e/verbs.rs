// SPDX-License-Identifier: MIT OR Apache-2.0
//! `lb check` and `lb check --explain` on the configurations that the repository ships.

use std::path::{Path, PathBuf};

use lb_tests::agent::{public_directory, verb};
use lb_tests::config::Config;
use lb_tests::process::text;

#[test]
fn every_shipped_configuration_is_valid() {
    let mut seen = 0;
    for entry in std::fs::read_dir(repository().join("config")).expect("a directory") {
        let file = entry.expect("an entry").path();
        if file.extension().is_some_and(|extension| extension == "toml") {
            let output = verb(&repository(), &["check", "--config", &file.to_string_lossy()]);
            assert!(output.status.success(), "{}: {}", file.display(), text(&output.stderr));
            seen += 1;
        }
    }
    assert!(seen >= 3, "lb.toml, dev.toml, ingress.toml");
}

#[test]
fn explain_says_what_the_ingress_needs() {
    let explained = explain(&[]);
    for expected in ["https", "CAP_NET_BIND_SERVICE", "client-hello-timeout", "File descriptors", "splice"] {
        assert!(explained.contains(expected), "{expected:?} is not in:\n{explained}");
    }
}

#[test]
fn explain_says_where_a_name_goes_and_why() {
    let names = ingress_names();
    assert!(names.len() >= 5, "{names:?}");
    for (name, backend) in names {
        let explained = explain(&["--sni", &name, "--alpn", "h2", "--from", "198.51.100.7"]);
        assert!(explained.contains(&backend), "{name} to {backend}:\n{explained}");
        assert!(explained.contains(&name), "{explained}");
    }
    let explained = explain(&["--sni", "nobody.invalid"]);
    assert!(explained.contains("unknown-name") && explained.contains("reject"), "{explained}");
}

#[test]
fn overlapping_routes_are_warnings_with_their_place() {
    let place = public_directory();
    let server = "10.2.0.2:443".parse().expect("an address");
    let config = Config::new()
        .passthrough("tls", &["10.1.0.1:443".parse().expect("an address")], "")
        .route("tls", "www.example", "first")
        .route("tls", "WWW.example.", "second")
        .backend("first", server, "")
        .backend("second", server, "");
    std::fs::write(place.path().join("overlap.toml"), config.text()).expect("a temporary file");
    let output = verb(place.path(), &["check", "--config", "overlap.toml"]);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let warning = said.lines().find(|line| line.contains("overlap.toml:") && line.contains("www.example"));
    assert!(warning.is_some_and(|line| line.contains("first") || line.contains("warning")), "{said}");
}

/// Names without wildcards in the routes of config/ingress.toml, with their backends.
fn ingress_names() -> Vec<(String, String)> {
    let text =
        std::fs::read_to_string(repository().join("config/ingress.toml")).expect("config/ingress.toml");
    let quoted =
        |line: &str| -> Vec<String> { line.split('"').skip(1).step_by(2).map(str::to_owned).collect() };
    let mut names = Vec::new();
    let mut pending = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("sni =") {
            pending = quoted(line);
        }
        if line.starts_with("backend =") {
            let backend = quoted(line).pop().expect("a name");
            let exact = pending.drain(..).filter(|name| !name.contains('*') && !name.starts_with('~'));
            names.extend(exact.map(|name| (name, backend.clone())));
        }
    }
    names
}

#[track_caller]
fn explain(arguments: &[&str]) -> String {
    let all = [&["check", "--config", "config/ingress.toml", "--explain"], arguments].concat();
    let output = verb(&repository(), &all);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{all:?}: {stdout}\n{stderr}");
    stdout
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}
