// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole of a scrape, against the descriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::*;
use crate::config::{
    Address, Backend, BackendId, Balance, Family, Frontend, Global, Log, LogFormat, LogLevel, LogTarget,
    Lookup, Mode, PathChoice, Resolver, Server,
};

#[test]
fn every_description_is_scraped_and_every_scrape_described() {
    let metrics = Metrics::new(&config());
    let text = metrics.encode(Exposition::PrometheusText);
    let scraped = families(&text);
    let described: BTreeMap<_, _> = Metrics::descriptions()
        .into_iter()
        .map(|Description { name, kind, labels, help }| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            (name.to_owned(), (kind.word().to_owned(), labels, format!("{help}.")))
        })
        .collect();
    assert_eq!(scraped, described);
    assert_eq!(described.len(), Metrics::descriptions().len(), "a name is taken twice");
    assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
}

#[test]
fn every_name_has_its_prefix_and_its_suffix() {
    for Description { name, kind, help, .. } in Metrics::descriptions() {
        assert!(name.starts_with("lb_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        assert!(!help.ends_with('.') && !help.contains('|'), "{name}: {help}");
    }
}

#[test]
fn every_handle_counts_into_its_own_series() {
    let metrics = Metrics::new(&config());
    let frontend = &metrics.frontends[1];
    frontend.connections.inc_by(3);
    frontend.active.set(2);
    frontend.hello_exceptions[HelloReason::Malformed.index()].inc();
    frontend.closed[CloseReason::ServerReset.index()].inc_by(4);
    frontend.path_bytes[PathKind::Copy.index()].inc_by(5);
    frontend.hello_size.observe(1800.0);
    frontend.session_duration.observe(0.25);
    metrics.backends[0].connect_duration.observe(0.0001);
    metrics.servers[1][0].up.set(1);
    metrics.servers[0][1].check_duration.set(0.5);
    metrics.servers[0][1].received_bytes.inc_by(6);
    metrics.process.log_lines_dropped.inc_by(7);
    let text = metrics.encode(Exposition::PrometheusText);
    for line in [
        r#"lb_frontend_connections_total{frontend="plain"} 3"#,
        r#"lb_frontend_connections_total{frontend="https"} 0"#,
        r#"lb_frontend_connections_active{frontend="plain"} 2"#,
        r#"lb_client_hello_exceptions_total{frontend="plain",reason="malformed"} 1"#,
        r#"lb_connections_closed_total{frontend="plain",reason="server-reset"} 4"#,
        r#"lb_connections_closed_total{frontend="plain",reason="client-reset"} 0"#,
        r#"lb_path_bytes_total{frontend="plain",path="copy"} 5"#,
        r#"lb_client_hello_size_bytes_bucket{le="1536.0",frontend="plain"} 0"#,
        r#"lb_client_hello_size_bytes_bucket{le="2048.0",frontend="plain"} 1"#,
        r#"lb_session_duration_seconds_sum{frontend="plain"} 0.25"#,
        r#"lb_backend_connect_duration_seconds_bucket{le="0.0001",backend="web"} 1"#,
        r#"lb_server_up{backend="other \"one\"\\",server="web-1"} 1"#,
        r#"lb_server_up{backend="web",server="web-1"} 0"#,
        r#"lb_server_check_duration_seconds{backend="web",server="web-2"} 0.5"#,
        r#"lb_server_received_bytes_total{backend="web",server="web-2"} 6"#,
        "lb_log_lines_dropped_total 7",
        concat!("lb_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn openmetrics_has_units_and_an_end() {
    let text = Metrics::new(&config()).encode(Exposition::OpenMetrics);
    assert!(text.ends_with("\n# EOF\n"));
    assert!(
        text.contains("# TYPE lb_frontend_received_bytes counter\n# UNIT lb_frontend_received_bytes bytes\n")
    );
    assert!(text.contains("# TYPE process_cpu_seconds counter\n# UNIT process_cpu_seconds seconds\n"));
    assert!(text.contains("# TYPE lb_build info\n"));
}

#[test]
fn the_table_has_a_row_for_each_metric() {
    let table = Metrics::markdown_table();
    assert_eq!(table.lines().count(), Metrics::descriptions().len() + 2);
    let row = "| `lb_server_up` | gauge | `backend`, `server` | 1 while the server, or one of the addresses that it stands for, is up, also with weight 0; else 0 |";
    assert!(table.lines().any(|line| line == row), "{table}");
}

#[test]
fn the_readme_has_this_table() {
    let readme = include_str!("../../../../README.md");
    let (_, rest) = readme.split_once("<!-- metrics:begin -->\n").expect("the beginning of the table");
    let (table, _) = rest.split_once("<!-- metrics:end -->").expect("the end of the table");
    for (written, meant) in table.lines().zip(Metrics::markdown_table().lines()) {
        assert_eq!(written, meant);
    }
    assert!(table == Metrics::markdown_table(), "one of them is longer");
}

/// Kind, labels (without `le`) and help of each family in a scrape, by name.
fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>, String)> {
    let mut families = BTreeMap::<String, (String, BTreeSet<String>, String)>::new();
    let labels = regex::Regex::new(r#"[{,]([a-z]+)=""#).unwrap();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").map(|rest| rest.split_once(' ').unwrap()) {
            families.entry(name.to_owned()).or_default().2 = help.to_owned();
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").map(|rest| rest.split_once(' ').unwrap())
        {
            families.entry(name.to_owned()).or_default().0 = kind.to_owned();
        } else {
            let sample = line.split(['{', ' ']).next().unwrap();
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| sample.strip_suffix(suffix))
                .find(|stem| families.get(*stem).is_some_and(|family| family.0 == "histogram"))
                .unwrap_or(sample);
            let family = families.get_mut(name).expect("a sample without a TYPE line");
            family
                .1
                .extend(labels.captures_iter(line).map(|label| label[1].to_owned()).filter(|l| l != "le"));
        }
    }
    families
}

/// Two frontends, and two backends whose servers share a name; one name needs escaping.
fn config() -> Config {
    Config {
        global: Global {
            workers: NonZeroUsize::MIN,
            max_connections: None,
            pending_hello_memory: 1 << 20,
            sockmap_memory: None,
            sockmap_direction_memory: 16 << 20,
            packet_ports: None,
            packet_interfaces: Vec::new(),
            packet_state: None,
            drain_timeout: Duration::from_secs(1),
        },
        admin: None,
        log: Log { format: LogFormat::Json, target: LogTarget::Off, level: LogLevel::Info },
        resolver: Resolver::default(),
        frontends: vec![frontend("https"), frontend("plain")],
        backends: vec![backend("web", &["web-1", "web-2"]), backend("other \"one\"\\", &["web-1"])],
    }
}

fn frontend(name: &str) -> Frontend {
    Frontend {
        name: name.into(),
        bind: vec![([127, 0, 0, 1], 0).into()],
        accept_proxy: None,
        mode: Mode::Tcp { backend: BackendId(0) },
        max_connections: None,
        backlog: NonZeroU32::MIN,
        mss: None,
        keepalive: None,
        idle_timeout: None,
        half_close_timeout: None,
        user_timeout: None,
        path: PathChoice::DEFAULT,
    }
}

fn backend(name: &str, servers: &[&str]) -> Backend {
    let mut servers: Vec<Server> = servers.iter().map(|server| self::server(server)).collect();
    // The first one of each backend goes by a name.
    let lookup = Lookup { family: Family::Any, max_addresses: 8 };
    servers[0].address = Address::Host { name: "web.internal".into(), port: 1, lookup };
    Backend {
        name: name.into(),
        balance: Balance::RoundRobin,
        servers,
        send_proxy: None,
        check: None,
        connect_timeout: Duration::from_secs(1),
        queue_timeout: Duration::ZERO,
        max_queue: 0,
        source: Vec::new(),
        source_interface: None,
        retries: 0,
        idle_timeout: None,
        half_close_timeout: None,
        keepalive: None,
        user_timeout: None,
        path: None,
    }
}

fn server(name: &str) -> Server {
    Server {
        name: name.into(),
        address: Address::Ip(([127, 0, 0, 1], 1).into()),
        weight: 1,
        max_connections: None,
        is_backup: false,
        slow_start: None,
        shutdown_on_marked_down: false,
        shutdown_backups_on_marked_up: false,
        check_port: None,
        is_checked: true,
    }
}
