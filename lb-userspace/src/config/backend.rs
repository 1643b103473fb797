// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[backend.NAME]` and its servers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::address::{self, Purpose};
use super::context::Depends;
use super::names::parse_own_name;
use super::reader::Reader;
use super::value::Value;
use super::{Backend, Balance, SendProxy, Server, check, limits, tcp};

/// The values of `balance`.
pub(super) const BALANCES: [(&str, Balance); 2] =
    [("round-robin", Balance::RoundRobin), ("least-connections", Balance::LeastConnections)];

/// The values of `send-proxy`.
pub(super) const SEND_PROXY: [(&str, bool); 2] = [("v2", true), ("off", false)];

/// Reads one backend.
pub(super) fn read(at: &Value<'_, '_>, name: &str, reader: Reader<'_, '_>) -> Option<Backend> {
    let name = parse_own_name(at, name);
    let balance = reader.key("balance").map_or(Some(Balance::RoundRobin), |value| value.one_of(&BALANCES));
    let send_proxy = send_proxy(&reader);
    let servers = servers(&reader);
    let check = check::read(&reader, send_proxy.flatten().is_some(), servers.as_deref().unwrap_or_default());
    let connect_timeout = reader.duration(&limits::CONNECT_TIMEOUT);
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
        retries: u32::try_from(retries?).ok()?,
        idle_timeout: idle_timeout?,
        half_close_timeout: half_close_timeout?,
        keepalive: keepalive?,
        user_timeout: user_timeout?,
        path: path?,
    })
}

fn send_proxy(reader: &Reader<'_, '_>) -> Option<Option<SendProxy>> {
    let is_on = reader.key("send-proxy").map_or(Some(false), |value| value.one_of(&SEND_PROXY));
    let option = |key: &'static str, default: bool| {
        if is_on == Some(false)
            && let Some(value) = reader.own(key)
        {
            value.error_with_others(
                "needs send-proxy = \"v2\" beside it: without a header there is nothing to add to",
            );
        }
        reader.boolean(key, default)
    };
    let (authority, crc32c) = (option("send-proxy-authority", true), option("send-proxy-crc32c", false));
    let header = SendProxy { authority: authority?, crc32c: crc32c? };
    Some(is_on?.then_some(header))
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
    let address = reader.required(reader.own("address"), "address", "address = \"10.0.0.1:443\"");
    let address = address.and_then(|value| server_address(&value));
    let weight = reader.count(&limits::WEIGHT);
    let max_connections = reader.optional_count(&limits::SERVER_MAX_CONNECTIONS);
    let is_backup = reader.boolean("backup", false);
    let check_port = reader.key("check-port").map(|value| check::port(&value));
    let is_checked = reader.boolean("check", true);
    reader.finish();
    Some(Server {
        name: name?,
        address: address?,
        weight: u16::try_from(weight?).ok()?,
        max_connections: max_connections?,
        is_backup: is_backup?,
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

fn server_address(value: &Value<'_, '_>) -> Option<SocketAddr> {
    address::parse(value.string()?, Purpose::Connect).map_err(|text| value.error(text)).ok()
}

/// A backend must be able to take a connection while all its servers are up.
fn check_weights(reader: &Reader<'_, '_>, servers: &[Server]) {
    let has_active = servers.iter().any(|server| !server.is_backup);
    let is_idle =
        servers.iter().filter(|server| server.is_backup != has_active).all(|server| server.weight == 0);
    if is_idle && has_active && servers.iter().any(|server| server.is_backup) {
        let text =
            "the servers that are not backup all have weight 0: while they are up, nobody takes a connection";
        reader.error(Depends::OnOthers, text.into());
    } else if is_idle {
        reader.error(Depends::OnOthers, "all servers have weight 0: none takes a connection".into());
    }
}
