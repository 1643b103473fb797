// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a flow is, and what becomes of its segments.

use crate::labelled::labelled;

labelled! {
    /// Where a flow is in its life.
    Phase {
        /// The sockets carry it, and their segments are watched.
        Track => "track",
        /// It flips as soon as it may.
        Armed => "armed",
        /// Its packets are translated.
        Spliced => "spliced",
        /// Likewise, but a FIN was acknowledged, or it was reset.
        Closing => "closing",
        /// It is over, and what is kept of it can be used for another.
        Gone => "gone",
    }
}

impl Phase {
    /// From its index; anything else counts as over.
    #[inline(always)]
    pub const fn from_index(index: u32) -> Self {
        match index {
            0 => Self::Track,
            1 => Self::Armed,
            2 => Self::Spliced,
            3 => Self::Closing,
            _ => Self::Gone,
        }
    }
}

labelled! {
    /// An end of a flow.
    Side {
        /// Who connected to the balancer.
        Client => "client",
        /// To whom the balancer connected.
        Server => "server",
    }
}

labelled! {
    /// What to do with a segment that came in.
    Verdict {
        /// It is the socket's.
        ToSocket => "to-socket",
        /// Likewise, and the agent has to read and to arm again.
        Disarmed => "disarmed",
        /// It is the first to be translated, and the agent has to throw the sockets away.
        Flipped => "flipped",
        /// It is translated.
        Translated => "translated",
        /// It begins another connection with the same addresses and ports: the flow's keys are to be removed, and it is the socket's.
        Another => "another",
    }
}

labelled! {
    /// What to do with a segment that one of the balancer's sockets sends.
    Outgoing {
        /// It goes out.
        Sent => "sent",
        /// Likewise, and the flow is armed no more: the socket closes, or sends what the agent has not counted.
        Disarmed => "disarmed",
        /// It must not go out: the flow is not this socket's any more.
        Silenced => "silenced",
    }
}

labelled! {
    /// What to do with a packet of a flow that nobody here understands.
    Misfit {
        /// It is the socket's, or goes out.
        ToSocket => "to-socket",
        /// Likewise, and the flow is watched no more: it stays with its sockets.
        Abandoned => "abandoned",
        /// It goes nowhere: there is no socket for it, and the balancer would answer with a reset.
        Dropped => "dropped",
    }
}

impl Side {
    /// The other end.
    #[inline(always)]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}
