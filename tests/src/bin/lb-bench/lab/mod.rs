// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where it all runs: client, balancer and servers in network namespaces of their own, and programs inside that never outlive us.
//!
//! Namespaces have no names and end with the last process inside. Every program gets a signal from the kernel when this process
//! ends, however it ends (`setpriv --pdeathsig`, prctl(2) PR_SET_PDEATHSIG), so that nothing has to be cleaned up at Ctrl-C. The
//! kernel sends it when the *thread* that started the program ends, so each namespace has one thread that starts all of its
//! programs and lives as long as this process. The one setting of the host that may have to change, and the one folder outside of the
//! run's own, are taken back when the lab is dropped.

mod congestion;
pub mod https;
mod program;

use std::cell::OnceCell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use lb_tests::net::Net;
use rustix::process::Signal;

use crate::contestant::Servers;
use crate::interrupt::{AtExit, at_exit, is_living};
use crate::load::{READY, ROUTES, SOURCES};
use crate::measure::tree;
pub use program::{Launch, Place, Program};

/// The servers' ports, one a route.
const FIRST_SERVER_PORT: u16 = 2001;

/// The ports of the TLS server.
const HTTPS: https::Ports = https::Ports { behind_balancer: 2101, direct: 2102 };

/// A net whose addresses all lead to the load server, where many servers are wanted.
const MANY: (Ipv4Addr, &str) = (Ipv4Addr::new(10, 3, 0, 1), "10.3.0.0/16");

/// How long a program may take to start, with a million names.
const START_MAX: Duration = Duration::from_secs(120);

/// How long one try to connect may take.
const CONNECT_MAX: Duration = Duration::from_millis(20);

/// How often a start is looked at, which is measured.
const START_POLL: Duration = Duration::from_millis(2);

/// Connections in TIME_WAIT that a namespace remembers: more than come in a minute, which is how long each is remembered. With the
/// kernel's own limit, they would be forgotten early in some samples and not in others (`TCPTimeWaitOverflow`).
const TIME_WAIT_MAX: &str = "2000000";

/// Settings of every namespace: no memory of earlier connections' measurements, ports for many connections, and TIME_WAIT as it is
/// meant to be.
const SYSCTLS: [(&str, &str); 3] = [
    ("net/ipv4/tcp_no_metrics_save", "1"),
    // Above are the ports of lb's path packet.
    ("net/ipv4/ip_local_port_range", "10000 60999"),
    ("net/ipv4/tcp_max_tw_buckets", TIME_WAIT_MAX),
];

/// The namespaces with the load server inside.
pub struct Lab {
    /// Where clients run.
    pub client: Place,
    /// Where balancers run.
    pub balancer: Place,
    /// Address of the balancer that clients reach, without port.
    pub balancer_address: SocketAddr,
    /// Addresses of the load servers, by route.
    pub servers: Vec<SocketAddr>,
    /// Where configurations, logs and results go.
    pub directory: PathBuf,
    load_server: Program,
    /// Where servers run, and end.
    server: Place,
    https_server: OnceCell<Program>,
    scratch: PathBuf,
    /// Last, so that nothing is taken back that a program inside still uses.
    _at_exit: AtExit,
}

impl Lab {
    /// Makes the namespaces, with the same congestion control in each, and starts the load server.
    ///
    /// # Errors
    /// A file cannot be written, the kernel lacks the congestion control, or the load server does not start.
    ///
    /// # Panics
    /// Without root.
    pub fn new(directory: &Path, congestion_control: &str) -> Result<Self> {
        for folder in ["configs", "logs", "work"] {
            fs::create_dir_all(directory.join(folder))
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let directory = directory.canonicalize()?;
        let exit = AtExit;
        congestion::allow(congestion_control)?;
        let scratch = tempfile::Builder::new().prefix("lb-bench-").tempdir()?.keep();
        let folder = scratch.clone();
        // It is in a folder for such things, if it cannot be removed.
        at_exit(move || drop(fs::remove_dir_all(folder)));
        let net = Arc::new(Net::new(1));
        for place in [&net.client, &net.balancer, net.server()] {
            for (key, value) in SYSCTLS {
                place.sysctl(key, value);
            }
            place.sysctl("net/ipv4/tcp_congestion_control", congestion_control);
        }
        let (gateway, many) = (net.server().v4.to_string(), MANY.1);
        net.server().run(Command::new("ip").args(["route", "add", "local", many, "dev", "lo"]));
        net.balancer.run(Command::new("ip").args(["route", "add", many, "via", &gateway]));
        let (client, sources) = (net.client.v4.to_string(), SOURCES.1);
        net.client.run(Command::new("ip").args(["route", "add", "local", sources, "dev", "lo"]));
        net.balancer.run(Command::new("ip").args(["route", "add", sources, "via", &client]));
        let servers =
            (0..ROUTES as u16).map(|route| net.server().address(FIRST_SERVER_PORT + route)).collect();
        let server = Place::new(&net, Net::server);
        let mut load_server = server.spawn(Launch {
            command: vec![
                own_program()?,
                "--as-server".into(),
                FIRST_SERVER_PORT.to_string(),
                ROUTES.to_string(),
            ],
            log: directory.join("logs/load-server.log"),
            is_talking: true,
            farewell: Signal::KILL,
        })?;
        load_server.expect(READY)?;
        Ok(Self {
            client: Place::new(&net, |net| &net.client),
            balancer: Place::new(&net, |net| &net.balancer),
            balancer_address: net.frontend(0),
            servers,
            directory,
            load_server,
            server,
            https_server: OnceCell::new(),
            scratch,
            _at_exit: exit,
        })
    }

    /// Addresses of servers by backend; `is_direct` for clients that reach them without a balancer.
    pub fn backends(&self, servers: Servers, is_direct: bool) -> Vec<Vec<SocketAddr>> {
        match servers {
            Servers::Load => self.servers.iter().map(|server| vec![*server]).collect(),
            Servers::Many(count) => vec![many(count).collect()],
            Servers::Https => {
                let port = if is_direct { HTTPS.direct } else { HTTPS.behind_balancer };
                vec![vec![SocketAddr::new(self.servers[0].ip(), port)]; ROUTES]
            }
        }
    }

    /// Starts the TLS server, if these servers need it and it does not run yet.
    ///
    /// # Errors
    /// nginx is not installed, or its files cannot be written.
    pub fn prepare(&self, servers: Servers) -> Result<()> {
        if servers != Servers::Https || self.https_server.get().is_some() {
            return Ok(());
        }
        let mut nginx = self.server.spawn(Launch {
            command: https::prepare(&self.directory.join("https"), HTTPS)?,
            log: self.directory.join("logs/https-server.log"),
            is_talking: false,
            farewell: Signal::TERM,
        })?;
        let address = SocketAddr::new(self.servers[0].ip(), HTTPS.direct);
        self.wait_for(&mut nginx, address)?;
        // It was not there a moment ago, and nobody else puts it there.
        let _ = self.https_server.set(nginx);
        Ok(())
    }

    /// Where programs may leave what nobody needs afterwards; its path is short.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Makes sure that whoever failed did not fail because the servers are gone.
    ///
    /// # Errors
    /// They are.
    pub fn ensure_servers_run(&self) -> Result<()> {
        let ended = self.server_pids().into_iter().find(|pid| !is_living(*pid));
        ensure!(
            ended.is_none(),
            "a server of the bench has ended; its log is in {}",
            self.directory.display()
        );
        Ok(())
    }

    /// The processes of all servers.
    pub fn server_pids(&self) -> Vec<u32> {
        let https = self.https_server.get().map(|nginx| tree(nginx.pid()));
        std::iter::once(self.load_server.pid()).chain(https.into_iter().flatten()).collect()
    }

    /// The congestion control of the balancer's namespace, as its kernel says.
    ///
    /// # Errors
    /// There is no /proc.
    pub fn congestion_control(&self) -> Result<String> {
        let read = || fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
        Ok(self.balancer.run(read)??.trim().to_owned())
    }

    /// Waits until a balancer accepts connections.
    ///
    /// # Errors
    /// It ends, or it does not accept in time.
    pub fn wait_for(&self, balancer: &mut Program, address: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while self.client.run(move || TcpStream::connect_timeout(&address, CONNECT_MAX))?.is_err() {
            balancer.ensure_running()?;
            if Instant::now() > deadline {
                bail!("{} does not accept connections: {}", balancer.name, balancer.last_words());
            }
            thread::sleep(START_POLL);
        }
        Ok(())
    }
}

/// Servers on addresses of [`MANY`], all on the port of the first route.
fn many(count: usize) -> impl Iterator<Item = SocketAddr> {
    let first = u32::from(MANY.0);
    (first..).take(count).map(|address| SocketAddr::from((Ipv4Addr::from(address), FIRST_SERVER_PORT)))
}

/// The program file of this process.
///
/// # Errors
/// Its path is not text.
pub fn own_program() -> Result<String> {
    let path = std::env::current_exe().context("the path of this program is unknown")?;
    path.into_os_string().into_string().map_err(|path| anyhow!("{} is not text", path.display()))
}
