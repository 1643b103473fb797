// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens the kernel's side: on the maps that another agent has left, if this one understands them, or on new ones.
//!
//! The object says what maps its programs use, and programs know them by the numbers of descriptors until they are loaded. So the object's
//! maps are made first, as small as can be, and their descriptors then stand for the maps that are there.

use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use aya::maps::{Array, Map, MapData};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use lb_common::packet::flow::Side;
use lb_common::packet::record::{
    BELL_BYTES, BELLS_PER_SLOT, COUNTERS, PACKET_BELLS, PACKET_COUNTERS, PACKET_FLOWS, PACKET_KEYS,
};

use super::counters::Counters;
use super::hooks::{Hooks, take_off};
use super::kept::{self, Found, Incompatible, Keeper, KeptError, Layout};
use super::keys::{Keys, ends};
use super::ledger::{Ledger, Maps};
use super::records::Records;
use super::slots::{Orphan, Slots};
use super::{Bells, PROGRAMS, Packet, Programs, again};
use crate::kernel::{LoadError, absent, bpf, duplicate, from_map, from_program, take};
use crate::net;
use crate::net::claim::Claim;
use crate::net::routes::Routes;

/// Most slots: arrays, ring buffer and buckets of hash maps are memory that the kernel allocates at once, some 520 bytes each.
pub const SLOTS_LIMIT: u32 = 1 << 20;

/// The maps of the object that outlive the agent, by the names under which they do.
const SHARED: [(&str, &str); 4] = [
    (PACKET_KEYS, kept::KEYS),
    (PACKET_FLOWS, kept::FLOWS),
    (PACKET_BELLS, kept::BELLS),
    (PACKET_COUNTERS, kept::COUNTERS),
];

/// What outlives the agent besides programs.
pub const NAMES: [&str; 8] = [
    kept::LAYOUT,
    kept::KEYS,
    kept::FLOWS,
    kept::BELLS,
    kept::COUNTERS,
    kept::TALLIES,
    kept::STORIES,
    kept::FILTERS,
];

/// For what the kernel's side is opened.
#[derive(Clone, Debug)]
pub struct OpenTerms<'a> {
    /// So many flows at the same time, where nothing is there yet.
    pub flows: u32,
    /// `packet-ports`
    pub ports: RangeInclusive<u16>,
    /// `packet-state`
    pub state: Option<&'a Path>,
}

/// Why it is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What another agent has left cannot be used.
    #[error(transparent)]
    Kept(#[from] KeptError),
}

/// Makes slots of their memory.
type TakeSlots = fn(u32, Records, Ledger) -> (Arc<Slots>, Vec<Orphan>);

/// Loaded programs, on maps.
struct Loaded {
    ebpf: Ebpf,
    keys: OwnedFd,
    flows: OwnedFd,
    bells: OwnedFd,
    counters: OwnedFd,
}

impl Packet {
    /// Loads object, maps and programs for so many flows at the same time, and keeps nothing. Nothing is attached yet.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(object: &[u8], flows: u32) -> Result<(Self, Bells), LoadError> {
        let slots = flows.clamp(1, SLOTS_LIMIT);
        let loaded = Loaded::new(object, slots)?;
        let ledger = Maps::create(slots).map_err(LoadError::Memory)?;
        let keeper = Keeper::Nobody(kept::Why::Off);
        let (packet, bells, _) =
            Self::assemble(loaded, &ledger, slots, keeper, Hooks::none(), Slots::of_nobody)?;
        Ok((packet, bells))
    }

    /// Goes on with what another agent has left, or loads everything anew. Nothing is attached yet.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(object: &[u8], terms: &OpenTerms<'_>) -> Result<(Self, Bells, Vec<Orphan>), OpenError> {
        let (keeper, mut found) = Keeper::open(terms.state)?;
        let network = net::network();
        if let Some(other) = terms.state.and_then(|own| kept::overlapping(own, &terms.ports, network)) {
            if found.is_empty() {
                keeper.clear([]);
            }
            return Err(KeptError::Overlap { other }.into());
        }
        let claim = Claim::new(&terms.ports).map_err(|rival| {
            if found.is_empty() {
                keeper.clear([]);
            }
            KeptError::Claimed(rival)
        })?;
        let (place, way_out) = (keeper.to_string(), keeper.way_out());
        let incompatible = |found| KeptError::Incompatible { place: place.clone(), way_out, found };
        let judged = judge(&found, terms, network).map_err(incompatible)?;
        let Some(slots) = judged else {
            if let Some(filters) = found.remove(kept::FILTERS) {
                take_off(filters);
                keeper.forget(kept::FILTERS);
            }
            keeper.clear_all(&found);
            let (packet, bells, orphans) = Self::begin(object, terms, keeper, network)?;
            return Ok((packet.with(claim), bells, orphans));
        };
        let loaded = Loaded::on(object, &found)?;
        let ledger = ledger_of(&mut found).ok_or_else(|| incompatible(Incompatible::Foreign))?;
        let hooks = Hooks::found(&mut found);
        write_layout(found.get(kept::LAYOUT).map(AsFd::as_fd), &terms.layout(slots, network))?;
        keeper.keep(kept::COUNTERS, &loaded.counters).map_err(LoadError::Memory)?;
        let (packet, bells, orphans) = Self::assemble(loaded, &ledger, slots, keeper, hooks, Slots::inherit)?;
        if let Some(port) = orphans.iter().map(port).find(|port| !terms.ports.contains(port)) {
            orphans.iter().for_each(|orphan| orphan.slot.leave());
            return Err(incompatible(Incompatible::Port(port)).into());
        }
        packet.keys()?.reconcile(orphans.iter().map(|orphan| &orphan.slot));
        Ok((packet.with(claim), bells, orphans))
    }

    fn with(self, claim: Claim) -> Self {
        Self { claim: Some(claim), ..self }
    }

    /// Loads everything anew, and has it kept.
    fn begin(
        object: &[u8],
        terms: &OpenTerms<'_>,
        keeper: Keeper,
        network: u64,
    ) -> Result<(Self, Bells, Vec<Orphan>), OpenError> {
        let slots = terms.flows.clamp(1, SLOTS_LIMIT);
        let loaded = Loaded::new(object, slots)?;
        let ledger = Maps::create(slots).map_err(LoadError::Memory)?;
        let layout = kept::new_layout().map_err(LoadError::Memory)?;
        let hooks = Hooks::empty().map_err(LoadError::Memory)?;
        let mut all: Vec<(&str, BorrowedFd<'_>)> = vec![
            (kept::KEYS, loaded.keys.as_fd()),
            (kept::FLOWS, loaded.flows.as_fd()),
            (kept::BELLS, loaded.bells.as_fd()),
            (kept::COUNTERS, loaded.counters.as_fd()),
            (kept::TALLIES, ledger.tallies.as_fd()),
            (kept::STORIES, ledger.stories.as_fd()),
        ];
        all.extend(hooks.filters().map(|filters| (kept::FILTERS, filters)));
        for (name, fd) in all {
            keeper.keep(name, fd).map_err(LoadError::Memory)?;
        }
        // Last: what has no layout is not whole.
        write_layout(Some(layout.as_fd()), &terms.layout(slots, network))?;
        keeper.keep(kept::LAYOUT, &layout).map_err(LoadError::Memory)?;
        Ok(Self::assemble(loaded, &ledger, slots, keeper, hooks, Slots::of_nobody)?)
    }

    fn assemble(
        loaded: Loaded,
        ledger: &Maps,
        count: u32,
        keeper: Keeper,
        hooks: Hooks,
        slots: TakeSlots,
    ) -> Result<(Self, Bells, Vec<Orphan>), LoadError> {
        let records = Records::map(&loaded.flows, count).map_err(LoadError::Memory)?;
        let ledger = Ledger::new(ledger, count).map_err(from_map)?;
        let (slots, orphans) = slots(count, records, ledger);
        let ring = Map::RingBuf(again(&loaded.bells)?).try_into().map_err(from_map)?;
        let bells = Bells { ring, slots: Arc::clone(&slots) };
        let Loaded { ebpf, keys, counters, .. } = loaded;
        Ok((
            Self {
                slots,
                keys,
                counters,
                programs: Mutex::new(Programs { ebpf, hooks }),
                keeper,
                claim: None,
                routes: Routes::open().ok(),
                is_last: AtomicBool::new(false),
            },
            bells,
            orphans,
        ))
    }
}

impl OpenTerms<'_> {
    fn layout(&self, slots: u32, network: u64) -> Layout {
        Layout { slots, ports: self.ports.clone(), network, process: std::process::id() }
    }
}

impl Loaded {
    /// On new maps for so many flows.
    fn new(object: &[u8], slots: u32) -> Result<Self, LoadError> {
        let page = rustix::param::page_size() as u32;
        let ring_bytes = (slots * BELL_BYTES * BELLS_PER_SLOT).next_power_of_two().max(page);
        Self::with(object, slots, ring_bytes, &Found::new())
    }

    /// On maps that are there.
    fn on(object: &[u8], found: &Found) -> Result<Self, LoadError> {
        Self::with(object, 1, rustix::param::page_size() as u32, found)
    }

    fn with(object: &[u8], slots: u32, ring_bytes: u32, found: &Found) -> Result<Self, LoadError> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(PACKET_KEYS, slots * 2);
        loader.map_max_entries(PACKET_FLOWS, slots);
        loader.map_max_entries(PACKET_COUNTERS, COUNTERS);
        loader.map_max_entries(PACKET_BELLS, ring_bytes);
        let mut ebpf = loader.load(object).map_err(LoadError::from_ebpf)?;
        let shared = SHARED.map(|(name, kept)| {
            let map = take(&mut ebpf, name)?;
            if let Some(there) = found.get(kept).filter(|there| kept != kept::COUNTERS || fits(there)) {
                bpf::replace(map.fd().as_fd(), there).map_err(LoadError::Memory)?;
            }
            Ok(map)
        });
        for name in PROGRAMS {
            let program = ebpf.program_mut(name).ok_or_else(|| absent("program", name))?;
            let program: &mut SchedClassifier = program.try_into().map_err(from_program)?;
            program.load().map_err(from_program)?;
        }
        let [keys, flows, bells, counters] = shared.map(|map: Result<MapData, LoadError>| duplicate(&map?));
        Ok(Self { ebpf, keys: keys?, flows: flows?, bells: bells?, counters: counters? })
    }
}

/// Whether a map of counters has as many as are counted: another lb may count other things.
fn fits(counters: &OwnedFd) -> bool {
    let map = counters.try_clone().ok().and_then(|fd| MapData::from_fd(fd).ok());
    map.and_then(|map| map.info().ok()).is_some_and(|info| info.max_entries() == COUNTERS)
}

/// For how many flows the maps are that are there; `None`: there are none, or nothing is in them, and they may as well be made anew.
///
/// # Errors
/// Flows are in them, and why this agent cannot go on with them.
fn judge(found: &Found, terms: &OpenTerms<'_>, network: u64) -> Result<Option<u32>, Incompatible> {
    let Some(layout) = found.get(kept::LAYOUT) else { return Ok(None) };
    let has = |name: &str| {
        let is_empty = found.get(name).map(bpf::is_empty);
        !matches!(is_empty, None | Some(Ok(true)))
    };
    let layout = kept::read_layout(layout)
        .and_then(|layout| if layout.network == network { Ok(layout) } else { Err(Incompatible::Network) });
    match layout {
        Ok(layout) if has(kept::KEYS) || has(kept::STORIES) || layout.slots == terms.flows => {
            Ok(Some(layout.slots))
        }
        Err(incompatible) if has(kept::KEYS) => Err(incompatible),
        Ok(_) | Err(_) => Ok(None),
    }
}

fn ledger_of(found: &mut Found) -> Option<Maps> {
    Some(Maps { tallies: found.remove(kept::TALLIES)?, stories: found.remove(kept::STORIES)? })
}

fn write_layout(map: Option<BorrowedFd<'_>>, layout: &Layout) -> Result<(), LoadError> {
    let Some(map) = map else { return Ok(()) };
    let map = MapData::from_fd(map.try_clone_to_owned().map_err(LoadError::Memory)?).map_err(from_map)?;
    let mut map: Array<_, [u64; kept::WORDS]> = Map::Array(map).try_into().map_err(from_map)?;
    map.set(0, layout.words(), 0).map_err(from_map)
}

/// The local port of a flow's connection to its server.
fn port(orphan: &Orphan) -> u16 {
    let key = orphan.slot.edit(|record| record.key(Side::Server));
    let [_, own] = ends(&key);
    own.port()
}

/// The map of keys once more.
pub fn keys(fd: &OwnedFd) -> Result<Keys, LoadError> {
    Ok(Keys::new(Map::HashMap(again(fd)?).try_into().map_err(from_map)?))
}

/// The map of counters once more.
pub fn counters(fd: &OwnedFd) -> Result<Counters, LoadError> {
    Ok(Counters::new(Map::PerCpuArray(again(fd)?).try_into().map_err(from_map)?))
}
