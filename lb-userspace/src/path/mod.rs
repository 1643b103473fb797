// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths: how an established flow is carried. Every path has one surface, [`carry`], and the same promises: no byte lost,
//! doubled or reordered; back-pressure; FIN, half-close and RST carried across.

mod direction;
mod drain;
mod flow;
mod meter;
mod moment;
mod pipes;
mod side;
mod silence;

pub use direction::{COPY_CHUNK, Tools};
pub use flow::{Flow, FlowEnd, Start, carry};
pub use meter::{Carried, Meter};
pub use pipes::{Pipe, PipeBudget, Pipes};
pub use side::Side;

use lb_common::reason::PathKind;

use crate::config::PathWish;

/// How a direction begins to move bytes, and whether it may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Always this path.
    Always(PathKind),
    /// Copies until a direction streams, then splices it: short messages cost fewer system calls when copied, long streams
    /// cost less when the bytes stay in the kernel.
    Adaptive,
}

impl From<PathWish> for Strategy {
    fn from(wish: PathWish) -> Self {
        match wish {
            PathWish::Auto => Self::Adaptive,
            PathWish::Splice => Self::Always(PathKind::Splice),
            PathWish::Copy => Self::Always(PathKind::Copy),
        }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
