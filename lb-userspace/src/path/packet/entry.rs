// SPDX-License-Identifier: MIT OR Apache-2.0
//! What two connections must be for a flow to take this path, and what is known of them when it begins to be watched.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use lb_common::packet::flow::{End, Flow, Position, Side};
use lb_common::packet::reason::Untranslatable;
use lb_common::packet::record::{Record, Way, free};
use lb_common::packet::sequence::is_before;
use lb_common::packet::syn::{Family, Leg, agree};
use lb_common::packet::tcp::{SHIFT_MAX, Translation};
use lb_common::reason::PacketObstacle;
use rustix::net::ipproto::MPTCP;
use rustix::net::sockopt::socket_protocol;

use super::Reach;
use crate::kernel::packet;
use crate::net::conntrack::{self, Conntrack};
use crate::net::repair::{self, Numbers};
use crate::net::{self, Terms};
use crate::path::meter::Carried;

/// The two ends of a connection: ours, and the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    own: SocketAddr,
    peer: SocketAddr,
}

/// A connection as it was looked at.
#[derive(Clone, Copy, Debug)]
struct Connection {
    ends: Ends,
    terms: Terms,
    /// Bytes that were written, and not sent yet.
    unsent: u32,
}

/// Why a flow does not take this path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// What was agreed on differs, or cannot be translated.
    Terms(Untranslatable),
    /// Another reason.
    Path(PacketObstacle),
    /// Something is about to be sent: not now.
    Busy,
    /// A connection is over, or the kernel does not say.
    Gone,
}

/// Where both sockets were when it began, client's first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Basis([Position; 2]);

/// A flow that begins to be watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// What the programs get.
    pub(super) record: Record,
    /// What stays here.
    pub(super) basis: Basis,
}

impl Basis {
    /// Where they are, the client's and the server's, when so much has been carried since and nothing of it is held in between.
    pub(super) fn positions(self, before: Carried, now: Carried) -> (Position, Position) {
        // Numbers wrap.
        let up = now.received().wrapping_sub(before.received()) as u32;
        let down = now.sent().wrapping_sub(before.sent()) as u32;
        let [client, server] = self.0;
        let moved = |position: Position, taken: u32, given: u32| Position {
            taken: position.taken.wrapping_add(taken),
            given: position.given.wrapping_add(given),
        };
        (moved(client, up, down), moved(server, down, up))
    }

    /// The same where a header of so many bytes goes to the server yet, in front of what is carried.
    pub(super) fn behind_header(self, len: usize) -> Self {
        let [client, server] = self.0;
        Self([client, Position { given: server.given.wrapping_add(len as u32), ..server }])
    }
}

/// Looks at both connections, the client's and the server's, whether they can become one, and what is known of them then. `announced` is the
/// largest segment that the server was told of, if that is less than its socket thinks.
///
/// # Errors
/// Why not.
pub(super) fn look(
    sockets: [&OwnedFd; 2],
    announced: u16,
    terms: (Reach, &Conntrack),
) -> Result<Known, Obstacle> {
    find_out(sockets, announced, terms).map_err(|obstacle| match obstacle {
        Obstacle::Gone => why_gone(sockets),
        obstacle => obstacle,
    })
}

fn find_out(
    [client_socket, server_socket]: [&OwnedFd; 2],
    announced: u16,
    (reach, conntrack): (Reach, &Conntrack),
) -> Result<Known, Obstacle> {
    let (client, server) = (Connection::look(client_socket, reach)?, Connection::look(server_socket, reach)?);
    let mut server_leg = server.leg();
    server_leg.announced = server_leg.announced.min(announced);
    agree(&client.leg(), &server_leg).map_err(Obstacle::Terms)?;
    // TCP_REPAIR would take what was not for sent (net/ipv4/tcp_output.c, tcp_write_xmit).
    if client.unsent > 0 || server.unsent > 0 {
        return Err(Obstacle::Busy);
    }
    let ((client_end, client_position), (server_end, server_position)) =
        (known(client_socket, &client.terms)?, known(server_socket, &server.terms)?);
    // Last, so that it is asked once: those who are busy come again.
    if conntrack.is_translated([&client, &server].map(|connection| connection.ends.both())) {
        return Err(Obstacle::Path(PacketObstacle::Nat));
    }
    let mut flow =
        Flow::tracked([client_end, server_end], translation(&client, &server), translation(&server, &client));
    flow.timestamps = client.terms.has_timestamps.into();
    let family = packet::family(client.ends.peer.ip());
    let mut record = Record::new(flow, family, way_to(&server), way_to(&client));
    for (socket, end) in [(client_socket, Side::Client), (server_socket, Side::Server)] {
        if !net::is_bound_to_interface(socket).map_err(gone)? {
            record.flags |= free(end);
        }
    }
    Ok(Known { record, basis: Basis([client_position, server_position]) })
}

impl Ends {
    fn both(self) -> conntrack::Ends {
        [self.own, self.peer]
    }
}

impl Connection {
    fn look(fd: impl AsFd, reach: Reach) -> Result<Self, Obstacle> {
        let info = net::tcp_info(&fd).map_err(gone)?;
        // With bytes in its SYN a connection is there before its handshake is over.
        if info.terms.has_fast_open {
            return Err(Obstacle::Terms(Untranslatable::FastOpen));
        }
        if !info.is_established {
            return Err(Obstacle::Gone);
        }
        let ends = ends(&fd).map_err(gone)?;
        if !reach.has_connection(ends.own.ip(), ends.peer.ip()) {
            return Err(Obstacle::Path(PacketObstacle::LocalPeer));
        }
        Ok(Self { ends, terms: info.terms, unsent: info.unsent })
    }

    fn leg(&self) -> Leg {
        let Terms { has_timestamps, has_sack, has_ecn, announced, accepted, .. } = self.terms;
        let family = if self.ends.peer.is_ipv4() { Family::V4 } else { Family::V6 };
        let [announced, accepted] =
            [announced, accepted].map(|bytes| u16::try_from(bytes).unwrap_or(u16::MAX));
        Leg { family, has_timestamps, has_sack, has_ecn, announced, accepted }
    }
}

/// What a socket tells of its end and of where it is. To be asked only while it has sent all that was written.
fn known(socket: &OwnedFd, terms: &Terms) -> Result<(End, Position), Obstacle> {
    // In this order: what is acknowledged in between makes the second smaller, which is on the safe side.
    let unacknowledged = net::unacknowledged_bytes(socket).map_err(gone)?;
    let (numbers, waiting) = repair::numbers(socket).map_err(gone)?;
    let taken = numbers.received.wrapping_sub(waiting as u32);
    Ok((end(numbers, unacknowledged, terms.own_shift), Position { taken, given: numbers.written }))
}

/// What is known of an end before its segments are watched. How far it may send is not; it is taken for as much as a window can ever be, for
/// whoever thinks that a segment was not taken that was would lose it.
fn end(numbers: Numbers, unacknowledged: u32, shift: u8) -> End {
    let at = Position { taken: numbers.received, given: numbers.written };
    End::resumed(at, unacknowledged, u32::from(u16::MAX) << shift.min(SHIFT_MAX))
}

/// Brings what the programs know of an end to where its socket is; whether they had seen all that it has sent.
///
/// What is acknowledged is what the socket says: programs see a segment before TCP has looked whether it is whole.
pub(super) fn catch_up(end: &mut End, position: Position, unacknowledged: u32) -> bool {
    end.acknowledged = position.given.wrapping_sub(unacknowledged);
    let has_missed = is_before(end.reached, position.taken);
    if has_missed {
        end.reached = position.taken;
    }
    !has_missed
}

/// How packets leave towards the peer of a connection. Programs see by which interface.
fn way_to(to: &Connection) -> Way {
    packet::way(to.ends.own.ip(), to.ends.peer.ip(), 0)
}

/// For what comes from the first, towards the second, as far as it is known before the flip.
fn translation(from: &Connection, to: &Connection) -> Translation {
    Translation {
        ports: packet::ports(to.ends.own, to.ends.peer),
        shift_from: from.terms.peers_shift,
        shift_to: to.terms.own_shift,
        ..Translation::default()
    }
}

fn ends(fd: impl AsFd) -> io::Result<Ends> {
    let own = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
    let peer = rustix::net::getpeername(&fd)?.ok_or(io::ErrorKind::NotConnected)?;
    Ok(Ends { own: net::canonical(own), peer: net::canonical(SocketAddr::try_from(peer)?) })
}

fn gone(_: io::Error) -> Obstacle {
    Obstacle::Gone
}

/// Why nothing can be found out of connections. Sockets of Multipath TCP tell nothing of their numbers, whatever they have agreed on
/// (net/mptcp/sockopt.c); asked only here, so that others pay nothing.
fn why_gone(sockets: [&OwnedFd; 2]) -> Obstacle {
    let is_multipath = |socket| matches!(socket_protocol(socket), Ok(Some(MPTCP)));
    if sockets.into_iter().any(is_multipath) {
        Obstacle::Terms(Untranslatable::Mptcp)
    } else {
        Obstacle::Gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_move_by_what_was_carried_and_wrap() {
        let basis = Basis([Position { taken: u32::MAX, given: 10 }, Position { taken: 20, given: 30 }]);
        let carried = |up: u64, down: u64| Carried { up: [up, 0, 0, 0], down: [0, down, 0, 0] };
        let (client, server) = basis.positions(carried(5, 7), carried(8, 107));
        assert_eq!(client, Position { taken: 2, given: 110 });
        assert_eq!(server, Position { taken: 120, given: 33 });
        let (client, server) = basis.behind_header(28).positions(carried(5, 7), carried(8, 107));
        assert_eq!(client, Position { taken: 2, given: 110 });
        assert_eq!(server, Position { taken: 120, given: 61 });
    }
    #[test]
    fn an_end_may_send_as_much_as_any_window_allows() {
        let numbers = Numbers { received: u32::MAX, written: 3 };
        let check = |shift, room: u32| {
            let end = end(numbers, 5, shift);
            assert_eq!((end.reached, end.confirmed, end.sent), (u32::MAX, u32::MAX, 3));
            assert_eq!((end.acknowledged, end.allowed), (u32::MAX - 1, u32::MAX.wrapping_add(room)));
        };
        check(0, 65_535);
        check(14, 65_535 << 14);
        // No end announces more (RFC 7323 section 2.3).
        check(15, 65_535 << 14);
    }

    #[test]
    fn what_programs_have_not_seen_is_noticed() {
        let check = |reached: u32, taken: u32, expected: (bool, u32)| {
            let mut end = End { reached, sent: 1_000, acknowledged: 400, ..End::default() };
            let has_seen_all = catch_up(&mut end, Position { taken, given: 1_000 }, 300);
            assert_eq!((has_seen_all, end.reached), expected);
            // That of the socket: a segment that was acknowledged may have been damaged on its way.
            assert_eq!(end.acknowledged, 700);
        };
        check(50, 50, (true, 50));
        // It is in a socket yet.
        check(60, 50, (true, 60));
        check(40, 50, (false, 50));
        check(u32::MAX, 1, (false, 1));
        check(1, u32::MAX, (true, 1));
    }
    #[test]
    fn sockets_of_multipath_tcp_are_told_from_those_that_are_gone() {
        use rustix::net::{AddressFamily, SocketType, socket};
        let open =
            |protocol| socket(AddressFamily::INET, SocketType::STREAM, protocol).expect("CONFIG_MPTCP");
        let (plain, multipath) = (open(None), open(Some(MPTCP)));
        assert_eq!(why_gone([&plain, &plain]), Obstacle::Gone);
        for sockets in [[&multipath, &plain], [&plain, &multipath]] {
            assert_eq!(why_gone(sockets), Obstacle::Terms(Untranslatable::Mptcp));
        }
    }
}
