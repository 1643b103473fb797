// SPDX-License-Identifier: MIT OR Apache-2.0
//! The limit of open files, and what becomes of it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::StartError;
use crate::config::Config;
use crate::config::needs::Descriptors;

/// Raises the limit of open files and divides it.
pub(super) fn divide(config: &Config) -> Result<Descriptors, StartError> {
    let limit = raise_limit();
    let descriptors = Descriptors::divide(limit, config);
    if descriptors.connections == 0 {
        return Err(StartError::Descriptors { limit, needed: Descriptors::least(config) });
    }
    if let Some(wished) = config.global.max_connections
        && wished.get() > descriptors.connections
    {
        let needed = Descriptors::needed(u64::from(wished.get()), config);
        tracing::warn!(
            limit,
            needed,
            "global.max-connections = {wished} needs more open files than the limit allows; at most {} are accepted",
            descriptors.connections
        );
    }
    if let Some(waiting) = descriptors.waiting(config) {
        tracing::warn!(limit, "few open files: {waiting}");
    }
    Ok(descriptors)
}

/// Raises the limit of open files as far as it may be raised, and returns it.
pub fn raise_limit() -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // A refusal leaves the limit as it is, and it is read again below.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
