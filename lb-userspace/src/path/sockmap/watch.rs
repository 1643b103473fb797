// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ends of flows that run inside the kernel. A socket that the runtime watched would wake the worker for every segment, because
//! the kernel reports received bytes also where a program has taken them (net/core/skmsg.c, sk_psock_verdict_data_ready). So a worker
//! has a second epoll instance, which hears of ends alone, and which the runtime watches.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::Waker;

use rustix::event::epoll::{self, EventData, EventFlags};

use crate::runtime::Socket;

/// What is always heard: an end, once.
const ENDS: EventFlags =
    EventFlags::RDHUP.union(EventFlags::ERR).union(EventFlags::HUP).union(EventFlags::ET);

/// Events of one system call.
const BATCH: usize = 64;

/// The sockets that a worker watches.
#[derive(Debug)]
pub struct Watch {
    epoll: OwnedFd,
    flows: RefCell<HashMap<u32, Rc<Heard>>>,
}

/// What has been heard of a flow's sockets.
#[derive(Debug, Default)]
pub struct Heard {
    sides: [Cell<EventFlags>; 2],
    waker: RefCell<Option<Waker>>,
}

/// The watch of one flow. To be dropped before its sockets.
#[derive(Debug)]
pub struct Watched {
    watch: Rc<Watch>,
    number: u32,
    heard: Rc<Heard>,
    wishes: [Cell<EventFlags>; 2],
}

impl Watch {
    /// An instance of this worker. [`Self::serve`] must run.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn new() -> io::Result<Rc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Rc::new(Self { epoll, flows: RefCell::default() }))
    }

    /// Tells flows what is heard, for ever.
    ///
    /// # Errors
    /// The runtime cannot watch the instance.
    pub async fn serve(self: Rc<Self>) -> io::Result<()> {
        let instance = Socket::reader(self.epoll.try_clone()?)?;
        loop {
            instance.readable().await;
            if !self.hear()? {
                instance.clear_read_ready();
            }
        }
    }

    /// Passes on one batch; whether there may be more.
    fn hear(&self) -> io::Result<bool> {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; BATCH];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let (events, _) = match epoll::wait(&self.epoll, &mut events, Some(&now)) {
            Ok(events) => events,
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        };
        for event in &*events {
            let (key, flags) = (event.data.u64(), event.flags);
            let flows = self.flows.borrow();
            // A flow that has ended takes its sockets with it.
            let Some(heard) = u32::try_from(key / 2).ok().and_then(|number| flows.get(&number)) else {
                continue;
            };
            let side = &heard.sides[(key % 2) as usize];
            side.set(side.get() | flags);
            if let Some(waker) = &*heard.waker.borrow() {
                waker.wake_by_ref();
            }
        }
        Ok(events.len() == BATCH)
    }

    /// Begins to watch the sockets of the flow with this number, client's first.
    ///
    /// # Errors
    /// epoll_ctl(2) refuses: no memory, or fs.epoll.max_user_watches is reached.
    pub fn add(self: &Rc<Self>, number: u32, sockets: &[OwnedFd; 2]) -> io::Result<Watched> {
        let heard = Rc::new(Heard::default());
        self.flows.borrow_mut().insert(number, Rc::clone(&heard));
        let watched = Watched { watch: Rc::clone(self), number, heard, wishes: Default::default() };
        for (side, socket) in sockets.iter().enumerate() {
            if let Err(errno) = epoll::add(&self.epoll, socket, watched.key(side), ENDS) {
                watched.end(sockets);
                return Err(errno.into());
            }
        }
        Ok(watched)
    }
}

impl Watched {
    /// What has been heard since the last time that this was asked, client's side first.
    pub fn take(&self) -> [EventFlags; 2] {
        self.heard.sides.each_ref().map(|side| side.replace(EventFlags::empty()))
    }

    /// Whom to wake from now on.
    pub fn listen(&self, waker: &Waker) {
        let mut listening = self.heard.waker.borrow_mut();
        if !listening.as_ref().is_some_and(|before| before.will_wake(waker)) {
            *listening = Some(waker.clone());
        }
    }

    /// Also hears of these, besides ends; what holds already is reported at once. A wish that stands costs nothing.
    pub fn wish(&self, side: usize, socket: impl AsFd, wish: EventFlags) {
        if self.wishes[side].replace(wish) != wish {
            // The socket is registered as long as it is open.
            let _ = epoll::modify(&self.watch.epoll, socket, self.key(side), ENDS | wish);
        }
    }

    /// Ends the watch of sockets that stay open.
    pub fn end(self, sockets: &[OwnedFd; 2]) {
        for socket in sockets {
            // It was added.
            let _ = epoll::delete(&self.watch.epoll, socket);
        }
    }

    fn key(&self, side: usize) -> EventData {
        EventData::new_u64(u64::from(self.number) * 2 + side as u64)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.flows.borrow_mut().remove(&self.number);
    }
}
