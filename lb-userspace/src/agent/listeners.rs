// SPDX-License-Identifier: MIT OR Apache-2.0
//! The addresses that the agent listens on: taken early, while it has the privilege for low ports, and opened last. Who connects in
//! between is refused by the kernel, as before the start.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::StartError;
use crate::config::Config;
use crate::config::needs::may_take_packet;
use crate::frontend::Frontend;
use crate::net::{self, Listener};
use crate::observe::metrics::Metrics;

/// Connections to the admin surface that the kernel holds complete before accept(2).
const ADMIN_BACKLOG: i32 = 128;

/// Every address of the configuration.
pub(super) struct Listeners {
    admin: Option<(SocketAddr, OwnedFd)>,
    /// One an address of a frontend.
    pub(super) frontends: Vec<(Arc<Frontend>, Listener)>,
}

impl Listeners {
    /// Takes every address. Nobody can connect before [`Self::listen`]. `narrowest`: see [`super::packet::narrowest`].
    pub(super) fn bind(
        config: &Config,
        metrics: &Metrics,
        narrowest: Option<u32>,
    ) -> Result<Self, StartError> {
        let admin = match &config.admin {
            Some(settings) => {
                let address = settings.bind;
                Some((address, net::bound(address, false).map_err(admin_error(address))?))
            }
            None => None,
        };
        let mut frontends = Vec::new();
        for (settings, metrics) in config.frontends.iter().zip(&metrics.frontends) {
            let frontend = Arc::new(Frontend::new(settings.clone(), metrics.clone()));
            let narrowest = narrowest.filter(|_| may_take_packet(config, settings));
            for &address in &settings.bind {
                let listener = Listener::bind(settings, address, config.is_v6_only(address), narrowest)?;
                frontends.push((Arc::clone(&frontend), listener));
            }
        }
        Ok(Self { admin, frontends })
    }

    /// Opens the admin surface's address, if there is one.
    pub(super) fn open_admin(&mut self) -> Result<Option<TcpListener>, StartError> {
        let Some((address, fd)) = self.admin.take() else { return Ok(None) };
        rustix::net::listen(&fd, ADMIN_BACKLOG).map_err(admin_error(address))?;
        Ok(Some(fd.into()))
    }

    /// Opens every address of every frontend, when nothing else can fail.
    pub(super) fn open_frontends(&self) -> Result<(), StartError> {
        for (frontend, listener) in &self.frontends {
            listener.listen(&frontend.settings)?;
        }
        Ok(())
    }
}

fn admin_error(address: SocketAddr) -> impl Fn(rustix::io::Errno) -> StartError {
    move |errno| StartError::Admin { address, source: io::Error::from(errno) }
}
