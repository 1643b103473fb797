// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the next agent has to know of a connection to write its line: the story as text, which whoever reads it may be older or younger
//! than whoever wrote it. What is missing there is taken for not having been.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use lb_common::reason::{HelloReason, PathKind};
use serde::{Deserialize, Serialize};

use super::{HelloStory, Journal, NEXT_ID, Rare};
use crate::backend::{Backend, ServerSlot};
use crate::frontend::Permit;
use crate::kernel::packet::{Receipt, STORY_BYTES};
use crate::observe::access_log::{AccessLog, Proxied, Queued};
use crate::path::{Carried, Meter};

/// The story of a connection whose flow may outlive the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Story {
    /// Its number in the log.
    pub id: u64,
    /// When it was accepted, since 1970, in nanoseconds.
    accepted_ns: u64,
    /// The same since the host has started.
    started_ns: u64,
    /// The frontend's name.
    pub frontend: String,
    /// The backend's.
    pub backend: String,
    /// The server's.
    pub server: String,
    /// Where that is.
    pub server_address: Option<SocketAddr>,
    /// The client, by its PROXY header if it came with one.
    pub client: Option<SocketAddr>,
    /// The address that it connected to.
    pub local: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_id: Option<Box<[u8]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hello: Option<Hello>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hello_exception: Option<String>,
    /// The wait in the queue, in nanoseconds, and how many were in front.
    #[serde(skip_serializing_if = "Option::is_none")]
    queued: Option<(u64, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ns: Option<u64>,
    retries: u32,
    is_redispatched: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Hello {
    sni: Option<String>,
    alpn: String,
    has_ech: bool,
    time_ns: u64,
}

/// What an adopted connection belongs to.
#[derive(Debug)]
pub struct Kin {
    /// Its place in process and frontend.
    pub permit: Permit,
    /// Its backend.
    pub backend: Arc<Backend>,
    /// Its place on the server.
    pub slot: ServerSlot,
    /// The sink of its line.
    pub log: AccessLog,
}

impl Story {
    /// As text; `None`: it is too long, even without what the log can do without.
    pub fn to_bytes(mut self) -> Option<Vec<u8>> {
        let text = self.encoded();
        if text.is_some() {
            return text;
        }
        self.unique_id = None;
        if let Some(hello) = &mut self.hello {
            hello.alpn.clear();
        }
        self.encoded()
    }

    /// When it was accepted, since the host has started.
    pub fn started(&self) -> Duration {
        Duration::from_nanos(self.started_ns)
    }

    fn encoded(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok().filter(|text| text.len() <= STORY_BYTES)
    }

    /// Reads a text; `None`: it is none, or of somebody else.
    pub fn from_bytes(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

impl Journal {
    /// What the next agent has to know.
    pub fn story(&self) -> Story {
        let rare = self.rare.as_deref();
        let server = self.server.as_deref();
        let hello = self.hello.as_deref().map(|hello| Hello {
            sni: hello.sni.clone(),
            alpn: hello.alpn.clone(),
            has_ech: hello.has_ech,
            time_ns: nanoseconds(hello.time),
        });
        Story {
            id: self.id,
            accepted_ns: nanoseconds(
                self.accepted_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            ),
            started_ns: now_ns().saturating_sub(nanoseconds(self.started.elapsed())),
            frontend: self.permit.frontend().settings.name.to_string(),
            backend: self
                .backend
                .as_ref()
                .map_or_else(String::new, |backend| backend.settings.name.to_string()),
            server: server.map_or_else(String::new, |server| server.settings.name.to_string()),
            server_address: server.map(|server| server.address),
            client: Some(self.client()),
            local: Some(self.local()),
            peer: rare.and_then(|rare| rare.proxied.peer),
            unique_id: rare.and_then(|rare| rare.proxied.unique_id.clone()),
            hello,
            hello_exception: self.hello_exception.map(|reason| reason.label().to_owned()),
            queued: rare.and_then(|rare| rare.queued).map(|it| (nanoseconds(it.duration), it.position)),
            connect_ns: self.connect_time.map(nanoseconds),
            retries: self.retries,
            is_redispatched: self.is_redispatched,
        }
    }

    /// Who wants to know that the line is written.
    pub fn note_receipt(&mut self, receipt: Receipt) {
        self.rare().receipt = Some(receipt);
    }

    /// The connection goes on without this process: its line is another's.
    pub fn leave(mut self) {
        self.is_finished = true;
    }

    /// The journal of a connection that another agent has begun, and of which so much was carried and counted.
    pub fn adopted(story: Story, kin: Kin, carried: Carried) -> Self {
        let Kin { permit, backend, slot, log } = kin;
        let frontend = Arc::clone(permit.frontend());
        frontend.metrics.active.inc();
        // The numbers of later ones are not those of earlier ones.
        NEXT_ID.fetch_max(story.id + 1, Ordering::Relaxed);
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let age = Duration::from_nanos(now_ns().saturating_sub(story.started_ns));
        let rare = Rare {
            queued: story
                .queued
                .map(|(ns, position)| Queued { duration: Duration::from_nanos(ns), position }),
            proxied: Proxied { peer: story.peer, unique_id: story.unique_id },
            ..Rare::default()
        };
        Self {
            id: story.id,
            accepted_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(story.accepted_ns),
            started: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
            client: story.client.unwrap_or(nowhere).into(),
            local: story.local.unwrap_or(nowhere).into(),
            hello: story.hello.map(|hello| {
                let time = Duration::from_nanos(hello.time_ns);
                Box::new(HelloStory { sni: hello.sni, alpn: hello.alpn, has_ech: hello.has_ech, time })
            }),
            hello_exception: story
                .hello_exception
                .and_then(|label| HelloReason::ALL.into_iter().find(|reason| reason.label() == label)),
            backend: Some(backend),
            server: Some(Arc::clone(slot.server())),
            rare: Some(Box::new(rare)),
            connect_time: story.connect_ns.map(Duration::from_nanos),
            retries: story.retries,
            is_redispatched: story.is_redispatched,
            path: Some(PathKind::Packet),
            is_server_silent: false,
            meter: Some(Box::new(Meter::adopted(frontend, slot, carried))),
            log,
            permit,
            is_finished: false,
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Since the host has started, without the time that it has slept, as [`Instant`] counts on Linux.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn story(sni: &str, alpn: &str, id: &[u8]) -> Story {
        let address = Some("[2001:db8::1]:443".parse().expect("an address"));
        Story {
            id: 7,
            accepted_ns: 1_700_000_000_000_000_000,
            started_ns: 5,
            frontend: "https".into(),
            backend: "web".into(),
            server: "web-1".into(),
            server_address: address,
            client: address,
            local: address,
            peer: address,
            unique_id: Some(id.into()),
            hello: Some(Hello { sni: Some(sni.into()), alpn: alpn.into(), has_ech: true, time_ns: 9 }),
            hello_exception: Some("no-name".into()),
            queued: Some((3, 4)),
            connect_ns: Some(1),
            retries: 2,
            is_redispatched: true,
        }
    }

    #[test]
    fn what_is_too_long_loses_what_the_log_can_do_without() {
        let long = story("a.example", &"\\x80".repeat(60), &[255; 128]);
        let mut longer = long.clone();
        longer.frontend = "f".repeat(900);
        let read = Story::from_bytes(&longer.clone().to_bytes().expect("shortened")).expect("a story");
        assert_eq!(read.frontend, longer.frontend);
        assert_eq!((read.unique_id, read.hello.expect("kept").alpn), (None, String::new()));
        longer.frontend = "f".repeat(STORY_BYTES);
        assert_eq!(longer.to_bytes(), None);
        assert_eq!(Story::from_bytes(&long.clone().to_bytes().expect("short enough")), Some(long));
    }

    #[test]
    fn a_story_of_another_agent_is_read_as_far_as_it_goes() {
        let read = Story::from_bytes(br#"{"id":3,"frontend":"f","mood":"good"}"#).expect("a story");
        assert_eq!((read.id, &*read.frontend, read.client), (3, "f", None));
        assert_eq!(Story::from_bytes(b"\0\0"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_it_was_written(sni in ".{0,60}", alpn in ".{0,40}", id: Vec<u8>) {
            let written = story(&sni, &alpn, &id[..id.len().min(128)]);
            if let Some(text) = written.clone().to_bytes() {
                let read = Story::from_bytes(&text).expect("a story");
                prop_assert_eq!(read.hello.as_ref().map(|hello| &hello.sni), written.hello.as_ref().map(|hello| &hello.sni));
                prop_assert_eq!(read.client, written.client);
            }
        }
    }
}
