// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the next agent has to know of a connection to write its line: the story as text, which whoever reads it may be older or younger
//! than whoever wrote it. What is missing there is taken for not having been.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use lb_common::reason::{HelloReason, PathKind};
use serde::{Deserialize, Serialize};

use super::{HelloStory, Journal, Kin, NEXT_ID, Rare};
use crate::kernel::packet::STORY_BYTES;
use crate::net;
use crate::observe::access_log::{Proxied, Queued, Translated};
use crate::path::{Carried, Meter};

/// The story of a connection whose flow may outlive the process. The kernel has the text for as long as the flow lives, hence the short words, and nothing
/// that is as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Story {
    /// Its number in the log.
    #[serde(rename = "n")]
    pub id: u64,
    /// When it was accepted, since 1970, in microseconds.
    #[serde(rename = "a")]
    accepted_us: u64,
    /// The same since the host has started.
    #[serde(rename = "t")]
    started_us: u64,
    /// The frontend's name.
    #[serde(rename = "f")]
    pub frontend: String,
    /// The backend's.
    #[serde(rename = "b")]
    pub backend: String,
    /// The server's.
    #[serde(rename = "s")]
    pub server: String,
    /// Where that is. Until the story is [complete](Self::complete), `None`: where the flow goes.
    #[serde(rename = "sa", skip_serializing_if = "Option::is_none")]
    pub server_address: Option<SocketAddr>,
    /// The client, by its PROXY header if it came with one. Likewise, `None`: from where the flow comes.
    #[serde(rename = "c", skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    /// The address that it connected to. Likewise.
    #[serde(rename = "l", skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    #[serde(rename = "p", skip_serializing_if = "Option::is_none")]
    peer: Option<SocketAddr>,
    #[serde(rename = "u", skip_serializing_if = "Option::is_none", with = "base64_text")]
    unique_id: Option<Box<[u8]>>,
    #[serde(rename = "h", skip_serializing_if = "Option::is_none")]
    hello: Option<Hello>,
    #[serde(rename = "x", skip_serializing_if = "Option::is_none")]
    hello_exception: Option<String>,
    /// The wait in the queue, in microseconds, and how many were in front.
    #[serde(rename = "q", skip_serializing_if = "Option::is_none")]
    queued: Option<(u64, u32)>,
    #[serde(rename = "k", skip_serializing_if = "Option::is_none")]
    connect_us: Option<u64>,
    #[serde(rename = "r", skip_serializing_if = "is_usual")]
    retries: u32,
    #[serde(rename = "d", skip_serializing_if = "is_usual")]
    is_redispatched: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Hello {
    #[serde(rename = "n", skip_serializing_if = "Option::is_none")]
    sni: Option<String>,
    #[serde(rename = "p", skip_serializing_if = "is_usual")]
    alpn: String,
    #[serde(rename = "e", skip_serializing_if = "is_usual")]
    has_ech: bool,
    #[serde(rename = "t")]
    time_us: u64,
}

/// Bytes as text, shorter than the numbers that JSON would have for them.
mod base64_text {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD_NO_PAD;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Option<Box<[u8]>>, to: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => to.serialize_str(&BASE64_STANDARD_NO_PAD.encode(bytes)),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<[u8]>>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let bytes = text.map(|text| BASE64_STANDARD_NO_PAD.decode(text)).transpose();
        Ok(bytes.map_err(D::Error::custom)?.map(Vec::into_boxed_slice))
    }
}

/// Whether a value is what it is taken for where it is missing.
fn is_usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Story {
    /// Of a flow whose text cannot be read: as if it had begun now.
    pub fn lost() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { accepted_us: microseconds(since_1970), started_us: now_us(), ..Self::default() }
    }

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
        Duration::from_micros(self.started_us)
    }

    fn encoded(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok().filter(|text| text.len() <= STORY_BYTES)
    }

    /// Reads a text; `None`: it is none, or of somebody else. Addresses may be missing.
    pub fn from_bytes(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The same with the ends of the flow's two connections, with client and with server, where the text has no address.
    pub fn complete(mut self, [client, server]: [[SocketAddr; 2]; 2]) -> Self {
        self.client.get_or_insert(client[0]);
        self.local.get_or_insert(client[1]);
        self.server_address.get_or_insert(server[0]);
        self
    }

    /// No connection of this process gets its number from here on.
    pub fn keep_number(&self) {
        NEXT_ID.fetch_max(self.id.saturating_add(1), Ordering::Relaxed);
    }
}

impl Journal {
    /// What the next agent has to know.
    pub fn story(&self) -> Story {
        let rare = self.rare.as_deref();
        let is_told = rare.is_some_and(|rare| rare.is_told);
        let server = self.server.as_deref();
        let hello = self.hello.as_deref().map(|hello| Hello {
            sni: hello.sni.clone(),
            alpn: hello.alpn.clone(),
            has_ech: hello.has_ech,
            time_us: microseconds(hello.time),
        });
        Story {
            id: self.id,
            accepted_us: microseconds(
                self.accepted_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            ),
            started_us: now_us().saturating_sub(microseconds(self.started.elapsed())),
            frontend: self.frontend().settings.name.to_string(),
            backend: self
                .backend
                .as_ref()
                .map_or_else(String::new, |backend| backend.settings.name.to_string()),
            server: server.map_or_else(String::new, |server| server.settings.name.to_string()),
            // What the flow's own addresses do not tell.
            server_address: server.map(|server| server.address).filter(says_more),
            client: is_told.then(|| self.client()),
            local: is_told.then(|| self.local()),
            peer: rare.and_then(|rare| rare.proxied.peer),
            unique_id: rare.and_then(|rare| rare.proxied.unique_id.clone()),
            hello,
            hello_exception: self.hello_exception.map(|reason| reason.label().to_owned()),
            queued: rare.and_then(|rare| rare.queued).map(|it| (microseconds(it.duration), it.position)),
            connect_us: self.connect_time.map(microseconds),
            retries: self.retries,
            is_redispatched: self.is_redispatched,
        }
    }

    /// What the line says of a flow that programs have carried, and who wants to know that it is written.
    pub fn note_translated(&mut self, translated: Translated) {
        self.rare().translated = Some(translated);
    }

    /// The journal of a connection whose flow has needed nobody until its end, of which so much was counted before.
    pub(super) fn recalled(story: Story, kin: Kin, counted: Carried) -> Self {
        let Kin { presence, backend, slot, log } = kin;
        let frontend = Arc::clone(presence.frontend());
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let age = Duration::from_micros(now_us().saturating_sub(story.started_us));
        let rare = Rare {
            queued: story
                .queued
                .map(|(us, position)| Queued { duration: Duration::from_micros(us), position }),
            proxied: Proxied { peer: story.peer, unique_id: story.unique_id },
            ..Rare::default()
        };
        Self {
            id: story.id,
            accepted_at: SystemTime::UNIX_EPOCH + Duration::from_micros(story.accepted_us),
            started: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
            client: story.client.unwrap_or(nowhere).into(),
            local: story.local.unwrap_or(nowhere).into(),
            hello: story.hello.map(|hello| {
                let time = Duration::from_micros(hello.time_us);
                Box::new(HelloStory { sni: hello.sni, alpn: hello.alpn, has_ech: hello.has_ech, time })
            }),
            hello_exception: story
                .hello_exception
                .and_then(|label| HelloReason::ALL.into_iter().find(|reason| reason.label() == label)),
            backend: Some(backend),
            server: Some(Arc::clone(slot.server())),
            rare: Some(Box::new(rare)),
            connect_time: story.connect_us.map(Duration::from_micros),
            retries: story.retries,
            is_redispatched: story.is_redispatched,
            path: Some(PathKind::Packet),
            is_server_silent: false,
            meter: Some(Box::new(Meter::recalled(frontend, slot, counted))),
            log,
            presence: Some(presence),
            is_finished: false,
        }
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Since the host has started, without the time that it has slept, as [`Instant`] counts on Linux.
fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1_000
}

/// Whether an address is another than the packets' that go there: it has a scope, or is one of IPv4 as one of IPv6.
fn says_more(address: &SocketAddr) -> bool {
    *address != net::canonical(*address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::packet::PART_BYTES;

    fn story(sni: &str, alpn: &str, id: &[u8]) -> Story {
        let address = Some("[2001:db8::1]:443".parse().expect("an address"));
        Story {
            id: 7,
            accepted_us: 1_700_000_000_000_000,
            started_us: 5,
            frontend: "https".into(),
            backend: "web".into(),
            server: "web-1".into(),
            server_address: address,
            client: address,
            local: address,
            peer: address,
            unique_id: Some(id.into()),
            hello: Some(Hello { sni: Some(sni.into()), alpn: alpn.into(), has_ech: true, time_us: 9 }),
            hello_exception: Some("no-name".into()),
            queued: Some((3, 4)),
            connect_us: Some(1),
            retries: 2,
            is_redispatched: true,
        }
    }

    #[test]
    fn what_is_too_long_loses_what_the_log_can_do_without() {
        let long = story("a.example", &"\\x80".repeat(60), &[255; 128]);
        let mut longer = long.clone();
        longer.frontend = "f".repeat(1_300);
        let read = Story::from_bytes(&longer.clone().to_bytes().expect("shortened")).expect("a story");
        assert_eq!(read.frontend, longer.frontend);
        assert_eq!((read.unique_id, read.hello.expect("kept").alpn), (None, String::new()));
        longer.frontend = "f".repeat(STORY_BYTES);
        assert_eq!(longer.to_bytes(), None);
        assert_eq!(Story::from_bytes(&long.clone().to_bytes().expect("short enough")), Some(long));
    }

    #[test]
    fn a_usual_story_is_one_part() {
        let usual = Story {
            peer: None,
            unique_id: None,
            hello_exception: None,
            queued: None,
            retries: 0,
            is_redispatched: false,
            server_address: None,
            client: None,
            local: None,
            id: 1_234_567,
            started_us: 10_000_000_000_000,
            connect_us: Some(1_234),
            ..story("subdomain.example.com", "h2,http/1.1", &[])
        };
        let text = usual.clone().to_bytes().expect("short enough");
        assert!(text.len() <= PART_BYTES, "{}: {}", text.len(), String::from_utf8_lossy(&text));
        let [client, local, server] = ["192.0.2.1:5", "192.0.2.2:443", "198.51.100.3:8443"]
            .map(|address| address.parse().expect("an address"));
        let read = Story::from_bytes(&text).expect("a story").complete([[client, local], [server, local]]);
        let addresses = (read.client, read.local, read.server_address);
        assert_eq!(addresses, (Some(client), Some(local), Some(server)));
        // Whoever has told is believed.
        let told = story("a.example", "", &[]);
        assert_eq!(told.clone().complete([[client, local], [server, local]]), told);
    }

    #[test]
    fn a_story_of_another_agent_is_read_as_far_as_it_goes() {
        let read = Story::from_bytes(br#"{"n":3,"f":"f","mood":"good"}"#).expect("a story");
        assert_eq!((read.id, &*read.frontend, read.client), (3, "f", None));
        assert_eq!(Story::from_bytes(b"\0\0"), None);
    }

    #[test]
    fn a_text_that_was_written_or_forgotten_in_part_is_no_story() {
        let whole = story("a.example", "h2", &[7; 128]).to_bytes().expect("short enough");
        for at in 1..whole.len() {
            let (beginning, end) = whole.split_at(at);
            assert_eq!([beginning, end].map(Story::from_bytes), [None, None], "cut at {at}");
        }
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
