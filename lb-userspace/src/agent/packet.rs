// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens path `packet`, if the configuration wants it: what needs all privileges, and then the rest.

use std::io;
use std::sync::Arc;
use std::thread;

use lb_common::reason::{Availability, PathKind};

use crate::config::Config;
use crate::config::needs::wants_packet;
use crate::kernel::packet::{AttachError, Attachment};
use crate::kernel::{self, Bells, LoadError, Packet};
use crate::net;
use crate::observe::metrics::ProcessMetrics;
use crate::path::packet::{Common, Grace, Ports};

/// Most flows at the same time: each takes 320 bytes in the kernel from the start.
const FLOWS_MAX: u32 = 65_536;

/// What loading has given; `None`: nothing asks for the path.
pub(super) type Loaded = Option<Result<Attached, OpenError>>;

/// The programs at their interfaces.
pub(super) struct Attached {
    packet: Packet,
    bells: Bells,
    attachments: Vec<Attachment>,
}

/// Why the path is off.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
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
        net::check_ports(&config.global.packet_ports).map_err(OpenError::Ports)?;
        let (mut packet, bells) = kernel::load_packet(connections.min(FLOWS_MAX))?;
        let attachments = match &config.global.packet_interfaces[..] {
            [] => attach_everywhere(&mut packet)?,
            names => names.iter().map(|name| packet.attach(name)).collect::<Result<_, _>>()?,
        };
        Ok(Attached { packet, bells, attachments })
    })
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

/// Gets ready for flows. `None`: flows that want the path are carried in user space, and metrics and one line in the log say why.
pub(super) fn open(loaded: Loaded, config: &Config, metrics: &ProcessMetrics) -> Option<Common> {
    let opened = loaded?.and_then(|attached| {
        let grace = Grace::start().map_err(OpenError::Grace)?;
        listen(attached.bells)?;
        Ok((attached.packet, attached.attachments, grace))
    });
    match opened {
        Ok((packet, attachments, grace)) => {
            metrics.paths.note(PathKind::Packet, Availability::Available);
            tracing::info!(interfaces = attachments.len(), "path packet is available");
            Some(Common {
                kernel: Arc::new(packet),
                attachments: attachments.into(),
                grace,
                ports: Ports::new(config.global.packet_ports.clone()),
                refused: metrics.paths.packet.clone(),
            })
        }
        Err(error) => {
            metrics.paths.note(PathKind::Packet, error.availability());
            let error = anyhow::Error::new(error);
            tracing::warn!("path packet is off, its flows are carried by splice and copy: {error:#}");
            None
        }
    }
}

impl OpenError {
    /// The word for it in metrics.
    fn availability(&self) -> Availability {
        match self {
            Self::Load(error) => error.availability(),
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
