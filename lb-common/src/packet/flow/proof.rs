// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments that were changed on their way. A socket throws away one whose checksum is wrong, and so does an end: so nothing that it says
//! counts here. An acknowledgement that nobody sent would flip a flow whose sockets still hold something, a wrong time would make all later
//! ones too old for the other end, and a wrong number would be that behind which the FIN is looked for.

use super::{Flow, Phase, Segment, Verdict};

/// Whether a segment is what was sent.
///
/// As numbers none is 0: so `lb-ebpf` wants it, where the verifier follows zeros.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The checksum is right, or the kernel or the interface says so.
    #[default]
    Right = 1,
    /// It is wrong, or nobody could look.
    Wrong = 2,
}

impl Flow {
    /// What to do with a segment whose checksum is wrong. After the flip it goes to the end, as all do.
    ///
    /// Should a socket take it nevertheless, an armed flow must not flip any more: so payload disarms, and the agent asks the sockets for their
    /// numbers before it arms again.
    #[inline(always)]
    pub(super) const fn disbelieve(&mut self, segment: &Segment) -> Verdict {
        match self.phase() {
            Phase::Armed if segment.is_occupied() => {
                self.go_to(Phase::Track);
                Verdict::Disarmed
            }
            Phase::Spliced | Phase::Closing => Verdict::Translated,
            Phase::Track | Phase::Armed | Phase::Gone => Verdict::ToSocket,
        }
    }
}
