// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens path `sockmap`, if the configuration wants it, and gives up the privileges that this took.

use std::sync::Arc;
use std::thread;

use lb_common::reason::{Availability, PathKind};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::config::Config;
use crate::config::needs::wants_sockmap;
use crate::kernel::{self, Calls, LoadError, Sockmap};
use crate::observe::metrics::ProcessMetrics;
use crate::path::sockmap::{Limits, Pool};

/// Loads the path, tests it, and drops the privileges that only loading needs. `None`: flows that want it are carried in user space,
/// and metrics and one line in the log say why.
pub(super) fn open(
    config: &Config,
    connections: u32,
    metrics: &ProcessMetrics,
) -> Option<(Arc<Sockmap>, Arc<Pool>)> {
    if !wants_sockmap(config) {
        return None;
    }
    let limits = Limits::new(config.global.sockmap_memory, config.global.sockmap_direction_memory);
    let loaded = kernel::load_sockmap(connections, limits.overdraft());
    drop_privileges();
    // Without privileges, as flows will do.
    let tested = loaded.and_then(|(sockmap, calls)| {
        kernel::test_sockmap(&sockmap)?;
        listen(calls)?;
        Ok(sockmap)
    });
    match tested {
        Ok(sockmap) => {
            metrics.paths.note(PathKind::Sockmap, Availability::Available);
            tracing::info!("path sockmap is available");
            Some((Arc::new(sockmap), Pool::new(limits, metrics.paths.sockmap_memory.clone())))
        }
        Err(error) => {
            metrics.paths.note(PathKind::Sockmap, error.availability());
            let error = anyhow::Error::new(error);
            tracing::warn!("path sockmap is off, its flows are carried by splice and copy: {error:#}");
            None
        }
    }
}

/// Starts the thread that waits for the program's calls.
fn listen(calls: Calls) -> Result<(), LoadError> {
    let thread = thread::Builder::new().name("lb-sockmap".into());
    thread.spawn(|| calls.serve()).map(drop).map_err(LoadError::Memory)
}

/// Gives up every capability but the one for low ports, which are bound later. Nothing that is written to maps needs one.
fn drop_privileges() {
    let Ok(held) = capabilities(None) else { return };
    let kept = held.permitted & CapabilitySet::NET_BIND_SERVICE;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    if let Err(error) = set_capabilities(None, sets) {
        tracing::warn!(%error, "privileges cannot be given up");
    }
}
