// SPDX-License-Identifier: MIT OR Apache-2.0
//! Habits of this repository as tests, so that nobody has to remember them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::repository::root;
use crate::{demo, ebpf, run, vm};

/// Lines that a source file may have.
const LINES_MAX: usize = 400;

#[test]
fn every_source_file_names_its_licence() {
    for (path, text) in sources() {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let line = if first.starts_with("#!/") { lines.next().unwrap_or_default() } else { first };
        let licence =
            if path.starts_with("lb-ebpf/src") { "MIT OR GPL-2.0-only" } else { "MIT OR Apache-2.0" };
        let expected = format!("SPDX-License-Identifier: {licence}");
        assert!(line.ends_with(&expected), "{}: the first line must say {expected}", path.display());
    }
}

#[test]
fn no_source_file_is_longer_than_a_person_can_hold() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{}: {lines} lines, at most {LINES_MAX}", path.display());
    }
}

#[test]
fn what_is_left_to_do_has_an_issue() {
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            assert!(!is_loose_end(line), "{}:{}: no issue number: {line}", path.display(), number + 1);
        }
    }
    assert!(is_loose_end(concat!("// TO", "DO: later")));
    assert!(is_loose_end(concat!("// FIX", "ME(me): later")));
    assert!(!is_loose_end(concat!("// TO", "DO(#12): later")));
    assert!(!is_loose_end("a line of code"));
}

/// Whether a line announces work without saying in which issue it is.
fn is_loose_end(line: &str) -> bool {
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")]
        .iter()
        .any(|word| line.split(word).skip(1).any(|rest| !rest.starts_with("(#")))
}

#[test]
fn pure_modules_know_no_runtime_kernel_or_socket() {
    let pure = [
        "config",
        "net/conntrack/message",
        "net/netlink",
        "net/routes/message",
        "prelude/hello",
        "route",
        "balance",
        "proxy",
        "resolve/answer",
        "resolve/endpoints",
        "resolve/schedule",
        "runtime/timers",
    ];
    for (path, text) in sources() {
        let Ok(module) = path.strip_prefix("lb-userspace/src") else { continue };
        if !pure.iter().any(|name| module.with_extension("").starts_with(name)) {
            continue;
        }
        for foreign in
            ["tokio::", "crate::runtime", "aya::", "socket2::", "TcpStream", "TcpListener", "UdpSocket"]
        {
            assert!(!text.contains(foreign), "{}: {foreign} in a pure module", path.display());
        }
    }
}

#[test]
fn programs_use_only_the_shared_modules_that_the_digest_covers() {
    for (path, text) in sources() {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        let mut used = Vec::new();
        if path.starts_with("lb-ebpf/src") {
            used = paths(&code, "lb_common::", "");
        } else if let Some(module) = shared_module(&path) {
            let parent = module.rsplit_once('/').map_or("", |(parent, _)| parent);
            used = [paths(&code, "crate::", ""), paths(&code, "super::", parent)].concat();
        }
        for used in used {
            let is_covered = ebpf::SOURCES.iter().any(|source| {
                let module = source.strip_prefix("lb-common/src/").unwrap_or(source).trim_end_matches(".rs");
                used.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            });
            assert!(is_covered, "{}: {used} does not count in the digest", path.display());
        }
    }
}

/// The module that a file of lb-common is, as a path, if the digest covers it.
fn shared_module(path: &Path) -> Option<String> {
    let is_covered = ebpf::SOURCES.iter().any(|source| path.starts_with(source));
    let module = path.strip_prefix("lb-common/src").ok().filter(|_| is_covered)?.with_extension("");
    let module = if module.ends_with("mod") { module.parent()? } else { &module };
    Some(module.display().to_string())
}

/// What follows a prefix in a text, names with slashes between them, below another module.
fn paths(text: &str, prefix: &str, below: &str) -> Vec<String> {
    let path = |rest: &str| {
        let end = rest.find(|c: char| c != ':' && c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
        let names = [below, rest[..end].trim_end_matches(':')].join("/").replace("::", "/");
        names.trim_matches('/').to_owned()
    };
    text.split(prefix).skip(1).map(path).collect()
}

#[test]
fn capabilities_are_the_same_in_code_unit_and_architecture() {
    let code = read("lb-userspace/src/privileges.rs");
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let named: Vec<&str> = code.split('"').filter(|text| text.starts_with("CAP_")).collect();
    assert!(named.len() >= 3, "{named:?}");
    let unit = read("config/lb.service");
    for key in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
        let granted: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix(key)).collect();
        assert_eq!(granted, [named.join(" ")], "config/lb.service: {key}");
    }
    let architecture = read("ARCHITECTURE.md");
    let (_, rest) =
        architecture.split_once("<!-- capabilities:begin -->").expect("ARCHITECTURE.md has the table");
    let (table, _) = rest.split_once("<!-- capabilities:end -->").expect("the table ends");
    let rows: Vec<&str> = table.lines().filter(|row| row.starts_with("| CAP_")).collect();
    let told: Vec<&str> = rows.iter().filter_map(|row| row.split(' ').nth(1)).collect();
    assert_eq!(told, named, "ARCHITECTURE.md");
}

/// Whoever asks `lb doctor` what a service would find has to have what a service has.
#[test]
fn the_readme_asks_doctor_with_the_capabilities_of_the_unit() {
    let (unit, readme) = (read("config/lb.service"), read("README.md"));
    let held = unit.lines().find_map(|line| line.strip_prefix("AmbientCapabilities=")).expect("a list");
    let words = held.split(' ').map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()));
    let words = words.collect::<Vec<_>>().join(",");
    for option in ["inh-caps", "ambient-caps"] {
        assert!(readme.contains(&format!("--{option}={words} ")), "--{option}={words}");
    }
}

#[test]
fn the_quick_start_is_the_minimal_configuration() {
    let readme = read("README.md");
    let (_, rest) = readme.split_once("```toml\n").expect("README has a quick start in TOML");
    let (quick_start, _) = rest.split_once("```").expect("the quick start ends");
    assert_eq!(quick_start, read("config/minimal.toml"), "README.md and config/minimal.toml differ");
}

#[test]
fn the_demo_and_its_configuration_name_the_same_addresses() {
    let text = read(run::CONFIG);
    let config: Table = text.parse().expect("TOML");
    let admin = config["admin"]["bind"].as_str().expect("admin.bind");
    assert_eq!(admin.parse::<SocketAddr>().expect("an address"), run::ADMIN);
    let frontends = config["frontend"].as_table().expect("frontends").values();
    let binds: Vec<&str> = frontends.flat_map(binds).collect();
    assert!(binds.iter().any(|bind| bind.ends_with(&format!(":{}", run::FRONTEND_PORT))), "{binds:?}");
    for (name, port) in demo::SERVERS {
        let quoted = |text: &str| format!("\"{text}\"");
        for needle in [quoted(&demo::address(port).to_string()), quoted(&format!("{name}.localhost"))] {
            assert!(text.contains(&needle), "{} does not name {needle}", run::CONFIG);
        }
    }
}

/// The addresses of a frontend: a text or a list of texts.
fn binds(frontend: &Value) -> Vec<&str> {
    let bind = &frontend["bind"];
    let list = bind.as_array().map_or_else(|| vec![bind], |list| list.iter().collect());
    list.into_iter().filter_map(Value::as_str).collect()
}

#[test]
fn a_virtual_machine_does_what_the_readme_says() {
    let (vagrantfile, readme) = (read("Vagrantfile"), read("README.md"));
    for command in ["cargo xtask setup", "cargo xtask test"] {
        assert!(vagrantfile.contains(command), "Vagrantfile does not run `{command}`");
    }
    assert!(readme.contains("cargo xtask run") && readme.contains("cargo xtask test"));
}

#[test]
fn kernels_are_the_same_everywhere() {
    let labels = vm::KERNELS.map(|kernel| kernel.label);
    let [first, second, third] = labels;
    let [vagrantfile, readme, architecture] = ["Vagrantfile", "README.md", "ARCHITECTURE.md"].map(read);
    let expected = format!("KERNELS = %w[{}]", labels.join(" "));
    assert!(vagrantfile.contains(&expected), "Vagrantfile lacks {expected}");
    let expected = format!("kernels {first}, {second} and {third}");
    assert!(readme.contains(&expected), "README.md lacks: {expected}");
    let (_, rest) = architecture.split_once(vm::MARKERS[0]).expect("ARCHITECTURE.md has a place for kernels");
    let (table, _) = rest.split_once(vm::MARKERS[1]).expect("the place ends");
    let rows = table.trim().lines().skip(2).map(|row| row.split(' ').nth(1).unwrap_or_default());
    assert_eq!(rows.collect::<Vec<_>>(), labels, "the table of kernels in ARCHITECTURE.md");
}

#[test]
fn the_readme_has_a_place_for_the_benchmarks() {
    let readme = read("README.md");
    let bench = read("tests/src/bin/lb-bench/markdown/mod.rs");
    let markers = ["bench:begin", "bench:end", "bench-bbr:begin", "bench-bbr:end"];
    let places = markers.map(|marker| {
        let marker = &format!("<!-- {marker} -->");
        assert_eq!(readme.matches(marker).count(), 1, "README.md must have {marker} once");
        assert!(bench.contains(marker), "lb-bench does not look for {marker}");
        readme.find(marker)
    });
    assert!(places.is_sorted(), "the markers in README.md are in the wrong order");
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every source file: its path from the root, and its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut sources = Vec::new();
    let mut pending = vec![root().to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).expect("a folder can be listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                let is_foreign = path.file_name().is_some_and(|name| name == "target" || name == ".git");
                pending.extend((!is_foreign).then_some(path));
            } else if is_source(&path) {
                let text =
                    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                sources.push((path.strip_prefix(root()).expect("below the root").to_owned(), text));
            }
        }
    }
    assert!(sources.len() > 20, "the source files were not found");
    sources
}

fn is_source(path: &Path) -> bool {
    let has_extension =
        path.extension().is_some_and(|extension| ["rs", "sh", "py"].iter().any(|known| extension == *known));
    has_extension || path.ends_with(".ci/run")
}
