// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel says of itself and of this process. Nothing here needs a privilege.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Resource, getrlimit};

use crate::cli::explain::System;
use crate::privileges::{self, Capability};

/// Exists where the kernel has bpf(2) (kernel/bpf/syscall.c, bpf_syscall_table).
const BPF_FILE: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";

/// The kernel's types (Documentation/bpf/btf.rst).
const BTF_FILE: &str = "/sys/kernel/btf/vmlinux";

/// What BTF begins with, by endianness (include/uapi/linux/btf.h, BTF_MAGIC).
const BTF_MAGIC: [u8; 2] = 0xeb9f_u16.to_ne_bytes();

/// What this process finds.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// Name, release and processor, as `uname -srm`.
    pub(super) kernel: String,
    /// kernel.unprivileged_bpf_disabled; `None`: the kernel has no bpf(2).
    pub(super) bpf_disabled: Option<String>,
    /// Whether the kernel tells its types.
    pub(super) has_btf: bool,
    /// Where cgroup v2 is mounted.
    pub(super) cgroup: Option<PathBuf>,
    /// The effective user.
    pub(super) user: u32,
    /// Capabilities that are held, of those that can be needed.
    pub(super) held: Vec<Capability>,
    /// Whether they count for bpf(2).
    pub(super) is_in_initial_user_namespace: bool,
    /// Whether a filter judges system calls (seccomp(2)).
    pub(super) is_filtered: bool,
    /// The soft limit of open files, for people who wonder; `None`: unlimited.
    pub(super) soft_descriptors: Option<u64>,
    /// What `lb check --explain` goes by, too.
    pub(super) system: System,
}

impl Machine {
    /// Asks the kernel.
    pub(super) fn here() -> Self {
        let uname = rustix::system::uname();
        let words = [uname.sysname(), uname.release(), uname.machine()];
        let held = |capability: &Capability| capability.is_held();
        Self {
            kernel: words.map(|word| word.to_string_lossy().into_owned()).join(" "),
            bpf_disabled: fs::read_to_string(BPF_FILE).ok().map(|text| text.trim().to_owned()),
            has_btf: fs::read(BTF_FILE).is_ok_and(|btf| btf.starts_with(&BTF_MAGIC)),
            cgroup: fs::read_to_string("/proc/self/mountinfo").ok().and_then(|text| cgroup_mount(&text)),
            user: rustix::process::geteuid().as_raw(),
            held: Capability::ALL.into_iter().filter(held).collect(),
            is_in_initial_user_namespace: privileges::is_in_initial_user_namespace(),
            is_filtered: fs::read_to_string("/proc/self/status").is_ok_and(|text| has_filter(&text)),
            soft_descriptors: getrlimit(Resource::Nofile).current,
            system: System::here(),
        }
    }

    /// The hard limit of open files; `u64::MAX`: none.
    pub(super) fn descriptors(&self) -> u64 {
        self.system.descriptors.unwrap_or(u64::MAX)
    }
}

/// The first mount of type cgroup2 (proc_pid_mountinfo(5): the type follows a hyphen, the place is the fifth field).
fn cgroup_mount(mountinfo: &str) -> Option<PathBuf> {
    let line = mountinfo.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// Whether /proc/pid/status shows a filter (proc_pid_status(5): 2 is SECCOMP_MODE_FILTER).
fn has_filter(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_cgroup_v2_is_found() {
        let v1 = "30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(cgroup_mount(v1), None);
        let hybrid =
            format!("{v1}32 30 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 none rw\n");
        assert_eq!(cgroup_mount(&hybrid), Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn a_filter_is_seen() {
        assert!(has_filter("NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n"));
        assert!(!has_filter("Seccomp:\t0\nSeccomp_filters:\t2\n"));
    }
}
