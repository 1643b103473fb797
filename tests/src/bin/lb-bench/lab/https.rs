// SPDX-License-Identifier: MIT OR Apache-2.0
//! nginx as a server of files over TLS.

use std::fs::{self, File};
use std::io::{Read as _, Write as _, copy, repeat};
use std::path::Path;

use anyhow::{Context as _, Result};

/// Where it listens.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// With a PROXY header.
    pub behind_balancer: u16,
    /// Without one.
    pub direct: u16,
}

/// Sizes of the files, in bytes, which are also their names.
pub const SIZES: [u64; 3] = [1_000, 100_000, 100_000_000];

/// Worker processes.
const WORKERS: usize = 2;

/// Writes certificate, files and configuration into a folder; returns the arguments for nginx.
///
/// # Errors
/// They cannot be written.
pub fn prepare(folder: &Path, ports: Ports) -> Result<Vec<String>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let key = rcgen::generate_simple_self_signed(["*.bench.example".to_owned()])?;
    for (name, text) in [
        ("certificate.pem", key.cert.pem()),
        ("key.pem", key.signing_key.serialize_pem()),
        ("nginx.conf", config(ports)),
    ] {
        File::create(folder.join(name))?.write_all(text.as_bytes())?;
    }
    for size in SIZES {
        let path = folder.join(size.to_string());
        if fs::metadata(&path).is_ok_and(|file| file.len() == size) {
            continue;
        }
        copy(&mut repeat(b'x').take(size), &mut File::create(&path)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let folder = folder.to_string_lossy();
    let arguments = ["nginx", "-p", &folder, "-e", "stderr", "-c", &format!("{folder}/nginx.conf")];
    Ok(arguments.map(str::to_owned).to_vec())
}

/// Paths in it are relative to the folder (`nginx -p`).
fn config(ports: Ports) -> String {
    let Ports { behind_balancer, direct } = ports;
    format!(
        "\
worker_processes {WORKERS};
daemon off;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_certificate certificate.pem;
    ssl_certificate_key key.pem;
    server {{
        listen {behind_balancer} ssl http2 proxy_protocol reuseport backlog=4096;
        listen {direct} ssl http2 reuseport backlog=4096;
        root .;
    }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn nginx_takes_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ports = Ports { behind_balancer: free(), direct: free() };
        let arguments = prepare(folder.path(), ports).unwrap();
        let output = Command::new(&arguments[0]).args(&arguments[1..]).arg("-t").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for size in SIZES {
            assert_eq!(fs::metadata(folder.path().join(size.to_string())).unwrap().len(), size);
        }
    }
}
