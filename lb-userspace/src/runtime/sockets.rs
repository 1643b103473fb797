// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets of one thread, and what epoll(7) says of them, edge-triggered: each says what is ready until whoever met its end has said so.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::{if_there, with};

/// What is heard of a connection. Priority is urgent data (tcp(7)); errors are always heard.
const CONNECTION: EventFlags = EventFlags::IN
    .union(EventFlags::OUT)
    .union(EventFlags::PRI)
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);

/// What is heard of a descriptor that only becomes readable.
const READER: EventFlags = EventFlags::IN.union(EventFlags::ET);

/// What is heard of a listening socket that several threads watch: one of them is woken, not all (EPOLLEXCLUSIVE, Linux 4.5).
const LISTENER: EventFlags = READER.union(EventFlags::EXCLUSIVE);

/// The token of calls by other threads.
const CALLS: u64 = u64::MAX;

/// Events of one system call.
const BATCH: usize = 128;

/// The sockets of a thread.
pub(super) struct Sockets {
    epoll: OwnedFd,
    places: RefCell<Places>,
}

#[derive(Default)]
struct Places {
    all: Vec<Place>,
    free: Vec<u32>,
}

/// What is known of a socket.
#[derive(Debug, Default)]
struct Place {
    /// How many sockets had this place before: events of those are of no interest.
    generation: u32,
    ready: Readiness,
    /// What the waker is to be woken for.
    awaited: u8,
    waker: Option<Waker>,
}

/// What a socket was said to be, and has not been found otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness(u8);

impl Readiness {
    const READABLE: u8 = 1;
    const WRITABLE: u8 = 2;
    const READ_CLOSED: u8 = 4;
    const WRITE_CLOSED: u8 = 8;
    const ERROR: u8 = 16;
    const PRIORITY: u8 = 32;
    /// What ends a wait for input, and for room.
    const INPUT: u8 = Self::READABLE | Self::READ_CLOSED;
    const ROOM: u8 = Self::WRITABLE | Self::WRITE_CLOSED;

    /// The peer has ended its direction; bytes before the end may still wait.
    pub fn is_read_closed(self) -> bool {
        self.0 & Self::READ_CLOSED != 0
    }

    /// Nothing can be sent any more.
    pub fn is_write_closed(self) -> bool {
        self.0 & Self::WRITE_CLOSED != 0
    }

    /// There was an error to tell.
    pub fn is_error(self) -> bool {
        self.0 & Self::ERROR != 0
    }

    /// Urgent data has come at some time.
    pub fn is_priority(self) -> bool {
        self.0 & Self::PRIORITY != 0
    }

    fn of(events: EventFlags) -> Self {
        let has = |flags| events.intersects(flags);
        let (input, room) = (has(EventFlags::IN | EventFlags::PRI), has(EventFlags::OUT));
        let (hung_up, error) = (has(EventFlags::HUP), has(EventFlags::ERR));
        let bits = [
            (input, Self::READABLE),
            (room, Self::WRITABLE),
            (hung_up || has(EventFlags::IN) && has(EventFlags::RDHUP), Self::READ_CLOSED),
            (hung_up || error && (room || events == EventFlags::ERR), Self::WRITE_CLOSED),
            (error, Self::ERROR),
            (has(EventFlags::PRI), Self::PRIORITY),
        ];
        Self(bits.into_iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, bit)| all | bit))
    }
}

/// A descriptor that the calling thread watches. One task waits for it at a time: the last that has asked. One of which there are copies (dup(2)) has to
/// leave by [`Self::into_inner`]: closing it alone does not take the socket out of epoll.
#[derive(Debug)]
pub struct Socket {
    // In this order: what comes of the socket until it is closed is heard by nobody.
    watched: Watched,
    fd: OwnedFd,
}

/// A socket's place, which is its thread's.
#[derive(Debug)]
struct Watched {
    place: u32,
    not_send: PhantomData<*const ()>,
}

impl Socket {
    /// Watches a connection, which is non-blocking.
    ///
    /// # Errors
    /// epoll_ctl(2) refuses: no memory, or fs.epoll.max_user_watches is reached.
    pub fn connection(fd: OwnedFd) -> io::Result<Self> {
        Self::watch(fd, CONNECTION)
    }

    /// Watches a descriptor that only becomes readable.
    ///
    /// # Errors
    /// As [`Self::connection`].
    pub fn reader(fd: OwnedFd) -> io::Result<Self> {
        Self::watch(fd, READER)
    }

    /// Watches a listening socket that other threads watch, too: a connection wakes one of them.
    ///
    /// # Errors
    /// As [`Self::connection`].
    pub fn listener(fd: OwnedFd) -> io::Result<Self> {
        Self::watch(fd, LISTENER)
    }

    fn watch(fd: OwnedFd, events: EventFlags) -> io::Result<Self> {
        with(|runtime| {
            let (place, token) = runtime.sockets.take_place();
            let socket = Self { watched: Watched { place, not_send: PhantomData }, fd };
            epoll::add(&runtime.sockets.epoll, &socket.fd, token, events)?;
            Ok(socket)
        })
    }

    /// The descriptor.
    pub fn get_ref(&self) -> &OwnedFd {
        &self.fd
    }

    /// The descriptor, which nobody watches any more.
    pub fn into_inner(self) -> OwnedFd {
        // It was added, and stays open.
        let _ = with(|runtime| epoll::delete(&runtime.sockets.epoll, &self.fd));
        self.fd
    }

    #[cfg(test)]
    pub(super) fn place(&self) -> u32 {
        self.watched.place
    }

    /// What is known.
    pub fn readiness(&self) -> Readiness {
        with(|runtime| runtime.sockets.places.borrow().all[self.watched.place as usize].ready)
    }

    /// Whether there is something to receive, or the end.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<Readiness> {
        self.poll(cx, Readiness::INPUT)
    }

    /// Whether there is room to send, or an error.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<Readiness> {
        self.poll(cx, Readiness::ROOM)
    }

    /// Waits until there is something to receive, or the end.
    pub async fn readable(&self) -> Readiness {
        poll_fn(|cx| self.poll_read_ready(cx)).await
    }

    /// Waits until there is room to send, or an error.
    pub async fn writable(&self) -> Readiness {
        poll_fn(|cx| self.poll_write_ready(cx)).await
    }

    /// Whether there is an error to tell.
    pub fn poll_failed(&self, cx: &mut Context<'_>) -> Poll<Readiness> {
        self.poll(cx, Readiness::ERROR)
    }

    /// Waits until there is an error to tell.
    pub async fn failed(&self) {
        poll_fn(|cx| self.poll_failed(cx)).await;
    }

    /// Nothing more is there: the next to wait waits until the kernel says otherwise. An end stays.
    pub fn clear_read_ready(&self) {
        self.clear(Readiness::READABLE);
    }

    /// There is no room: the next to wait waits until the kernel says otherwise.
    pub fn clear_write_ready(&self) {
        self.clear(Readiness::WRITABLE);
    }

    fn clear(&self, bit: u8) {
        with(|runtime| runtime.sockets.places.borrow_mut().all[self.watched.place as usize].ready.0 &= !bit);
    }

    fn poll(&self, cx: &mut Context<'_>, awaited: u8) -> Poll<Readiness> {
        with(|runtime| {
            let place = &mut runtime.sockets.places.borrow_mut().all[self.watched.place as usize];
            if place.ready.0 & awaited != 0 {
                return Poll::Ready(place.ready);
            }
            place.awaited |= awaited;
            if !place.waker.as_ref().is_some_and(|before| before.will_wake(cx.waker())) {
                place.waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
    }
}

impl Drop for Watched {
    /// The kernel forgets the socket when it is closed, right after this (epoll(7), question 6).
    fn drop(&mut self) {
        if_there(|runtime| runtime.sockets.give_back(self.place));
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Sockets {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, places: RefCell::default() })
    }

    /// Hears of calls by other threads.
    pub(super) fn hear_calls(&self, event: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, event, EventData::new_u64(CALLS), READER)?)
    }

    fn take_place(&self) -> (u32, EventData) {
        let places = &mut *self.places.borrow_mut();
        let number = places.free.pop().unwrap_or_else(|| {
            places.all.push(Place::default());
            places.all.len() as u32 - 1
        });
        let generation = places.all[number as usize].generation;
        (number, EventData::new_u64(u64::from(generation) << 32 | u64::from(number)))
    }

    fn give_back(&self, number: u32) {
        let places = &mut *self.places.borrow_mut();
        let place = &mut places.all[number as usize];
        *place = Place { generation: place.generation.wrapping_add(1) & (u32::MAX >> 1), ..Place::default() };
        places.free.push(number);
    }

    /// Waits for events, no longer than so long, and wakes who waits for them; whether another thread has called.
    pub(super) fn wait(&self, patience: Option<Duration>) -> io::Result<bool> {
        let patience = patience.map(|patience| Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        });
        let mut events = [const { MaybeUninit::uninit() }; BATCH];
        let (events, _) = match epoll::wait(&self.epoll, &mut events, patience.as_ref()) {
            Err(Errno::INTR) => return Ok(false),
            waited => waited?,
        };
        let mut is_called = false;
        for event in &*events {
            match event.data.u64() {
                CALLS => is_called = true,
                token => self.note(token, Readiness::of(event.flags)),
            }
        }
        Ok(is_called)
    }

    fn note(&self, token: u64, ready: Readiness) {
        let (number, generation) = (token as u32, (token >> 32) as u32);
        let places = &mut *self.places.borrow_mut();
        // Who has left, and is open elsewhere, goes on to be heard.
        let Some(place) = places.all.get_mut(number as usize).filter(|place| place.generation == generation)
        else {
            return;
        };
        place.ready.0 |= ready.0;
        if place.ready.0 & place.awaited != 0 {
            place.awaited = 0;
            if let Some(waker) = &place.waker {
                waker.wake_by_ref();
            }
        }
    }
}
