// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm`: the tests that depend on the kernel, on the kernels that people run. Each boots in a machine of its own under QEMU,
//! emulated in software, from Debian's packages and a file system that is made here.

mod groups;
mod initramfs;
mod kernel;
mod machine;
mod modules;
mod plan;
mod programs;
mod results;
mod suite;
mod systemd;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use self::initramfs::Initramfs;
pub use self::kernel::KERNELS;
use self::kernel::{FOLDER, Kernel};
use self::machine::Machine;
use self::modules::Modules;
use self::plan::{Scope, Test};
use self::programs::Programs;
use self::results::Results;
#[cfg(test)]
pub use self::table::MARKERS;
use crate::report::Outcome;
use crate::repository::{output, root};

/// The kernel that CI runs: the one that takes the least to download.
const CI_KERNEL: &str = "6.1";

/// Programs of this machine that tests start.
const PROGRAMS: [&str; 19] = [
    "bpftool", "cat", "cp", "haproxy", "ip", "mount", "mptcpize", "nft", "prlimit", "setpriv", "sh", "sleep",
    "ss", "strace", "tc", "timeout", "true", "umount", "unshare",
];

/// Modules that tests need, for nobody loads them there when they are asked for: links, those that stand on others, their faults, filters, what programs
/// at interfaces hang on before Linux 6.6, and what ss(8) asks.
const MODULES: [&str; 23] = [
    "veth",
    "bridge",
    "8021q",
    "bonding",
    "macvlan",
    "ipvlan",
    "tun",
    "sch_netem",
    "sch_ingress",
    "cls_bpf",
    "nf_tables",
    "nft_limit",
    "nft_numgen",
    "nft_quota",
    "nft_ct",
    "nf_conntrack_netlink",
    "nft_chain_nat",
    "nft_nat",
    "nft_redir",
    "nft_masq",
    "nf_conntrack",
    "tcp_diag",
    "tls",
];

/// The protocols that rules of nft(8) name (protocols(5)).
const PROTOCOLS: &str = "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\n";

/// How long a machine may report nothing: it ends a test before.
const PATIENCE: Duration = Duration::from_secs(plan::SOAK_PATIENCE_SECONDS as u64 + 600);

/// What `vm` can be told.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Only this kernel; without it, all
    #[arg(long, value_parser = KERNELS.map(|kernel| kernel.label))]
    kernel: Option<String>,
    /// Only a guest with systemd, in which config/lb.service runs; without it and without a kernel or a name, that as well
    #[arg(long, conflicts_with_all = ["kernel", "filters"])]
    systemd: bool,
    /// Runs only tests whose name contains one of these
    filters: Vec<String>,
    /// Does as little as CI does
    #[arg(long)]
    quick: bool,
    /// Links with faults carry 2,000 flows each, and 100,000 connections are idle: hours
    #[arg(long, conflicts_with = "quick")]
    soak: bool,
    /// Writes what came out into the table in ARCHITECTURE.md
    #[arg(long, conflicts_with_all = ["filters", "systemd"])]
    update_table: bool,
}

impl Args {
    fn scope(&self) -> Scope {
        match (self.quick, self.soak) {
            (true, _) => Scope::Ci,
            (_, true) => Scope::Soak,
            _ => Scope::Whole,
        }
    }
}

/// Runs the tests on one kernel or all.
///
/// # Errors
///
/// A machine does not come to its end, or a test failed or is missing.
pub fn run(args: &Args) -> Result<()> {
    let programs = Programs::build()?;
    if args.systemd {
        return systemd::run(&programs);
    }
    let tests = plan::chosen(&programs, &args.filters, args.scope())?;
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for kernel in &KERNELS {
        if args.kernel.as_deref().is_some_and(|label| label != kernel.label) {
            continue;
        }
        match test(kernel, &programs, &tests) {
            Ok(row) => rows.push(row),
            Err(error) => {
                eprintln!("error: kernel {}: {error:#}", kernel.label);
                failed.push(kernel.label);
            }
        }
    }
    if args.filters.is_empty() {
        println!("{}", rows.join("\n"));
    }
    if args.kernel.is_none()
        && args.filters.is_empty()
        && let Err(error) = systemd::run(&programs)
    {
        eprintln!("error: systemd: {error:#}");
        failed.push("that with systemd");
    }
    if !failed.is_empty() {
        bail!("kernels that did not pass: {}", failed.join(", "));
    }
    if args.update_table {
        table::write(&rows)?;
    }
    Ok(())
}

/// A stage of CI: one kernel.
///
/// # Errors
///
/// As [`run`].
pub fn stage() -> Result<Outcome> {
    if let Err(reason) = machine::is_possible() {
        return Ok(Outcome::NotRun(reason));
    }
    run(&Args { kernel: Some(CI_KERNEL.to_owned()), quick: true, ..Args::default() })?;
    Ok(Outcome::Passed)
}

/// Another stage of CI: the unit under systemd.
///
/// # Errors
///
/// As [`run`].
pub fn systemd_stage() -> Result<Outcome> {
    if let Err(reason) = machine::is_possible() {
        return Ok(Outcome::NotRun(reason));
    }
    run(&Args { systemd: true, ..Args::default() })?;
    Ok(Outcome::Passed)
}

/// Boots a kernel, runs tests there, and returns its row of the table.
fn test(kernel: &Kernel, programs: &Programs, tests: &[Test]) -> Result<String> {
    let start = Instant::now();
    let files = kernel.files()?;
    let folder = root().join(FOLDER).join(kernel.label);
    std::fs::create_dir_all(&folder)?;
    let initramfs = folder.join("initramfs");
    pack(&Modules::open(&files.modules)?, programs, tests)?.write(&initramfs)?;
    let machine = Machine {
        kernel: files.image,
        initramfs,
        // What the kernel does not know goes into the environment of the first process.
        command_line: "quiet PATH=/usr/sbin:/usr/bin".to_owned(),
        drives: Vec::new(),
        memory_mib: plan::memory_mib(tests),
        processors: 2,
        folder,
    };
    let mut results = Results::default();
    let ended = machine.run(PATIENCE, |line| results.hear(line));
    // Large, and made anew each time.
    std::fs::remove_file(&machine.initramfs)?;
    ended?;
    results.judge(tests).map_err(|error| anyhow!("{error}; {}", machine.last_words()))?;
    println!("kernel {}: {} tests passed in {:.0?}", results.release, tests.len(), start.elapsed());
    Ok(table::row(kernel, &files.version, &results))
}

/// The library that mptcpize(8) has the program load that it starts (ld.so(8), LD_PRELOAD), by what that program's environment says.
fn preloaded() -> Result<PathBuf> {
    let environment = output(Command::new("mptcpize").args(["run", "env"]))?;
    let file = environment.lines().find_map(|line| line.strip_prefix("LD_PRELOAD="));
    file.map(PathBuf::from).with_context(|| format!("mptcpize has nothing loaded:\n{environment}"))
}

/// The file system: the tests, what they start, and what they are to do.
fn pack(modules: &Modules, programs: &Programs, tests: &[Test]) -> Result<Initramfs> {
    let mut initramfs = Initramfs::new();
    for name in PROGRAMS {
        initramfs.program(name)?;
    }
    let preloaded = preloaded()?;
    initramfs.program_at(&preloaded, &preloaded)?;
    for (from, to) in [
        (&programs.guest, Path::new("/init")),
        (&programs.agent, Path::new("/usr/bin/lb")),
        (&programs.e2e, Path::new("/tests/e2e")),
        (&programs.unit, Path::new("/tests/unit")),
        (&programs.peer, &programs.peer),
    ] {
        initramfs.program_at(from, to)?;
    }
    initramfs.file(Path::new("/etc/protocols"), 0o644, PROTOCOLS.as_bytes());
    let mut plan = Vec::new();
    for module in modules.with_dependencies(&MODULES)? {
        let file = Path::new("/modules").join(&module.name);
        initramfs.file(&file, 0o644, &module.image);
        plan.push(format!("module {}", file.display()));
    }
    plan.extend(["set LB_AGENT /usr/bin/lb", "set LB_TELL_CARRIED yes"].map(str::to_owned));
    plan.extend(tests.iter().flat_map(Test::lines));
    initramfs.file(Path::new("/plan"), 0o644, plan.join("\n").as_bytes());
    Ok(initramfs)
}
