// SPDX-License-Identifier: MIT OR Apache-2.0
//! At which interfaces the programs are, as interfaces come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{AttachError, Attachment, Packet};
use crate::net;

/// Bytes that packets have over loopback, whatever that takes: segments are no larger than half of the first window, which is 64 KiB at most
/// (include/net/tcp.h, tcp_bound_to_half_wnd).
const LOOPBACK_BYTES: u32 = 1 << 15;

/// What the header of IP can say of a packet's length; a larger one of IPv6 has another header for that (RFC 2675 section 2), which programs do not translate.
const PACKET_BYTES: u32 = 1 << 16;

/// Most interfaces that are gone whose names are known, the latest: they have the highest numbers.
const GONE_MAX: usize = 1_024;

/// Stands for all interfaces where it is said why the programs are not there: none has this number.
const ALL: u32 = 0;

/// The interfaces at which the programs are to be. Dropping it takes them off, unless somebody keeps them.
#[derive(Debug)]
pub struct Interfaces {
    packet: Arc<Packet>,
    /// `packet-interfaces`; empty: all but loopback.
    names: Vec<Arc<str>>,
    /// At how many they are at most.
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    attachments: Vec<Attachment>,
    /// The names of those that are gone, by number.
    gone: BTreeMap<u32, String>,
    /// Those of which it was said why the programs are not there.
    told: BTreeSet<u32>,
    /// Those of which it was said that they make packets of several that are too large.
    told_large: BTreeSet<u32>,
    /// Kernel or process lacked something when one was to be taken.
    lacks: bool,
    /// Bytes of packets of which clients are told, if the narrowest interface says so: see [`Interfaces::narrowest`].
    told_bytes: Option<u32>,
    /// The programs are to be nowhere any more.
    is_over: bool,
}

impl Interfaces {
    /// At none yet. `names`: where they are to be; empty: wherever they can, but for loopback. `most`: at how many; a link takes two descriptors.
    pub fn new(packet: Arc<Packet>, names: Vec<Arc<str>>, most: usize) -> Self {
        Self { packet, names, most, state: Mutex::default() }
    }

    /// Attaches the programs to all that are there; where flows are left, also to those where another agent was, for they may need them. Nothing
    /// else of that agent's stays at an interface.
    ///
    /// # Errors
    /// An interface that was asked for has packets that the programs do not understand, or the kernel refuses one.
    pub fn take_all(&self, has_flows: bool) -> Result<(), AttachError> {
        let mut state = self.state();
        for name in &self.names {
            match self.attach(&mut state, name) {
                Err(error @ AttachError::NoInterface { .. }) => {
                    tracing::warn!(%error, "path packet takes an interface of packet-interfaces once it is there");
                }
                attached => attached?,
            }
        }
        if self.names.is_empty() {
            for name in net::interfaces().map_err(AttachError::Unknown)? {
                match self.attach(&mut state, &name) {
                    // One of another kind is left alone, and one may have just gone.
                    Err(AttachError::LinkType { .. } | AttachError::NoInterface { .. }) => {}
                    Err(_) if is_absent(&net::interface_number(&name)) => {}
                    Err(error @ AttachError::TooMany { .. }) => {
                        self.leave_out(&mut state, ALL, error);
                        break;
                    }
                    attached => attached?,
                }
            }
        }
        if has_flows {
            for name in self.packet.left_interfaces() {
                // One that has just gone has no packets.
                let _ = self.attach(&mut state, &name);
            }
        }
        self.packet.detach_rest();
        state.told_bytes = self.narrowest_of(&state);
        Ok(())
    }

    /// Whether the programs are at an interface, by its number: they are from here on, if they are to be and can be.
    pub fn take(&self, number: u32) -> bool {
        let mut state = self.state();
        if state.is_over {
            return false;
        }
        // Another one may have its number before that is heard of.
        self.bury_gone(&mut state, |at| at.number() == number);
        if let Some(attachment) = state.attachments.iter_mut().find(|at| at.number() == number) {
            attachment.measure();
            self.tell_if_narrow(&mut state);
            self.tell_if_large(&mut state, number);
            return true;
        }
        let attached = match self.wanted(number) {
            Ok(Some(name)) => self.attach(&mut state, &name).map(|()| name),
            Ok(None) => return false,
            Err(error) => Err(error),
        };
        match attached {
            Ok(name) => {
                state.told.remove(&number);
                tracing::info!(interface = name, "path packet takes an interface that has come");
                self.tell_if_narrow(&mut state);
            }
            Err(error @ AttachError::TooMany { .. }) => self.leave_out(&mut state, ALL, error),
            Err(error) => self.leave_out(&mut state, number, error),
        }
        state.is_at(number)
    }

    /// The number of the interface that has the name of one that is gone, if the programs are there.
    pub fn successor(&self, gone: u32) -> Option<u32> {
        let name = {
            let mut state = self.state();
            self.bury_gone(&mut state, |at| at.number() == gone);
            state.gone.get(&gone).filter(|_| !state.is_at(gone))?.clone()
        };
        let number = net::interface_number(&name).ok()?;
        self.take(number).then_some(number)
    }

    /// Lets go of an interface that is gone, if it is: that may have been heard of late, when another one has its number.
    pub fn let_go(&self, number: u32) {
        let mut state = self.state();
        state.told.remove(&number);
        self.bury_gone(&mut state, |at| at.number() == number);
    }

    /// Lets go of those that are gone, and takes those that have come, without having heard of them.
    pub fn look(&self) {
        {
            let mut state = self.state();
            self.bury_gone(&mut state, |_| true);
            state.told.retain(|number| *number == ALL || !is_absent(&net::interface_name(*number)));
            state.lacks = false;
        }
        let named = || Ok(self.names.iter().map(|name| name.to_string()).collect());
        let all = if self.names.is_empty() { net::interfaces() } else { named() };
        let numbers = all.and_then(|all| {
            let numbers =
                all.iter().map(|name| net::interface_number(name)).filter(|found| !is_absent(found));
            numbers.collect::<Result<Vec<_>, _>>()
        });
        match numbers {
            Ok(numbers) => numbers.into_iter().for_each(|number| {
                self.take(number);
            }),
            Err(error) => self.leave_out(&mut self.state(), ALL, AttachError::Unknown(error)),
        }
        let mut state = self.state();
        if !state.lacks {
            state.told.remove(&ALL);
        }
    }

    /// Whether kernel or process lacked something when one was to be taken: a later look may find more.
    pub fn lacks(&self) -> bool {
        self.state().lacks
    }

    /// Whether they are at loopback, and are to be. Flows of an agent that wanted it may need them there, and no new one does.
    pub fn has_loopback(&self) -> bool {
        let is_loopback =
            |name: &Arc<str>| net::interface_number(name).is_ok_and(|number| number == net::LOOPBACK);
        self.state().is_at(net::LOOPBACK) && self.names.iter().any(is_loopback)
    }

    /// At how many interfaces they are.
    pub fn count(&self) -> usize {
        self.state().attachments.len()
    }

    /// Bytes that packets may have at the narrowest of `packet-interfaces`, if others take more. `None`: all take as much, or none is named: of those that
    /// happen to be there, most have nothing to do with the path.
    pub fn narrowest(&self) -> Option<u32> {
        self.narrowest_of(&self.state())
    }

    fn narrowest_of(&self, state: &State) -> Option<u32> {
        let least = state.attachments.iter().map(used_bytes).min().filter(|_| !self.names.is_empty())?;
        state.attachments.iter().any(|at| at.mtu() > least).then_some(least)
    }

    /// Takes the programs off wherever they are, for good.
    pub fn detach(&self) {
        let mut state = self.state();
        state.is_over = true;
        state.attachments.drain(..).for_each(Attachment::detach);
    }

    /// The name of an interface, if the programs are to be there.
    fn wanted(&self, number: u32) -> Result<Option<String>, AttachError> {
        if self.names.is_empty() {
            let name = present(net::interface_name(number))?;
            return Ok(name.filter(|_| number != net::LOOPBACK));
        }
        // One may have several names, by each of which it can be meant.
        for name in &self.names {
            if present(net::interface_number(name))? == Some(number) {
                return Ok(Some(name.to_string()));
            }
        }
        Ok(None)
    }

    /// Attaches the programs, unless they are there.
    fn attach(&self, state: &mut State, name: &str) -> Result<(), AttachError> {
        if net::interface_number(name).is_ok_and(|number| state.is_at(number)) {
            return Ok(());
        }
        if state.attachments.len() >= self.most {
            return Err(AttachError::TooMany { most: self.most });
        }
        let attachment = self.packet.attach(name)?;
        let number = attachment.number();
        state.attachments.push(attachment);
        self.tell_if_large(state, number);
        Ok(())
    }

    /// Says so if an interface makes packets of several that are too large, once until it does not any more.
    fn tell_if_large(&self, state: &mut State, number: u32) {
        let Some(attachment) = state.attachments.iter().find(|at| at.number() == number) else { return };
        let Some(bytes) = self.packet.received_bytes(attachment) else { return };
        if bytes <= PACKET_BYTES {
            state.told_large.remove(&number);
        } else if state.told_large.insert(number) {
            tracing::warn!(
                interface = attachment.name(),
                bytes,
                "path packet loses IPv6 packets that an interface makes of several and that are larger than IP's headers can say: set gro_max_size to 65536 there (ip-link(8))"
            );
        }
    }

    /// Says so if an interface takes less than clients are told of, once for each size: listeners tell them what was so at the start.
    fn tell_if_narrow(&self, state: &mut State) {
        let narrowest = self.narrowest_of(state);
        if let Some(bytes) = narrowest.filter(|bytes| *bytes < state.told_bytes.unwrap_or(u32::MAX)) {
            state.told_bytes = narrowest;
            tracing::warn!(
                bytes,
                "an interface of packet-interfaces takes smaller packets than clients are told of where no mss is written: until lb starts anew, flows over it are carried by splice and copy"
            );
        }
    }

    /// Lets go of those that are gone, of those that are meant.
    fn bury_gone(&self, state: &mut State, is_meant: impl Fn(&Attachment) -> bool) {
        for attachment in state.attachments.extract_if(.., |at| is_meant(at) && self.packet.is_gone(at)) {
            tracing::info!(interface = attachment.name(), "an interface of path packet is gone");
            state.gone.insert(attachment.number(), attachment.name().to_owned());
            state.told_large.remove(&attachment.number());
            self.packet.bury(attachment);
        }
        while state.gone.len() > GONE_MAX {
            state.gone.pop_first();
        }
    }

    /// Notes that the programs are not at an interface that has come, and says why, once.
    fn leave_out(&self, state: &mut State, number: u32, error: AttachError) {
        // It has gone meanwhile.
        if number != ALL && is_absent(&net::interface_name(number)) {
            return;
        }
        state.lacks |= !matches!(error, AttachError::LinkType { .. } | AttachError::NoInterface { .. });
        if state.told.insert(number) {
            self.tell(error);
        }
    }

    /// Says why the programs are not at an interface that has come.
    fn tell(&self, error: AttachError) {
        if self.names.is_empty() && matches!(error, AttachError::LinkType { .. }) {
            return tracing::debug!(%error, "path packet leaves an interface out");
        }
        let error = anyhow::Error::new(error);
        tracing::warn!("flows over an interface are carried by splice and copy: {error:#}");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that sockets let packets have at an interface.
fn used_bytes(at: &Attachment) -> u32 {
    if at.number() == net::LOOPBACK { at.mtu().min(LOOPBACK_BYTES) } else { at.mtu() }
}

impl State {
    fn is_at(&self, number: u32) -> bool {
        self.attachments.iter().any(|at| at.number() == number)
    }
}

/// What was found out of an interface; `None`: there is none.
fn present<T>(found: io::Result<T>) -> Result<Option<T>, AttachError> {
    match found {
        Err(error) if net::is_absence(&error) => Ok(None),
        found => found.map(Some).map_err(AttachError::Unknown),
    }
}

/// Whether it was found out that there is no such interface.
fn is_absent<T>(found: &io::Result<T>) -> bool {
    found.as_ref().is_err_and(net::is_absence)
}
