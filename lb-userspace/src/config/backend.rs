// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[backend.NAME]` and its servers.

use std::collections::HashMap;
use std::sync::Arc;

use super::context::Depends;
use super::names::parse_own_name;
use super::reader::Reader;
use super::value::Value;
use super::{
    Address, Backend, SendProxy, Server, balance, check, limits, proxy, resolver, source_address, tcp,
};

/// The values of `on-marked-down`.
pub(super) const ON_MARKED_DOWN: [(&str, bool); 2] = [("keep-sessions", false), ("shutdown-sessions", true)];

/// The values of `on-marked-up`.
pub(super) const ON_MARKED_UP: [(&str, bool); 2] =
    [("keep-backup-sessions", false), ("shutdown-backup-sessions", true)];

/// Reads one backend.
pub(super) fn read(at: &Value<'_, '_>, name: &str, reader: Reader<'_, '_>) -> Option<Backend> {
    let name = parse_own_name(at, name);
    let balance = balance::read(&reader);
    let send_proxy = proxy::send(&reader);
    let servers = servers(&reader);
    let sent = send_proxy.flatten().map(SendProxy::version);
    let check = check::read(&reader, sent, servers.as_deref().unwrap_or_default());
    let connect_timeout = reader.duration(&limits::CONNECT_TIMEOUT);
    let queue_timeout = match reader.key(limits::QUEUE_TIMEOUT.key) {
        Some(value) => value.duration(&limits::QUEUE_TIMEOUT),
        None => connect_timeout,
    };
    let max_queue = reader.count(&limits::MAX_QUEUE);
    let source = source_address::addresses(&reader);
    let source_interface = source_address::interface(&reader);
    let retries = reader.count(&limits::RETRIES);
    let idle_timeout = reader.duration_or_off(&limits::IDLE_TIMEOUT);
    let half_close_timeout = reader.duration_or_off(&limits::HALF_CLOSE_TIMEOUT);
    let keepalive = tcp::keepalive(&reader);
    let user_timeout = reader.duration_or_off(&limits::USER_TIMEOUT);
    let path = tcp::path(&reader);
    reader.finish();
    Some(Backend {
        name: name?,
        balance: balance?,
        servers: servers?,
        send_proxy: send_proxy?,
        check: check?,
        connect_timeout: connect_timeout?,
        queue_timeout: queue_timeout?,
        max_queue: usize::try_from(max_queue?).ok()?,
        source: source?,
        source_interface: source_interface?,
        retries: u32::try_from(retries?).ok()?,
        idle_timeout: idle_timeout?,
        half_close_timeout: half_close_timeout?,
        keepalive: keepalive?,
        user_timeout: user_timeout?,
        path: path?,
    })
}

fn servers(reader: &Reader<'_, '_>) -> Option<Vec<Server>> {
    let tables = reader.tables("server");
    let defaults = reader.table("server-defaults").into_defaults();
    if tables.is_empty() {
        let has_entry =
            reader.own("server").is_some_and(|value| value.get().as_array().is_none_or(|a| !a.is_empty()));
        if !has_entry {
            reader.error(
                Depends::OnOthers,
                format!("has no server: add [[{}.server]] with a name and an address", reader.path),
            );
        }
    }
    let mut names = HashMap::new();
    let read = |table: Reader<'_, '_>| server(table.with_defaults(defaults.clone()), &mut names);
    let servers: Vec<_> = tables.into_iter().map(read).collect();
    let servers = servers.into_iter().collect::<Option<Vec<_>>>()?;
    if servers.is_empty() {
        return None;
    }
    check_weights(reader, &servers);
    Some(servers)
}

fn server(reader: Reader<'_, '_>, names: &mut HashMap<Arc<str>, usize>) -> Option<Server> {
    let name = reader.required(reader.own("name"), "name", "name = \"web-1\"");
    let name = name.and_then(|value| server_name(&value, names));
    let address = resolver::server_address(&reader);
    let weight = weight(&reader, address.as_ref());
    let max_connections = reader.optional_count(&limits::SERVER_MAX_CONNECTIONS);
    let is_backup = reader.boolean("backup", false);
    let slow_start = reader.duration_or_off(&limits::SLOW_START);
    let on_marked_down = reader.choice("on-marked-down", &ON_MARKED_DOWN);
    let on_marked_up = reader.choice("on-marked-up", &ON_MARKED_UP);
    let check_port = reader.key("check-port").map(|value| check::port(&value));
    let is_checked = reader.boolean("check", true);
    reader.finish();
    Some(Server {
        name: name?,
        address: address?,
        weight: u16::try_from(weight?).ok()?,
        max_connections: max_connections?,
        is_backup: is_backup?,
        slow_start: slow_start?,
        shutdown_on_marked_down: on_marked_down?,
        shutdown_backups_on_marked_up: on_marked_up?,
        check_port: match check_port {
            Some(port) => Some(port?),
            None => None,
        },
        is_checked: is_checked?,
    })
}

fn server_name(value: &Value<'_, '_>, names: &mut HashMap<Arc<str>, usize>) -> Option<Arc<str>> {
    let name = parse_own_name(value, value.string()?)?;
    let line = value.place().line;
    if let Some(first) = names.get(&name) {
        value.error(format!("the server of line {first} has this name: names are unique in a backend"));
        return None;
    }
    names.insert(name.clone(), line);
    Some(name)
}

fn weight(reader: &Reader<'_, '_>, address: Option<&Address>) -> Option<u64> {
    let weight = reader.count(&limits::WEIGHT);
    if !matches!(address, Some(Address::Service { .. })) {
        return weight;
    }
    // Defaults may have one for the other servers.
    if let Some(value) = reader.own(limits::WEIGHT.key) {
        value.error_with_others("stands beside srv: the SRV records say the weights");
    }
    Some(1)
}

/// A backend must be able to take a connection while all its servers are up. Backups stand in for servers of weight 0 as they
/// do for those that are down, so that one server with a weight is enough.
fn check_weights(reader: &Reader<'_, '_>, servers: &[Server]) {
    if servers.iter().all(|server| server.weight == 0) {
        reader.error(Depends::OnOthers, "all servers have weight 0: none takes a connection".into());
    }
}
