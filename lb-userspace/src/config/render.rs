// SPDX-License-Identifier: MIT OR Apache-2.0
//! A [`Config`] as TOML with every default filled in. What is written parses to an equal `Config`.

use std::fmt::{Display, Write};
use std::time::Duration;

use lb_common::reason::HelloReason;
use toml::Value;

use super::frontend::policy_key;
use super::reader::join;
use super::units::{Bytes, format_duration, format_size};
use super::{
    Admin, Backend, BackendId, Check, Config, Frontend, Keepalive, Log, LogTarget, Mode, PathChoice, Policy,
    Probe, Route, Server, TlsPassthrough, backend, process, tcp,
};

impl Config {
    /// The configuration as TOML, defaults filled in and files of names spelt out. [`Config::parse`] makes an equal one of it.
    pub fn to_toml(&self) -> String {
        let mut out = Writer::default();
        out.table("global");
        out.key("workers", self.global.workers);
        out.optional("max-connections", self.global.max_connections, "as many as the file descriptors allow");
        out.size("pending-hello-memory", self.global.pending_hello_memory);
        out.duration("drain-timeout", self.global.drain_timeout);
        if let Some(admin) = &self.admin {
            write_admin(&mut out, admin);
        }
        write_log(&mut out, &self.log);
        for frontend in &self.frontends {
            self.write_frontend(&mut out, frontend);
        }
        for backend in &self.backends {
            write_backend(&mut out, backend);
        }
        out.0
    }

    /// The name of a backend.
    fn backend_name(&self, id: BackendId) -> &str {
        self.backends.get(id.0).map_or("", |backend| &backend.name)
    }

    fn write_frontend(&self, out: &mut Writer, frontend: &Frontend) {
        let table = join("frontend", &frontend.name);
        out.table(&table);
        out.list("bind", &frontend.bind);
        match &frontend.mode {
            Mode::Tcp { backend } => {
                out.text("mode", "tcp");
                out.text("default-backend", self.backend_name(*backend));
            }
            Mode::TlsPassthrough(settings) => self.write_tls_passthrough(out, settings),
        }
        out.optional("max-connections", frontend.max_connections, "no limit but the process'");
        out.key("backlog", frontend.backlog);
        out.keepalive(frontend.keepalive);
        out.duration_or_off("user-timeout", frontend.user_timeout);
        out.path(frontend.path);
        if let Mode::TlsPassthrough(settings) = &frontend.mode {
            for route in &settings.routes {
                self.write_route(out, &table, route);
            }
        }
    }

    fn write_tls_passthrough(&self, out: &mut Writer, settings: &TlsPassthrough) {
        out.text("mode", "tls-passthrough");
        out.duration("client-hello-timeout", settings.client_hello_timeout);
        out.size("client-hello-max", settings.client_hello_max as u64);
        out.size("client-hello-wire-max", settings.client_hello_wire_max as u64);
        for reason in HelloReason::ALL {
            let policy = match settings.policy(reason) {
                Policy::Reject => Policy::REJECT,
                Policy::Backend(id) => self.backend_name(id),
            };
            out.text(policy_key(reason), policy);
        }
    }

    fn write_route(&self, out: &mut Writer, frontend: &str, route: &Route) {
        out.entry(frontend, "route");
        if !route.names.is_empty() {
            out.list("sni", &route.names);
        }
        if !route.alpn.is_empty() {
            out.list("alpn", &route.alpn);
        }
        out.text("backend", self.backend_name(route.backend));
    }
}

fn write_admin(out: &mut Writer, admin: &Admin) {
    out.table("admin");
    out.text("bind", admin.bind);
    for user in &admin.users {
        out.entry("admin", "user");
        out.text("name", &user.name);
        out.text("password-hash", &user.password_hash);
    }
}

fn write_log(out: &mut Writer, log: &Log) {
    out.table("log");
    out.text("format", word(&process::LOG_FORMATS, log.format));
    out.text(
        "target",
        match &log.target {
            LogTarget::Stdout => "stdout".into(),
            LogTarget::Off => "off".into(),
            LogTarget::File(path) => format!("file:{}", path.display()),
            LogTarget::SyslogUnix(path) => format!("syslog:{}", path.display()),
            LogTarget::SyslogUdp(address) => format!("syslog:{address}"),
        },
    );
    out.text("level", word(&process::LOG_LEVELS, log.level));
}

fn write_backend(out: &mut Writer, backend: &Backend) {
    let table = join("backend", &backend.name);
    out.table(&table);
    out.text("balance", word(&backend::BALANCES, backend.balance));
    out.text("send-proxy", word(&backend::SEND_PROXY, backend.send_proxy.is_some()));
    if let Some(header) = backend.send_proxy {
        out.key("send-proxy-authority", header.authority);
        out.key("send-proxy-crc32c", header.crc32c);
    }
    out.duration("connect-timeout", backend.connect_timeout);
    out.key("retries", backend.retries);
    out.duration_or_off("idle-timeout", backend.idle_timeout);
    out.duration_or_off("half-close-timeout", backend.half_close_timeout);
    out.keepalive(backend.keepalive);
    out.duration_or_off("user-timeout", backend.user_timeout);
    if let Some(path) = backend.path {
        out.path(path);
    }
    match &backend.check {
        Some(check) => write_check(out, &table, check),
        None => out.key("check", false),
    }
    for server in &backend.servers {
        write_server(out, &table, server);
    }
}

fn write_check(out: &mut Writer, backend: &str, check: &Check) {
    out.table(&format!("{backend}.check"));
    match &check.probe {
        Probe::Tcp => out.text("type", "tcp"),
        Probe::Http { method, path, host, expect } => {
            out.text("type", "http");
            out.text("method", method);
            out.text("path", path);
            if let Some(host) = host {
                out.text("host", host);
            }
            out.list("expect", expect.iter().map(|(from, to)| format!("{from}-{to}")));
        }
    }
    if let Some(port) = check.port {
        out.key("port", port);
    }
    out.duration("interval", check.interval);
    out.duration("timeout", check.timeout);
    out.key("rise", check.rise);
    out.key("fall", check.fall);
    out.key("jitter", check.jitter_percent);
    out.text("send-proxy", word(&backend::SEND_PROXY, check.send_proxy));
}

fn write_server(out: &mut Writer, backend: &str, server: &Server) {
    out.entry(backend, "server");
    out.text("name", &server.name);
    out.text("address", server.address);
    out.key("weight", server.weight);
    out.optional("max-connections", server.max_connections, "no limit");
    out.key("backup", server.is_backup);
    if let Some(port) = server.check_port {
        out.key("check-port", port);
    }
    out.key("check", server.is_checked);
}

/// The word for a choice.
fn word<T: PartialEq>(choices: &[(&'static str, T)], choice: T) -> &'static str {
    choices.iter().find(|(_, other)| *other == choice).map_or("", |(word, _)| word)
}

/// TOML under way.
#[derive(Default)]
struct Writer(String);

impl Writer {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("a String takes all text");
        self.0.push('\n');
    }

    fn table(&mut self, path: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.line(format_args!("{gap}[{path}]"));
    }

    fn entry(&mut self, path: &str, key: &str) {
        self.line(format_args!("\n[[{path}.{key}]]"));
    }

    fn key(&mut self, key: &str, value: impl Display) {
        self.line(format_args!("{key} = {value}"));
    }

    fn text(&mut self, key: &str, text: impl ToString) {
        self.key(key, Value::String(text.to_string()));
    }

    fn list<T: ToString>(&mut self, key: &str, texts: impl IntoIterator<Item = T>) {
        let texts: Vec<String> =
            texts.into_iter().map(|text| Value::String(text.to_string()).to_string()).collect();
        match &texts[..] {
            [text] => self.key(key, text),
            _ => self.key(key, format_args!("[{}]", texts.join(", "))),
        }
    }

    fn optional<T: Display>(&mut self, key: &str, value: Option<T>, absent: &str) {
        match value {
            Some(value) => self.key(key, value),
            None => self.line(format_args!("# {key}: {absent}")),
        }
    }

    fn size(&mut self, key: &str, bytes: u64) {
        self.text(key, format_size(Bytes(bytes)));
    }

    fn duration(&mut self, key: &str, duration: Duration) {
        self.text(key, format_duration(duration));
    }

    fn duration_or_off(&mut self, key: &str, duration: Option<Duration>) {
        self.text(key, duration.map_or_else(|| "off".into(), format_duration));
    }

    fn keepalive(&mut self, keepalive: Option<Keepalive>) {
        match keepalive {
            None => self.key("keepalive", false),
            Some(Keepalive { idle, interval, count }) => {
                let (idle, interval) = (format_duration(idle), format_duration(interval));
                let table =
                    format_args!("{{ idle = \"{idle}\", interval = \"{interval}\", count = {count} }}");
                self.line(format_args!("keepalive = {table}"));
            }
        }
    }

    fn path(&mut self, choice: PathChoice) {
        self.text("path", word(&tcp::PATHS, choice.path));
        self.key("path-required", choice.is_required);
    }
}
