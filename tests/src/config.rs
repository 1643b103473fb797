// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configurations for the agent, as text.

use std::fmt::Write;
use std::net::SocketAddr;

/// Where the admin surface listens, inside the balancer's namespace.
pub const ADMIN: &str = "127.0.0.1:8404";

/// How flows must be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// `path = "sockmap"` from the first byte on: not required, because a flow that has begun to end before the hand-over goes another way, and what waits for a
    /// slow reader when its sender has ended, too.
    Sockmap,
    /// `path = "packet"` as soon as a flow can leave: not required, because it begins elsewhere.
    Packet,
    /// `path = "splice"`, required.
    Splice,
    /// `path = "copy"`, required.
    Copy,
    /// `path = "auto"`: the agent may change its mind in the middle of a flow.
    Auto,
}

impl Path {
    /// Its lines in a frontend or backend.
    pub fn lines(self) -> &'static str {
        match self {
            Self::Sockmap => "path = \"sockmap\"\npromote-after-bytes = \"0B\"\n",
            Self::Packet => "path = \"packet\"\npromote-after-bytes = \"0B\"\n",
            Self::Splice => "path = \"splice\"\npath-required = true\n",
            Self::Copy => "path = \"copy\"\npath-required = true\n",
            Self::Auto => "path = \"auto\"\n",
        }
    }

    /// What metrics and log may call flows that it carries.
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Sockmap => &["sockmap", "splice", "copy"],
            Self::Packet => &["packet", "splice", "copy"],
            Self::Splice => &["splice"],
            Self::Copy => &["copy"],
            Self::Auto => &["splice", "copy"],
        }
    }

    /// What they call what it carries itself, without what it leaves to others.
    pub fn own_labels(self) -> &'static [&'static str] {
        match self {
            Self::Packet => &["packet"],
            Self::Sockmap => &["sockmap"],
            others => others.labels(),
        }
    }
}

/// A configuration that grows table by table.
#[derive(Clone, Debug)]
pub struct Config {
    path: Option<Path>,
    tables: String,
}

impl Config {
    /// One with an admin surface and the access log as JSON on standard output.
    pub fn new() -> Self {
        Self::with_log("target = \"stdout\"")
    }

    /// One with an admin surface and these lines in `[log]`.
    pub fn with_log(lines: &str) -> Self {
        Self { path: None, tables: format!("[admin]\nbind = \"{ADMIN}\"\n\n[log]\n{lines}\n") }
    }

    /// A whole text, such as a file that the repository ships. Its admin surface must be at [`ADMIN`].
    pub fn whole(text: &str) -> Self {
        Self { path: None, tables: text.to_owned() }
    }

    /// Requires a path in the frontends that follow.
    #[must_use]
    pub fn path(self, path: Path) -> Self {
        Self { path: Some(path), ..self }
    }

    /// Adds `[global]` with these lines.
    #[must_use]
    pub fn global(self, lines: &str) -> Self {
        self.raw(&format!("[global]\n{lines}"))
    }

    /// Adds a frontend of mode `tcp`.
    #[must_use]
    pub fn tcp(self, name: &str, bind: SocketAddr, backend: &str, lines: &str) -> Self {
        let more = format!("mode = \"tcp\"\ndefault-backend = \"{backend}\"\n{lines}");
        self.frontend(name, &[bind], &more)
    }

    /// Adds a frontend of mode `tls-passthrough`.
    #[must_use]
    pub fn passthrough(self, name: &str, bind: &[SocketAddr], lines: &str) -> Self {
        self.frontend(name, bind, &format!("mode = \"tls-passthrough\"\n{lines}"))
    }

    /// Adds a route of a frontend by name.
    #[must_use]
    pub fn route(self, frontend: &str, sni: &str, backend: &str) -> Self {
        self.raw(&format!("[[frontend.{frontend}.route]]\nsni = [\"{sni}\"]\nbackend = \"{backend}\""))
    }

    /// Adds a backend with one server, without checks.
    #[must_use]
    pub fn backend(self, name: &str, server: SocketAddr, lines: &str) -> Self {
        self.pool(name, lines).server(name, "only", server, "")
    }

    /// Begins a backend; its servers follow.
    #[must_use]
    pub fn pool(self, name: &str, lines: &str) -> Self {
        self.raw(&format!("[backend.{name}]\n{lines}"))
    }

    /// Adds a server to a backend.
    #[must_use]
    pub fn server(self, backend: &str, name: &str, address: SocketAddr, lines: &str) -> Self {
        let keys = format!("name = \"{name}\"\naddress = \"{address}\"\n{lines}");
        self.raw(&format!("[[backend.{backend}.server]]\n{keys}"))
    }

    /// Adds lines as they are.
    #[must_use]
    pub fn raw(mut self, lines: &str) -> Self {
        writeln!(self.tables, "\n{lines}").expect("strings grow");
        self
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.tables
    }

    fn frontend(self, name: &str, bind: &[SocketAddr], lines: &str) -> Self {
        let bind: Vec<String> = bind.iter().map(|address| format!("\"{address}\"")).collect();
        let path = self.path.map_or("", Path::lines);
        self.raw(&format!("[frontend.{name}]\nbind = [{}]\n{path}{lines}", bind.join(", ")))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}
