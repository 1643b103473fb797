// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows that another agent has left: whose they are, and which worker watches them from here on. Where this configuration has no such
//! frontend, backend or server, one with the defaults stands in, so that the flow is logged by the names that it has begun with.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use toml::{Table, Value};

use crate::backend::{Backend, ServerSlot};
use crate::config::{self, Config};
use crate::frontend::{Frontend, Permit};
use crate::journal::{Kin, Story};
use crate::kernel::packet::{Orphan, connections};
use crate::net::Listener;
use crate::observe::metrics::Metrics;
use crate::worker::{Adopted, Shared};

/// Gives each flow to a worker.
pub fn adopt(orphans: Vec<Orphan>, shared: &Shared, listeners: &[(Arc<Frontend>, Listener)]) {
    let Some(common) = shared.packet.as_ref().filter(|_| !orphans.is_empty()) else { return };
    let frontends: Vec<&Arc<Frontend>> = listeners.iter().map(|(frontend, _)| frontend).collect();
    let flows = orphans.len();
    for orphan in orphans {
        let [client, [server, own]] = connections(&orphan.slot);
        let story = Story::from_bytes(&orphan.story).unwrap_or_default().complete([client, [server, own]]);
        story.keep_number();
        let port = common.ports.keep(server, own.port());
        let kin = kin(&story, server, shared, &frontends);
        shared.adopt(Adopted { orphan, port, kin });
    }
    tracing::info!(flows, "flows of path packet that another lb has left are taken up");
}

fn kin(story: &Story, server: SocketAddr, shared: &Shared, frontends: &[&Arc<Frontend>]) -> Kin {
    let address = story.server_address.unwrap_or(server);
    let frontend = frontends.iter().find(|frontend| *frontend.settings.name == *story.frontend);
    let backend = shared.backends.iter().find(|backend| *backend.settings.name == *story.backend);
    let place =
        backend.and_then(|backend| Some((Arc::clone(backend), backend.keep(&story.server, address)?)));
    let (backend, slot) = place.unwrap_or_else(|| stand_in(story, backend, address));
    let frontend = frontend.map_or_else(|| stand_in_frontend(story), |frontend| Arc::clone(frontend));
    Kin::new(Permit::keep(&shared.gate, &frontend), backend, slot, shared.log.clone())
}

/// A backend with the server alone, with the settings of the one that is there or else the defaults.
fn stand_in(story: &Story, like: Option<&Arc<Backend>>, address: SocketAddr) -> (Arc<Backend>, ServerSlot) {
    let config = defaults(story, address);
    let mut settings = config.backends[0].clone();
    if let Some(like) = like {
        settings = config::Backend { servers: settings.servers, ..like.settings.clone() };
    }
    let metrics = Metrics::new(&config).backends[0].clone();
    let backend = Arc::new(Backend::new(settings, metrics, Vec::new()));
    let servers = backend.servers();
    let slot = ServerSlot::kept(Arc::clone(&servers[0]));
    (backend, slot)
}

fn stand_in_frontend(story: &Story) -> Arc<Frontend> {
    let config = defaults(story, SocketAddr::from(([127, 0, 0, 1], 1)));
    Arc::new(Frontend::new(config.frontends[0].clone(), Metrics::new(&config).frontends[0].clone()))
}

/// The configuration that says no more than these names.
fn defaults(story: &Story, address: SocketAddr) -> Config {
    let table = |entries: Vec<(&str, Value)>| {
        Value::Table(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    };
    let text = |text: &str| Value::String(if text.is_empty() { "unknown".into() } else { text.to_owned() });
    let build = |frontend: &str, backend: &str, server: &str| {
        let server = table(vec![("name", text(server)), ("address", text(&address.to_string()))]);
        let backends = table(vec![(backend, table(vec![("server", Value::Array(vec![server]))]))]);
        let settings = vec![
            ("bind", Value::Array(vec![text("127.0.0.1:1")])),
            ("mode", text("tcp")),
            ("default-backend", text(backend)),
        ];
        let frontends = table(vec![(frontend, table(settings))]);
        let all = Table::from_iter([("frontend".to_owned(), frontends), ("backend".to_owned(), backends)]);
        let read_file = |_: &std::path::Path| Err(io::ErrorKind::NotFound.into());
        Config::parse(&all.to_string(), "stand-in", &read_file).map(|loaded| loaded.config)
    };
    // A name that this lb does not accept was accepted by another.
    let known = build(&story.frontend, &story.backend, &story.server);
    known.or_else(|_| build("unknown", "unknown", "unknown")).expect("these names are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_gone_stands_in_for_itself() {
        let story = story(r#"{"f":"in.1","b":"out_2","s":"c"}"#);
        let address = "192.0.2.9:5000".parse().expect("an address");
        let (backend, slot) = stand_in(&story, None, address);
        assert_eq!((&*backend.settings.name, &*slot.server().settings.name), ("out_2", "c"));
        assert_eq!((slot.server().address, slot.server().active()), (address, 1));
        assert_eq!(&*stand_in_frontend(&story).settings.name, "in.1");
    }

    #[test]
    fn names_that_cannot_be_are_unknown() {
        for text in ["{}", r#"{"f":"in","b":"out \"2\"","s":"c"}"#] {
            let (backend, slot) = stand_in(&story(text), None, SocketAddr::from(([192, 0, 2, 1], 1)));
            let names = (&*backend.settings.name, &*slot.server().settings.name);
            assert_eq!(names, ("unknown", "unknown"), "{text}");
        }
    }

    fn story(text: &str) -> Story {
        Story::from_bytes(text.as_bytes()).expect("a story")
    }
}
