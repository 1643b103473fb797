// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether this kernel does with socket maps what path `sockmap` relies on: behaviour, not version numbers, for distributions carry
//! fixes back and forth. On connections over loopback, in some 50 ms.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use lb_common::layout::{Allowed, Moved};

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use rustix::net::{RecvFlags, SendFlags};

use super::{Gate, Maps, Refusal, Seat, Sockmap};
use crate::net;

/// How long anything may take before the kernel counts as failing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between looks at what should soon be so.
const PAUSE: Duration = Duration::from_millis(1);

/// Taken before a socket comes into the map, from the head of a segment of which the rest waits.
const TAKEN: &[u8] = b"taken, ";

/// Sent through small buffers to a reader that begins late, in bytes: several times what they hold, and not more, because the kernel looks
/// only once a tick whether it has room again (net/core/skmsg.c, sk_psock_backlog).
const BODY: usize = 256 << 10;

/// How much of it the reader takes through them, in bytes: more than they hold, so that they run empty and full a few times.
const SLOW: usize = 96 << 10;

/// The size of the send buffers behind the program and of the receive buffers at both ends, in bytes.
const SMALL_BUFFER: usize = 16 << 10;

/// Sent to a socket that is out of the map, in bytes and in segments: so little that any receive buffer holds it, whatever
/// net.ipv4.tcp_rmem says.
const PAUSED_BYTES: usize = 1000;
const PAUSED_SEGMENTS: usize = 10;

/// Sent to a reader that does not read, in bytes; the part of it that is more than the buffers on the way hold; and how much of the rest goes
/// at a time: several fit into the smallest window.
const BOUND_BODY: usize = 1 << 20;
const FILL: usize = 256 << 10;
const PIECE: usize = 8 << 10;

/// What may wait in addition to that, in bytes of cost.
const STOP_AT: u64 = 256 << 10;

/// A behaviour that has been tried.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What holds.
    pub behaviour: &'static str,
    /// How long trying it took.
    pub took: Duration,
}

/// Tries one behaviour.
type Try<'a> = fn(&mut Rig<'a>) -> Result<(), SelfTestError>;

/// What the kernel failed at.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// No connection over loopback, or another operation that has nothing to do with maps.
    #[error("the self-test cannot be made")]
    Setup(#[from] io::Error),
    /// A map did not take a socket.
    #[error("a map refuses an established connection: {0:?}")]
    Refused(Refusal),
    /// A behaviour.
    #[error("the kernel fails at this: {0}")]
    Behaviour(&'static str),
}

/// Two connections with the balancer in between, inside the maps.
struct Rig<'a> {
    kernel: &'a Sockmap,
    maps: &'a mut Maps,
    client: TcpStream,
    server: TcpStream,
    legs: [OwnedFd; 2],
    cookies: [u64; 2],
    seat: Seat,
    gate: Option<Gate>,
}

/// Tries every behaviour, and tells each that holds.
///
/// # Errors
/// The first that fails.
pub fn run(kernel: &Sockmap, maps: &mut Maps, passed: &mut dyn FnMut(Step)) -> Result<(), SelfTestError> {
    let mut rig = Rig::new(kernel, maps)?;
    rig.try_each(Rig::behaviours(), passed)?;
    drop(rig);
    let mut rig = Rig::new(kernel, maps)?;
    rig.enter(0)?;
    rig.try_each([("beyond a bound segments are turned away, and sent again", Rig::bound)], passed)?;
    drop(rig);
    // Last: kernels before Linux 6.4 that lack its corrections fail at a pause, and would stumble over a segment that is cut.
    let mut rig = Rig::new(kernel, maps)?;
    rig.try_each([("of a segment what was taken before is not delivered again", Rig::half_taken)], passed)
}

impl<'a> Rig<'a> {
    /// Each in words and how it is tried; they build on each other.
    fn behaviours() -> [(&'static str, Try<'a>); 4] {
        [
            ("what waits when a socket comes into the map is delivered", Self::hand_over),
            ("a slow reader loses nothing", Self::slow_reader),
            ("a direction pauses outside the map and goes on", Self::pause),
            ("a half-close leaves the other direction alone", Self::half_close),
        ]
    }

    fn try_each<const N: usize>(
        &mut self,
        behaviours: [(&'static str, Try<'a>); N],
        passed: &mut dyn FnMut(Step),
    ) -> Result<(), SelfTestError> {
        for (behaviour, holds) in behaviours {
            let begin = Instant::now();
            holds(self)?;
            passed(Step { behaviour, took: begin.elapsed() });
        }
        Ok(())
    }

    fn new(kernel: &'a Sockmap, maps: &'a mut Maps) -> Result<Self, SelfTestError> {
        let ((client, client_leg), (server, server_leg)) = (connection()?, connection()?);
        set_socket_send_buffer_size(&server_leg, SMALL_BUFFER).map_err(io::Error::from)?;
        let legs = [OwnedFd::from(client_leg), OwnedFd::from(server_leg)];
        let cookies = [net::cookie(&legs[0])?, net::cookie(&legs[1])?];
        let seat = kernel.seat().ok_or(SelfTestError::Behaviour("holding a flow"))?;
        Ok(Self { kernel, maps, client, server, legs, cookies, seat, gate: None })
    }

    fn hand_over(&mut self) -> Result<(), SelfTestError> {
        self.client.write_all(b"waits")?;
        self.enter(b"waits".len())?;
        self.expect_at_server(b"waits", "delivering what waits when a socket comes into the map")
    }

    fn half_taken(&mut self) -> Result<(), SelfTestError> {
        self.client.write_all(&[TAKEN, b"waits"].concat())?;
        let mut taken = [0; TAKEN.len()];
        rustix::net::recv(&self.legs[0], &mut taken, RecvFlags::WAITALL).map_err(io::Error::from)?;
        check(taken == TAKEN, "receiving what was sent")?;
        self.enter(TAKEN.len() + b"waits".len())?;
        self.client.write_all(b", comes")?;
        self.expect_at_server(b"waits, comes", "cutting off what was taken of a segment")
    }

    /// Hands the flow over once so many bytes of the client's have come: of what were on its way yet, TCP would count what the filter has not.
    fn enter(&mut self, sent: usize) -> Result<(), SelfTestError> {
        let deadline = Instant::now() + PATIENCE;
        while net::tcp_info(&self.legs[0])?.received < sent as u64 {
            pause_until(deadline, "receiving what was sent")?;
        }
        let slots = self.seat.slots();
        let mut enter = || {
            for side in [0, 1] {
                self.allow(side, 1, u64::MAX);
                self.maps.aim(slots[side], &self.legs[1 - side])?;
                self.maps.name(self.cookies[side], slots[side])?;
            }
            [1, 0].into_iter().try_for_each(|side| self.maps.hook(slots[side], &self.legs[side]))
        };
        enter().map_err(SelfTestError::Refused)?;
        self.legs.iter().try_for_each(|leg| net::filter(leg, self.kernel.filter()))?;
        self.gate = Some(Gate::new(self.kernel, slots[0], &self.legs[0])?);
        self.legs.iter().for_each(net::kick);
        Ok(())
    }

    /// More than the buffers hold, to a reader that begins late: nothing is lost, doubled or out of place.
    fn slow_reader(&mut self) -> Result<(), SelfTestError> {
        let body = numbered(BODY);
        self.write_all_that_waits(0, &body)?;
        let (first, rest) = body.split_at(SLOW);
        self.expect_at_server(first, "queueing for a slow reader")?;
        // Both may now take it faster.
        set_socket_send_buffer_size(&self.legs[1], BODY).map_err(io::Error::from)?;
        set_socket_recv_buffer_size(&self.server, BODY).map_err(io::Error::from)?;
        self.expect_at_server(rest, "queueing for a slow reader")?;
        let (from, to) = (net::tcp_info(&self.legs[0])?, net::tcp_info(&self.legs[1])?);
        check(from.received == to.accepted, "counting what a connection has accepted")
    }

    /// What is sent while the sender's socket is out of the map waits, and goes on when it comes back.
    fn pause(&mut self) -> Result<(), SelfTestError> {
        let slot = self.seat.slots()[0];
        let gate = self.gate.as_ref().ok_or(SelfTestError::Behaviour("holding a flow"))?;
        let deadline = Instant::now() + PATIENCE;
        // All is quiet, so that nothing can be missing, unless the last segment is still on its way from the filter to the socket.
        while *gate != Gate::new(self.kernel, slot, &self.legs[0])? {
            pause_until(deadline, "counting the segments of a socket in the map")?;
        }
        while !gate.close(self.kernel, &self.legs[0]) {
            pause_until(deadline, "counting the segments of a socket in the map")?;
        }
        self.maps.unhook(slot);
        self.allow(0, 1, u64::MAX);
        let before = self.kernel.moved(slot).redirected;
        for _ in 0..PAUSED_SEGMENTS {
            self.client.write_all(&[7; PAUSED_BYTES / PAUSED_SEGMENTS])?;
        }
        while net::tcp_info(&self.legs[0])?.received < before + PAUSED_BYTES as u64 {
            pause_until(deadline, "receiving for a socket that is out of the map")?;
        }
        check(self.kernel.moved(slot).redirected == before, "leaving a socket alone that is out of the map")?;
        self.maps.hook(slot, &self.legs[0]).map_err(SelfTestError::Refused)?;
        net::kick(&self.legs[0]);
        self.expect_at_server(&[7; PAUSED_BYTES], "going on with a socket that comes back")
    }

    /// A FIN in a segment of its own does not harm what waits for the socket that received it.
    fn half_close(&mut self) -> Result<(), SelfTestError> {
        set_socket_send_buffer_size(&self.legs[0], SMALL_BUFFER).map_err(io::Error::from)?;
        let body = numbered(BODY);
        self.write_all_that_waits(1, &body)?;
        self.client.shutdown(Shutdown::Write)?;
        let deadline = Instant::now() + PATIENCE;
        while net::tcp_info(&self.legs[0])?.is_established {
            pause_until(deadline, "telling of an end to a socket in the map")?;
        }
        // What waits has seen it, and may now go faster.
        set_socket_send_buffer_size(&self.legs[0], BODY).map_err(io::Error::from)?;
        set_socket_recv_buffer_size(&self.client, BODY).map_err(io::Error::from)?;
        let mut received = vec![0; BODY];
        let read = self.client.read_exact(&mut received);
        check(read.is_ok() && received == body, "carrying one direction when the other has ended")
    }

    /// A reader that does not read: the program stops where it should, by what the target has accepted, and nothing is lost.
    fn bound(&mut self) -> Result<(), SelfTestError> {
        let body = numbered(BOUND_BODY);
        // Room for what is turned away, whatever net.ipv4.tcp_wmem says; net.core.wmem_max may allow less.
        set_socket_send_buffer_size(&self.client, BODY).map_err(io::Error::from)?;
        self.client.write_all(&body[..FILL])?;
        // The server's socket takes nothing more, and the next segment makes the program look.
        let before = self.until_quiet(|moved, accepted| moved.redirected == FILL as u64 && accepted > 0)?;
        let waiting = before.0.inside_after(before.1);
        self.allow(0, 2, waiting + STOP_AT);
        let written = self.write_until_turned_away(&body, 2)?;
        let (moved, accepted) = self.until_quiet(|moved, _| moved.stopped == 2)?;
        self.allow(0, 3, u64::MAX);
        // What comes next tells of the gap in front of it at once; without it the client's kernel would wait for 200 ms (TCP_RTO_MIN).
        let (mut writer, rest) = (self.client.try_clone()?, body[written..].to_vec());
        let sender = thread::spawn(move || rest.chunks(PIECE).try_for_each(|piece| writer.write_all(piece)));
        // So much waits that the program has looked for each segment of the round; what is accepted later it cannot know.
        let is_known = (before.1..=accepted).contains(&moved.accepted);
        check(is_known, "telling the program what a connection has accepted")?;
        // Both may now take it faster.
        set_socket_send_buffer_size(&self.legs[1], BOUND_BODY).map_err(io::Error::from)?;
        set_socket_recv_buffer_size(&self.server, BOUND_BODY).map_err(io::Error::from)?;
        let more = moved.redirected - before.0.redirected;
        let is_bounded = (STOP_AT / 2..STOP_AT * 2).contains(&more) && moved.redirected < written as u64;
        check(is_bounded, "turning segments away at a bound")?;
        let received = self.expect_at_server(&body, "sending again what was turned away");
        let sent = sender.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        received?;
        Ok(sent?)
    }

    /// Sends what comes behind what fills the buffers, until segments are turned away in this round, and two that will be; how much has been
    /// sent then.
    ///
    /// Who turns segments away may run on another processor, and later: so this neither waits for room behind what is turned away, nor
    /// takes a segment for judged because it has been sent.
    fn write_until_turned_away(&mut self, body: &[u8], round: u64) -> Result<usize, SelfTestError> {
        let slot = self.seat.slots()[0];
        let deadline = Instant::now() + PATIENCE;
        let mut written = FILL;
        while written < body.len() {
            let moved = self.kernel.moved(slot);
            let ahead = (written as u64).saturating_sub(moved.redirected);
            let is_turning_away = moved.stopped == round;
            if is_turning_away && ahead >= 2 * PIECE as u64 {
                break;
            }
            let piece = &body[written..body.len().min(written + PIECE)];
            match rustix::net::send(&self.client, piece, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => written += sent,
                Err(Errno::AGAIN) if is_turning_away && ahead > 0 => break,
                Err(Errno::AGAIN) => pause_until(deadline, "taking segments up to a bound")?,
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(written)
    }

    /// Sends this from a side to one that does not read, and waits until the program has handed over all of it, of which a part waits then.
    fn write_all_that_waits(&mut self, side: usize, body: &[u8]) -> Result<(), SelfTestError> {
        let behaviour = "queueing for a reader that does not read";
        let slot = self.seat.slots()[side];
        let all = self.kernel.moved(slot).redirected + body.len() as u64;
        let from = if side == 0 { &mut self.client } else { &mut self.server };
        check(from.write_all(body).is_ok(), behaviour)?;
        let deadline = Instant::now() + PATIENCE;
        while self.kernel.moved(slot).redirected < all {
            pause_until(deadline, behaviour)?;
        }
        check(net::tcp_info(&self.legs[1 - side])?.accepted < all, behaviour)
    }

    /// Waits until this holds of what the program has counted of the client's and what the server's socket has accepted, and neither changes
    /// any more; what they are then.
    fn until_quiet(&self, holds: fn(&Moved, u64) -> bool) -> Result<(Moved, u64), SelfTestError> {
        let slot = self.seat.slots()[0];
        let deadline = Instant::now() + PATIENCE;
        let mut before = None;
        loop {
            let now = (self.kernel.moved(slot), net::tcp_info(&self.legs[1])?.accepted);
            if before == Some(now) && holds(&now.0, now.1) {
                return Ok(now);
            }
            before = Some(now);
            // Together less than the client's kernel waits before it sends again.
            pause_until(deadline, "turning segments away at a bound")?;
            thread::sleep(PAUSE);
        }
    }

    fn allow(&self, side: usize, round: u64, stop_at: u64) {
        let allowed = Allowed { pause_at: stop_at, stop_at, round, call_at: u64::MAX, ..Allowed::default() };
        self.kernel.allow(self.seat.slots()[side], &allowed);
    }

    fn expect_at_server(&mut self, expected: &[u8], behaviour: &'static str) -> Result<(), SelfTestError> {
        let mut received = vec![0; expected.len()];
        let read = self.server.read_exact(&mut received);
        check(read.is_ok() && received == expected, behaviour)
    }
}

impl Drop for Rig<'_> {
    fn drop(&mut self) {
        for (cookie, slot) in self.cookies.into_iter().zip(self.seat.slots()) {
            self.maps.forget(cookie, slot);
        }
    }
}

/// So many bytes, of which no four that are aligned come twice.
fn numbered(bytes: usize) -> Vec<u8> {
    (0..bytes as u32 / 4).flat_map(u32::to_be_bytes).collect()
}

/// Waits for a moment, unless it is too late.
fn pause_until(deadline: Instant, behaviour: &'static str) -> Result<(), SelfTestError> {
    check(Instant::now() < deadline, behaviour)?;
    thread::sleep(PAUSE);
    Ok(())
}

fn check(holds: bool, behaviour: &'static str) -> Result<(), SelfTestError> {
    if holds { Ok(()) } else { Err(SelfTestError::Behaviour(behaviour)) }
}

/// A connection over loopback, far end first. That one takes little before it is read from: it has never announced more, so that nothing
/// sent to it is thrown away, which would be sent again only 200 ms later (TCP_RTO_MIN).
fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // What it accepts inherits that.
    set_socket_recv_buffer_size(&listener, SMALL_BUFFER)?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    for stream in [&far, &near] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    }
    Ok((far, near))
}
