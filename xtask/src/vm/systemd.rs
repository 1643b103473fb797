// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest with systemd, in which README's commands install the unit and `lb-service` looks at what comes of it. Its system is unpacked
//! from packages of this machine's own release, so that programs built here run there; it is never configured, because systemd needs
//! little of that.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::initramfs::Initramfs;
use super::kernel::{FOLDER, KERNELS};
use super::machine::Machine;
use super::modules::Modules;
use super::plan::Test;
use super::programs::{Programs, tests};
use super::results::Results;
use super::suite::{self, Suite};
use crate::repository::root;
use crate::test::Size;

/// What the system is made of, besides what that needs. The one that says that folders are merged is instead of one that merges them, and
/// brings Perl for it.
const PACKAGES: [&str; 12] = [
    "base-files",
    "bash",
    "coreutils",
    "iproute2",
    "libc-bin",
    "login",
    "mount",
    "passwd",
    "procps",
    "systemd",
    "usr-is-merged",
    "util-linux",
];

/// Folders of packages that nobody reads there.
const UNREAD: [&str; 4] = ["usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man"];

/// Users and groups, as passwd(5) and group(5) have them; systemd wants both files before it makes its own.
const USERS: &str =
    "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUPS: &str = "root:x:0:\nadm:x:4:\ntty:x:5:\nutmp:x:43:\nsystemd-journal:x:101:\nnogroup:x:65534:\n";

/// The program under systemd's wings that checks the unit; whatever becomes of it, the machine ends.
const CHECKS: &str = "\
[Unit]
Description=Checks of lb.service
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/lb-service
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
TimeoutStartSec=600
";

/// Where the guest's root is in the first file system.
const ROOT: &str = "/system";

/// How long the machine may report nothing.
const PATIENCE: Duration = Duration::from_secs(900);

/// Boots the guest and judges what it reports.
///
/// # Errors
///
/// Packages cannot be had, the machine does not come to its end, or a check failed or is missing.
pub fn run(programs: &Programs) -> Result<()> {
    let [kernel, ..] = &KERNELS;
    let files = kernel.files()?;
    let folder = root().join(FOLDER).join("systemd");
    let system = system(&folder)?;
    let initramfs = folder.join("initramfs");
    pack(&Modules::open(&files.modules)?, programs, &system)?.write(&initramfs)?;
    let machine = Machine {
        kernel: files.image,
        initramfs,
        // No terminal waits for people (systemd-getty-generator(8)).
        command_line: "quiet PATH=/usr/sbin:/usr/bin systemd.unit=multi-user.target systemd.getty_auto=no"
            .to_owned(),
        drives: Vec::new(),
        memory_mib: 2048,
        processors: 2,
        folder,
    };
    let checks = tests(&programs.service)?.into_iter();
    let checks: Vec<Test> = checks.map(|name| Test { program: "service", name, size: Size::Small }).collect();
    let mut results = Results::default();
    machine.run(PATIENCE, |line| results.hear(line))?;
    results.judge(&checks).with_context(|| machine.last_words())
}

/// The folder with the system, unpacked unless it is there already.
fn system(folder: &Path) -> Result<PathBuf> {
    let (system, version) = (folder.join("system"), folder.join("version"));
    // Written last, so that a download that was cut off is made again; and again when the list changes.
    let wanted = PACKAGES.join(" ");
    if fs::read_to_string(&version).is_ok_and(|had| had == wanted) {
        return Ok(system);
    }
    if system.exists() {
        fs::remove_dir_all(&system)?;
    }
    fs::create_dir_all(&system)?;
    let name = suite::own_name()?;
    println!("systemd: downloading from suite {name}");
    Suite::open(&name, folder)?.unpack_system(&PACKAGES, &system)?;
    for unread in UNREAD.map(|name| system.join(name)).iter().filter(|unread| unread.is_dir()) {
        fs::remove_dir_all(unread)?;
    }
    fs::write(&version, &wanted)?;
    Ok(system)
}

/// The first file system: what loads modules, and the guest's root below it.
fn pack(modules: &Modules, programs: &Programs, system: &Path) -> Result<Initramfs> {
    let mut initramfs = Initramfs::new();
    initramfs.program("ip")?;
    initramfs.program_at(&programs.guest, Path::new("/init"))?;
    let mut plan = Vec::new();
    for module in modules.with_dependencies(&["veth", "sch_ingress", "cls_bpf"])? {
        let file = Path::new("/modules").join(&module.name);
        initramfs.file(&file, 0o644, &module.image);
        plan.push(format!("module {}", file.display()));
    }
    plan.push(format!("switch {ROOT} /usr/lib/systemd/systemd"));
    initramfs.file(Path::new("/plan"), 0o644, plan.join("\n").as_bytes());
    let inside = |path: &str| Path::new(ROOT).join(path);
    for (path, text) in [
        ("etc/passwd", USERS),
        ("etc/group", GROUPS),
        // Without one, systemd takes this for its first boot and enables every unit (machine-id(5)).
        ("etc/machine-id", "5eb2d3f4a1c64b0f9d7c1e2a3b4c5d6e\n"),
        ("etc/hostname", "guest\n"),
        ("etc/systemd/system/lb-checks.service", CHECKS),
    ] {
        initramfs.file(&inside(path), 0o644, text.as_bytes());
    }
    // base-files makes it when it is configured, as dash does with the other.
    initramfs.folder(&inside("usr/local/bin"));
    initramfs.link(&inside("usr/bin/sh"), OsStr::new("bash"));
    let wanted = inside("etc/systemd/system/multi-user.target.wants/lb-checks.service");
    initramfs.link(&wanted, OsStr::new("../lb-checks.service"));
    for (from, to) in [
        (&*programs.service, "usr/local/sbin/lb-service"),
        (&*programs.agent, "repository/target/release/lb"),
        (&root().join("config/lb.service"), "repository/config/lb.service"),
        (&root().join("README.md"), "repository/README.md"),
    ] {
        initramfs.copy(from, &inside(to))?;
    }
    initramfs.tree(system, Path::new(ROOT))?;
    Ok(initramfs)
}
