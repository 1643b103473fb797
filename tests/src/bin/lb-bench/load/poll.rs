// SPDX-License-Identifier: MIT OR Apache-2.0
//! epoll(7), as thin as it gets: the ends of the flows share the cores with what is measured.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
pub use rustix::event::epoll::EventFlags as Interest;
use rustix::io::Errno;
use rustix::time::Timespec;

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 256;

/// Sockets that are waited for, by descriptor number.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    patience: Option<Timespec>,
}

impl Poll {
    /// Nothing yet.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_MAX), patience: None })
    }

    /// The same, where something is ready within this time or never will be.
    ///
    /// # Errors
    /// No file descriptor is left, or the time is longer than anybody lives.
    pub fn with_patience(patience: Duration) -> io::Result<Self> {
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        Ok(Self { patience: Some(patience), ..Self::new()? })
    }

    /// Waits for a socket from here on, until it is closed or removed.
    ///
    /// # Errors
    /// Out of kernel memory.
    pub fn add(&self, socket: impl AsFd, interest: Interest) -> io::Result<()> {
        let token = u64::from(number(&socket)?);
        Ok(epoll::add(&self.epoll, socket.as_fd(), epoll::EventData::new_u64(token), interest)?)
    }

    /// Waits no longer for a socket.
    ///
    /// # Errors
    /// It was not added.
    pub fn remove(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, socket.as_fd())?)
    }

    /// Waits until something is ready and hands each descriptor number to `handle`.
    ///
    /// # Errors
    /// As `handle` does; or nothing becomes ready in time.
    pub fn wait<E: From<io::Error>>(
        &mut self,
        mut handle: impl FnMut(&Self, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), self.patience.as_ref()) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no flow moves any more").into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        for event in &events {
            handle(self, usize::try_from(event.data.u64()).map_err(io::Error::other)?)?;
        }
        self.events = events;
        Ok(())
    }
}

/// The descriptor number of a socket, which is what [`Poll::wait`] reports.
///
/// # Errors
/// Never: open descriptors are not negative.
pub fn number(socket: &impl AsFd) -> io::Result<u32> {
    u32::try_from(socket.as_fd().as_raw_fd()).map_err(io::Error::other)
}

/// Something for each of many sockets, found by descriptor number.
#[derive(Debug)]
pub struct Table<T>(Vec<Option<T>>);

impl<T> Table<T> {
    /// Empty.
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// Puts something at a number.
    pub fn insert(&mut self, number: usize, value: T) {
        if self.0.len() <= number {
            self.0.resize_with(number + 1, || None);
        }
        self.0[number] = Some(value);
    }

    /// What is at a number.
    pub fn at(&mut self, number: usize) -> Option<&mut T> {
        self.0.get_mut(number)?.as_mut()
    }

    /// Takes away what is at a number.
    pub fn take(&mut self, number: usize) -> Option<T> {
        self.0.get_mut(number)?.take()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_never_becomes_ready_is_an_error_after_a_while() {
        let mut poll = Poll::with_patience(Duration::from_millis(1)).unwrap();
        let (one, _other) = UnixStream::pair().unwrap();
        poll.add(&one, Interest::IN).unwrap();
        let waited = poll.wait(|_, _| Ok::<(), io::Error>(()));
        assert_eq!(waited.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
