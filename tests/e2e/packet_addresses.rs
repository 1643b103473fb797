// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: an interface stays, and loses its address or its route for a while. Flows that are there wait at most, and nobody answers
//! their ends in between; what begins meanwhile gets nowhere, as without the path.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use lb_tests::net::{Namespace, Net};
use lb_tests::stream::{End, finish, receive_all};

use crate::packet_lab::{Family, Lab, Lines, Spliced};
use crate::packet_links::{add_address, far, first_address, ip, stream_while, with_bits};

on_both_families! {
    an_address_towards_the_server_may_be_gone_for_a_while,
    an_address_towards_the_client_may_be_gone_for_a_while,
    a_route_to_the_server_may_be_gone_for_a_while,
}

/// How long it is gone.
const GONE: Duration = Duration::from_millis(500);

fn an_address_towards_the_server_may_be_gone_for_a_while(family: Family) {
    let lab = Lab::start(family);
    let address = own_address(family, lab.net.server());
    let flow = lab.spliced();
    let beside = lab.bytes_beside();
    stream_while(&flow, || {
        remove_address(&lab, "server0", &address);
        assert_refused(&lab);
        thread::sleep(GONE);
        add_address(&lab.net.balancer, "server0", family, &address);
    });
    assert_eq!(lab.bytes_beside(), beside);
    goes_on_beside_a_refused_one(&lab, &flow);
}

/// Nobody can connect meanwhile.
fn an_address_towards_the_client_may_be_gone_for_a_while(family: Family) {
    let lab = Lab::start(family);
    let address = own_address(family, &lab.net.client);
    let flow = lab.spliced();
    let beside = lab.bytes_beside();
    stream_while(&flow, || {
        remove_address(&lab, "client", &address);
        thread::sleep(GONE);
        add_address(&lab.net.balancer, "client", family, &address);
    });
    assert_eq!(lab.bytes_beside(), beside);
    let next = lab.spliced();
    [flow, next].iter().for_each(end);
    lab.assert_ended(2, "finished");
}

/// The server is behind a gateway.
fn a_route_to_the_server_may_be_gone_for_a_while(family: Family) {
    let (net, far, flag) = (Net::new(1), far(family), family.flag());
    add_address(net.server(), "lo", family, &with_bits(far.end, far.all_bits));
    let gateway = family.of(net.server(), 0).ip().to_string();
    let route = |verb: &str, place: &Namespace| {
        ip(place, &[flag, "route", verb, far.network, "via", &gateway, "dev", "server0"]);
    };
    route("add", &net.balancer);
    let lab = Lab::with(net, family, Lines { server: Some(far.server()), ..Lines::default() });
    let flow = lab.spliced();
    let beside = lab.bytes_beside();
    stream_while(&flow, || {
        route("del", &lab.net.balancer);
        assert_refused(&lab);
        thread::sleep(GONE);
        route("add", &lab.net.balancer);
    });
    assert_eq!(lab.bytes_beside(), beside);
    goes_on_beside_a_refused_one(&lab, &flow);
}

/// The balancer's address towards an end, with the bits of its network.
fn own_address(family: Family, end: &Namespace) -> String {
    let address = family.of(end, 0).ip();
    with_bits(&first_address(address), if matches!(address, IpAddr::V4(_)) { "/24" } else { "/64" })
}

fn remove_address(lab: &Lab, interface: &str, address: &str) {
    ip(&lab.net.balancer, &[lab.family.flag(), "address", "del", address, "dev", interface]);
}

/// A client whose server cannot be reached is told so.
#[track_caller]
fn assert_refused(lab: &Lab) {
    let (bytes, ended) = lab.net.client.connect_to_the_end(lab.address());
    assert_eq!((bytes, ended), (Vec::new(), End::Reset));
}

/// The flow ends well, and the one after it; the one in between has never reached a server.
#[track_caller]
fn goes_on_beside_a_refused_one(lab: &Lab, flow: &Spliced) {
    (0..20).for_each(|_| flow.ping());
    let next = lab.spliced();
    end(flow);
    end(&next);
    let records = lab.agent.until_records(3);
    let told: Vec<_> = records.iter().map(|record| (record.close(), record.text("path"))).collect();
    assert_eq!((told[0], told[2]), (("finished", "packet"), ("finished", "packet")), "{told:?}");
    assert_eq!(told[1].0, "connect-failed");
    lab.agent.assert_share(lb_tests::config::Path::Packet, 99);
}

#[track_caller]
fn end(flow: &Spliced) {
    finish(&flow.client);
    assert_eq!(receive_all(&flow.server), (Vec::new(), End::Finished));
    finish(&flow.server);
    assert_eq!(receive_all(&flow.client), (Vec::new(), End::Finished));
}
