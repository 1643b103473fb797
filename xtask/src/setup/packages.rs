// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one list of Debian packages that the tests use.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

/// Debian packages, each with what the tests do with it.
pub const PACKAGES: [(&str, &str); 14] = [
    ("chromium", "a browser's ClientHello, headless"),
    ("curl", "a TLS client, and a client of the admin surface"),
    ("g++", "compiles libFuzzer for the fuzz targets"),
    ("haproxy", "a server that reads PROXY headers, and the measure of the benchmarks"),
    ("iproute2", "network namespaces and virtual links"),
    ("libnginx-mod-stream", "nginx as a TCP proxy, in the benchmarks"),
    ("nftables", "packet loss and silence on a link"),
    ("nginx-light", "TLS servers that read PROXY headers"),
    ("openssl", "a TLS client whose ClientHello can be shaped"),
    ("procps", "what a process holds"),
    ("prometheus", "promtool, which judges the metrics page"),
    ("python3", "small peers for odd behaviour"),
    ("tshark", "a dissector's view of PROXY headers"),
    ("util-linux", "unshare, nsenter and prlimit"),
];

/// The packages of [`PACKAGES`] that are not installed; all of them where there is no dpkg.
///
/// # Errors
///
/// dpkg-query cannot be started although it is there.
pub fn missing() -> Result<Vec<&'static str>> {
    let names = PACKAGES.map(|(name, _)| name);
    if !crate::repository::has_program("dpkg-query") {
        return Ok(names.to_vec());
    }
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(names)
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
    fn the_list_is_sorted_and_without_doubles() {
        assert!(PACKAGES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
