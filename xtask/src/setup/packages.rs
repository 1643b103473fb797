// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one list of Debian packages that the tests use, and those that benchmarks and virtual machines use besides.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

/// Debian packages, each with what the tests do with it.
pub const PACKAGES: [(&str, &str); 23] = [
    ("bpftool", "what is left in the maps of path sockmap"),
    ("chromium", "a browser's ClientHello, headless"),
    ("curl", "a TLS client, and a client of the admin surface"),
    ("dnsmasq-base", "a DNS server whose records come and go"),
    ("g++", "compiles libFuzzer for the fuzz targets"),
    ("haproxy", "a server that reads PROXY headers, and the measure of the benchmarks"),
    ("iproute2", "network namespaces and virtual links"),
    ("libnginx-mod-stream", "nginx as a TCP proxy that writes PROXY headers, also in the benchmarks"),
    ("mptcpize", "makes the agent's sockets ones of Multipath TCP"),
    ("nftables", "packet loss and silence on a link"),
    ("nginx-light", "TLS servers that read PROXY headers"),
    ("openssl", "a TLS client whose ClientHello can be shaped"),
    ("procps", "what a process holds"),
    ("prometheus", "promtool, which judges the metrics page"),
    ("python3", "small peers for odd behaviour"),
    ("python3-pip", "brings peers that Debian does not have"),
    ("python3-websockets", "a WebSocket, from both ends"),
    ("redis-server", "a server that scripts of checks ask"),
    ("strace", "what the agent takes of a client, and when"),
    ("systemd", "systemd-analyze, which judges the unit file"),
    ("tshark", "a dissector's view of PROXY headers"),
    ("util-linux", "unshare, nsenter and prlimit"),
    ("valgrind", "counts instructions, which repeat where seconds do not"),
];

/// Debian packages that only benchmarks need, each with what for.
pub const BENCH_PACKAGES: [(&str, &str); 3] = [
    ("nghttp2-client", "h2load, which downloads over HTTP/2"),
    ("protobuf-compiler", "what sozu is built with"),
    ("wrk", "downloads over HTTP/1.1"),
];

/// Debian packages that only virtual machines need, each with what for.
pub const VM_PACKAGES: [(&str, &str); 3] = [
    ("qemu-system-x86", "emulates the machine"),
    ("vagrant", "reads the Vagrantfile"),
    ("xz-utils", "unpacks modules of kernels"),
];

/// Those of these packages that are not installed; all of them where there is no dpkg.
///
/// # Errors
///
/// dpkg-query cannot be started although it is there.
pub fn missing(packages: &[(&'static str, &str)]) -> Result<Vec<&'static str>> {
    let names: Vec<_> = packages.iter().map(|(name, _)| *name).collect();
    if !crate::repository::has_program("dpkg-query") {
        return Ok(names);
    }
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(&names)
        // It complains there about packages that it has never heard of.
        .stderr(Stdio::null())
        .output()
        .context("cannot start dpkg-query")?;
    let installed = installed(&String::from_utf8_lossy(&output.stdout));
    Ok(names.into_iter().filter(|name| !installed.iter().any(|installed| installed == name)).collect())
}

/// The names that dpkg-query's answer, lines of `NAME STATUS`, calls installed.
fn installed(answer: &str) -> Vec<String> {
    answer.lines().filter_map(|line| line.strip_suffix(" installed")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_installations_count() {
        let answer = "curl installed\nhaproxy config-files\nnginx-light half-installed\ntshark installed\n";
        assert_eq!(installed(answer), ["curl", "tshark"]);
    }

    #[test]
    fn the_lists_are_sorted_and_without_doubles() {
        for list in [&PACKAGES[..], &BENCH_PACKAGES, &VM_PACKAGES] {
            assert!(list.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
        for list in [&BENCH_PACKAGES[..], &VM_PACKAGES] {
            assert!(list.iter().all(|(name, _)| PACKAGES.iter().all(|(other, _)| other != name)));
        }
    }
}
