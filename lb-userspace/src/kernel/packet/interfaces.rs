// SPDX-License-Identifier: MIT OR Apache-2.0
//! At which interfaces the programs are, as interfaces come and go.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{AttachError, Attachment, Packet};
use crate::net;

/// Bytes that packets have over loopback, whatever that takes: segments are no larger than half of the first window, which is 64 KiB at most
/// (include/net/tcp.h, tcp_bound_to_half_wnd).
const LOOPBACK_BYTES: u32 = 1 << 15;

/// The interfaces at which the programs are to be. Dropping it takes them off, unless somebody keeps them.
#[derive(Debug)]
pub struct Interfaces {
    packet: Arc<Packet>,
    /// `packet-interfaces`; empty: all but loopback.
    names: Vec<Arc<str>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    attachments: Vec<Attachment>,
    /// Those that are there, and at which the programs cannot be.
    left_out: BTreeSet<u32>,
    /// The programs are to be nowhere any more.
    is_over: bool,
}

impl Interfaces {
    /// At none yet. `names`: where they are to be; empty: wherever they can, but for loopback.
    pub fn new(packet: Arc<Packet>, names: Vec<Arc<str>>) -> Self {
        Self { packet, names, state: Mutex::default() }
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
            for name in net::interfaces().unwrap_or_default() {
                let attached = self.attach(&mut state, &name);
                // One of another kind is left alone, and one may have just gone.
                if matches!(attached, Err(AttachError::Refused { .. }))
                    && net::interface_number(&name).is_ok()
                {
                    return attached;
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
        Ok(())
    }

    /// Whether the programs are at an interface, by its number: they are from here on, if they are to be and can be.
    pub fn take(&self, number: u32) -> bool {
        let mut state = self.state();
        if state.is_over || state.is_at(number) {
            return !state.is_over;
        }
        if state.left_out.contains(&number) {
            return false;
        }
        let Some(name) = self.wanted(number) else { return false };
        match self.attach(&mut state, &name) {
            Ok(()) => tracing::info!(interface = name, "path packet takes an interface that has come"),
            // It has gone meanwhile.
            Err(_) if net::interface_name(number).is_err() => {}
            Err(error) => {
                state.left_out.insert(number);
                self.tell(error);
            }
        }
        state.is_at(number)
    }

    /// Lets go of an interface that is gone.
    pub fn let_go(&self, number: u32) {
        let mut state = self.state();
        state.left_out.remove(&number);
        let Some(index) = state.attachments.iter().position(|at| at.number() == number) else { return };
        let attachment = state.attachments.swap_remove(index);
        tracing::info!(interface = attachment.name(), "an interface of path packet is gone");
        self.packet.bury(attachment);
    }

    /// Lets go of those that are gone, and takes those that have come, without having heard of them.
    pub fn look(&self) {
        let numbers = self.state().attachments.iter().map(Attachment::number).collect::<Vec<_>>();
        let is_gone = |number: &u32| net::interface_name(*number).is_err();
        numbers.into_iter().filter(is_gone).for_each(|number| self.let_go(number));
        let named = self.names.iter().map(|name| name.to_string());
        let all = if self.names.is_empty() { net::interfaces().unwrap_or_default() } else { named.collect() };
        for number in all.iter().filter_map(|name| net::interface_number(name).ok()) {
            self.take(number);
        }
    }

    /// Whether they are at loopback, which only who has named it wants.
    pub fn has_loopback(&self) -> bool {
        self.state().is_at(net::LOOPBACK)
    }

    /// At how many interfaces they are.
    pub fn count(&self) -> usize {
        self.state().attachments.len()
    }

    /// Bytes that packets may have at the narrowest of `packet-interfaces`, if others take more. `None`: all take as much, or none is named: of those that
    /// happen to be there, most have nothing to do with the path.
    pub fn narrowest(&self) -> Option<u32> {
        let state = self.state();
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
    fn wanted(&self, number: u32) -> Option<String> {
        if self.names.is_empty() {
            return net::interface_name(number).ok().filter(|_| number != net::LOOPBACK);
        }
        // One may have several names, by each of which it can be meant.
        let is_meant = |name: &&Arc<str>| net::interface_number(name).is_ok_and(|found| found == number);
        self.names.iter().find(is_meant).map(|name| name.to_string())
    }

    /// Attaches the programs, unless they are there.
    fn attach(&self, state: &mut State, name: &str) -> Result<(), AttachError> {
        if net::interface_number(name).is_ok_and(|number| state.is_at(number)) {
            return Ok(());
        }
        state.attachments.push(self.packet.attach(name)?);
        Ok(())
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
