// SPDX-License-Identifier: MIT OR Apache-2.0
//! Questions whether a filter is at an interface (tc(8), include/uapi/linux/rtnetlink.h, struct tcmsg), and answers. Pure.

use super::message::{ERROR, HEADER, kind, request, word};

/// RTM_GETTFILTER.
const GET: u16 = 46;

/// A filter of the queueing discipline clsact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The number of the interface.
    pub interface: u32,
    /// [`Self::INGRESS`] or [`Self::EGRESS`].
    pub parent: u32,
    /// Its priority.
    pub priority: u16,
    /// Its handle.
    pub handle: u32,
}

impl Filter {
    /// Where filters for what comes in are: TC_H_CLSACT with TC_H_MIN_INGRESS (include/uapi/linux/pkt_sched.h).
    pub const INGRESS: u32 = 0xffff_fff2;
    /// Where filters for what goes out are: with TC_H_MIN_EGRESS.
    pub const EGRESS: u32 = 0xffff_fff3;

    /// Asks for it. It takes no privilege.
    pub fn question(&self, sequence: u32) -> Vec<u8> {
        // Whatever the protocol: that is the lower half of the last word.
        let words = [0, self.interface, self.handle, self.parent, u32::from(self.priority) << 16];
        request(GET, sequence, &words.map(u32::to_ne_bytes).concat())
    }
}

/// Whether an answer says that there is no such filter. Errors that do not speak of it are none (net/sched/cls_api.c, tc_get_tfilter): there is no such interface, no filter of
/// this priority and handle, or not even the discipline.
pub fn is_absent(answer: &[u8]) -> bool {
    let errors = [libc::ENODEV, libc::ENOENT, libc::EINVAL].map(|error| (-error) as u32);
    kind(answer) == Some(ERROR) && word(answer, HEADER).is_some_and(|error| errors.contains(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_the_filter() {
        let filter = Filter { interface: 258, parent: Filter::EGRESS, priority: 3, handle: 4 };
        let words = [258, 4, Filter::EGRESS, 3 << 16].map(u32::to_ne_bytes).concat();
        let asked = filter.question(7);
        assert_eq!((asked.len(), &asked[HEADER + 4..]), (HEADER + 20, &words[..]));
    }

    #[test]
    fn a_filter_is_absent_only_where_the_kernel_says_so() {
        let check = |kind: u16, error: i32, expected: bool| {
            let mut answer = vec![0; HEADER + 4];
            answer[4..6].copy_from_slice(&kind.to_ne_bytes());
            answer[HEADER..].copy_from_slice(&(-error).to_ne_bytes());
            assert_eq!(is_absent(&answer), expected, "kind {kind}, {error}");
        };
        for error in [libc::ENODEV, libc::ENOENT, libc::EINVAL] {
            check(ERROR, error, true);
        }
        for error in [libc::ENOMEM, libc::ENOBUFS, libc::EPERM, 0] {
            check(ERROR, error, false);
        }
        check(44, libc::ENOENT, false);
        assert!(!is_absent(&[]));
    }
}
