// SPDX-License-Identifier: MIT OR Apache-2.0
//! By what programs are at interfaces, those included that another agent has left: they make way without missing a packet.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, qdisc_add_clsact};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use rustix::io::Errno;

use super::kept::{self, Found, Keeper};
use crate::kernel::bpf::{self, NewMap};
use crate::net;
use crate::net::routes::{Filter, Routes};

/// Most filters that are written down: two an interface.
const FILTERS_MAX: u32 = 1_024;

/// An interface.
pub struct Place<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number.
    pub number: u32,
}

/// Which packets of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Those that come in.
    Ingress,
    /// Those that go out.
    Egress,
}

/// By what a program is at an interface.
#[derive(Debug)]
pub enum Hook {
    /// A link of tcx: the program stays as long as somebody has it.
    Link {
        /// That link.
        link: OwnedFd,
    },
    /// A filter: the program stays until it is taken off.
    Filter {
        /// Where it is.
        link: Option<SchedClassifierLink>,
        /// See [`Filter::parent`].
        parent: u32,
        /// Whether it stays when this is dropped.
        is_kept: bool,
    },
}

/// What is known of programs at interfaces besides those that this agent has attached.
#[derive(Default)]
pub struct Hooks {
    /// Links that another agent has left, by name.
    left: Found,
    /// The names of links that are kept.
    kept: BTreeSet<String>,
    /// Where filters are, by interface and direction: their priority and their handle.
    filters: Option<Filters>,
}

struct Filters {
    fd: OwnedFd,
    map: HashMap<MapData, [u32; 2], [u32; 2]>,
}

impl Hooks {
    /// Those of nobody, and nothing is written down.
    pub fn none() -> Self {
        Self::default()
    }

    /// Those of nobody.
    ///
    /// # Errors
    /// The kernel refuses a map.
    pub fn empty() -> io::Result<Self> {
        let map = NewMap {
            kind: bpf::HASH,
            key: size_of::<[u32; 2]>() as u32,
            value: size_of::<[u32; 2]>() as u32,
            entries: FILTERS_MAX,
            flags: bpf::NO_PREALLOC,
            name: bpf::name("lb_filters"),
            ..NewMap::default()
        };
        let filters = (!has_tcx()).then(|| bpf::create(map).map(Filters::of)).transpose()?.flatten();
        Ok(Self { filters, ..Self::default() })
    }

    /// Those that another agent has left.
    pub fn found(found: &mut Found) -> Self {
        let filters = found.remove(kept::FILTERS).and_then(Filters::of);
        let left = found.extract_if(.., |name, _| Direction::of(name).is_some()).collect();
        Self { left, kept: BTreeSet::new(), filters }
    }

    /// The map that says where filters are.
    pub fn filters(&self) -> Option<BorrowedFd<'_>> {
        self.filters.as_ref().map(|filters| filters.fd.as_fd())
    }

    /// The names of all links.
    pub fn names(&self) -> Vec<String> {
        self.left.keys().chain(&self.kept).cloned().collect()
    }

    /// See [`super::Packet::left_interfaces`].
    pub fn left_interfaces(&self) -> Vec<String> {
        let links = self.left.keys().filter_map(|name| Direction::of(name)).map(|(_, number)| number);
        let filters = self.left_filters().into_iter().map(|(_, number)| number);
        let numbers: BTreeSet<u32> = links.chain(filters).collect();
        numbers.into_iter().filter_map(|number| net::interface_name(number).ok()).collect()
    }

    /// See [`super::Packet::detach_rest`].
    pub fn detach_rest(&mut self, keeper: &Keeper) {
        for name in std::mem::take(&mut self.left).keys() {
            keeper.forget(name);
        }
        for (direction, number) in self.left_filters() {
            if let Some(filters) = &mut self.filters {
                filters.take_off(direction, number);
            }
        }
    }

    /// Forgets what was at an interface that is gone. Another one may have its number by now.
    pub fn bury(&mut self, keeper: &Keeper, interface: u32) {
        for direction in [Direction::Ingress, Direction::Egress] {
            let name = direction.name(interface);
            if self.kept.remove(&name) {
                keeper.forget(&name);
            }
            if let Some(filters) = &mut self.filters {
                // What is not there is forgotten.
                let _ = filters.map.remove(&[interface, direction as u32]);
            }
        }
    }

    /// Where filters are that another agent has left, and that have not made way.
    fn left_filters(&self) -> Vec<(Direction, u32)> {
        let all = self.filters.iter().flat_map(|filters| filters.map.keys().flatten());
        let places = all.filter_map(|[number, direction]| Some((Direction::from_number(direction)?, number)));
        places.filter(|(direction, number)| !self.kept.contains(&direction.name(*number))).collect()
    }

    /// Puts a program at an interface.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hook(
        &mut self,
        ebpf: &mut Ebpf,
        program: &'static str,
        keeper: &Keeper,
        place: &Place<'_>,
        direction: Direction,
    ) -> Result<Hook, ProgramError> {
        let program = ebpf.program_mut(program).ok_or(ProgramError::NotLoaded)?;
        let program: &mut SchedClassifier = program.try_into()?;
        if has_tcx() {
            self.link(program, keeper, place, direction)
        } else {
            self.filter(program, keeper, place, direction)
        }
    }

    /// Puts a program at an interface by a link: the one that is there, or else a new one.
    fn link(
        &mut self,
        program: &SchedClassifier,
        keeper: &Keeper,
        place: &Place<'_>,
        direction: Direction,
    ) -> Result<Hook, ProgramError> {
        let (program, name) = (program.fd()?, direction.name(place.number));
        let left = self.left.remove(&name).filter(|link| bpf::relink(link, program).is_ok());
        let link = match left {
            Some(link) => link,
            None => {
                let link =
                    bpf::link(program, place.number, direction.kind()).map_err(ProgramError::IOError)?;
                keeper.keep(&name, &link).map_err(ProgramError::IOError)?;
                link
            }
        };
        self.kept.insert(name);
        Ok(Hook::Link { link })
    }

    /// Puts a program at an interface as a filter: in the place of the one that is there, or else as a new one.
    fn filter(
        &mut self,
        program: &mut SchedClassifier,
        keeper: &Keeper,
        place: &Place<'_>,
        direction: Direction,
    ) -> Result<Hook, ProgramError> {
        add_clsact(place.name)?;
        let (key, attach_type) = ([place.number, direction as u32], direction.attach_type());
        let there = self.filters.as_ref().and_then(|filters| filters.map.get(&key, 0).ok());
        let there = there.and_then(|[priority, handle]| {
            let priority = u16::try_from(priority).ok()?;
            SchedClassifierLink::attached(place.name, attach_type, priority, handle.into(), None).ok()
        });
        let replaced = there.and_then(|there| program.attach_to_link(there).ok());
        self.kept.insert(direction.name(place.number));
        let id = match replaced {
            Some(id) => id,
            None => {
                let options = TcAttachOptions::Netlink(NlOptions::default());
                program.attach_with_options(place.name, attach_type, options)?
            }
        };
        let link = program.take_link(id)?;
        if let Some(filters) = &mut self.filters {
            let value = [link.priority()?.into(), link.handle()?.into()];
            filters.map.insert(key, value, 0).map_err(ProgramError::MapError)?;
        }
        Ok(Hook::Filter { link: Some(link), parent: direction.parent(), is_kept: keeper.keeps() })
    }
}

impl Filters {
    /// Takes one off, and forgets it.
    fn take_off(&mut self, direction: Direction, number: u32) {
        let key = [number, direction as u32];
        let Ok([priority, handle]) = self.map.get(&key, 0) else { return };
        if let (Ok(name), Ok(priority)) = (net::interface_name(number), u16::try_from(priority)) {
            let attach_type = direction.attach_type();
            // Dropped at once; what is gone is off.
            drop(SchedClassifierLink::attached(&name, attach_type, priority, handle.into(), None));
        }
        let _ = self.map.remove(&key);
    }

    fn of(fd: OwnedFd) -> Option<Self> {
        let map = MapData::from_fd(fd.try_clone().ok()?).ok()?;
        Some(Self { fd, map: Map::HashMap(map).try_into().ok()? })
    }
}

impl Hook {
    /// Takes the program off, whoever keeps it.
    pub fn detach(mut self) {
        if let Self::Filter { is_kept, .. } = &mut self {
            *is_kept = false;
        }
    }

    /// Whether it is not at an interface with this number any more: only if the kernel says so.
    pub fn is_gone(&self, interface: u32, routes: &Routes) -> bool {
        match self {
            // One that has moved to another network namespace has taken the link along.
            Self::Link { link } => {
                bpf::linked(link).is_ok_and(|number| number != interface) || routes.is_absent(interface)
            }
            Self::Filter { link, parent, .. } => {
                let place = link.as_ref().and_then(|link| Some((link.priority().ok()?, link.handle().ok()?)));
                place.is_some_and(|(priority, handle)| {
                    let (parent, handle) = (*parent, handle.into());
                    routes.is_without(&Filter { interface, parent, priority, handle })
                })
            }
        }
    }

    /// Forgets it: the interface has gone, and the program with it.
    pub fn bury(mut self) {
        if let Self::Filter { is_kept, .. } = &mut self {
            // Nothing is to be taken off.
            *is_kept = true;
        }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        if let Self::Filter { link, is_kept: true, .. } = self {
            // It would take the program off.
            std::mem::forget(link.take());
        }
    }
}

impl Direction {
    /// The name of the link at an interface with this number.
    pub fn name(self, interface: u32) -> String {
        match self {
            Self::Ingress => format!("ingress-{interface}"),
            Self::Egress => format!("egress-{interface}"),
        }
    }

    /// What has a name, and where.
    fn of(name: &str) -> Option<(Self, u32)> {
        let (direction, number) = name.split_once('-')?;
        let direction = match direction {
            "ingress" => Self::Ingress,
            "egress" => Self::Egress,
            _ => return None,
        };
        Some((direction, number.parse().ok()?))
    }

    /// As the map of filters has it.
    fn from_number(number: u32) -> Option<Self> {
        [Self::Ingress, Self::Egress].into_iter().find(|direction| *direction as u32 == number)
    }

    fn kind(self) -> u32 {
        match self {
            Self::Ingress => bpf::TCX_INGRESS,
            Self::Egress => bpf::TCX_EGRESS,
        }
    }

    fn parent(self) -> u32 {
        match self {
            Self::Ingress => Filter::INGRESS,
            Self::Egress => Filter::EGRESS,
        }
    }

    fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").field("left", &self.left).field("kept", &self.kept).finish_non_exhaustive()
    }
}

/// Takes the programs off that are filters, by the map that says where they are.
pub fn take_off(filters: OwnedFd) {
    let Some(mut filters) = Filters::of(filters) else { return };
    let all: Vec<[u32; 2]> = filters.map.keys().flatten().collect();
    for [number, direction] in all {
        if let Some(direction) = Direction::from_number(direction) {
            filters.take_off(direction, number);
        }
    }
}

/// Whether the kernel has links for these programs: since 6.6.
pub(super) fn has_tcx() -> bool {
    #[cfg(test)]
    if WITHOUT_LINKS.get() {
        return false;
    }
    KernelVersion::current().is_ok_and(|version| version.code() >= 0x0006_0600)
}

#[cfg(test)]
thread_local! {
    /// Whether this thread takes the kernel for an older one.
    pub static WITHOUT_LINKS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Makes the discipline that filters belong to, if it is not there. It stays: others may use it by then.
fn add_clsact(interface: &str) -> Result<(), TcError> {
    match qdisc_add_clsact(interface) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_name_tells_where_it_is() {
        for direction in [Direction::Ingress, Direction::Egress] {
            assert_eq!(Direction::of(&direction.name(17)), Some((direction, 17)));
        }
        assert_eq!([Direction::of("layout"), Direction::of("ingress-"), Direction::of("keys-1")], [None; 3]);
    }
}
