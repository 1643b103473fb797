// SPDX-License-Identifier: MIT OR Apache-2.0
//! What traffic says, and how quickly checks follow.

use lb_common::reason::CloseReason;

use super::*;
use crate::backend::Server;
use crate::config::{Observe, OnError};

fn observing(on_error: OnError) -> Check {
    let slow = Duration::from_secs(3600);
    Check {
        interval: slow,
        down_interval: slow,
        jitter_percent: 0,
        observe: Some(Observe { error_limit: 3.try_into().unwrap(), on_error }),
        ..tcp()
    }
}

fn fail_three_times(server: &Server) {
    (0..3).for_each(|_| server.vitals.traffic.note_connect_failure());
}

#[tokio::test]
async fn mark_down_takes_a_server_down_at_once_and_checks_bring_it_back() {
    let (_listener, address) = listener().await;
    let backend = checked(observing(OnError::MarkDown), vec![at("a", address)]);
    let server = &backend.servers()[0];
    let _checks = checks_of(&backend);
    until(|| server.metrics.checks.get() == 1).await;
    (0..2).for_each(|_| server.vitals.traffic.note_end(CloseReason::ServerReset, 0));
    assert_eq!(server.state(), ServerState::Up);
    server.vitals.traffic.note_end(CloseReason::ServerReset, 0);
    // The checks that bring it back come in the fast interval.
    until(|| server.metrics.state_changes.get() == 2).await;
    assert_eq!(server.state(), ServerState::Up);
    let outcomes: Vec<_> =
        server.vitals.results().iter().map(|result| (result.outcome, result.state)).collect();
    let (up, down) = (ServerState::Up, ServerState::Down);
    let expected = [
        (Outcome::Connected, up),
        (Outcome::Traffic { errors: 3 }, down),
        (Outcome::Connected, down),
        (Outcome::Connected, up),
    ];
    assert_eq!(outcomes, expected);
}

/// Connections that were being opened when it went down fail later.
#[tokio::test]
async fn traffic_does_not_put_off_a_server_that_comes_back() {
    let (_listener, address) = listener().await;
    let check = Check { rise: 3.try_into().unwrap(), ..observing(OnError::MarkDown) };
    let backend = checked(check, vec![at("a", address)]);
    let server = &backend.servers()[0];
    let _checks = checks_of(&backend);
    until(|| server.metrics.checks.get() == 1).await;
    fail_three_times(server);
    until(|| server.metrics.checks.get() == 2).await;
    fail_three_times(server);
    until(|| server.state() == ServerState::Up).await;
    assert_eq!(server.metrics.checks.get(), 4, "three successes bring it back");
}

/// Clients of a backend whose servers are all down, or sessions that outlived the change, meet one failure after the other.
#[tokio::test]
async fn traffic_does_not_hurry_the_checks_of_a_server_that_is_down() {
    let (_socket, address) = nobody();
    let check = Check { interval: Duration::from_millis(100), ..observing(OnError::FailCheck) };
    let backend = checked(check, vec![at("a", address)]);
    let server = &backend.servers()[0];
    let _checks = checks_of(&backend);
    until(|| server.state() == ServerState::Down).await;
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(400) {
        fail_three_times(server);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.metrics.checks.get(), 1, "the next check is an hour away");
}

#[tokio::test]
async fn other_reactions_need_checks_that_fail_too() {
    for (on_error, failures) in
        [(OnError::FastInterval, 3), (OnError::FailCheck, 2), (OnError::SuddenDeath, 1)]
    {
        let (gone, address) = listener().await;
        let backend = checked(observing(on_error), vec![at("a", address)]);
        let server = &backend.servers()[0];
        let _checks = checks_of(&backend);
        until(|| server.metrics.checks.get() == 1).await;
        fail_three_times(server);
        // The next check comes soon, and all is well.
        until(|| server.metrics.checks.get() == 2).await;
        assert_eq!((server.state(), server.metrics.check_failures.get()), (ServerState::Up, 0));
        drop(gone);
        fail_three_times(server);
        until(|| server.state() == ServerState::Down).await;
        assert_eq!(server.metrics.check_failures.get(), failures, "{on_error:?}");
    }
}

#[tokio::test]
async fn a_server_that_falls_is_checked_faster_and_one_that_is_down_slowly() {
    let slow = Duration::from_secs(3600);
    let (gone, address) = listener().await;
    let check = Check { interval: Duration::from_millis(100), down_interval: slow, ..tcp() };
    let backend = checked(check, vec![at("a", address)]);
    let server = &backend.servers()[0];
    let _checks = checks_of(&backend);
    until(|| server.metrics.checks.get() >= 1).await;
    drop(gone);
    until(|| server.state() == ServerState::Down).await;
    let checks = server.metrics.checks.get();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(server.metrics.checks.get(), checks, "the next check is an hour away");
}

#[tokio::test]
async fn without_observe_traffic_changes_nothing() {
    let (_listener, address) = listener().await;
    let check = Check { observe: None, ..observing(OnError::MarkDown) };
    let backend = checked(check, vec![at("a", address)]);
    let server = &backend.servers()[0];
    let _checks = checks_of(&backend);
    until(|| server.metrics.checks.get() == 1).await;
    (0..100).for_each(|_| server.vitals.traffic.note_connect_failure());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((server.state(), server.metrics.checks.get()), (ServerState::Up, 1));
}
