// SPDX-License-Identifier: MIT OR Apache-2.0
//! What checks cost.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::config::Config;
use lb_tests::net::Net;
use lb_tests::size;
use lb_tests::wait::until;

use crate::support::PORT;

/// The port of server 0; the others follow.
const FIRST_PORT: u16 = 20_000;

/// 1,000 servers checked every 2 s, in the size `soak`. There it costs 2.2 % of a core, 44 µs a check, on a busy machine; a busier one
/// may take five times as much.
#[test]
fn a_thousand_checks_every_two_seconds_cost_little() {
    let net = Net::new(1);
    let servers = Servers::start(&net, size(200, 1_000));
    let config = Config::new().tcp("in", net.frontend(PORT), "pool", "").pool("pool", "");
    let config = config.raw("[backend.pool.check]\ntype = \"tcp\"\ninterval = \"2s\"");
    let config = servers.addresses.iter().enumerate().fold(config, |config, (index, address)| {
        config.server("pool", &format!("server{index}"), *address, "")
    });
    let agent = Agent::start(&net, &config);
    let all = servers.addresses.len() as u64;
    until("the first check of each", || agent.scrape().count("lb_server_checks_total", &[]) >= all);

    let (begun, cpu) = (Instant::now(), agent.process.cpu_time());
    let arrived = servers.accepted.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_secs(size(6, 20)));
    let (lasted, cpu) = (begun.elapsed(), agent.process.cpu_time().saturating_sub(cpu));
    let arrived = servers.accepted.load(Ordering::Relaxed) - arrived;
    let share = 100.0 * cpu.as_secs_f64() / lasted.as_secs_f64();
    let each = cpu.as_secs_f64() * 1e6 / arrived as f64;
    eprintln!(
        "{all} servers, {arrived} checks in {lasted:.1?}: {cpu:?} of CPU, {share:.1} % of a core, {each:.0} µs a check"
    );

    let expected = all as f64 * lasted.as_secs_f64() / 2.0;
    assert!((arrived as f64 - expected).abs() <= expected * 0.2, "{arrived} checks instead of {expected}");
    let (each_max, share_max) = size((2_000.0, 50.0), (220.0, 11.0));
    assert!(each < each_max, "{each} µs a check");
    assert!(share < share_max, "{share} % of a core");
    assert_eq!(agent.scrape().count("lb_server_up", &[]), all);
    assert_eq!(agent.scrape().count("lb_server_check_failures_total", &[]), 0);
}

/// Listeners on loopback of the balancer, whose connections one thread accepts and drops.
struct Servers {
    addresses: Vec<SocketAddr>,
    accepted: Arc<AtomicU64>,
    is_stopped: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Servers {
    fn start(net: &Net, count: u16) -> Self {
        let ports = (0..count).map(|index| FIRST_PORT + index);
        let addresses: Vec<SocketAddr> = ports.map(|port| (Ipv4Addr::LOCALHOST, port).into()).collect();
        let listen = |address: &SocketAddr| {
            let listener = TcpListener::bind(address).expect("a free port in a namespace of its own");
            listener.set_nonblocking(true).expect("a fresh socket");
            listener
        };
        let listeners: Vec<_> = net.balancer.enter(|| addresses.iter().map(listen).collect());
        let (accepted, is_stopped) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let thread = std::thread::spawn({
            let (accepted, is_stopped) = (Arc::clone(&accepted), Arc::clone(&is_stopped));
            move || {
                while !is_stopped.load(Ordering::Relaxed) {
                    let one = |listener: &TcpListener| listener.accept().is_ok();
                    let some = listeners.iter().filter(|listener| one(listener)).count();
                    accepted.fetch_add(some as u64, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        });
        Self { addresses, accepted, is_stopped, thread: Some(thread) }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}
