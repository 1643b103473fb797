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
use crate::config::needs::wants_packet;
use crate::kernel::packet::kept::Keeper;
use crate::kernel::packet::{self, AttachError, Attachment, OpenTerms, Orphan, Resets};
use crate::kernel::{self, Bells, LoadError, Packet};
use crate::net::conntrack::Conntrack;
use crate::net::{self, EcnSetting};
use crate::observe::metrics::ProcessMetrics;
use crate::path::packet::{Canary, Common, Grace, Ports, Stay};

pub(super) mod adoption;
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
    /// Their numbers.
    interfaces: Vec<u32>,
    /// Bytes that packets may have at the narrowest of those that the configuration names, if others take more.
    narrowest: Option<u32>,
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
    /// None that is there has packets that they understand.
    #[error("there is no interface but loopback")]
    NoInterface,
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
        let (mut packet, bells, orphans) = kernel::open_packet(&terms)?;
        let tested = packet.test(&mut |step| tracing::debug!(?step, "path packet"));
        let attachments = tested
            .map_err(OpenError::from)
            .and_then(|()| attach(&mut packet, &config.global.packet_interfaces, !orphans.is_empty()));
        if attachments.is_err() && orphans.is_empty() {
            // Those of an agent that was killed; nobody needs them.
            packet.detach_rest();
        }
        let packet = Arc::new(packet);
        let (attachments, error) = match attachments {
            Ok(attachments) => (attachments, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let interfaces = attachments.iter().map(Attachment::number).collect();
        // Of those that happen to be there, most have nothing to do with it.
        let is_asked_for = !config.global.packet_interfaces.is_empty();
        let narrowest = narrower(attachments.iter().map(Attachment::mtu)).filter(|_| is_asked_for);
        let left = u32::try_from(orphans.len()).unwrap_or(u32::MAX);
        let stay = Stay::new(Arc::clone(&packet), attachments, left);
        match error {
            Some(error) => Err(error),
            None => {
                let conntrack = Arc::<Conntrack>::default();
                let resets = Resets::open(Arc::clone(&conntrack));
                Ok(Attached { stay, packet, bells, interfaces, narrowest, orphans, conntrack, resets })
            }
        }
    })
}

/// Bytes that packets may have at the narrowest of `packet-interfaces`, if others take more: what clients are to be told of, for what they send may leave by any of
/// them. Where all are the same, the kernel tells them so anyway.
pub(super) fn narrowest(loaded: Option<&Result<Attached, OpenError>>) -> Option<u32> {
    loaded?.as_ref().ok()?.narrowest
}

/// The least of some numbers, if there are larger ones.
fn narrower(mtus: impl Iterator<Item = u32>) -> Option<u32> {
    let mtus: Vec<u32> = mtus.collect();
    let least = *mtus.iter().min()?;
    mtus.iter().any(|mtu| *mtu > least).then_some(least)
}

/// At the interfaces that the configuration names, or else at all; where flows are left, also at those where another agent was, for they may
/// need them.
fn attach(packet: &mut Packet, names: &[Arc<str>], has_flows: bool) -> Result<Vec<Attachment>, OpenError> {
    let mut attachments = match names {
        [] => attach_everywhere(packet)?,
        names => names.iter().map(|name| packet.attach(name)).collect::<Result<Vec<_>, _>>()?,
    };
    if has_flows {
        for name in packet.left_interfaces() {
            attachments.extend(packet.attach(&name));
        }
    }
    packet.detach_rest();
    Ok(attachments)
}

/// At all interfaces whose packets the programs understand.
fn attach_everywhere(packet: &mut Packet) -> Result<Vec<Attachment>, OpenError> {
    let mut attachments = Vec::new();
    for name in net::interfaces().map_err(OpenError::Grace)? {
        match packet.attach(&name) {
            Ok(attachment) => attachments.push(attachment),
            Err(error @ (AttachError::LinkType { .. } | AttachError::NoInterface { .. })) => {
                tracing::debug!(%error, "path packet leaves an interface out");
            }
            Err(error) => return Err(error.into()),
        }
    }
    if attachments.is_empty() { Err(OpenError::NoInterface) } else { Ok(attachments) }
}

/// Gets ready for flows, those included that another agent has left. `None`: flows that want the path are carried in user space, and metrics
/// and one line in the log say why.
pub(super) fn open(
    loaded: Loaded,
    config: &Config,
    metrics: &ProcessMetrics,
) -> Option<(Common, Vec<Orphan>)> {
    let opened = loaded?.and_then(|attached| {
        let Attached { stay, packet, bells, interfaces, narrowest, orphans, conntrack, resets } = attached;
        let grace = Grace::start().map_err(OpenError::Grace)?;
        listen(bells)?;
        Ok((stay, packet, (interfaces, narrowest), orphans, grace, conntrack, tell_lack(resets)))
    });
    match opened {
        Ok((stay, kernel, (interfaces, narrowest), orphans, grace, conntrack, resets)) => {
            metrics.paths.note(PathKind::Packet, Availability::Available);
            tracing::info!(interfaces = interfaces.len(), left = orphans.len(), "path packet is available");
            if let Some(bytes) = narrowest {
                tracing::info!(
                    bytes,
                    "clients are told of no larger packets: packet-interfaces differ in size"
                );
            }
            tell_keeper(kernel.keeper());
            if let Err(error) = reroute::follow_routes(Arc::clone(&kernel), interfaces) {
                tracing::warn!(%error, "flows of path packet do not follow routes to other interfaces");
            }
            let common = Common {
                kernel,
                stay,
                grace,
                ports: Ports::new(config.global.packet_ports()),
                canary: Arc::new(Canary::new(metrics.paths.clone())),
                resets,
                conntrack,
                ecn: Arc::new(EcnSetting::open()),
                resets_sent: metrics.paths.packet_resets.clone(),
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
            Self::Attach(_) | Self::NoInterface => Availability::Interfaces,
            Self::Grace(_) => Availability::Kernel,
        }
    }
}

/// Starts the thread that waits for the programs' calls.
fn listen(bells: Bells) -> Result<(), OpenError> {
    let thread = thread::Builder::new().name("lb-packet".into());
    thread.spawn(|| bells.serve()).map(drop).map_err(|error| LoadError::Memory(error).into())
}
