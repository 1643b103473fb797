// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether this host asks for ECN (RFC 3168 section 6.1.1) by itself.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// What SYNs of this network namespace ask for (ip-sysctl.rst, tcp_ecn): nothing if it is 0, or 2, which is the default.
const FILE: &str = "/proc/sys/net/ipv4/tcp_ecn";

/// The setting, as it is whenever it is asked for.
#[derive(Debug)]
pub struct EcnSetting(Option<File>);

impl EcnSetting {
    /// Of this network namespace.
    pub fn open() -> Self {
        Self(File::open(FILE).ok())
    }

    /// Whether SYNs ask for ECN, unless a route or a congestion control says otherwise. `true` if that is not to be known.
    pub fn asks(&self) -> bool {
        let mut text = [0; 2];
        let read = self.0.as_ref().is_none_or(|file| file.read_at(&mut text, 0).is_err());
        read || !matches!(&text, b"0\n" | b"2\n")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_is_what_the_kernel_says() {
        let text = fs::read_to_string(FILE).expect("Linux has it");
        assert_eq!(EcnSetting::open().asks(), !["0", "2"].contains(&text.trim()));
        assert!(EcnSetting(None).asks(), "nobody knows");
    }
}
