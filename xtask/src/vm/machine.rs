// SPDX-License-Identifier: MIT OR Apache-2.0
//! A virtual machine under QEMU, emulated in software, so that it runs wherever QEMU does. It is told everything on its command line,
//! has no network but its own, and speaks over two serial lines: the console, and one for what was asked of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::repository::has_program;

/// The program that emulates.
const QEMU: &str = "qemu-system-x86_64";

/// Its processor: what QEMU has emulated longest, with the extensions that programs look for first. Programs may use cmpxchg16b, and
/// HAProxy has to; see [`WITHOUT_CX16`].
const PROCESSOR: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16";

/// Believes that the timer works (Documentation/admin-guide/kernel-parameters.txt). The kernel tries that out for some ticks, and an emulated processor
/// that others want, too, may get no turn in these: then it panics ("IO-APIC + timer doesn't work").
const UNCHECKED_TIMER: &str = "no_timer_check";

/// Tells the kernel to leave cmpxchg16b alone (word 4, bit 13 of its features: arch/x86/include/asm/cpufeatures.h): QEMU 7.2 now and then
/// leaves flags behind it that no instruction sets, and Linux 6.12, which allocates memory with it, dies of a double fault.
const WITHOUT_CX16: &str = "clearcpuid=141";

/// How many lines of the console a failure shows.
const TAIL_LINES: usize = 60;

/// Between two looks at what it has said.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A machine before it is switched on.
#[derive(Debug)]
pub struct Machine {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// Its first file system.
    pub initramfs: PathBuf,
    /// What its command line says besides where the console is and that a panic ends the machine.
    pub command_line: String,
    /// Images of disks, as they are on the disk (format `raw`), each written to: /dev/vda and so on. The modules virtio_blk and virtio_pci
    /// bring them.
    pub drives: Vec<PathBuf>,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Its processors.
    pub processors: u32,
    /// Where `console` and `report` go, what it said on its first and second serial line. Old ones are overwritten.
    pub folder: PathBuf,
}

impl Machine {
    /// Runs it until it switches itself off, and hands each line of its report to `hear`.
    ///
    /// # Errors
    /// QEMU is missing or fails, the kernel panics, or it reports nothing for as long as `patience`: with the end of the console.
    pub fn run(&self, patience: Duration, hear: impl FnMut(&str)) -> Result<()> {
        ensure!(has_program(QEMU), "{QEMU} is not installed: `cargo xtask setup --vm`");
        fs::create_dir_all(&self.folder).with_context(|| format!("cannot make {}", self.folder.display()))?;
        let mut report = Report { file: self.folder.join("report"), read: 0, hear };
        fs::write(&report.file, "").context("cannot write the report")?;
        let process = self.command().spawn().context("cannot start QEMU")?;
        let mut heard = Instant::now();
        let mut running = Running(process);
        let status = loop {
            let status = running.0.try_wait().context("cannot wait for QEMU")?;
            if report.listen()? {
                heard = Instant::now();
            }
            if let Some(status) = status {
                break status;
            }
            if heard.elapsed() > patience {
                bail!("the machine has reported nothing for {patience:?}; {}", self.last_words());
            }
            std::thread::sleep(LOOK_INTERVAL);
        };
        ensure!(status.success(), "QEMU failed ({status}); {}", self.last_words());
        let console = self.console();
        ensure!(!console.contains("Kernel panic"), "the kernel panicked; {}", self.last_words());
        Ok(())
    }

    /// The end of the console, for messages.
    pub fn last_words(&self) -> String {
        let console = self.console();
        let lines: Vec<&str> = console.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        format!("its console said last:\n{tail}")
    }

    /// All that the console said.
    fn console(&self) -> String {
        let said = fs::read(self.folder.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&said).replace('\r', "")
    }

    /// QEMU's command line (qemu-system-x86_64(1)).
    fn command(&self) -> Command {
        let mut command = Command::new(QEMU);
        // Whatever somebody has configured for other machines stays out.
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none"]);
        command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-no-reboot"]);
        command.args(["-m", &self.memory_mib.to_string(), "-smp", &self.processors.to_string()]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initramfs);
        // With panic=-1 a panic reboots at once, which -no-reboot makes an end (Documentation/admin-guide/kernel-parameters.txt).
        command.arg("-append").arg(format!(
            "console=ttyS0 panic=-1 oops=panic {WITHOUT_CX16} {UNCHECKED_TIMER} {}",
            self.command_line
        ));
        for name in ["console", "report"] {
            command.arg("-serial").arg(format!("file:{}", self.folder.join(name).display()));
        }
        for drive in &self.drives {
            command.arg("-drive").arg(format!("if=virtio,format=raw,file={}", drive.display()));
        }
        command.stdin(Stdio::null());
        command
    }
}

/// A running QEMU; killed if it is dropped while it runs.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// A file that grows, and somebody who wants to hear its lines.
struct Report<Hear> {
    file: PathBuf,
    read: usize,
    hear: Hear,
}

impl<Hear: FnMut(&str)> Report<Hear> {
    /// Hands on the lines that are whole by now, and says whether there were any.
    fn listen(&mut self) -> Result<bool> {
        let before = self.read;
        let said = fs::read(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        while let Some(length) = said[self.read..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&said[self.read..self.read + length]);
            (self.hear)(line.trim_end_matches('\r'));
            self.read += length + 1;
        }
        Ok(self.read > before)
    }
}

/// Whether machines can run here, and if not, why.
///
/// # Errors
/// What is missing.
pub fn is_possible() -> std::result::Result<(), String> {
    if Path::new("/etc/debian_version").is_file() && has_program(QEMU) {
        return Ok(());
    }
    Err(format!("needs Debian and {QEMU}: `cargo xtask setup --vm`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_heard_line_by_line() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("report");
        let mut heard = Vec::new();
        let mut report =
            Report { file: file.clone(), read: 0, hear: |line: &str| heard.push(line.to_owned()) };
        for text in ["first\r\nsec", "first\r\nsecond\r\n", "first\r\nsecond\r\nthird"] {
            fs::write(&file, text).expect("our own folder");
            report.listen().expect("a file");
        }
        assert_eq!(heard, ["first", "second"]);
    }
}
