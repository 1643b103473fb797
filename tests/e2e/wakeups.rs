// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel carries wakes nobody: not a worker, not the thread that the program calls, not the control thread.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use lb_tests::config::Path;
use lb_tests::size;
use lb_tests::stream::{receive_exactly, say};

use crate::support::Relay;

/// Wake-ups of all threads together that so many messages may cost, whatever their number.
const WAKEUPS_MAX: u64 = 100;

/// Nothing is asked of the agent meanwhile, because answering wakes it. What it does by the clock is measured with the same flow and a
/// message a second.
#[test]
fn a_hundred_thousand_messages_wake_no_thread_of_the_agent() {
    let relay = Relay::start(Path::Sockmap);
    let pair = relay.handed_over(Path::Sockmap);
    let messages = size(20_000, 100_000);
    let begin = Instant::now();
    let woken = naps_during(&relay, || (0..messages / 2).for_each(|_| ping(&pair)));
    let took = begin.elapsed();
    let seconds = took.as_secs() + 1;
    let periodic = naps_during(&relay, || {
        for _ in 0..seconds.max(5) {
            ping(&pair);
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    // The same time of it, and twice that, because the calmer flow may come out at a better moment.
    let allowed = periodic * 2 * seconds / seconds.max(5) + WAKEUPS_MAX;
    assert!(woken < allowed, "{woken} wake-ups for {messages} messages in {took:?}; {periodic} by the clock");
    drop(pair);
    relay.agent.until_idle();
    relay.agent.assert_inside(99);
}

/// What wakes the agent without it, by the clock, it may be woken by with it, too, and a few times more by chance.
#[test]
fn a_flow_on_which_nothing_moves_wakes_no_thread_of_the_agent() {
    const CHANCE: u64 = 5;
    let relay = Relay::start(Path::Sockmap);
    let silence = || std::thread::sleep(Duration::from_secs(size(5, 60)));
    let pair = relay.handed_over(Path::Sockmap);
    ping(&pair);
    // Until it has been looked at for the last time, a second after its last byte, and threads have ended that starting took: tokio keeps them
    // for ten seconds.
    std::thread::sleep(Duration::from_secs(13));
    let with = naps_during(&relay, silence);
    ping(&pair);
    drop(pair);
    relay.agent.until_idle();
    relay.agent.assert_inside(99);
    let without = naps_during(&relay, silence);
    assert!(with <= without + CHANCE, "{with} wake-ups, {without} without a flow");
}

fn ping((client, server): &(TcpStream, TcpStream)) {
    for (from, to) in [(client, server), (server, client)] {
        say(from, &[1; 64]);
        receive_exactly(to, 64);
    }
}

/// How often threads are woken meanwhile. Those that end meanwhile, as tokio's do that have had nothing to do for ten seconds, do not count.
fn naps_during(relay: &Relay, act: impl FnOnce()) -> u64 {
    let before = relay.agent.process.naps();
    act();
    let more = |(thread, naps): (String, u64)| naps - before.get(&thread).copied().unwrap_or(0);
    relay.agent.process.naps().into_iter().map(more).sum()
}
