// SPDX-License-Identifier: MIT OR Apache-2.0
//! Local ports for connections to servers that may outlive their socket. The kernel thinks that such a port is free: so it has to be one that
//! the kernel gives to nobody, and who has it is known here.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use lb_common::packet::offer::Offer;
use prometheus_client::metrics::gauge::Gauge;

/// How long it is believed what SYNs to a server announce by themselves: routes change.
const BELIEF: Duration = Duration::from_secs(1);

/// How long nothing is believed after that was wrong.
const DOUBT: Duration = Duration::from_secs(60);

/// The ports of a range, each of which leads to each server once.
#[derive(Debug)]
pub struct Ports {
    range: RangeInclusive<u16>,
    taken: Mutex<HashMap<SocketAddr, Taken>>,
    /// How many are, towards all servers.
    shown: Gauge,
}

/// What is taken towards one server.
#[derive(Debug)]
struct Taken {
    of: Arc<Server>,
    /// By position in the range.
    is_taken: Box<[bool]>,
    /// How many are.
    count: usize,
    /// Where to look first: the one that has been free for longest, or nearly.
    next: usize,
    /// What SYNs do by themselves, and until when that is believed.
    habit: Option<(Habit, Instant)>,
}

/// A server, as each port towards it knows it.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    ports: Weak<Ports>,
}

/// What is known of SYNs to a server if nobody takes anything out of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// They announce no larger segments.
    Announces(u16),
    /// It was wrong before.
    Doubtful,
}

/// A port towards a server. Dropping it gives it back.
#[derive(Debug)]
pub struct Port {
    number: u16,
    server: Arc<Server>,
    /// What the SYN from it has announced at most.
    segment_size: AtomicU16,
    habit: Option<Habit>,
}

impl Ports {
    /// All of a range. How many are taken, is shown.
    pub fn new(range: RangeInclusive<u16>, shown: Gauge) -> Arc<Self> {
        Arc::new(Self { range, taken: Mutex::default(), shown })
    }

    /// A free port towards a server, if there is one. What was given back comes last: the server may remember it for a while (TIME_WAIT,
    /// RFC 9293 section 3.3.2).
    pub fn take(self: &Arc<Self>, server: SocketAddr) -> Option<Port> {
        let len = self.range.len();
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = all.entry(server).or_insert_with(|| Taken::none(self, server));
        if taken.count == len {
            return None;
        }
        let position = (taken.next..len).chain(0..taken.next).find(|&position| !taken.is_taken[position])?;
        taken.is_taken[position] = true;
        taken.count += 1;
        self.shown.inc();
        taken.next = (position + 1) % len;
        let number = self.range.start() + u16::try_from(position).ok()?;
        let habit = taken.habit.filter(|(_, until)| Instant::now() < *until).map(|(habit, _)| habit);
        Some(Port::new(number, &taken.of, habit))
    }
}

impl Ports {
    /// A port of the range that a flow towards a server has had before there was this table; `None`: somebody has it.
    pub fn keep(self: &Arc<Self>, server: SocketAddr, number: u16) -> Option<Port> {
        let position = usize::from(number.checked_sub(*self.range.start())?);
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = all.entry(server).or_insert_with(|| Taken::none(self, server));
        let place = taken.is_taken.get_mut(position).filter(|is_taken| !**is_taken)?;
        *place = true;
        taken.count += 1;
        self.shown.inc();
        Some(Port::new(number, &taken.of, None))
    }
}

impl Taken {
    fn none(ports: &Arc<Ports>, server: SocketAddr) -> Self {
        let of = Arc::new(Server { address: server, ports: Arc::downgrade(ports) });
        Self { of, is_taken: vec![false; ports.range.len()].into(), count: 0, next: 0, habit: None }
    }
}

impl Port {
    fn new(number: u16, server: &Arc<Server>, habit: Option<Habit>) -> Self {
        let segment_size = AtomicU16::new(u16::MAX);
        Self { number, server: Arc::clone(server), segment_size, habit }
    }

    /// Whether a SYN to the server offers no more than this by itself, as far as is known. Timestamps and selective acknowledgements are taken for
    /// offered. `asks`: whether this host asks for ECN.
    pub fn offers_at_most(&self, offer: Offer, asks: impl FnOnce() -> bool) -> bool {
        let Some(Habit::Announces(segment_size)) = self.habit else { return false };
        let has_all = offer.has_timestamps && offer.has_sack && segment_size <= offer.segment_size;
        has_all && (offer.has_ecn || !asks())
    }

    /// Whether it is worth finding out what SYNs to the server announce by themselves.
    pub fn is_curious(&self) -> bool {
        self.habit.is_none()
    }

    /// SYNs to the server announce segments of so many bytes by themselves, for whoever comes soon.
    pub fn note_announced(&self, bytes: u16) {
        self.believe(Habit::Announces(bytes), BELIEF);
    }

    /// The connection from it has agreed on what the client has not: if that is because of what was believed, it is not for a while.
    pub fn doubt(&self) {
        if let Some(Habit::Announces(_)) = self.habit {
            self.believe(Habit::Doubtful, DOUBT);
        }
    }

    fn believe(&self, habit: Habit, time: Duration) {
        let Some(ports) = self.server.ports.upgrade() else { return };
        let mut all = ports.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(taken) = all.get_mut(&self.server.address) else { return };
        let now = Instant::now();
        let is_in_doubt = matches!(taken.habit, Some((Habit::Doubtful, until)) if now < until);
        if !is_in_doubt || habit == Habit::Doubtful {
            taken.habit = Some((habit, now + time));
        }
    }

    /// The SYN from it has announced no larger segment than this, whatever the socket thinks that it has.
    pub fn note_segment_size(&self, bytes: u16) {
        self.segment_size.store(bytes, Ordering::Relaxed);
    }

    /// See [`Self::note_segment_size`].
    pub fn segment_size(&self) -> u16 {
        self.segment_size.load(Ordering::Relaxed)
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let Some(ports) = self.server.ports.upgrade() else { return };
        let mut all = ports.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(taken) = all.get_mut(&self.server.address) else { return };
        taken.is_taken[usize::from(self.number - ports.range.start())] = false;
        taken.count -= 1;
        ports.shown.dec();
        if taken.count == 0 && taken.next == 0 {
            all.remove(&self.server.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_one_flows_towards_one_server() {
        let shown = Gauge::default();
        let ports = Ports::new(61_000..=61_002, shown.clone());
        let [one, other] = ["192.0.2.1:443", "192.0.2.2:443"].map(|text| text.parse().expect("an address"));
        let held: Vec<Port> = std::iter::from_fn(|| ports.take(one)).collect();
        assert_eq!(held.iter().map(Port::number).collect::<Vec<_>>(), [61_000, 61_001, 61_002]);
        assert_eq!(ports.take(other).expect("another server").number(), 61_000);
        assert_eq!(shown.get(), 3);
        drop(held);
        assert_eq!(shown.get(), 0);
    }

    #[test]
    fn what_was_taken_before_is_nobody_elses() {
        let ports = Ports::new(61_000..=61_002, Gauge::default());
        let server = "192.0.2.1:443".parse().expect("an address");
        let kept = ports.keep(server, 61_001).expect("free");
        assert!([61_001, 60_999, 61_003].into_iter().all(|number| ports.keep(server, number).is_none()));
        let held: Vec<Port> = std::iter::from_fn(|| ports.take(server)).collect();
        assert_eq!(held.iter().map(Port::number).collect::<Vec<_>>(), [61_000, 61_002]);
        drop(kept);
        assert_eq!(ports.take(server).expect("given back").number(), 61_001);
    }

    #[test]
    fn what_a_server_is_told_is_known_to_who_comes_next() {
        let ports = Ports::new(61_000..=61_009, Gauge::default());
        let [one, other] = ["192.0.2.1:443", "192.0.2.2:443"].map(|text| text.parse().expect("an address"));
        let take = |server| ports.take(server).expect("a free port");
        let full = Offer { has_timestamps: true, has_sack: true, has_ecn: false, segment_size: 1_460 };
        let first = take(one);
        assert!(first.is_curious() && !first.offers_at_most(full, || false));
        first.note_announced(1_460);
        let check = |change: fn(&mut Offer), asks: bool, expected| {
            let mut offer = full;
            change(&mut offer);
            assert_eq!(take(one).offers_at_most(offer, || asks), expected, "{offer:?}");
        };
        check(|_| {}, false, true);
        check(|_| {}, true, false);
        check(|offer| offer.has_ecn = true, true, true);
        check(|offer| offer.segment_size = 9_000, false, true);
        check(|offer| offer.segment_size = 1_459, false, false);
        check(|offer| offer.has_timestamps = false, false, false);
        check(|offer| offer.has_sack = false, false, false);
        assert!(take(other).is_curious(), "of another server nothing is known");
        first.doubt();
        assert!(take(one).offers_at_most(full, || false), "the first has believed nothing");
        take(one).doubt();
        // One that was curious before that has found the same again.
        first.note_announced(1_460);
        let next = take(one);
        assert!(!next.is_curious() && !next.offers_at_most(full, || false));
    }

    #[test]
    fn what_is_given_back_comes_last() {
        let ports = Ports::new(10..=12, Gauge::default());
        let server = "[2001:db8::1]:1".parse().expect("an address");
        let numbers: Vec<u16> =
            (0..7).map(|_| ports.take(server).expect("all others are free").number()).collect();
        assert_eq!(numbers, [10, 11, 12, 10, 11, 12, 10]);
        let (first, second) = (ports.take(server), ports.take(server));
        drop(first);
        let third = ports.take(server).expect("two are free").number();
        assert_eq!((second.expect("free").number(), third), (12, 10));
    }
}
