// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checksums that follow what was changed, without another look at the rest (RFC 1624).
//!
//! What the field in a TCP header holds depends on what the kernel has left to the network interface (include/linux/skbuff.h, "Checksumming
//! of received packets by device"), and a BPF program cannot see which it is. So it hands differences to bpf_l4_csum_replace (with
//! `from` 0 and no size), and the kernel knows (net/core/filter.c; net/core/utils.c, inet_proto_csum_replace_by_diff):
//!
//! | state | the field holds | without BPF_F_PSEUDO_HDR | with it |
//! |---|---|---|---|
//! | NONE, UNNECESSARY | the checksum | corrects the field | corrects the field |
//! | COMPLETE | the checksum, and the sum of all bytes is beside it | corrects the field | corrects the field, and the sum beside it by as much |
//! | PARTIAL | the sum of the pseudo header alone | does nothing | corrects the field |
//!
//! The flag is for what the pseudo header has, addresses. Under PARTIAL nothing else may reach the field, for the rest is summed when
//! the packet leaves. Under COMPLETE a change in the TCP header and the correction of its checksum make up for each other, so that the
//! sum beside stays; and so do, for IPv4, the addresses and the checksum of the IP header, so that the correction of TCP's remains and
//! has to be added. IPv6 has no header checksum: the addresses and the correction make up for each other, and nothing may be added. Linux
//! 6.16 has BPF_F_IPV6 for this, as have later releases of older series (commit ead7f9b8de65); kernels without it refuse the flag
//! with EINVAL. But bpf_csum_update with the same difference takes back what was added too much, on every kernel, and only acts under COMPLETE.
//!
//! The hop limit of IPv6 is in no checksum: under COMPLETE its change has to be added to the sum beside, by bpf_csum_update. So a program
//! calls that once, for both, and needs no flag.
//! Each of the three is a field of [`Changes`].

/// By how much a sum in ones' complement changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Difference(u64);

/// What a translation has changed, by what has to be told of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// In the TCP header: bpf_l4_csum_replace without flags.
    pub tcp: Difference,
    /// In the pseudo header: bpf_l4_csum_replace with BPF_F_PSEUDO_HDR; for IPv6 also bpf_csum_update, or BPF_F_IPV6 instead.
    pub pseudo: Difference,
    /// In no checksum of the packet: bpf_csum_update.
    pub uncovered: Difference,
}

impl Difference {
    /// Nothing has changed.
    pub const NONE: Self = Self(0);

    /// Adds the change of a word that stands at an even offset.
    #[inline(always)]
    pub const fn word(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// Adds the change of half a word, likewise.
    #[inline(always)]
    pub const fn half(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// Adds the change of a byte at an offset.
    #[inline(always)]
    pub const fn byte(self, offset: u32, old: u8, new: u8) -> Self {
        let shift = if offset & 1 == 0 { 8 } else { 0 };
        self.half((old as u16) << shift, (new as u16) << shift)
    }

    /// The change of a word at any offset: at an odd one, each byte counts in the other half (RFC 1071 section 2, B). A shift by a byte does that
    /// without asking which it is, and what it shifts out of 16 bits comes back when they are folded.
    #[inline(always)]
    pub const fn word_at(offset: u32, old: u32, new: u32) -> Self {
        let even = Self::NONE.word(old, new);
        Self((even.folded() as u64) << (8 * (offset & 1)))
    }

    /// Adds a word that was not there: a sum is the change from nothing.
    #[inline(always)]
    pub const fn plus(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// Of words that were added up.
    #[inline(always)]
    pub const fn of_words(sum: u64) -> Self {
        Self(sum)
    }

    /// Of bytes that a helper of the kernel has summed: as [`Self::for_kernel`], the other way round.
    #[inline(always)]
    pub const fn of_kernel(sum: u32) -> Self {
        Self(u16::from_be(fold(sum as u64)) as u64)
    }

    /// Whether this is the sum of pseudo header and segment of one whose checksum is right (RFC 9293 section 3.1).
    #[inline(always)]
    pub const fn is_whole(self) -> bool {
        self.folded() == u16::MAX
    }

    /// The sum of two changes.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// In 16 bits, as a number.
    #[inline(always)]
    pub const fn folded(self) -> u16 {
        fold(self.0)
    }

    /// For the kernel's helpers, which sum words as they lie in memory. Swapping the bytes of all words swaps those of the sum (RFC 1071
    /// section 2, B).
    #[inline(always)]
    pub const fn for_kernel(self) -> u64 {
        self.folded().to_be() as u64
    }

    /// The checksum after the change (RFC 1624 section 3, equation 3).
    #[inline(always)]
    pub const fn applied(self, checksum: u16) -> u16 {
        !fold(self.0 + !checksum as u64)
    }

    /// The sum of the pseudo header after the change, as the field has it under CHECKSUM_PARTIAL: not inverted.
    #[inline(always)]
    pub const fn applied_to_sum(self, sum: u16) -> u16 {
        fold(self.0 + sum as u64)
    }
}

/// A sum of words or half words, in 16 bits.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
