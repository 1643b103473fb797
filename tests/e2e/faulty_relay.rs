// SPDX-License-Identifier: MIT OR Apache-2.0
//! A relay that can have a fault, to test that tests would find it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use lb_tests::net::{Namespace, try_connect_here};
use lb_tests::peer::Service;
use lb_tests::stream::{receive_all, reset};
use rustix::event::{PollFd, PollFlags, poll};

/// What is wrong with a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// In the middle of what the client sends.
    LosesAByte,
    DoublesAByte,
    ChangesAByte,
    /// After so much of what the server sends, with a FIN.
    EndsEarly,
    /// What was a reset becomes a FIN.
    ForgivesResets,
}

/// How many bytes go before the fault shows.
const BEFORE: usize = 1_000;

/// A running relay.
pub(crate) struct FaultyRelay(#[expect(dead_code, reason = "held until the relay is to stop")] Service<()>);

impl FaultyRelay {
    /// Starts one on a port of a namespace, in front of a server.
    pub(crate) fn start(place: &Arc<Namespace>, port: u16, server: SocketAddr, fault: Fault) -> Self {
        let here = Arc::clone(place);
        Self(Service::start(place.listen(port), move |client| {
            let server = here.enter(|| try_connect_here(server)).expect("a server");
            Relayed { ends: [client, server], carried: [0; 2], has_ended: [false; 2], fault }.run();
        }))
    }
}

/// One connection: client and server.
struct Relayed {
    ends: [TcpStream; 2],
    carried: [usize; 2],
    has_ended: [bool; 2],
    fault: Fault,
}

impl Relayed {
    fn run(mut self) {
        while self.has_ended != [true; 2] {
            for from in self.readable() {
                if let Err(gone) = self.carry(from) {
                    let Self { ends: [client, server], fault, .. } = self;
                    let other = if gone == 0 { server } else { client };
                    return if fault == Fault::ForgivesResets { close(&other) } else { reset(other) };
                }
            }
        }
    }

    /// Ends from which something comes, of those that have not ended.
    fn readable(&self) -> Vec<usize> {
        let open: Vec<usize> = (0..2).filter(|&end| !self.has_ended[end]).collect();
        let mut polled: Vec<_> =
            open.iter().map(|&end| PollFd::new(&self.ends[end], PollFlags::IN)).collect();
        poll(&mut polled, None).expect("poll(2)");
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        open.iter().zip(&polled).filter(|(_, fd)| is_ready(fd)).map(|(&end, _)| end).collect()
    }

    /// Carries what comes from an end.
    ///
    /// # Errors
    /// Which end is gone.
    fn carry(&mut self, from: usize) -> Result<(), usize> {
        let mut bytes = vec![0; 1 << 16];
        let [mut source, mut target] = [&self.ends[from], &self.ends[1 - from]];
        let count = source.read(&mut bytes).map_err(|_| from)?;
        bytes.truncate(count);
        let reached = self.carried[from] + count;
        let fault_at = BEFORE.checked_sub(self.carried[from]).filter(|&at| at < count);
        self.carried[from] = reached;
        match (from, fault_at, self.fault) {
            (0, Some(at), Fault::LosesAByte) => drop(bytes.remove(at)),
            (0, Some(at), Fault::DoublesAByte) => bytes.insert(at, bytes[at]),
            (0, Some(at), Fault::ChangesAByte) => bytes[at] ^= 1,
            (1, Some(at), Fault::EndsEarly) => bytes.truncate(at),
            (1, None, Fault::EndsEarly) if reached > BEFORE => bytes.clear(),
            _ => {}
        }
        if count > 0 {
            return target.write_all(&bytes).map_err(|_| 1 - from);
        }
        self.has_ended[from] = true;
        // One that is reset takes no end.
        let _ = target.shutdown(Shutdown::Write);
        Ok(())
    }
}

/// Ends one direction, and takes whatever comes by the other.
fn close(stream: &TcpStream) {
    // It may be gone, too.
    let _ = stream.shutdown(Shutdown::Write);
    receive_all(stream);
}
