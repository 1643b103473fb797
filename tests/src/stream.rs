// SPDX-License-Identifier: MIT OR Apache-2.0
//! Byte streams whose every position is known, so that a lost, doubled, moved or changed byte is seen and located.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use sha2::{Digest, Sha256};
use socket2::SockRef;

use crate::random::Random;

/// Between two stamps. A stamp is 8 bytes made of seed and position, so no two blocks of a stream are equal.
const BLOCK: usize = 4096;

/// What one call of read(2) or write(2) moves at most.
const CHUNK: usize = 64 * 1024;

/// An endless stream of bytes, given by its seed.
#[derive(Clone, Debug)]
pub struct Pattern {
    seed: u64,
    offset: u64,
    base: Vec<u8>,
}

/// How a stream ended for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a FIN.
    Finished,
    /// With a RST.
    Reset,
    /// Not at all: nothing came for the read timeout of the socket.
    Silent,
}

/// What a reader got until the end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes before the end.
    pub bytes: u64,
    /// Of all these bytes.
    pub sha256: [u8; 32],
    /// Position of the first block that is not the expected pattern's.
    pub wrong_at: Option<u64>,
    /// How it ended.
    pub end: End,
}

impl Pattern {
    /// The stream of a seed, from its beginning.
    pub fn new(seed: u64) -> Self {
        Self { seed, offset: 0, base: Random::new(seed).bytes(BLOCK) }
    }

    /// The next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut rest = buffer;
        while !rest.is_empty() {
            let within = usize::try_from(self.offset % BLOCK as u64).expect("less than a block");
            let count = rest.len().min(BLOCK - within);
            let stamp = Random::new(self.seed ^ (self.offset / BLOCK as u64 + 1)).number().to_le_bytes();
            self.base[..stamp.len()].copy_from_slice(&stamp);
            rest[..count].copy_from_slice(&self.base[within..within + count]);
            rest = &mut rest[count..];
            self.offset += count as u64;
        }
    }

    /// The first bytes.
    pub fn beginning(seed: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        Self::new(seed).fill(&mut bytes);
        bytes
    }
}

/// Sends the first `bytes` of a pattern and returns their SHA-256.
///
/// # Errors
/// As write(2).
pub fn send(stream: &TcpStream, seed: u64, bytes: u64) -> std::io::Result<[u8; 32]> {
    send_in_pieces(stream, seed, bytes, || CHUNK)
}

/// The same by calls of write(2) with at most as many bytes as `next` says, at least 1, and at most 64 KiB.
///
/// # Errors
/// As write(2).
pub fn send_in_pieces(
    mut stream: &TcpStream,
    seed: u64,
    bytes: u64,
    mut next: impl FnMut() -> usize,
) -> std::io::Result<[u8; 32]> {
    let (mut pattern, mut digest, mut left) = (Pattern::new(seed), Sha256::new(), bytes);
    let mut chunk = vec![0; CHUNK];
    while left > 0 {
        let most = next().clamp(1, CHUNK);
        let count = usize::try_from(left.min(most as u64)).expect("at most a chunk");
        pattern.fill(&mut chunk[..count]);
        stream.write_all(&chunk[..count])?;
        digest.update(&chunk[..count]);
        left -= count as u64;
    }
    Ok(digest.finalize().into())
}

/// Sends the first `bytes` of a pattern, but for so many at the beginning that were sent already, and returns the SHA-256 of all of them.
///
/// # Errors
/// As write(2).
pub fn send_rest(mut stream: &TcpStream, seed: u64, sent: u64, bytes: u64) -> std::io::Result<[u8; 32]> {
    let (mut pattern, mut digest, mut at) = (Pattern::new(seed), Sha256::new(), 0);
    let mut chunk = vec![0; CHUNK];
    while at < bytes {
        let count = usize::try_from((bytes - at).min(CHUNK as u64)).expect("at most a chunk");
        pattern.fill(&mut chunk[..count]);
        digest.update(&chunk[..count]);
        let skipped = usize::try_from(sent.saturating_sub(at).min(count as u64)).expect("at most a chunk");
        stream.write_all(&chunk[skipped..count])?;
        at += count as u64;
    }
    Ok(digest.finalize().into())
}

/// Sends a pattern until nobody has taken a byte for `calm`, and returns how many were taken. The socket is left blocking.
pub fn send_until_blocked(stream: &TcpStream, seed: u64, calm: Duration) -> u64 {
    send_until_blocked_or(stream, seed, calm, u64::MAX)
}

/// The same, or until `most` bytes were taken, to the next piece.
pub fn send_until_blocked_or(stream: &TcpStream, seed: u64, calm: Duration, most: u64) -> u64 {
    send_pieces_until_blocked_or(stream, seed, CHUNK, calm, most)
}

/// The same by calls of write(2) with `piece` bytes each.
pub fn send_pieces_until_blocked_or(
    mut stream: &TcpStream,
    seed: u64,
    piece: usize,
    calm: Duration,
    most: u64,
) -> u64 {
    let timeout = stream.write_timeout().expect("a socket");
    stream.set_write_timeout(Some(calm)).expect("a socket");
    let (mut pattern, mut taken) = (Pattern::new(seed), 0);
    let mut chunk = vec![0; piece];
    'chunks: while taken < most {
        pattern.fill(&mut chunk);
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(count) => {
                    taken += count as u64;
                    rest = &rest[count..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break 'chunks,
                Err(error) => panic!("after {taken} bytes: {error}"),
            }
        }
    }
    stream.set_write_timeout(timeout).expect("a socket");
    taken
}

/// Reads until the end of the stream and compares with a pattern.
pub fn receive(stream: &TcpStream, seed: u64) -> Received {
    receive_at_most(stream, seed, u64::MAX)
}

/// Reads until the end of the stream or so many bytes (then the end is [`End::Silent`]), and compares with a pattern.
pub fn receive_at_most(stream: &TcpStream, seed: u64, most: u64) -> Received {
    receive_in_pieces(stream, seed, most, || CHUNK)
}

/// The same by calls of read(2) for at most as many bytes as `next` says, and at most 64 KiB. Whoever wants a slow reader takes its time
/// there.
pub fn receive_in_pieces(
    mut stream: &TcpStream,
    seed: u64,
    most: u64,
    mut next: impl FnMut() -> usize,
) -> Received {
    let (mut pattern, mut digest) = (Pattern::new(seed), Sha256::new());
    let (mut bytes, mut wrong_at) = (0, None);
    let (mut chunk, mut expected) = (vec![0; CHUNK], vec![0; CHUNK]);
    let end = loop {
        let room = usize::try_from((most - bytes).min(CHUNK as u64)).expect("at most a chunk");
        if room == 0 {
            break End::Silent;
        }
        let room = room.min(next().clamp(1, CHUNK));
        let count = match stream.read(&mut chunk[..room]) {
            Ok(0) => break End::Finished,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => break end_of(&error),
        };
        pattern.fill(&mut expected[..count]);
        if wrong_at.is_none() && chunk[..count] != expected[..count] {
            wrong_at = Some(bytes);
        }
        digest.update(&chunk[..count]);
        bytes += count as u64;
    };
    Received { bytes, sha256: digest.finalize().into(), wrong_at, end }
}

/// Reads everything until the end of a short stream.
pub fn receive_all(mut stream: &TcpStream) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    // What was read before an error is kept (std::io::Read::read_to_end).
    let end = match stream.read_to_end(&mut bytes) {
        Ok(_) => End::Finished,
        Err(error) => end_of(&error),
    };
    (bytes, end)
}

/// Reads exactly so many bytes.
///
/// # Panics
/// If the stream ends before, with what had come.
#[track_caller]
pub fn receive_exactly(mut stream: &TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        let mut chunk = vec![0; count - bytes.len()];
        match stream.read(&mut chunk) {
            Ok(0) => panic!("end after {} of {count} bytes", bytes.len()),
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error} after {} of {count} bytes", bytes.len()),
        }
    }
    bytes
}

/// Writes a short message.
///
/// # Panics
/// If that fails.
#[track_caller]
pub fn say(mut stream: &TcpStream, message: &[u8]) {
    stream.write_all(message).unwrap_or_else(|error| panic!("cannot write {} bytes: {error}", message.len()));
}

/// Ends the sending direction.
///
/// # Panics
/// If the connection is gone.
#[track_caller]
pub fn finish(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap_or_else(|error| panic!("cannot half-close: {error}"));
}

/// Ends a connection from both ends, the first one first; what each sends arrives as a clean end with nothing before it.
///
/// # Panics
/// Bytes come, or another end.
#[track_caller]
pub fn finish_both(first: &TcpStream, second: &TcpStream) {
    for (from, to) in [(first, second), (second, first)] {
        finish(from);
        assert_eq!(receive_all(to), (Vec::new(), End::Finished));
    }
}

/// Ends the connection with a RST (socket(7), SO_LINGER with time 0).
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(stream);
}

/// The end that an error of read(2), write(2) or connect(2) means.
///
/// # Panics
/// If it means another thing than an end.
#[track_caller]
pub fn end_of(error: &std::io::Error) -> End {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => End::Reset,
        ErrorKind::WouldBlock | ErrorKind::TimedOut => End::Silent,
        _ => panic!("a stream ended in an unknown way: {error}"),
    }
}
