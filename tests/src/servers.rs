// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real servers: nginx, HAProxy and Redis.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::authority::Identity;
use crate::net::Namespace;
use crate::process::Process;
use crate::stream::Pattern;
use crate::wait;
use crate::websocket::SOCKET_PORT;

/// An nginx that speaks TLS behind a PROXY header. It answers with its own name and whom the header calls
/// the client, with both ends that the header names under `/ends`, and serves `/zeros`, and what it is [given](Self::give) besides. Behind
/// `/socket` is a [server of WebSockets](crate::websocket::SocketServer) of its own host.
#[derive(Debug)]
pub struct Nginx {
    /// The process: one, without workers.
    pub process: Process,
    files: TempDir,
}

/// The size of nginx's file `/zeros`, in bytes.
pub const ZEROS: u64 = 200 << 20;

impl Nginx {
    /// Starts one on port 443 of all addresses of a namespace and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn start(place: &Namespace, identity: &Identity) -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(files.path().join("nginx.conf"), nginx_conf(identity)).expect("a temporary file");
        let zeros = File::create(files.path().join("zeros")).expect("a temporary file");
        zeros.set_len(ZEROS).expect("a sparse file");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(files.path()).args(["-e", "stderr", "-c", "nginx.conf"]);
        let mut process = place.spawn(&mut command);
        until_listening(place, place.address(443), &mut process);
        Self { process, files }
    }

    /// Gives it a file to serve under `/files/`, as fast as it goes: the first bytes of the pattern of a seed.
    ///
    /// # Panics
    /// If the disk is full.
    pub fn give(&self, name: &str, seed: u64, bytes: u64) {
        let directory = self.files.path().join("files");
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let mut file = File::create(directory.join(name)).expect("a temporary file");
        let (mut pattern, mut left) = (Pattern::new(seed), bytes);
        let mut chunk = vec![0; 1 << 20];
        while left > 0 {
            let count = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
            pattern.fill(&mut chunk[..count]);
            file.write_all(&chunk[..count]).expect("room on the disk");
            left -= count as u64;
        }
    }

    /// Gives it a page to serve under `/files/`; its name ends with `.html`.
    ///
    /// # Panics
    /// If the disk is full.
    pub fn give_page(&self, name: &str, text: &str) {
        let directory = self.files.path().join("files");
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        std::fs::write(directory.join(name), text).expect("room on the disk");
    }

    /// The lines of its access log so far: client address, client port, name, status.
    pub fn log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.files.path().join("access.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// What it was asked for so far, a line each: path and protocol.
    pub fn protocols(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.files.path().join("protocols.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// Kills it on the spot.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait();
    }
}

fn nginx_conf(identity: &Identity) -> String {
    let Identity { name, certificate, key, .. } = identity;
    let (certificate, key) = (certificate.display(), key.display());
    format!(
        r#"daemon off; master_process off; pid nginx.pid; error_log stderr warn;
        events {{ worker_connections 4096; }}
        http {{
            client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
            uwsgi_temp_path uwsgi; scgi_temp_path scgi;
            log_format lb '$proxy_protocol_addr $proxy_protocol_port $ssl_server_name $status';
            access_log access.log lb;
            log_format protocol '$uri $server_protocol';
            access_log protocols.log protocol;
            default_type text/plain; types {{ text/html html; }}
            server {{
                listen 0.0.0.0:443 ssl http2 proxy_protocol;
                listen [::]:443 ssl http2 proxy_protocol;
                server_name {name};
                ssl_certificate {certificate};
                ssl_certificate_key {key};
                location = /zeros {{ root .; limit_rate 20m; }}
                location /files/ {{ root .; }}
                location = /socket {{
                    proxy_pass http://127.0.0.1:{SOCKET_PORT}; proxy_http_version 1.1; proxy_read_timeout 1h;
                    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
                }}
                location = /ends {{
                    return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port\n";
                }}
                location / {{
                    return 200 "I am {name}, you are $proxy_protocol_addr $proxy_protocol_port\n";
                }}
            }}
        }}"#
    )
}

/// An nginx that speaks TLS without a PROXY header, one certificate a port, and answers every request with the same text.
#[derive(Debug)]
pub struct Web {
    /// The process: one, without workers. It says on standard error whatever it minds about clients.
    pub process: Process,
    _files: TempDir,
}

impl Web {
    /// Starts one on these ports and waits until it listens on the first.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn start(place: &Namespace, ports: &[(u16, &Identity)], answer: &str) -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let server = |(port, identity): &(u16, &Identity)| {
            let (certificate, key) = (identity.certificate.display(), identity.key.display());
            format!(
                "server {{ listen {port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key}; \
                 location / {{ return 200 \"{answer}\"; }} }}\n"
            )
        };
        let servers: String = ports.iter().map(server).collect();
        let conf = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr info;\n\
             events {{ worker_connections 512; }}\n\
             http {{ client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
             uwsgi_temp_path uwsgi; scgi_temp_path scgi; access_log off; default_type text/plain;\n{servers}}}\n"
        );
        std::fs::write(files.path().join("nginx.conf"), conf).expect("a temporary file");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(files.path()).args(["-e", "stderr", "-c", "nginx.conf"]);
        let mut process = place.spawn(&mut command);
        until_listening(place, place.address(ports[0].0), &mut process);
        Self { process, _files: files }
    }
}

/// An nginx that relays TCP behind a PROXY header of its own, of version 1: it writes no other.
#[derive(Debug)]
pub struct NginxRelay {
    /// The process: one, without workers.
    pub process: Process,
    _files: TempDir,
}

impl NginxRelay {
    /// Starts one on a port of all addresses and waits until it listens, which is a connection through it.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn start(place: &Namespace, port: u16, server: SocketAddr) -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let conf = format!(
            "load_module {STREAM_MODULE}; daemon off; master_process off; pid nginx.pid; error_log stderr warn;\n\
             events {{ worker_connections 512; }}\n\
             stream {{ server {{ listen {port}; listen [::]:{port}; proxy_pass {server}; proxy_protocol on; }} }}\n"
        );
        std::fs::write(files.path().join("nginx.conf"), conf).expect("a temporary file");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(files.path()).args(["-e", "stderr", "-c", "nginx.conf"]);
        let mut process = place.spawn(&mut command);
        until_listening(place, place.address(port), &mut process);
        Self { process, _files: files }
    }
}

/// Where Debian puts nginx's `stream` (package libnginx-mod-stream).
pub const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A Redis that keeps nothing.
#[derive(Debug)]
pub struct Redis {
    /// The process.
    pub process: Process,
    _files: TempDir,
}

impl Redis {
    /// Starts one on a port of all addresses and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn start(place: &Namespace, port: u16) -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--protected-mode", "no", "--save", "", "--dir"]);
        let mut process = place.spawn(command.arg(files.path()));
        until_listening(place, place.address(port), &mut process);
        Self { process, _files: files }
    }
}

/// A HAProxy that speaks TLS behind a PROXY header and answers with what the header said.
#[derive(Debug)]
pub struct Haproxy {
    /// The process.
    pub process: Process,
    _files: TempDir,
}

impl Haproxy {
    /// Starts one on port 443 of all addresses of a namespace and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn start(place: &Namespace, identity: &Identity) -> Self {
        Self::saying(place, identity, "source %[src] %[src_port] authority %[fc_pp_authority]")
    }

    /// The same with an answer in HAProxy's log format (its configuration manual, section 8.2.6), without quotes.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn saying(place: &Namespace, identity: &Identity, answer: &str) -> Self {
        let frontend = format!(
            "mode http\n bind :::443 v4v6 accept-proxy ssl crt {}\n http-request return status 200 content-type \
             text/plain lf-string \"{answer}\\n\"",
            identity.both.display()
        );
        Self::with(place, &format!("frontend tls\n {frontend}"), 443)
    }

    /// Starts one as a balancer in the place of the agent: it sends PROXY v2 and sees nothing of the bytes.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn relay(place: &Namespace, port: u16, server: SocketAddr) -> Self {
        Self::relay_with(place, port, server, "send-proxy-v2")
    }

    /// The same with other words behind the server's address.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn relay_with(place: &Namespace, port: u16, server: SocketAddr, words: &str) -> Self {
        let listen = format!("listen relay\n mode tcp\n bind *:{port}\n server only {server} {words}");
        Self::with(place, &listen, port)
    }

    /// Starts one that relays from each of these ports to a server, and ends nobody who is silent.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn relays(place: &Namespace, relays: &[(u16, SocketAddr)]) -> Self {
        let relay = |(port, server): &(u16, SocketAddr)| {
            format!("listen relay{port}\n mode tcp\n bind *:{port}\n server only {server}\n")
        };
        let timeouts = "defaults\n timeout client 1d\n timeout server 1d\n timeout connect 5s\n";
        let sections: String = relays.iter().map(relay).collect();
        Self::with(place, &format!("{timeouts}{sections}"), relays[0].0)
    }

    #[track_caller]
    fn with(place: &Namespace, sections: &str, port: u16) -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let conf: PathBuf = files.path().join("haproxy.cfg");
        let timeouts = "timeout client 20s\n timeout server 20s\n timeout connect 5s";
        let text = format!("defaults\n {timeouts}\n{sections}\n");
        std::fs::write(&conf, text).expect("a temporary file");
        let mut process = place.spawn(Command::new("haproxy").arg("-db").arg("-f").arg(conf));
        until_listening(place, place.address(port), &mut process);
        Self { process, _files: files }
    }
}

/// tshark on the link of a namespace, dissecting PROXY headers on port 443.
#[derive(Debug)]
pub struct Tshark {
    process: Process,
    _files: TempDir,
}

/// The fields that tshark prints, one line a packet with a PROXY header, separated by tabs.
const FIELDS: [&str; 8] = [
    "proxy.version",
    "proxy.src.ipv4",
    "proxy.src.ipv6",
    "proxy.srcport",
    "proxy.dstport",
    "proxy.v2.tlv.type",
    "proxy.v2.tlv.value",
    "_ws.expert.message",
];

impl Tshark {
    /// Starts capturing.
    ///
    /// # Panics
    /// If it cannot.
    #[track_caller]
    pub fn start(place: &Namespace) -> Self {
        // It keeps what it captures in a file, which it would leave behind when it is killed.
        let files = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new("tshark");
        command.env("TMPDIR", files.path());
        command.args(["-l", "-n", "-i", "uplink", "-f", "tcp port 443"]);
        // The PROXY dissector is a heuristic one; port 443 alone would make it TLS.
        command.args(["-o", "tcp.try_heuristic_first:TRUE", "-Y", "proxy", "-T", "fields"]);
        for field in FIELDS {
            command.args(["-e", field]);
        }
        let process = place.spawn(&mut command);
        wait::until("tshark to capture", || {
            process.stderr().iter().any(|line| line.contains("Capture started"))
        });
        Self { process, _files: files }
    }

    /// Waits for the next dissected header after `seen` others, and returns its fields.
    #[track_caller]
    pub fn header(&self, seen: usize) -> Vec<String> {
        let line = wait::until_some("a dissected header", || self.process.stdout().get(seen).cloned());
        line.split('\t').map(str::to_owned).collect()
    }
}

/// Waits until a server listens, without sending it anything.
#[track_caller]
pub fn until_listening(place: &Namespace, address: SocketAddr, process: &mut Process) {
    wait::until(&format!("a listener on {address}"), || {
        assert_eq!(process.try_wait(), None, "the server ended: {:?}", process.stderr());
        place.enter(|| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
    });
}
