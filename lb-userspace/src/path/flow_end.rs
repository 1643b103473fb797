// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a path says of a flow that has ended.

use lb_common::reason::CloseReason;

use super::side::Side;

/// How a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEnd {
    /// Why.
    pub reason: CloseReason,
    /// Who let it pass, if a timeout ended the flow.
    pub silent: Option<Side>,
}

impl FlowEnd {
    /// The end of a flow for a reason that is neither side's.
    pub fn cut(reason: CloseReason) -> Self {
        Self { reason, silent: None }
    }
}
