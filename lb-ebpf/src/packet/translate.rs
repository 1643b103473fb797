// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A packet becomes that of the other connection.

use core::mem::MaybeUninit;

use lb_common::packet::ip::Addresses;
use lb_common::packet::options::translated_timestamps;
use lb_common::packet::reason::Untranslatable;
use lb_common::packet::record::code;
use lb_common::packet::tcp::{Tcp, Translation};

use super::segment::{Head, NO_MEMORY, options_at};
use super::skb::{Skb, correct, correct_pseudo, correct_sum, load, store};
use super::version::{Version, numbers, words};

/// Where TCP's header has its checksum, in bytes.
const CHECKSUM: u32 = 16;

/// Translates the headers, and options that are timestamps alone; returns the code of the reason why not, or 0.
#[inline(never)]
pub fn translate<V: Version, const LINK: u32>(
    skb: Skb,
    head: &mut Head<V::Words>,
    to: &Addresses<[u32; 4]>,
    by: &Translation,
    is_plain: bool,
) -> u32 {
    let (ip, changes) = match V::read(&head.ip).translated(to) {
        Ok(translated) => translated,
        Err(reason) => return code(reason),
    };
    ip.write(&mut head.ip);
    let (tcp, mut change) = Tcp(numbers(&head.tcp)).translated(by);
    head.tcp = words(tcp.0);
    if !store(skb, LINK, head) {
        return NO_MEMORY;
    }
    if is_plain {
        let at = options_at::<V, LINK>();
        let mut room = MaybeUninit::uninit();
        let Some([kind, value, echo]) = load::<[u32; 3]>(skb, at, &mut room) else {
            return code(Untranslatable::MalformedOptions);
        };
        let options = [u32::from_be(*kind), u32::from_be(*value), u32::from_be(*echo)];
        let ([kind, value, echo], in_options) = translated_timestamps(options, by);
        change = change.and(in_options);
        if !store(skb, at, &[kind.to_be(), value.to_be(), echo.to_be()]) {
            return NO_MEMORY;
        }
    }
    let at = LINK + V::LEN + CHECKSUM;
    if !correct(skb, at, change) || !correct_pseudo(skb, at, changes.pseudo) {
        return NO_MEMORY;
    }
    if let Some(change) = V::in_sum(&changes) {
        correct_sum(skb, change);
    }
    0
}
