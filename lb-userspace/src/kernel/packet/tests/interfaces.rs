// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs follow interfaces that come and go, by links, and by filters as on older kernels, when the privileges of the start are gone.

use std::path::Path;
use std::sync::Arc;

use super::super::hooks::{WITHOUT_LINKS, has_tcx};
use super::super::{Interfaces, Packet};
use super::bench::loaded;
use super::left::{Bpffs, filters, open};
use super::place::{Row, ip};
use crate::net;
use crate::privileges::{Capability, give_up, give_up_but};

/// As many processes have them when they carry flows.
fn give_up_what_only_loading_takes() {
    give_up_but(&[Capability::NetAdmin]).expect("a thread can give up capabilities");
    assert!(!Capability::Bpf.is_held() && Capability::NetAdmin.is_held());
}

fn opened(state: &Path, names: &[&str]) -> (Interfaces, Arc<Packet>) {
    let packet = Arc::new(open(state, 4).0);
    let names = names.iter().map(|name| Arc::from(*name)).collect();
    let interfaces = Interfaces::new(Arc::clone(&packet), names);
    interfaces.take_all(false).expect("privileged");
    (interfaces, packet)
}

/// The names of what is kept for an interface.
fn kept(state: &Path, number: u32) -> usize {
    let names = std::fs::read_dir(state).expect("kept").flatten();
    let end = format!("gress-{number}");
    names.filter(|entry| entry.file_name().to_string_lossy().ends_with(&end)).count()
}

fn follows_what_comes_and_goes() {
    let (row, bpffs) = (Row::new(), Bpffs::new());
    let state = bpffs.state();
    let is_without_links = WITHOUT_LINKS.get();
    row.balancer.enter(|| {
        WITHOUT_LINKS.set(is_without_links);
        let (interfaces, packet) = opened(&state, &[]);
        assert_eq!(interfaces.count(), 2);
        give_up_what_only_loading_takes();
        let add = |number: &str| {
            ip(&["link", "add", "later", "index", number, "type", "veth", "peer", "name", "other"]);
        };
        let check = |number: u32| {
            assert!(interfaces.take(number), "{number}");
            let expected = if has_tcx() { (2, 0) } else { (0, 2) };
            assert_eq!((kept(&state, number), filters("later").len()), expected);
        };
        add("1000");
        check(1_000);
        // One that nobody has heard of.
        assert_eq!(interfaces.count(), 3);
        interfaces.look();
        assert_eq!(interfaces.count(), 4);
        assert!(!interfaces.take(net::LOOPBACK) && !interfaces.take(1_001));
        // Another one may have its number before that is heard of.
        ip(&["link", "del", "later"]);
        add("1000");
        interfaces.let_go(1_000);
        check(1_000);
        ip(&["link", "del", "later"]);
        interfaces.look();
        assert_eq!((interfaces.count(), kept(&state, 1_000)), (2, 0));
        add("1000");
        check(1_000);
        interfaces.detach();
        assert!(!interfaces.take(1_000), "what is over takes nothing any more");
        packet.clear();
        assert_eq!((filters("later").len(), filters("client").len()), (0, 0));
        assert!(!state.exists());
    });
}

#[test]
fn links_follow_interfaces_that_come_and_go() {
    if loaded(1).is_some() {
        follows_what_comes_and_goes();
    }
}

#[test]
fn filters_follow_interfaces_that_come_and_go() {
    if loaded(1).is_some() {
        WITHOUT_LINKS.set(true);
        follows_what_comes_and_goes();
    }
}

/// Whoever names interfaces means no others, whenever they come. By a link that takes nothing that the agent could lack.
#[test]
fn only_what_is_named_is_taken() {
    if loaded(1).is_none() {
        return;
    }
    let (row, bpffs) = (Row::new(), Bpffs::new());
    row.balancer.enter(|| {
        let (interfaces, _packet) = opened(&bpffs.state(), &["client", "later", "client"]);
        assert_eq!(interfaces.count(), 1);
        for (name, number, peer) in [("later", "1000", "other"), ("first", "1001", "second")] {
            ip(&["link", "add", name, "index", number, "type", "veth", "peer", "name", peer]);
        }
        if has_tcx() {
            give_up().expect("a thread can give up capabilities");
        } else {
            give_up_what_only_loading_takes();
        }
        interfaces.look();
        assert!(interfaces.take(1_000) && !interfaces.take(1_001));
        assert_eq!((interfaces.count(), interfaces.narrowest()), (2, None));
    });
}
