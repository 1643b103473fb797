// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens path `sockmap`, if the configuration wants it: what needs privileges, and then the rest.

use std::sync::Arc;
use std::thread;

use lb_common::reason::{Availability, PathKind};

use crate::config::needs::wants_sockmap;
use crate::config::{Config, PathWish};
use crate::kernel::{self, Calls, LoadError, Sockmap};
use crate::observe::metrics::ProcessMetrics;
use crate::path::sockmap::{Limits, Pool};

/// What loading has given; `None`: nothing asks for the path.
pub(super) type Loaded = Option<Result<(Sockmap, Calls), LoadError>>;

/// Loads the path, which is all of it that needs privileges.
pub(super) fn load(config: &Config, connections: u32) -> Loaded {
    wants_sockmap(config).then(|| kernel::load_sockmap(connections, limits(config).overdraft()))
}

fn limits(config: &Config) -> Limits {
    Limits::new(config.global.sockmap_memory, config.global.sockmap_direction_memory)
}

/// Whether somebody would rather have no connection than another path.
fn is_required(config: &Config) -> bool {
    let frontends = config.frontends.iter().map(|frontend| frontend.path);
    let backends = config.backends.iter().filter_map(|backend| backend.path);
    frontends.chain(backends).any(|choice| choice.path == PathWish::Sockmap && choice.is_required)
}

/// Tests the path. To be called without privileges, as flows do without them. `None`: flows that want it are carried in user space,
/// and metrics and one line in the log say why.
pub(super) fn open(
    loaded: Loaded,
    config: &Config,
    metrics: &ProcessMetrics,
) -> Option<(Arc<Sockmap>, Arc<Pool>)> {
    let tested = loaded?.and_then(|(sockmap, calls)| {
        kernel::test_sockmap(&sockmap, &mut |step| tracing::debug!(?step, "path sockmap"))?;
        listen(calls)?;
        Ok(sockmap)
    });
    match tested {
        Ok(sockmap) => {
            metrics.paths.note(PathKind::Sockmap, Availability::Available);
            tracing::info!("path sockmap is available");
            Some((Arc::new(sockmap), Pool::new(limits(config), metrics.paths.sockmap_memory.clone())))
        }
        Err(error) => {
            metrics.paths.note(PathKind::Sockmap, error.availability());
            let error = anyhow::Error::new(error);
            let refused = if is_required(config) { ", or refused where path-required = true" } else { "" };
            tracing::warn!(
                "path sockmap is off, its flows are carried by splice and copy{refused}: {error:#} (`lb doctor` says more)"
            );
            None
        }
    }
}

/// Starts the thread that waits for the program's calls.
fn listen(calls: Calls) -> Result<(), LoadError> {
    let thread = thread::Builder::new().name("lb-sockmap".into());
    thread.spawn(|| calls.serve()).map(drop).map_err(LoadError::Memory)
}
