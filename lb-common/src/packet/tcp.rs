// SPDX-License-Identifier: MIT OR Apache-2.0
//! The TCP header (RFC 9293 section 3.1) and its translation.

use super::checksum::Difference;
use super::reason::Untranslatable;

/// The sender has nothing more to send.
pub const FIN: u8 = 1;
/// The connection begins.
pub const SYN: u8 = 1 << 1;
/// The connection is no more.
pub const RST: u8 = 1 << 2;
/// The acknowledgement holds.
pub const ACK: u8 = 1 << 4;

/// ECE and CWR, with which a SYN asks for ECN (RFC 3168 section 6.1.1), and AE, with which it asks for the accurate one (RFC 9768 section 3.1.1): in the
/// word of the flags.
const ECN_REQUEST: u32 = 1 << 22 | 1 << 23 | 1 << 24;

/// Bytes of a TCP header without options.
pub const TCP_HEADER: u32 = 20;

/// The largest shift of a window (RFC 7323 section 2.3).
pub const SHIFT_MAX: u8 = 14;

/// A TCP header without its options, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp(pub [u32; 5]);

/// What the packets of one direction have to be changed by. It does not change while the flow lasts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Source and destination port for the other end, as in the header's first word.
    pub ports: u32,
    /// For the number of the first byte.
    pub sequence_add: u32,
    /// For the acknowledgement, and for the edges of selective ones: they speak of what the other end has sent.
    pub acknowledgement_add: u32,
    /// For TSval (RFC 7323 section 3.2).
    pub timestamp_add: u32,
    /// For TSecr, which is a TSval of the other end.
    pub echo_add: u32,
    /// The shift with which the sender announces windows.
    pub shift_from: u8,
    /// The shift with which the balancer has announced windows to the other end.
    pub shift_to: u8,
}

impl Tcp {
    /// Source and destination port.
    #[inline(always)]
    pub const fn ports(&self) -> u32 {
        self.0[0]
    }

    /// The number of the first byte.
    #[inline(always)]
    pub const fn sequence(&self) -> u32 {
        self.0[1]
    }

    /// The number of the byte that is expected next. Holds with [`ACK`] alone.
    #[inline(always)]
    pub const fn acknowledgement(&self) -> u32 {
        self.0[2]
    }

    /// FIN to CWR.
    #[inline(always)]
    pub const fn flags(&self) -> u8 {
        (self.0[3] >> 16) as u8
    }

    /// The window as it is written, not shifted.
    #[inline(always)]
    pub const fn window(&self) -> u16 {
        self.0[3] as u16
    }

    /// The checksum, or what the field has instead of it: see [`super::checksum`].
    #[inline(always)]
    pub const fn checksum(&self) -> u16 {
        (self.0[4] >> 16) as u16
    }

    /// The sum of its words.
    #[inline(always)]
    pub const fn sum(&self) -> Difference {
        let [a, b, c, d, e] = self.0;
        Difference::NONE.plus(a).plus(b).plus(c).plus(d).plus(e)
    }

    /// The header with another checksum.
    #[inline(always)]
    pub const fn with_checksum(self, checksum: u16) -> Self {
        let [ports, sequence, acknowledgement, flags, last] = self.0;
        Self([ports, sequence, acknowledgement, flags, (checksum as u32) << 16 | last & 0xffff])
    }

    /// The header of a SYN that asks for no ECN, its checksum as it was; and what it has to be corrected by.
    #[inline(always)]
    pub const fn without_ecn(self) -> (Self, Difference) {
        let [ports, sequence, acknowledgement, flags, last] = self.0;
        let silent = flags & !ECN_REQUEST;
        (Self([ports, sequence, acknowledgement, silent, last]), Difference::NONE.word(flags, silent))
    }

    /// Bytes of options, of a segment with so many bytes in all.
    ///
    /// # Errors
    ///
    /// [`Untranslatable::MalformedHeader`]: the header is shorter than one can be, or longer than the segment.
    #[inline(always)]
    pub const fn options_len(&self, segment_len: u32) -> Result<u32, Untranslatable> {
        let header_len = (self.0[3] >> 28) * 4;
        if header_len < TCP_HEADER || header_len > segment_len {
            return Err(Untranslatable::MalformedHeader);
        }
        Ok(header_len - TCP_HEADER)
    }

    /// The header for the other end, its checksum as it was; and what it has to be corrected by. The urgent pointer counts from the
    /// first byte of the segment and stays.
    #[inline(always)]
    pub const fn translated(self, by: &Translation) -> (Self, Difference) {
        let [ports, sequence, acknowledgement, flags, last] = self.0;
        let new_sequence = sequence.wrapping_add(by.sequence_add);
        let new_acknowledgement = if self.flags() & ACK != 0 {
            acknowledgement.wrapping_add(by.acknowledgement_add)
        } else {
            acknowledgement
        };
        let new_flags = flags & 0xffff_0000 | self.window_by(by) as u32;
        let change = Difference::NONE
            .word(ports, by.ports)
            .word(sequence, new_sequence)
            .word(acknowledgement, new_acknowledgement)
            .word(flags, new_flags);
        (Self([by.ports, new_sequence, new_acknowledgement, new_flags, last]), change)
    }

    /// The window for the other end. In a SYN it is never shifted (RFC 7323 section 2.2).
    #[inline(always)]
    const fn window_by(&self, by: &Translation) -> u16 {
        if self.flags() & SYN != 0 {
            return self.window();
        }
        scaled_window(self.window(), by.shift_from, by.shift_to)
    }
}

/// A window that was written with one shift, written with another.
///
/// What does not fit is the most that does. What is lost in rounding is less than one step, but an open window never becomes a closed
/// one: the sender would wait for an update that nobody knows he needs. A shift beyond 14 counts as 14 (RFC 7323 section 2.3).
#[inline(always)]
pub const fn scaled_window(window: u16, shift_from: u8, shift_to: u8) -> u16 {
    if shift_from == shift_to || window == 0 {
        return window;
    }
    let scaled = window_bytes(window, shift_from) >> shift(shift_to);
    if scaled == 0 {
        1
    } else if scaled > u16::MAX as u32 {
        u16::MAX
    } else {
        scaled as u16
    }
}

/// A window in bytes, from how it was written. A shift beyond 14 counts as 14.
#[inline(always)]
pub const fn window_bytes(window: u16, shift_by: u8) -> u32 {
    (window as u32) << shift(shift_by)
}

#[inline(always)]
const fn shift(shift_by: u8) -> u8 {
    if shift_by > SHIFT_MAX { SHIFT_MAX } else { shift_by }
}

/// What to add to one end's TSval so that the other end finds none older than it has already had from the balancer: it would drop the
/// segment (RFC 7323 section 5.3, R1).
///
/// `sent` is the highest that the other end was sent before the flip, `received` the highest that came from this end. Nothing is added beyond
/// what is needed: a bias stays in the other end's memory of the two addresses, and could keep out a new connection from the same
/// port (RFC 6191 section 2). As both clocks go on, so does the sum, whatever the length of their ticks.
#[inline(always)]
pub const fn timestamp_add(sent: u32, received: u32) -> u32 {
    sent.wrapping_sub(received)
}
