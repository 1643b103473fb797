// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[global]`, `[log]` and `[admin]`: what concerns the process.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use argon2::password_hash::PasswordHash;

use super::address::{self, Purpose};
use super::frontend::{self, Bound};
use super::reader::Reader;
use super::value::Value;
use super::{Admin, AdminUser, Global, Log, LogFormat, LogLevel, LogTarget, limits, packet};

/// The values of `log.format`.
pub(super) const LOG_FORMATS: [(&str, LogFormat); 2] =
    [("json", LogFormat::Json), ("tcplog", LogFormat::Tcplog)];

/// The values of `log.level`.
pub(super) const LOG_LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

/// Reads `[global]`.
pub(super) fn global(reader: Reader<'_, '_>) -> Option<Global> {
    let workers = match reader.key(limits::WORKERS.key) {
        Some(value) => value.count(&limits::WORKERS).and_then(|count| usize::try_from(count).ok()),
        None => Some(std::thread::available_parallelism().map_or(1, NonZeroUsize::get)),
    };
    let max_connections = reader.optional_count(&limits::GLOBAL_MAX_CONNECTIONS);
    let pending_hello_memory = reader.size(&limits::PENDING_HELLO_MEMORY);
    let sockmap_memory = reader.optional_size(&limits::SOCKMAP_MEMORY);
    let sockmap_direction_memory = reader.size(&limits::SOCKMAP_DIRECTION_MEMORY);
    let (packet_ports, packet_interfaces) = (packet::ports(&reader), packet::interfaces(&reader));
    let packet_state = packet::state(&reader);
    let drain_timeout = reader.duration(&limits::DRAIN_TIMEOUT);
    reader.finish();
    Some(Global {
        workers: NonZeroUsize::new(workers?)?,
        max_connections: max_connections?,
        pending_hello_memory: pending_hello_memory?,
        sockmap_memory: sockmap_memory?,
        sockmap_direction_memory: sockmap_direction_memory?,
        packet_ports: packet_ports?,
        packet_interfaces: packet_interfaces?,
        packet_state: packet_state?,
        drain_timeout: drain_timeout?,
    })
}

/// Reads `[log]`.
pub(super) fn log(reader: Reader<'_, '_>) -> Option<Log> {
    let format = reader.key("format").map_or(Some(LogFormat::Json), |value| value.one_of(&LOG_FORMATS));
    let target = reader.key("target").map_or(Some(LogTarget::Stdout), |value| log_target(&value));
    let level = reader.key("level").map_or(Some(LogLevel::Info), |value| value.one_of(&LOG_LEVELS));
    reader.finish();
    Some(Log { format: format?, target: target?, level: level? })
}

fn log_target(value: &Value<'_, '_>) -> Option<LogTarget> {
    let text = value.string()?;
    let target = match text.split_once(':') {
        None if text == "stdout" => Some(LogTarget::Stdout),
        None if text == "off" => Some(LogTarget::Off),
        Some(("file", path)) if path.starts_with('/') => Some(LogTarget::File(PathBuf::from(path))),
        Some(("syslog", path)) if path.starts_with('/') => Some(LogTarget::SyslogUnix(PathBuf::from(path))),
        Some(("syslog", address)) => match address::parse(address, Purpose::Connect) {
            Ok(address) => Some(LogTarget::SyslogUdp(address)),
            Err(text) => {
                value.error(format!("the address of syslog: {text}"));
                return None;
            }
        },
        _ => None,
    };
    if target.is_none() {
        value.error(
            "must be \"stdout\", \"off\", \"file:/absolute/path\", \"syslog:/dev/log\" or \"syslog:127.0.0.1:514\"",
        );
    }
    target
}

/// Reads `[admin]`; `None` inside if there is none.
pub(super) fn admin(reader: Reader<'_, '_>, bound: &mut Bound) -> Option<Option<Admin>> {
    if !reader.exists() {
        return Some(None);
    }
    let bind = reader.required(reader.own("bind"), "bind", "bind = \"127.0.0.1:8404\"");
    let users = reader.tables("user");
    let has_users = !users.is_empty();
    let bind = bind.and_then(|value| admin_bind(&value, has_users, bound));
    let mut names = Vec::new();
    let users: Vec<_> = users.into_iter().map(|user| admin_user(user, &mut names)).collect();
    reader.finish();
    Some(Some(Admin { bind: bind?, users: users.into_iter().collect::<Option<_>>()? }))
}

fn admin_bind(value: &Value<'_, '_>, has_users: bool, bound: &mut Bound) -> Option<SocketAddr> {
    match address::parse(value.string()?, Purpose::Bind) {
        Err(text) => value.error(text),
        Ok(bind) if !bind.ip().is_loopback() && !has_users => value.error_with_others(
            "can be reached from other hosts: bind a loopback address, or add an [[admin.user]] with a password",
        ),
        Ok(bind) => return frontend::take(value, bind, bound).then_some(bind),
    }
    None
}

fn admin_user(reader: Reader<'_, '_>, names: &mut Vec<String>) -> Option<AdminUser> {
    let name = reader.required(reader.own("name"), "name", "name = \"operator\"");
    let name = name.and_then(|value| user_name(&value, names));
    let hash = reader.required(
        reader.own("password-hash"),
        "password-hash",
        "password-hash = \"…\" with what `lb hash-password` prints",
    );
    let hash = hash.and_then(|value| password_hash(&value));
    reader.finish();
    Some(AdminUser { name: name?, password_hash: hash? })
}

fn user_name(value: &Value<'_, '_>, names: &mut Vec<String>) -> Option<String> {
    let name = value.string()?;
    if name.is_empty() || name.contains(|c: char| c == ':' || c.is_control()) {
        value.error("must not be empty and hold neither a colon nor control characters (RFC 7617 section 2)");
        return None;
    }
    if names.iter().any(|other| other == name) {
        value.error("another user has this name");
        return None;
    }
    names.push(name.into());
    Some(name.into())
}

fn password_hash(value: &Value<'_, '_>) -> Option<String> {
    let Some(text) = value.get().as_str() else {
        value.error_without_text("must be a string in quotes");
        return None;
    };
    let is_complete = |hash: &PasswordHash<'_>| {
        hash.algorithm == argon2::ARGON2ID_IDENT
            && hash.salt.is_some()
            && hash.hash.is_some()
            && argon2::Params::try_from(hash).is_ok()
    };
    if !PasswordHash::new(text).is_ok_and(|hash| is_complete(&hash)) {
        value.error_without_text("must be an argon2id hash in PHC string format: $argon2id$v=19$…, as `lb hash-password` prints it");
        return None;
    }
    Some(text.into())
}
