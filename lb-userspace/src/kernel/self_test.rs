// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether this kernel does with socket maps what path `sockmap` relies on: behaviour, not version numbers, for distributions carry
//! fixes back and forth. On connections over loopback, in less than half a second.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use lb_common::layout::{Allowed, Moved};

use rustix::net::RecvFlags;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

use super::{Gate, Maps, Refusal, Seat, Sockmap};
use crate::net;

/// How long anything may take before the kernel counts as failing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Taken before a socket comes into the map, from the head of a segment of which the rest waits.
const TAKEN: &[u8] = b"taken, ";

/// Sent through a small send buffer to a reader that begins late, in bytes.
const BODY: usize = 1 << 20;

/// The send buffer's size there, and where a reader does not read the receive buffer's, too, in bytes.
const SMALL_BUFFER: usize = 16 << 10;

/// Sent to a socket that is out of the map, in bytes and in segments: so little that any receive buffer holds it, whatever
/// net.ipv4.tcp_rmem says.
const PAUSED_BYTES: usize = 1000;
const PAUSED_SEGMENTS: usize = 10;

/// Sent to a reader that does not read, in bytes; and the part of it that is more than the buffers on the way hold.
const BOUND_BODY: usize = 1 << 20;
const FILL: usize = 256 << 10;

/// What a connection may accept after the program has last looked, in bytes; less than it has accepted before.
const LATE_MAX: u64 = 64 << 10;

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
    rig.enter()?;
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
        let (client, client_leg) = connection()?;
        let (server, server_leg) = connection()?;
        set_socket_send_buffer_size(&server_leg, SMALL_BUFFER).map_err(io::Error::from)?;
        let legs = [OwnedFd::from(client_leg), OwnedFd::from(server_leg)];
        let cookies = [net::cookie(&legs[0])?, net::cookie(&legs[1])?];
        let seat = kernel.seat().ok_or(SelfTestError::Behaviour("holding a flow"))?;
        Ok(Self { kernel, maps, client, server, legs, cookies, seat, gate: None })
    }

    fn hand_over(&mut self) -> Result<(), SelfTestError> {
        self.client.write_all(b"waits")?;
        self.enter()?;
        self.expect_at_server(b"waits", "delivering what waits when a socket comes into the map")
    }

    fn half_taken(&mut self) -> Result<(), SelfTestError> {
        self.client.write_all(&[TAKEN, b"waits"].concat())?;
        let mut taken = [0; TAKEN.len()];
        rustix::net::recv(&self.legs[0], &mut taken, RecvFlags::WAITALL).map_err(io::Error::from)?;
        check(taken == TAKEN, "receiving what was sent")?;
        self.enter()?;
        self.client.write_all(b", comes")?;
        self.expect_at_server(b"waits, comes", "cutting off what was taken of a segment")
    }

    fn enter(&mut self) -> Result<(), SelfTestError> {
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

    /// More than the send buffer holds, to a reader that begins late: nothing is lost, doubled or out of place.
    fn slow_reader(&mut self) -> Result<(), SelfTestError> {
        let body: Vec<u8> = (0..BODY as u32 / 4).flat_map(u32::to_be_bytes).collect();
        let mut writer = self.client.try_clone()?;
        let sent = body.clone();
        let sender = thread::spawn(move || writer.write_all(&sent));
        thread::sleep(Duration::from_millis(10));
        let received = self.expect_at_server(&body, "queueing for a slow reader");
        let sent = sender.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        received?;
        sent?;
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
            check(Instant::now() < deadline, "counting the segments of a socket in the map")?;
            thread::sleep(Duration::from_millis(1));
        }
        while !gate.close(self.kernel, &self.legs[0]) {
            check(Instant::now() < deadline, "counting the segments of a socket in the map")?;
            thread::sleep(Duration::from_millis(1));
        }
        self.maps.unhook(slot);
        self.allow(0, 1, u64::MAX);
        let before = self.kernel.moved(slot).redirected;
        for _ in 0..PAUSED_SEGMENTS {
            self.client.write_all(&[7; PAUSED_BYTES / PAUSED_SEGMENTS])?;
        }
        while net::tcp_info(&self.legs[0])?.received < before + PAUSED_BYTES as u64 {
            check(Instant::now() < deadline, "receiving for a socket that is out of the map")?;
            thread::sleep(Duration::from_millis(1));
        }
        check(self.kernel.moved(slot).redirected == before, "leaving a socket alone that is out of the map")?;
        self.maps.hook(slot, &self.legs[0]).map_err(SelfTestError::Refused)?;
        net::kick(&self.legs[0]);
        self.expect_at_server(&[7; PAUSED_BYTES], "going on with a socket that comes back")
    }

    /// A FIN in a segment of its own does not harm what waits for the socket that received it.
    fn half_close(&mut self) -> Result<(), SelfTestError> {
        let body = vec![9; BODY];
        let mut writer = self.server.try_clone()?;
        let sender = thread::spawn({
            let body = body.clone();
            move || writer.write_all(&body)
        });
        thread::sleep(Duration::from_millis(10));
        self.client.shutdown(Shutdown::Write)?;
        thread::sleep(Duration::from_millis(5));
        let mut received = vec![0; BODY];
        let read = self.client.read_exact(&mut received);
        let sent = sender.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        check(
            read.is_ok() && sent.is_ok() && received == body,
            "carrying one direction when the other has ended",
        )
    }

    /// A reader that does not read: the program stops where it should, by what the target has accepted, and nothing is lost.
    fn bound(&mut self) -> Result<(), SelfTestError> {
        set_socket_recv_buffer_size(&self.server, SMALL_BUFFER).map_err(io::Error::from)?;
        let mut writer = self.client.try_clone()?;
        let body: Vec<u8> = (0..BOUND_BODY as u32 / 4).flat_map(u32::to_be_bytes).collect();
        let (fill, rest) = (body[..FILL].to_vec(), body[FILL..].to_vec());
        writer.write_all(&fill)?;
        // The server's socket takes nothing more, and the next segment makes the program look.
        let before = self.until_quiet(1)?;
        let waiting = before.0.inside_after(before.1);
        self.allow(0, 2, waiting + STOP_AT);
        let sender = thread::spawn(move || writer.write_all(&rest));
        let (moved, accepted) = self.until_quiet(2)?;
        self.allow(0, 3, u64::MAX);
        // It may have accepted more since the program last looked.
        let is_known = (accepted.saturating_sub(LATE_MAX)..=accepted).contains(&moved.accepted);
        check(is_known, "telling the program what a connection has accepted")?;
        // Both may now take it faster.
        set_socket_send_buffer_size(&self.legs[1], BODY).map_err(io::Error::from)?;
        set_socket_recv_buffer_size(&self.server, BODY).map_err(io::Error::from)?;
        let more = moved.redirected - before.0.redirected;
        check((STOP_AT / 2..STOP_AT * 2).contains(&more), "turning segments away at a bound")?;
        let received = self.expect_at_server(&body, "sending again what was turned away");
        let sent = sender.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        received?;
        Ok(sent?)
    }

    /// Waits until nothing of the client's moves any more in a round that allows all, or in which segments have been turned away; what the
    /// program has counted then, and what the server's socket has accepted.
    fn until_quiet(&self, round: u64) -> Result<(Moved, u64), SelfTestError> {
        let slot = self.seat.slots()[0];
        let deadline = Instant::now() + PATIENCE;
        let mut before = None;
        while Instant::now() < deadline {
            let now = (self.kernel.moved(slot), net::tcp_info(&self.legs[1])?.accepted);
            if before == Some(now) && (round == 1 || now.0.stopped == round) {
                return Ok(now);
            }
            before = Some(now);
            // Less than the client's kernel waits before it sends again.
            thread::sleep(Duration::from_millis(2));
        }
        Err(SelfTestError::Behaviour("turning segments away at a bound"))
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

fn check(holds: bool, behaviour: &'static str) -> Result<(), SelfTestError> {
    if holds { Ok(()) } else { Err(SelfTestError::Behaviour(behaviour)) }
}

/// A connection over loopback, far end first.
fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let far = TcpStream::connect(listener.local_addr()?)?;
    far.set_read_timeout(Some(PATIENCE))?;
    far.set_write_timeout(Some(PATIENCE))?;
    let (near, _) = listener.accept()?;
    for stream in [&far, &near] {
        stream.set_nodelay(true)?;
        rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    }
    Ok((far, near))
}
