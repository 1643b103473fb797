// SPDX-License-Identifier: MIT OR Apache-2.0
//! Targets that take a stream of lines: standard output and files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::Record;
use super::format::Formatter;
use super::writer::Lost;

/// Bytes gathered for one write.
const CHUNK: usize = 64 * 1024;

/// How long after a failed re-opening the next try is due.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// An open file descriptor, and what is on its way to it.
#[derive(Debug)]
pub(super) struct Stream {
    fd: OwnedFd,
    /// Of a file.
    path: Option<PathBuf>,
    /// Whole lines; after a failed write, only the rest of the line that it tore.
    buffer: Vec<u8>,
    /// The buffer begins in the middle of a line whose beginning is written.
    is_torn: bool,
    /// When to try again to re-open the file.
    reopen_at: Option<Instant>,
}

impl Stream {
    /// Standard output.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub(super) fn stdout() -> io::Result<Self> {
        Ok(Self::new(io::stdout().as_fd().try_clone_to_owned()?, None))
    }

    /// A file, appended to, created with mode 0640 if it does not exist.
    ///
    /// # Errors
    /// It cannot be opened; the message names it.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::new(open(path)?.into(), Some(path.to_owned())))
    }

    fn new(fd: OwnedFd, path: Option<PathBuf>) -> Self {
        Self { fd, path, buffer: Vec::with_capacity(CHUNK), is_torn: false, reopen_at: None }
    }

    /// Writes a batch. What cannot be written is lost, except for the rest of a line whose beginning was.
    pub(super) fn write(&mut self, batch: &[Record], formatter: &Formatter) -> Lost {
        let mut lost = Lost::default();
        if self.reopen_at.is_some_and(|at| at <= Instant::now()) {
            lost.add(self.reopen());
        }
        for record in batch {
            formatter.append(record, &mut self.buffer);
            self.buffer.push(b'\n');
            if self.buffer.len() >= CHUNK {
                lost.add(self.drain());
            }
        }
        lost.add(self.drain());
        lost
    }

    /// Opens the file at the path anew. If that fails, the old one is kept and it is tried again with a later batch.
    pub(super) fn reopen(&mut self) -> Lost {
        let Some(path) = &self.path else { return Lost::default() };
        match open(path) {
            Ok(file) => {
                self.fd = file.into();
                self.reopen_at = None;
                let torn_lines = u64::from(std::mem::take(&mut self.is_torn));
                self.buffer.clear();
                Lost { lines: torn_lines, cause: None }
            }
            Err(error) => {
                self.reopen_at = Some(Instant::now() + REOPEN_PAUSE);
                Lost { lines: 0, cause: Some(error) }
            }
        }
    }

    /// Writes the buffer.
    fn drain(&mut self) -> Lost {
        let mut written = 0;
        while written < self.buffer.len() {
            match rustix::io::write(&self.fd, &self.buffer[written..]) {
                Ok(0) => return self.give_up(written, io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                // Whoever shares the descriptor made it non-blocking; or it is a named pipe, opened so.
                Err(Errno::AGAIN) => self.wait_until_writable(),
                Err(error) => return self.give_up(written, error.into()),
            }
        }
        self.buffer.clear();
        self.is_torn = false;
        Lost::default()
    }

    fn wait_until_writable(&self) {
        // An error here is one that the next write meets too.
        let _ = poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], None);
    }

    /// Drops the unwritten lines, but keeps the rest of a torn one: a later write completes it, so that every line in the target
    /// is whole.
    fn give_up(&mut self, written: usize, cause: io::Error) -> Lost {
        if written > 0 {
            self.is_torn = self.buffer[written - 1] != b'\n';
        }
        self.buffer.drain(..written);
        let kept = match self.buffer.iter().position(|&byte| byte == b'\n') {
            Some(end) if self.is_torn => end + 1,
            _ => 0,
        };
        let lines = self.buffer[kept..].iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.buffer.truncate(kept);
        Lost { lines, cause: Some(cause) }
    }
}

/// Non-blocking, because opening a named pipe that nobody reads would wait for ever; for a file it means nothing (open(2)).
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot open log file {}: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use jiff::tz::TimeZone;

    use super::super::tests::record;
    use super::*;
    use crate::config::LogFormat;

    fn formatter() -> Formatter {
        Formatter::with_zone(LogFormat::Tcplog, TimeZone::UTC)
    }

    #[test]
    fn a_file_is_created_for_owner_and_group_and_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let mut stream = Stream::file(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0, "wider than 0640");
        assert_eq!(stream.write(&[record(), record()], &formatter()).lines, 0);
        assert_eq!(Stream::file(&path).unwrap().write(&[record()], &formatter()).lines, 0);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_how_many() {
        let mut stream = Stream::file(Path::new("/dev/full")).unwrap();
        for _ in 0..2 {
            let lost = stream.write(&vec![record(); 1000], &formatter());
            assert_eq!(lost.lines, 1000);
            assert_eq!(lost.cause.unwrap().kind(), io::ErrorKind::StorageFull);
        }
    }

    #[test]
    fn a_torn_line_is_completed_when_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let mut stream = Stream::file(&path).unwrap();
        stream.buffer = b"first\nsecond\nthird\nfourth\n".to_vec();
        rustix::io::write(&stream.fd, &stream.buffer[..9]).unwrap();
        assert_eq!(stream.give_up(9, io::ErrorKind::StorageFull.into()).lines, 2);
        stream.buffer.extend_from_slice(b"fifth\n");
        assert_eq!(stream.give_up(0, io::ErrorKind::StorageFull.into()).lines, 1, "the torn line is kept");
        stream.buffer.extend_from_slice(b"sixth\n");
        assert_eq!(stream.drain().lines, 0);
        assert_eq!(fs::read_to_string(&path).unwrap(), "first\nsecond\nsixth\n");

        stream.buffer = b"seventh\n".to_vec();
        assert_eq!(stream.give_up(0, io::ErrorKind::StorageFull.into()).lines, 1, "nothing is torn any more");
    }

    #[test]
    fn reopening_follows_the_path_and_survives_its_absence() {
        let directory = tempfile::tempdir().unwrap();
        let (path, rotated) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
        let mut stream = Stream::file(&path).unwrap();
        stream.write(&[record()], &formatter());
        fs::rename(&path, &rotated).unwrap();
        stream.write(&[record()], &formatter());
        assert_eq!(fs::read_to_string(&rotated).unwrap().lines().count(), 2);

        fs::create_dir(&path).unwrap();
        assert!(stream.reopen().cause.unwrap().to_string().contains("access.log"));
        assert_eq!(stream.write(&[record()], &formatter()).lines, 0);
        assert_eq!(fs::read_to_string(&rotated).unwrap().lines().count(), 3, "the old file is written on");

        fs::remove_dir(&path).unwrap();
        stream.reopen_at = Some(Instant::now());
        assert_eq!(stream.write(&[record()], &formatter()).lines, 0);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_named_pipe_that_nobody_reads_is_an_error_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        assert_eq!(Stream::file(&path).unwrap_err().kind(), io::Error::from(Errno::NXIO).kind());
    }
}
