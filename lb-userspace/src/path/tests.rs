// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows over loopback sockets, on every strategy: the same bytes and the same kind of end come out as went in.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lb_common::reason::{CloseReason, PathKind};

use super::testing::{
    exchange, pattern, read_all, reset, run, run_from, run_on, run_with_pipes, wait_for_error,
};
use super::{COPY_CHUNK, JOINED_HEADER_MAX, JoinedHeader, Method, Side, Start, Strategy};
use crate::{backend, config};

const STRATEGIES: [Strategy; 3] =
    [Strategy::Always(Method::Copy), Strategy::Always(Method::Splice), Strategy::Adaptive];

#[test]
fn bytes_arrive_in_order_both_ways_and_both_fins_too() {
    for strategy in STRATEGIES {
        let (up, down) = (pattern(3 << 20, 1), pattern(5 << 20, 2));
        let (client_down, server_up) = (down.clone(), up.clone());
        let end = run(
            strategy,
            |backend| backend,
            move |client| exchange(client, &up, &client_down),
            move |server| exchange(server, &down, &server_up),
        );
        assert_eq!(end.close, CloseReason::Finished, "{strategy:?}");
        assert_eq!((end.carried.received(), end.carried.sent()), (3 << 20, 5 << 20), "{strategy:?}");
        let spliced = end.carried.by_path(PathKind::Splice);
        match strategy {
            Strategy::Always(Method::Copy) => assert_eq!(spliced, 0),
            Strategy::Always(Method::Splice) => assert_eq!(spliced, 8 << 20),
            Strategy::Adaptive => assert!(spliced > 0, "a stream is spliced after a while"),
        }
    }
}

#[test]
fn a_header_goes_before_the_first_bytes_and_is_not_counted() {
    let backend =
        backend::testing::backend(backend::testing::settings(vec![backend::testing::server("a", 1, 0)]));
    for strategy in [Strategy::Always(Method::Copy), Strategy::Adaptive] {
        // The second does not fit into one read with the header in front of it.
        for len in [5, 3 * COPY_CHUNK] {
            let header = vec![b'h'; JOINED_HEADER_MAX];
            let bytes = pattern(len, 3);
            let expected = [&header[..], &bytes].concat();
            let header = Some(Box::new(JoinedHeader(header)));
            let end = run_from(
                Start { strategy, has_bytes_waiting: true, header },
                &backend,
                8,
                move |client| exchange(client, &bytes, b"answer"),
                move |server| exchange(server, b"answer", &expected),
            );
            assert_eq!(end.close, CloseReason::Finished, "{strategy:?}");
            assert_eq!((end.carried.received(), end.carried.sent()), (len as u64, 6), "{strategy:?}");
        }
    }
}

#[test]
fn a_half_close_leaves_the_other_direction_open() {
    for strategy in STRATEGIES {
        let end = run(
            strategy,
            |backend| backend,
            |mut client| {
                client.write_all(b"question").expect("write");
                client.shutdown(Shutdown::Write).expect("half-close");
                assert_eq!(read_all(&mut client).expect("clean end"), b"a late answer");
            },
            |mut server| {
                assert_eq!(read_all(&mut server).expect("clean end"), b"question");
                server.write_all(b"a late answer").expect("write");
            },
        );
        assert_eq!(end.close, CloseReason::Finished, "{strategy:?}");
    }
}

#[test]
fn a_reset_is_passed_on_behind_the_bytes_before_it() {
    for strategy in STRATEGIES {
        let end = run(
            strategy,
            |backend| backend,
            |mut client| {
                let mut got = Vec::new();
                let error = client.read_to_end(&mut got).expect_err("a reset, not an end");
                assert_eq!((error.kind(), got), (ErrorKind::ConnectionReset, b"half an answ".to_vec()));
            },
            |mut server| {
                server.write_all(b"half an answ").expect("write");
                thread::sleep(Duration::from_millis(100));
                reset(server);
            },
        );
        assert_eq!(end.close, CloseReason::ServerReset, "{strategy:?}");
    }
}

#[test]
fn a_reset_of_the_client_reaches_a_server_that_does_not_read() {
    for strategy in STRATEGIES {
        let end = run(
            strategy,
            |backend| backend,
            |mut client| {
                // More than all buffers on the way take, so that the direction stalls.
                client.set_write_timeout(Some(Duration::from_millis(500))).expect("set");
                let bytes = vec![7; 1 << 20];
                while client.write_all(&bytes).is_ok() {}
                reset(client);
            },
            |server| {
                // Readable bytes are there, none is read: only the error counts.
                let waited = wait_for_error(&server);
                assert!(waited, "the reset arrives while the server reads nothing");
            },
        );
        assert_eq!(end.close, CloseReason::ClientReset, "{strategy:?}");
    }
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_loses_nothing() {
    for strategy in STRATEGIES {
        let sent = pattern(24 << 20, 3);
        let expected = sent.clone();
        let end = run(
            strategy,
            |backend| backend,
            move |mut client| {
                client.write_all(&sent).expect("write");
                client.shutdown(Shutdown::Write).expect("half-close");
                assert_eq!(read_all(&mut client).expect("clean end"), b"");
            },
            move |mut server| {
                thread::sleep(Duration::from_millis(300));
                assert!(read_all(&mut server).expect("clean end") == expected);
            },
        );
        assert_eq!(end.close, CloseReason::Finished, "{strategy:?}");
    }
}

#[test]
fn silence_ends_a_flow_with_a_reset() {
    for strategy in STRATEGIES {
        let end = run(
            strategy,
            |backend| config::Backend { idle_timeout: Some(Duration::from_millis(200)), ..backend },
            |mut client| {
                client.write_all(b"hello").expect("write");
                assert_eq!(read_all(&mut client).expect_err("cut").kind(), ErrorKind::ConnectionReset);
            },
            |mut server| assert!(read_all(&mut server).is_err()),
        );
        assert_eq!((end.close, end.carried.received()), (CloseReason::IdleTimeout, 5), "{strategy:?}");
    }
}

#[test]
fn a_half_closed_flow_has_a_timeout_of_its_own() {
    for strategy in STRATEGIES {
        let end = run(
            strategy,
            |backend| config::Backend { half_close_timeout: Some(Duration::from_millis(200)), ..backend },
            |mut client| {
                client.shutdown(Shutdown::Write).expect("half-close");
                assert_eq!(read_all(&mut client).expect_err("cut").kind(), ErrorKind::ConnectionReset);
            },
            |mut server| {
                assert_eq!(server.read(&mut [0; 16]).expect("the FIN"), 0);
                assert!(wait_for_error(&server));
            },
        );
        assert_eq!(
            (end.close, end.silent),
            (CloseReason::HalfCloseTimeout, Some(Side::Server)),
            "{strategy:?}"
        );
    }
}

#[test]
fn a_reader_that_pauses_is_not_half_closed() {
    for strategy in STRATEGIES {
        let answer = pattern(1 << 20, 5);
        let expected = answer.clone();
        let end = run(
            strategy,
            |backend| config::Backend { half_close_timeout: Some(Duration::from_millis(200)), ..backend },
            move |mut client| {
                // Everything fits into the buffers on the way: the server's FIN is there, too.
                thread::sleep(Duration::from_secs(1));
                assert!(read_all(&mut client).expect("clean end") == expected);
            },
            move |mut server| {
                server.write_all(&answer).expect("write");
                server.shutdown(Shutdown::Write).expect("half-close");
                assert_eq!(read_all(&mut server).expect("clean end"), b"");
            },
        );
        assert_eq!(end.close, CloseReason::Finished, "{strategy:?}");
    }
}

#[test]
fn a_reset_behind_a_fin_reaches_the_other_end() {
    for strategy in STRATEGIES {
        let end = run(
            strategy,
            |backend| backend,
            |client| {
                client.shutdown(Shutdown::Write).expect("half-close");
                thread::sleep(Duration::from_millis(100));
                reset(client);
            },
            |mut server| {
                assert_eq!(server.read(&mut [0; 16]).expect("the FIN"), 0);
                assert!(wait_for_error(&server), "the reset arrives although the server says nothing");
            },
        );
        assert_eq!(end.close, CloseReason::ClientReset, "{strategy:?}");
    }
}

#[test]
fn a_goodbye_to_a_server_that_has_closed_is_no_failure_of_the_server() {
    for strategy in STRATEGIES {
        let end = run(
            strategy,
            |backend| backend,
            |mut client| {
                assert_eq!(read_all(&mut client).expect("clean end"), b"answer");
                client.write_all(b"goodbye").expect("write");
                assert!(wait_for_error(&client), "the server's kernel says that nobody listens");
            },
            |mut server| server.write_all(b"answer").expect("write"),
        );
        assert_eq!(end.close, CloseReason::ServerClosed, "{strategy:?}");
    }
}

#[test]
fn a_slow_reader_gets_what_came_before_a_reset() {
    for strategy in STRATEGIES {
        let answer = pattern(1 << 20, 6);
        let expected = answer.clone();
        let end = run(
            strategy,
            |backend| backend,
            move |mut client| {
                let mut received = vec![0; expected.len()];
                // A third more than the drain allows without progress.
                for piece in received.chunks_mut(1 << 18) {
                    thread::sleep(Duration::from_secs(2));
                    client.read_exact(piece).expect("bytes from before the reset");
                }
                assert!(received == expected);
                assert!(client.read(&mut [0]).is_err(), "the reset follows");
            },
            move |mut server| {
                server.write_all(&answer).expect("write");
                thread::sleep(Duration::from_millis(200));
                reset(server);
            },
        );
        assert_eq!(end.close, CloseReason::ServerReset, "{strategy:?}");
    }
}

/// Whoever waits for a place on a server does not wait for clients of sessions that it no longer has.
#[test]
fn a_server_that_is_gone_has_room_while_its_last_answer_is_still_read() {
    for strategy in STRATEGIES {
        let servers = vec![backend::testing::server("a", 1, 1)];
        let backend = Arc::new(backend::testing::backend(backend::testing::settings(servers)));
        let (watched, answer) = (Arc::clone(&backend), pattern(1 << 20, 7));
        let expected = answer.clone();
        let end = run_on(
            &backend,
            8,
            strategy,
            move |mut client| {
                // Nothing is read before the place is free.
                let begun = std::time::Instant::now();
                while watched.active() > 0 {
                    assert!(begun.elapsed() < Duration::from_secs(4), "the place is held");
                    thread::sleep(Duration::from_millis(5));
                }
                let mut received = vec![0; expected.len()];
                client.read_exact(&mut received).expect("bytes from before the reset");
                assert!(received == expected);
            },
            move |mut server| {
                server.write_all(&answer).expect("write");
                thread::sleep(Duration::from_millis(200));
                reset(server);
            },
        );
        assert_eq!(end.close, CloseReason::ServerReset, "{strategy:?}");
    }
}

#[test]
fn urgent_data_stays_in_the_stream() {
    use rustix::net::{SendFlags, send};
    for strategy in STRATEGIES {
        for round in 0..20 {
            let end = run(
                strategy,
                |backend| backend,
                move |mut client| {
                    client.write_all(b"before").expect("write");
                    assert_eq!(send(&client, b"!", SendFlags::OOB), Ok(1));
                    client.write_all(b"behind").expect("write");
                    if round % 2 == 0 {
                        client.shutdown(Shutdown::Write).expect("half-close");
                    }
                    assert_eq!(read_all(&mut client).expect("clean end"), b"answer");
                },
                |mut server| {
                    let mut received = [0; 13];
                    server.read_exact(&mut received).expect("all of it");
                    assert_eq!(&received, b"before!behind");
                    server.write_all(b"answer").expect("write");
                },
            );
            assert_eq!(end.close, CloseReason::Finished, "{strategy:?}");
        }
    }
}

#[test]
fn splice_copies_when_there_is_no_pipe() {
    let (bytes, expected) = (pattern(COPY_CHUNK * 5 + 3, 4), pattern(COPY_CHUNK * 5 + 3, 4));
    let end = run_with_pipes(
        0,
        Strategy::Always(Method::Splice),
        |backend| backend,
        move |client| exchange(client, &bytes, b""),
        move |server| exchange(server, b"", &expected),
    );
    assert_eq!(end.close, CloseReason::Finished);
    assert_eq!(end.carried.by_path(PathKind::Splice), 0);
    assert!(end.pipes_exhausted > 0);
}
