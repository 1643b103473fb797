// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is compared: lb by path, its peers, and no balancer at all. Each gets the settings that its own manual recommends for
//! two cores, and the same job: peek at the ClientHello, choose one of ten backends by name, say who the client is, carry bytes.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use rustix::process::Signal;
use serde::Serialize;

use crate::lab::{Lab, Launch, Program};
use crate::load::preface::Header;
use crate::load::{ROUTES, route_name};

/// Threads or worker processes of each.
const WORKERS: usize = 2;

/// The first balancer's port; each has its own.
const FIRST_PORT: u16 = 1001;

/// Where Debian's libnginx-mod-stream puts its module.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// The environment variable that names the binary of lb.
const LB_AGENT: &str = "LB_AGENT";

/// One of what is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// Routed through the balancer's namespace, no balancer.
    Direct,
    /// lb with path = "auto".
    LbAuto,
    /// lb with path = "splice".
    LbSplice,
    /// lb with path = "copy".
    LbCopy,
    /// HAProxy.
    Haproxy,
    /// HAProxy with `option splice-auto`.
    HaproxySplice,
    /// nginx stream.
    Nginx,
}

/// A contestant that takes connections.
pub struct Running {
    /// Which.
    pub contestant: Contestant,
    /// Where clients connect, by route.
    pub targets: Vec<SocketAddr>,
    /// Its process, if it has one.
    pub program: Option<Program>,
}

impl Contestant {
    /// As the command line and the report call it.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The PROXY header that it sends. nginx 1.22 knows version 1 only (version 2 came with 1.31.4).
    pub fn header(self) -> Header {
        match self {
            Self::Direct => Header::None,
            Self::Nginx => Header::V1,
            _ => Header::V2,
        }
    }

    /// What it says about its version.
    ///
    /// # Errors
    /// It is not installed.
    pub fn version(self) -> Result<String> {
        match self {
            Self::Direct => Ok("no balancer: IP forwarding".to_owned()),
            Self::LbAuto | Self::LbSplice | Self::LbCopy => first_line(&agent()?, "--version"),
            Self::Haproxy | Self::HaproxySplice => first_line("haproxy", "-v"),
            Self::Nginx => {
                fs::metadata(NGINX_STREAM)
                    .with_context(|| format!("no {NGINX_STREAM} (package libnginx-mod-stream)"))?;
                first_line("nginx", "-v")
            }
        }
    }

    /// The configuration for a balancer at `listen`; `None` for [`Self::Direct`].
    pub fn config(self, lab: &Lab) -> Option<String> {
        let listen = self.listen(lab);
        match self {
            Self::Direct => None,
            Self::LbAuto => Some(lb_config(listen, &lab.servers, "path = \"auto\"")),
            Self::LbSplice => {
                Some(lb_config(listen, &lab.servers, "path = \"splice\"\npath-required = true"))
            }
            Self::LbCopy => Some(lb_config(listen, &lab.servers, "path = \"copy\"\npath-required = true")),
            Self::Haproxy => Some(haproxy_config(listen, &lab.servers, "")),
            Self::HaproxySplice => Some(haproxy_config(listen, &lab.servers, "    option splice-auto\n")),
            Self::Nginx => Some(nginx_config(listen, lab)),
        }
    }

    /// Starts it and waits until it takes connections.
    ///
    /// # Errors
    /// It refuses its configuration or does not start.
    pub fn start(self, lab: &Lab) -> Result<Running> {
        let Some(config) = self.config(lab) else {
            return Ok(Running { contestant: self, targets: lab.servers.clone(), program: None });
        };
        let path = lab.directory.join("configs").join(self.file_name());
        fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        let launch = Launch {
            command: self.command(lab, &path)?,
            log: lab.directory.join(format!("logs/{}.log", self.name())),
            is_talking: false,
            // nginx takes its workers along at SIGTERM; the others are one process, and lb would drain.
            farewell: if self == Self::Nginx { Signal::TERM } else { Signal::KILL },
        };
        let mut program = lab.balancer.spawn(launch)?;
        let listen = self.listen(lab);
        lab.wait_for(&mut program, listen).with_context(|| format!("{} does not start", self.name()))?;
        Ok(Running { contestant: self, targets: vec![listen; ROUTES], program: Some(program) })
    }

    fn listen(self, lab: &Lab) -> SocketAddr {
        SocketAddr::new(lab.balancer_address.ip(), FIRST_PORT + self as u16)
    }

    /// The file that its configuration is kept in.
    pub fn file_name(self) -> String {
        let extension = match self {
            Self::LbAuto | Self::LbSplice | Self::LbCopy => "toml",
            Self::Haproxy | Self::HaproxySplice => "cfg",
            Self::Direct | Self::Nginx => "conf",
        };
        format!("{}.{extension}", self.name())
    }

    fn command(self, lab: &Lab, config: &std::path::Path) -> Result<Vec<String>> {
        let config = config.to_string_lossy().into_owned();
        let directory = lab.directory.to_string_lossy().into_owned();
        let words = match self {
            Self::Direct => vec!["true".to_owned()],
            Self::LbAuto | Self::LbSplice | Self::LbCopy => {
                vec![agent()?, "run".to_owned(), "--config".to_owned(), config]
            }
            Self::Haproxy | Self::HaproxySplice => {
                ["haproxy", "-db", "-f", &config].map(str::to_owned).to_vec()
            }
            Self::Nginx => {
                ["nginx", "-p", &directory, "-e", "stderr", "-c", &config].map(str::to_owned).to_vec()
            }
        };
        Ok(words)
    }
}

/// The binary of lb.
fn agent() -> Result<String> {
    let path =
        std::env::var(LB_AGENT).with_context(|| format!("{LB_AGENT} does not name the binary of lb"))?;
    let path: PathBuf = PathBuf::from(&path).canonicalize().with_context(|| format!("{LB_AGENT}={path}"))?;
    Ok(path.to_string_lossy().into_owned())
}

fn first_line(program: &str, argument: &str) -> Result<String> {
    let output =
        Command::new(program).arg(argument).output().with_context(|| format!("cannot start {program}"))?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned())
}

fn lb_config(listen: SocketAddr, servers: &[SocketAddr], path: &str) -> String {
    let head = format!(
        r#"[global]
workers = {WORKERS}

[log]
target = "off"
level = "warn"

[frontend.bench]
bind = ["{listen}"]
mode = "tls-passthrough"
client-hello-timeout = "5s"
{path}
"#
    );
    let routes = servers.iter().enumerate().map(|(route, server)| {
        let name = route_name(route);
        format!(
            r#"
[[frontend.bench.route]]
sni = ["{name}"]
backend = "route-{route}"

[backend.route-{route}]
send-proxy = "v2"
connect-timeout = "5s"
idle-timeout = "1h"

[[backend.route-{route}.server]]
name = "server"
address = "{server}"
"#
        )
    });
    std::iter::once(head).chain(routes).collect()
}

fn haproxy_config(listen: SocketAddr, servers: &[SocketAddr], option: &str) -> String {
    let choices = (0..servers.len()).map(|route| {
        format!("    use_backend route-{route} if {{ req.ssl_sni -i {} }}\n", route_name(route))
    });
    let backends = servers.iter().enumerate().map(|(route, server)| {
        format!("\nbackend route-{route}\n    server server {server} send-proxy-v2\n")
    });
    format!(
        "\
global
    nbthread {WORKERS}
    maxconn 6000

defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
{option}
frontend bench
    bind {listen}
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
{}{}",
        choices.collect::<String>(),
        backends.collect::<String>()
    )
}

fn nginx_config(listen: SocketAddr, lab: &Lab) -> String {
    let directory = lab.directory.display();
    let names = (0..ROUTES).map(|route| format!("        {} route-{route};\n", route_name(route)));
    let upstreams = lab
        .servers
        .iter()
        .enumerate()
        .map(|(route, server)| format!("    upstream route-{route} {{ server {server}; }}\n"));
    format!(
        "\
load_module {NGINX_STREAM};
worker_processes {WORKERS};
daemon off;
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
stream {{
    access_log off;
    map $ssl_preread_server_name $backend {{
{}    }}
{}    server {{
        listen {listen} reuseport backlog=4096;
        ssl_preread on;
        preread_timeout 5s;
        proxy_connect_timeout 5s;
        proxy_timeout 1h;
        proxy_half_close on;
        proxy_protocol on;
        proxy_pass $backend;
    }}
}}
",
        names.collect::<String>(),
        upstreams.collect::<String>()
    )
}
