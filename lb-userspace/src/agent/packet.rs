// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens path `packet`, if the configuration wants it: what needs all privileges, and then the rest.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lb_common::reason::{Availability, PathKind};
use tokio::net::UnixListener;
use tokio::time::sleep;

use crate::config::Config;
use crate::config::needs::{PACKET_INTERFACES, wants_packet};
use crate::kernel::packet::kept::Keeper;
use crate::kernel::packet::{self, AttachError, Interfaces, OpenTerms, Orphan, Resets};
use crate::kernel::{self, Bells, LoadError, Packet};
use crate::net::conntrack::Conntrack;
use crate::net::{self, EcnSetting};
use crate::observe::metrics::ProcessMetrics;
use crate::path::packet::{Canary, Common, Grace, Ports, Reach, Stay};

pub(super) mod adoption;
mod links;
mod reroute;

/// Most flows at the same time: each takes 520 bytes in the kernel from the start.
const FLOWS_MAX: u32 = 65_536;

/// What loading has given; `None`: nothing asks for the path.
pub(super) type Loaded = Option<Result<Attached, OpenError>>;

/// The programs at their interfaces.
pub(super) struct Attached {
    stay: Arc<Stay>,
    packet: Arc<Packet>,
    bells: Bells,
    interfaces: Arc<Interfaces>,
    orphans: Vec<Orphan>,
    conntrack: Arc<Conntrack>,
    resets: io::Result<Resets>,
}

/// Why the path is off.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What another agent has left cannot be used.
    #[error(transparent)]
    Kept(#[from] packet::OpenError),
    /// They cannot see the packets of an interface.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The kernel gives `packet-ports` to others.
    #[error(transparent)]
    Ports(net::PortsError),
    /// The kernel lacks something else, or there is no room for a thread.
    #[error("the kernel does not tell when packets have arrived")]
    Grace(#[source] io::Error),
}

/// Loads the path's programs and puts them at the interfaces.
pub(super) fn load(config: &Config, connections: u32) -> Loaded {
    wants_packet(config).then(|| {
        net::check_ports(&config.global.packet_ports()).map_err(OpenError::Ports)?;
        let terms = OpenTerms {
            flows: connections.min(FLOWS_MAX),
            ports: config.global.packet_ports(),
            state: config.global.packet_state.as_deref(),
        };
        let (packet, bells, orphans) = kernel::open_packet(&terms)?;
        let packet = Arc::new(packet);
        let names = config.global.packet_interfaces.clone();
        let interfaces = Interfaces::new(Arc::clone(&packet), names, PACKET_INTERFACES as usize);
        let tested = packet.test(&mut |step| tracing::debug!(?step, "path packet"));
        let attached =
            tested.map_err(OpenError::from).and_then(|()| Ok(interfaces.take_all(!orphans.is_empty())?));
        if attached.is_err() && orphans.is_empty() {
            // Those of an agent that was killed; nobody needs them.
            packet.detach_rest();
        }
        let interfaces = Arc::new(interfaces);
        let left = u32::try_from(orphans.len()).unwrap_or(u32::MAX);
        let stay = Stay::new(Arc::clone(&packet), Arc::clone(&interfaces), left);
        attached.map(|()| {
            let conntrack = Arc::<Conntrack>::default();
            let resets = Resets::open(Arc::clone(&conntrack));
            Attached { stay, packet, bells, interfaces, orphans, conntrack, resets }
        })
    })
}

/// Bytes that packets may have at the narrowest of `packet-interfaces`, if others take more: what clients are to be told of, for what they send may leave by any of
/// them. Where all are the same, the kernel tells them so anyway.
pub(super) fn narrowest(loaded: Option<&Result<Attached, OpenError>>) -> Option<u32> {
    loaded?.as_ref().ok()?.interfaces.narrowest()
}

/// Gets ready for flows, those included that another agent has left. `None`: flows that want the path are carried in user space, and metrics
/// and one line in the log say why.
pub(super) fn open(
    loaded: Loaded,
    config: &Config,
    metrics: &ProcessMetrics,
) -> Option<(Common, Vec<Orphan>)> {
    let opened = loaded?.and_then(|attached| {
        let Attached { stay, packet, bells, interfaces, orphans, conntrack, resets } = attached;
        let grace = Grace::start().map_err(OpenError::Grace)?;
        listen(bells)?;
        Ok((stay, packet, interfaces, orphans, grace, conntrack, tell_lack(resets)))
    });
    match opened {
        Ok((stay, kernel, interfaces, orphans, grace, conntrack, resets)) => {
            metrics.paths.note(PathKind::Packet, Availability::Available);
            tracing::info!(interfaces = interfaces.count(), left = orphans.len(), "path packet is available");
            if interfaces.count() == 0 {
                tracing::warn!("path packet carries nothing before an interface has come");
            }
            if let Some(bytes) = interfaces.narrowest() {
                tracing::info!(
                    bytes,
                    "clients are told of no larger packets: packet-interfaces differ in size"
                );
            }
            tell_keeper(kernel.keeper());
            kernel.show_taken(metrics.paths.packet_places.clone());
            match kernel.counters() {
                Ok(counters) => metrics.paths.packet_programs.count_by(counters),
                Err(error) => tracing::warn!(%error, "what the programs of path packet count is not shown"),
            }
            let reach = Reach::new(interfaces.has_loopback());
            if let Err(error) = links::follow_links(Arc::clone(&interfaces)) {
                tracing::warn!(%error, "path packet takes no interfaces that come later");
            }
            if let Err(error) = reroute::follow_routes(Arc::clone(&kernel), interfaces) {
                tracing::warn!(%error, "flows of path packet do not follow routes to other interfaces");
            }
            let common = Common {
                kernel,
                stay,
                grace,
                reach,
                ports: Ports::new(config.global.packet_ports(), metrics.paths.packet_ports.clone()),
                canary: Arc::new(Canary::new(metrics.paths.clone())),
                resets,
                conntrack,
                ecn: Arc::new(EcnSetting::open()),
                resets_sent: metrics.paths.packet_resets.clone(),
                round_trips: metrics.paths.packet_round_trips.clone(),
                refused: metrics.paths.packet.clone(),
            };
            Some((common, orphans))
        }
        Err(error) => {
            metrics.paths.note(PathKind::Packet, error.availability());
            let is_of_kernel =
                matches!(error, OpenError::Load(_) | OpenError::Kept(packet::OpenError::Load(_)));
            let more = if is_of_kernel { " (`lb doctor` says more)" } else { "" };
            let error = anyhow::Error::new(error);
            tracing::warn!("path packet is off, its flows are carried by splice and copy: {error:#}{more}");
            None
        }
    }
}

/// Lets those go who ask whose `packet-ports` are this agent's.
pub(super) async fn dismiss_askers(packet: Option<Arc<Packet>>) {
    let listener = packet.as_ref().and_then(|packet| packet.claim()?.listener());
    let Some(Ok(listener)) = listener.map(UnixListener::from_std) else { return };
    loop {
        if listener.accept().await.is_err() {
            // The process has no descriptors left.
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Says what becomes of flows when the agent ends.
fn tell_keeper(keeper: &Keeper) {
    match keeper {
        Keeper::Nobody(why) => {
            tracing::warn!("flows of path packet end with lb, for nobody keeps them: {why}")
        }
        keeper => tracing::info!(%keeper, "flows of path packet go on when lb ends"),
    }
}

/// Says what becomes of flows that this agent ends, if it may not send resets.
fn tell_lack(resets: io::Result<Resets>) -> Option<Arc<Resets>> {
    resets
        .inspect_err(|error| {
            tracing::warn!(
                %error,
                "ends of flows on path packet that lb cuts hear of it when they next send something: there is no raw socket, which takes CAP_NET_RAW"
            );
        })
        .ok()
        .map(Arc::new)
}

impl OpenError {
    /// The word for it in metrics.
    fn availability(&self) -> Availability {
        match self {
            Self::Load(error) | Self::Kept(packet::OpenError::Load(error)) => error.availability(),
            Self::Kept(packet::OpenError::Kept(_)) => Availability::State,
            Self::Ports(_) => Availability::Ports,
            Self::Attach(_) => Availability::Interfaces,
            Self::Grace(_) => Availability::Kernel,
        }
    }
}

/// Starts the thread that waits for the programs' calls.
fn listen(bells: Bells) -> Result<(), OpenError> {
    let thread = thread::Builder::new().name("lb-packet".into());
    thread.spawn(|| bells.serve()).map(drop).map_err(|error| LoadError::Memory(error).into())
}
