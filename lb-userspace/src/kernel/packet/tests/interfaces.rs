// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs follow interfaces that come and go, by links, and by filters as on older kernels, when the privileges of the start are gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::super::hooks::{WITHOUT_LINKS, has_tcx};
use super::super::{Interfaces, Packet};
use super::bench::loaded;
use super::left::{Bpffs, all_filters, open};
use super::place::{Row, ip};
use crate::kernel::bpf;
use crate::net;
use crate::privileges::{Capability, give_up, give_up_but};

/// At how many interfaces the programs are at most.
const MOST: usize = 4;

/// As many processes have them when they carry flows.
fn give_up_what_only_loading_takes() {
    give_up_but(&[Capability::NetAdmin]).expect("a thread can give up capabilities");
    assert!(!Capability::Bpf.is_held() && Capability::NetAdmin.is_held());
}

fn opened(state: &Path, names: &[&str]) -> (Interfaces, Arc<Packet>) {
    let packet = Arc::new(open(state, 4).0);
    let names = names.iter().map(|name| Arc::from(*name)).collect();
    let interfaces = Interfaces::new(Arc::clone(&packet), names, MOST);
    interfaces.take_all(true).expect("privileged");
    (interfaces, packet)
}

/// The names of what is kept for an interface.
fn kept(state: &Path, number: u32) -> usize {
    let names = std::fs::read_dir(state).expect("kept").flatten();
    let end = format!("gress-{number}");
    names.filter(|entry| entry.file_name().to_string_lossy().ends_with(&end)).count()
}

/// How many programs are at the interface `later`, which has this number.
fn programs(state: &Path, number: u32) -> usize {
    if !has_tcx() {
        return all_filters("later").len();
    }
    let links = ["ingress", "egress"].map(|direction| state.join(format!("{direction}-{number}")));
    let is_there = |link: &&PathBuf| bpf::open(link).and_then(bpf::linked).is_ok_and(|at| at == number);
    links.iter().filter(is_there).count()
}

fn add_later(number: &str) {
    ip(&["link", "add", "later", "index", number, "type", "veth", "peer", "name", "other"]);
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
        let check = |number: u32| {
            assert!(interfaces.take(number), "{number}");
            let expected = if has_tcx() { (2, 0) } else { (0, 2) };
            assert_eq!((kept(&state, number), all_filters("later").len()), expected);
            assert_eq!(programs(&state, number), 2);
        };
        add_later("1000");
        check(1_000);
        // One that nobody has heard of.
        assert_eq!(interfaces.count(), 3);
        interfaces.look();
        assert_eq!(interfaces.count(), 4);
        assert!(!interfaces.take(net::LOOPBACK) && !interfaces.take(1_001));
        // Another one may have its number before that is heard of, or without that it is ever heard of.
        let hear: [&dyn Fn(); 3] = [&|| interfaces.let_go(1_000), &|| interfaces.look(), &|| {}];
        for hear in hear {
            ip(&["link", "del", "later"]);
            add_later("1000");
            hear();
            check(1_000);
            // Or later than it is taken.
            interfaces.let_go(1_000);
            assert_eq!((programs(&state, 1_000), interfaces.count()), (2, 4));
            check(1_000);
        }
        ip(&["link", "del", "later"]);
        interfaces.look();
        assert_eq!((interfaces.count(), kept(&state, 1_000)), (2, 0));
        assert_eq!(interfaces.successor(1_000), None);
        add_later("1002");
        assert_eq!([1_000, 1_002].map(|number| interfaces.successor(number)), [Some(1_002), None]);
        check(1_002);
        interfaces.detach();
        assert!(!interfaces.take(1_002), "what is over takes nothing any more");
        packet.clear();
        assert_eq!((all_filters("later").len(), all_filters("client").len()), (0, 0));
        assert!(!state.exists());
    });
}

/// Nothing may be opened, as where a process has all descriptors that it may have. The limit is the process's: each test has one of its own.
fn without_descriptors(act: impl FnOnce()) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).expect("less is allowed");
    act();
    setrlimit(Resource::Nofile, limit).expect("as before");
}

/// What cannot be asked for is not gone, and what cannot be taken is taken later.
fn stays_while_descriptors_lack() {
    let (row, bpffs) = (Row::new(), Bpffs::new());
    let state = bpffs.state();
    let is_without_links = WITHOUT_LINKS.get();
    row.balancer.enter(|| {
        WITHOUT_LINKS.set(is_without_links);
        let (interfaces, _packet) = opened(&state, &["client", "later", "last"]);
        assert_eq!((interfaces.count(), interfaces.lacks()), (1, false));
        give_up_what_only_loading_takes();
        add_later("1000");
        assert!(interfaces.take(1_000));
        ip(&["link", "add", "last", "index", "1001", "type", "veth", "peer", "name", "first"]);
        without_descriptors(|| {
            interfaces.look();
            assert_eq!((interfaces.count(), interfaces.lacks()), (2, true));
            assert!(interfaces.take(1_000) && !interfaces.take(1_001));
        });
        assert_eq!((programs(&state, 1_000), interfaces.lacks()), (2, true));
        interfaces.look();
        assert_eq!((interfaces.count(), interfaces.lacks()), (3, false));
    });
}

fn by_links(test: fn()) {
    if loaded(1).is_some() {
        test();
    }
}

fn by_filters(test: fn()) {
    WITHOUT_LINKS.set(true);
    by_links(test);
}

#[test]
fn links_follow_interfaces_that_come_and_go() {
    by_links(follows_what_comes_and_goes);
}

#[test]
fn filters_follow_interfaces_that_come_and_go() {
    by_filters(follows_what_comes_and_goes);
}

#[test]
fn links_stay_while_descriptors_lack() {
    by_links(stays_while_descriptors_lack);
}

#[test]
fn filters_stay_while_descriptors_lack() {
    by_filters(stays_while_descriptors_lack);
}

/// With a link of tcx, which goes where its interface goes, nothing is left to hear.
#[test]
fn an_interface_that_moves_elsewhere_is_gone() {
    if loaded(1).is_none() {
        return;
    }
    let (row, bpffs) = (Row::new(), Bpffs::new());
    row.balancer.enter(|| {
        let (interfaces, _packet) = opened(&bpffs.state(), &[]);
        add_later("1000");
        assert!(interfaces.take(1_000));
        ip(&["link", "set", "later", "netns", &row.server.pid().to_string()]);
        assert!(!interfaces.take(1_000));
        assert_eq!((interfaces.count(), kept(&bpffs.state(), 1_000)), (2, 0));
    });
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

/// Who has it no more among `packet-interfaces` begins no flows there. Those that are left need it.
#[test]
fn loopback_is_kept_for_flows_that_are_left_alone() {
    if loaded(1).is_none() {
        return;
    }
    let (row, bpffs) = (Row::new(), Bpffs::new());
    row.balancer.enter(|| {
        let (interfaces, packet) = opened(&bpffs.state(), &["client", "lo"]);
        assert_eq!((interfaces.count(), interfaces.has_loopback()), (2, true));
        drop((interfaces, packet));
        let (interfaces, _packet) = opened(&bpffs.state(), &["client"]);
        assert_eq!((interfaces.count(), interfaces.has_loopback()), (2, false));
    });
}

/// What else comes is left alone, until others go.
#[test]
fn there_is_a_most_of_interfaces() {
    if loaded(1).is_none() {
        return;
    }
    let (row, bpffs) = (Row::new(), Bpffs::new());
    row.balancer.enter(|| {
        ip(&["link", "add", "third", "type", "veth", "peer", "name", "fourth"]);
        let (interfaces, _packet) = opened(&bpffs.state(), &[]);
        assert_eq!((interfaces.count(), interfaces.lacks()), (MOST, false));
        add_later("1000");
        assert!(!interfaces.take(1_000));
        assert_eq!((interfaces.count(), interfaces.lacks()), (MOST, true));
        ip(&["link", "del", "third"]);
        interfaces.look();
        assert!(interfaces.take(1_000));
        assert_eq!((interfaces.count(), interfaces.lacks()), (MOST, false));
    });
}

/// It may be as wide as others when it comes, and narrower then.
#[test]
fn the_narrowest_is_known_as_it_is() {
    if loaded(1).is_none() {
        return;
    }
    let (row, bpffs) = (Row::new(), Bpffs::new());
    row.balancer.enter(|| {
        let (interfaces, _packet) = opened(&bpffs.state(), &["client", "later"]);
        add_later("1000");
        assert!(interfaces.take(1_000));
        assert_eq!(interfaces.narrowest(), None);
        ip(&["link", "set", "later", "mtu", "1400"]);
        assert!(interfaces.take(1_000));
        assert_eq!(interfaces.narrowest(), Some(1_400));
    });
}
