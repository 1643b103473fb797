// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths: how an established flow is carried. Every path has one surface, [`carry`], and the same promises: no byte lost,
//! doubled or reordered; back-pressure; FIN, half-close and RST carried across.

mod direction;
mod drain;
mod flow;
mod flow_end;
mod lane;
pub mod meter;
pub mod packet;
mod pipes;
mod promotion;
mod settle;
mod side;
mod silence;
pub mod sockmap;
mod start;

pub use direction::{COPY_BUFFER, JOINED_HEADER_MAX, JoinedHeader, Method};
pub use flow::{COUNTING_DELAY_MAX, carry};
pub use flow_end::FlowEnd;
pub use lane::{COPY_CHUNK, Tools};
pub use meter::{Carried, Meter, Moved};
pub use pipes::{Pipe, PipeBudget, Pipes};
pub use promotion::{Without, carry_until_promoted};
pub use side::Side;
pub use start::{Flow, Start};

use lb_common::reason::PathKind;

use crate::config::PathWish;

/// How a direction begins to move bytes in user space, and whether it may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Always this way.
    Always(Method),
    /// Copies until a direction streams, then splices it: short messages cost fewer system calls when copied, long streams
    /// cost less when the bytes stay in the kernel.
    Adaptive,
}

impl Strategy {
    /// What user space does for a flow of this wish, also where it wishes for a path inside the kernel and that is not to be had.
    pub fn of(wish: PathWish) -> Self {
        match wish {
            PathWish::Auto | PathWish::Packet | PathWish::Sockmap => Self::Adaptive,
            PathWish::Splice => Self::Always(Method::Splice),
            PathWish::Copy => Self::Always(Method::Copy),
        }
    }

    /// Whether a header of so many bytes can go out with the client's first bytes, by the first read and write.
    pub fn joins(self, header_len: usize) -> bool {
        self.first() == PathKind::Copy && header_len <= JOINED_HEADER_MAX
    }

    /// The path that a flow begins with.
    pub fn first(self) -> PathKind {
        match self {
            Self::Always(Method::Splice) => PathKind::Splice,
            Self::Always(Method::Copy) | Self::Adaptive => PathKind::Copy,
        }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
