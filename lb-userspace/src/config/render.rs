// SPDX-License-Identifier: MIT OR Apache-2.0
//! A [`Config`] as TOML with every default filled in. What is written parses to an equal `Config`.

use std::fmt::{Display, Write};
use std::ops::RangeInclusive;
use std::time::Duration;

use lb_common::reason::HelloReason;
use toml::Value;

use super::frontend::policy_key;
use super::reader::join;
use super::units::{Bytes, format_duration, format_size};
use super::{
    AcceptProxy, Address, Admin, Backend, BackendId, Balance, BalanceFactor, BytePattern, Check, CheckTls,
    Config, Frontend, Global, Keepalive, Log, LogTarget, Mode, PathChoice, Policy, Probe, Resolver, Route,
    ScriptStep, SendProxy, Server, TlsPassthrough, backend, balance, check, process, proxy, resolver, tcp,
};

impl Config {
    /// The configuration as TOML, defaults filled in and files of names spelt out. [`Config::parse`] makes an equal one of it.
    pub fn to_toml(&self) -> String {
        let mut out = Writer::default();
        out.table("global");
        out.key("workers", self.global.workers);
        out.optional("max-connections", self.global.max_connections, "as many as the file descriptors allow");
        out.size("pending-hello-memory", self.global.pending_hello_memory);
        let memory = self.global.sockmap_memory.map(|bytes| format!("\"{}\"", format_size(Bytes(bytes))));
        out.optional("sockmap-memory", memory, "a quarter of what TCP may have");
        out.size("sockmap-direction-memory", self.global.sockmap_direction_memory);
        let range = |ports: &RangeInclusive<u16>| format!("\"{}-{}\"", ports.start(), ports.end());
        let absent = format!("{}, and not for \"auto\"", range(&Global::DEFAULT_PACKET_PORTS));
        out.optional("packet-ports", self.global.packet_ports.as_ref().map(range), &absent);
        if self.global.packet_interfaces.is_empty() {
            out.line(format_args!("# packet-interfaces: all but loopback"));
        } else {
            out.list("packet-interfaces", &self.global.packet_interfaces);
        }
        let state = self.global.packet_state.as_ref();
        out.text("packet-state", state.map_or("off".into(), |path| path.to_string_lossy()));
        out.duration("drain-timeout", self.global.drain_timeout);
        if let Some(admin) = &self.admin {
            write_admin(&mut out, admin);
        }
        write_log(&mut out, &self.log);
        write_resolver(&mut out, &self.resolver);
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
        write_accept_proxy(out, frontend.accept_proxy.as_ref());
        match &frontend.mode {
            Mode::Tcp { backend } => {
                out.text("mode", "tcp");
                out.text("default-backend", self.backend_name(*backend));
            }
            Mode::TlsPassthrough(settings) => self.write_tls_passthrough(out, settings),
        }
        out.optional("max-connections", frontend.max_connections, "no limit but the process'");
        out.key("backlog", frontend.backlog);
        out.optional("mss", frontend.mss, "what the interfaces take");
        out.keepalive(frontend.keepalive);
        out.duration_or_off("user-timeout", frontend.user_timeout);
        out.duration_or_off("idle-timeout", frontend.idle_timeout);
        out.duration_or_off("half-close-timeout", frontend.half_close_timeout);
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

fn write_accept_proxy(out: &mut Writer, accept: Option<&AcceptProxy>) {
    let Some(AcceptProxy { from, timeout, header_max }) = accept else {
        out.key("accept-proxy-from", "[]");
        return;
    };
    out.list("accept-proxy-from", from.iter().map(|network| proxy::shown(*network)));
    out.duration("proxy-header-timeout", *timeout);
    out.size("proxy-header-max", *header_max as u64);
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

fn write_resolver(out: &mut Writer, resolver: &Resolver) {
    out.table("resolver");
    match &resolver.servers[..] {
        [] => out.line(format_args!("# servers: those of /etc/resolv.conf")),
        servers => out.list("servers", servers),
    }
    out.duration("timeout", resolver.timeout);
    out.key("attempts", resolver.attempts);
    out.duration("ttl-min", resolver.ttl_min);
    out.duration("ttl-max", resolver.ttl_max);
    out.duration("hold-nx", resolver.hold_nx);
}

fn write_backend(out: &mut Writer, backend: &Backend) {
    let table = join("backend", &backend.name);
    out.table(&table);
    write_balance(out, backend.balance);
    out.text("send-proxy", word(&proxy::SEND_PROXY, backend.send_proxy.map(SendProxy::version)));
    if let Some(SendProxy::V2(tlvs)) = backend.send_proxy {
        out.key("send-proxy-authority", tlvs.authority);
        out.key("send-proxy-crc32c", tlvs.crc32c);
        out.key("send-proxy-alpn", tlvs.alpn);
        out.key("send-proxy-unique-id", tlvs.unique_id);
    }
    out.duration("connect-timeout", backend.connect_timeout);
    out.duration("queue-timeout", backend.queue_timeout);
    out.key("max-queue", backend.max_queue);
    if !backend.source.is_empty() {
        out.list("source", &backend.source);
    }
    if let Some(interface) = &backend.source_interface {
        out.text("source-interface", interface);
    }
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

fn write_balance(out: &mut Writer, balance: Balance) {
    out.text("balance", balance::word(balance));
    if let Balance::Maglev { on, .. } = balance {
        out.text("hash-on", word(&balance::HASH_ON, on));
    }
    if let Balance::Maglev { bound, .. } | Balance::Source { bound } = balance {
        out.key("hash-balance-factor", bound.map_or(0, BalanceFactor::percent));
    }
}

fn write_check(out: &mut Writer, backend: &str, check: &Check) {
    out.table(&format!("{backend}.check"));
    out.text("type", word(&check::KINDS, check::Kind::of(check)));
    match &check.probe {
        Probe::Tcp => {}
        Probe::Http { method, path, host, headers, expect, body } => {
            out.text("method", method);
            out.text("path", path);
            if let Some(host) = host {
                out.text("host", host);
            }
            if !headers.is_empty() {
                out.key("headers", inline(headers.iter().map(|(name, value)| (&**name, value.clone()))));
            }
            out.list("expect", expect.iter().map(|(from, to)| format!("{from}-{to}")));
            match body {
                Some(BytePattern::Bytes(bytes)) => out.text("expect-body", String::from_utf8_lossy(bytes)),
                Some(BytePattern::Regex(regex)) => out.text("expect-body", format!("~{}", regex.as_str())),
                None => {}
            }
        }
        Probe::Script(steps) => {
            let steps: Vec<String> = steps.iter().map(|step| inline([script_step(step)])).collect();
            out.key("script", format_args!("[{}]", steps.join(", ")));
            out.key("tls", check.tls.is_some());
        }
    }
    if let Some(tls) = &check.tls {
        write_check_tls(out, tls);
    }
    if let Some(port) = check.port {
        out.key("port", port);
    }
    out.duration("interval", check.interval);
    out.duration("fast-interval", check.fast_interval);
    out.duration("down-interval", check.down_interval);
    out.duration("timeout", check.timeout);
    out.key("rise", check.rise);
    out.key("fall", check.fall);
    out.key("jitter", check.jitter_percent);
    out.text("send-proxy", word(&proxy::SEND_PROXY, check.send_proxy));
    out.text("observe", word(&check::OBSERVE, check.observe.is_some()));
    if let Some(observe) = check.observe {
        out.key("error-limit", observe.error_limit);
        out.text("on-error", word(&check::ON_ERROR, observe.on_error));
    }
}

fn write_check_tls(out: &mut Writer, tls: &CheckTls) {
    if let Some(sni) = &tls.sni {
        out.text("sni", sni);
    }
    if !tls.alpn.is_empty() {
        out.list("alpn", &tls.alpn);
    }
    out.text("verify", word(&check::VERIFY, tls.authorities.is_some()));
    if let Some(authorities) = &tls.authorities {
        out.text("ca-file", &authorities.file);
    }
}

/// Key and value of a step; bytes as text where they are plain.
fn script_step(step: &ScriptStep) -> (&'static str, String) {
    let is_plain = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match step {
        ScriptStep::Send(bytes) if is_plain(bytes) => ("send", text(bytes)),
        ScriptStep::Send(bytes) => ("send-hex", hex(bytes)),
        ScriptStep::Expect(BytePattern::Bytes(bytes)) if is_plain(bytes) => ("expect", text(bytes)),
        ScriptStep::Expect(BytePattern::Bytes(bytes)) => ("expect-hex", hex(bytes)),
        ScriptStep::Expect(BytePattern::Regex(regex)) => ("expect-regex", regex.as_str().into()),
    }
}

/// An inline table of texts.
fn inline<'a>(entries: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let entry = |(key, text): (&str, String)| format!("{} = {}", join("", key), Value::String(text));
    let entries: Vec<String> = entries.into_iter().map(entry).collect();
    format!("{{ {} }}", entries.join(", "))
}

fn write_server(out: &mut Writer, backend: &str, server: &Server) {
    out.entry(backend, "server");
    out.text("name", &server.name);
    write_address(out, &server.address);
    if !matches!(server.address, Address::Service { .. }) {
        out.key("weight", server.weight);
    }
    out.optional("max-connections", server.max_connections, "no limit");
    out.key("backup", server.is_backup);
    out.duration_or_off("slow-start", server.slow_start);
    out.text("on-marked-down", word(&backend::ON_MARKED_DOWN, server.shutdown_on_marked_down));
    out.text("on-marked-up", word(&backend::ON_MARKED_UP, server.shutdown_backups_on_marked_up));
    if let Some(port) = server.check_port {
        out.key("check-port", port);
    }
    out.key("check", server.is_checked);
}

fn write_address(out: &mut Writer, address: &Address) {
    let key = if matches!(address, Address::Service { .. }) { "srv" } else { "address" };
    out.text(key, address);
    if let Some(lookup) = address.lookup() {
        out.text("family", word(&resolver::FAMILIES, lookup.family));
        out.key("max-addresses", lookup.max_addresses);
    }
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
        if !choice.is_required {
            self.text("promote-after-bytes", format_size(Bytes(choice.promotion.after_bytes)));
            self.text("promote-after", format_duration(choice.promotion.after));
        }
    }
}
