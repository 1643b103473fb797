// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tries the paths for real, as `lb run` does.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use rustix::pipe::{SpliceFlags, pipe, splice};

use crate::kernel::{self, LoadError, Step};
use crate::privileges;

/// What came of it. Path `copy` needs nothing that could lack.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) splice: io::Result<()>,
    pub(super) sockmap: Result<(), LoadError>,
    /// The steps of its self-test that passed.
    pub(super) steps: Vec<Step>,
    pub(super) packet: Result<(), LoadError>,
    /// Likewise.
    pub(super) packet_steps: Vec<Step>,
}

/// Tries every path; `sockmap` for so many flows, and so many bytes beyond their shares. All privileges are gone afterwards.
pub(super) fn examine(flows: u32, overdraft: u64) -> Paths {
    let mut steps = Vec::new();
    let mut packet_steps = Vec::new();
    let loaded = kernel::load_sockmap(flows, overdraft);
    // On maps of its own, with no interface: an lb that runs is not disturbed.
    let packet =
        kernel::load_packet(1).and_then(|(packet, _bells)| packet.test(&mut |step| packet_steps.push(step)));
    // Where that fails the test runs with privileges, and is as good.
    let _ = privileges::give_up();
    let sockmap =
        loaded.and_then(|(sockmap, _calls)| kernel::test_sockmap(&sockmap, &mut |step| steps.push(step)));
    Paths { splice: try_splice(), sockmap, steps, packet, packet_steps }
}

/// Moves bytes from socket to socket through a pipe.
fn try_splice() -> io::Result<()> {
    const BYTES: &[u8; 7] = b"through";
    let (mut sender, inward) = UnixStream::pair()?;
    let (outward, mut receiver) = UnixStream::pair()?;
    let (output, input) = pipe()?;
    sender.write_all(BYTES)?;
    splice(&inward, None, &input, None, BYTES.len(), SpliceFlags::empty())?;
    splice(&output, None, &outward, None, BYTES.len(), SpliceFlags::empty())?;
    drop(outward);
    let mut received = Vec::new();
    receiver.read_to_end(&mut received)?;
    if received == BYTES { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_through_a_pipe() {
        try_splice().expect("Linux has splice(2)");
    }
}
