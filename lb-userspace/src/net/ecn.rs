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
        !matches!(&self.text(), b"0\n" | b"2\n")
    }

    /// Whether clients that ask for ECN get it, and servers are not asked for it.
    pub fn only_grants(&self) -> bool {
        &self.text() == b"2\n"
    }

    /// Its first two bytes; zeros if that is not to be known.
    fn text(&self) -> [u8; 2] {
        let mut text = [0; 2];
        let read = self.0.as_ref().is_some_and(|file| file.read_at(&mut text, 0).is_ok());
        if read { text } else { [0; 2] }
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
        assert_eq!(EcnSetting::open().only_grants(), text.trim() == "2");
        let unknown = EcnSetting(None);
        assert_eq!((unknown.asks(), unknown.only_grants()), (true, false), "nobody knows");
    }
}
