// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a name to a backend: exact over longest wildcard over regular expression over default. Pure.

use crate::config::{BackendId, TlsPassthrough};
use crate::prelude::hello::AlpnList;

/// The routes of one frontend, indexed for lookup.
#[derive(Debug, Default)]
pub struct Router {}

/// Which route a connection takes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Where it goes.
    pub backend: BackendId,
    /// The position of the route in [`TlsPassthrough::routes`].
    pub route: usize,
}

impl Router {
    /// Indexes the routes of a frontend.
    pub fn new(settings: &TlsPassthrough) -> Self {
        let _ = settings;
        Self {}
    }

    /// The route for a name (lower case, no trailing dot) and the protocols offered; `None` if no route matches.
    pub fn route(&self, name: Option<&str>, alpn: &AlpnList) -> Option<Matched> {
        let _ = (name, alpn);
        None
    }
}
