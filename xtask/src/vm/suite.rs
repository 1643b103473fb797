// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packages of other suites of Debian, downloaded and unpacked but not installed. Where from, the machine's own entries say: one of them
//! is read with the suite's name replaced, as a configuration of apt that lives as long as a command (apt.conf(5), sources.list(5)).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::repository::{execute, has_program, output};

/// Where apt's entries of this machine are.
const ENTRIES: [&str; 2] = ["/etc/apt/sources.list", "/etc/apt/sources.list.d"];

/// What a suite may be called besides its own name.
const ALIASES: [&str; 5] = ["stable", "oldstable", "testing", "unstable", "sid"];

/// The package lists of one suite, in a folder of their own that is gone afterwards.
pub struct Suite {
    folder: TempDir,
}

/// The two formats of apt's entries (sources.list(5)), which a file's name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `.list`: one line an entry.
    OneLine,
    /// `.sources`: one paragraph an entry.
    Deb822,
}

impl Suite {
    /// Fetches the lists of a suite, such as `bookworm-backports`, into a folder below `scratch`.
    ///
    /// # Errors
    /// This is no Debian, none of its entries is the distribution's, or apt fails.
    pub fn open(name: &str, scratch: &Path) -> Result<Self> {
        ensure!(has_program("apt-get"), "this is no Debian: there is no apt-get");
        let folder = tempfile::tempdir_in(scratch).context("cannot make a temporary folder")?;
        for place in ["lists/partial", "cache/archives/partial", "sources"] {
            fs::create_dir_all(folder.path().join(place))?;
        }
        let (entry, format) = own_entry(name)?;
        let file = if format == Format::OneLine { "sources/suite.list" } else { "sources/suite.sources" };
        fs::write(folder.path().join(file), entry)?;
        let suite = Self { folder };
        let mut update = suite.apt("apt-get");
        // Neither translations nor descriptions of desktop programs.
        update.args(["-o", "Acquire::Languages=none"]);
        update.args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]);
        execute(update.args(["--quiet", "--quiet", "update"])).with_context(|| format!("suite {name}"))?;
        Ok(suite)
    }

    /// A field of a package's newest version; empty if it has none.
    ///
    /// # Errors
    /// The suite has no such package.
    pub fn field(&self, package: &str, field: &str) -> Result<String> {
        let said = output(self.apt("apt-cache").args(["show", "--no-all-versions", package]))?;
        let prefix = format!("{field}: ");
        Ok(said.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default().to_owned())
    }

    /// A package and those that it needs, themselves or through others, as far as `wanted` says that they count.
    ///
    /// # Errors
    /// As [`Self::field`].
    pub fn closure(&self, package: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let mut found = vec![package.to_owned()];
        let mut next = 0;
        while let Some(package) = found.get(next).cloned() {
            for needed in dependencies(&self.field(&package, "Depends")?) {
                if wanted(needed) && !found.iter().any(|known| known == needed) {
                    found.push(needed.to_owned());
                }
            }
            next += 1;
        }
        Ok(found)
    }

    /// Downloads packages and unpacks them into `folder`.
    ///
    /// # Errors
    /// apt or dpkg-deb fails.
    pub fn unpack(&self, packages: &[String], folder: &Path) -> Result<()> {
        let place = self.folder.path().join("packages");
        fs::create_dir_all(&place)?;
        // Nobody else may read the folder; apt's own user need not, either.
        let mut download = self.apt("apt-get");
        download.args(["-o", "APT::Sandbox::User=root", "--quiet", "--quiet", "download"]);
        execute(download.args(packages).current_dir(&place))?;
        extract(&place, folder)
    }

    /// Downloads what a machine without any package would get with these, and unpacks it into `folder`; nothing is configured.
    ///
    /// # Errors
    /// As [`Self::unpack`].
    pub fn unpack_system(&self, packages: &[&str], folder: &Path) -> Result<()> {
        let (status, archives) =
            (self.folder.path().join("status"), self.folder.path().join("cache/archives"));
        fs::write(&status, "").context("cannot write a list of no packages")?;
        let mut install = self.apt("apt-get");
        install.args(["-o", &format!("Dir::State::status={}", status.display())]);
        install.args(["-o", "APT::Sandbox::User=root", "--quiet", "--quiet", "--yes", "--download-only"]);
        execute(install.args(["--no-install-recommends", "install"]).args(packages))?;
        extract(&archives, folder)
    }

    /// A program of apt that knows nothing but this suite; proxies and keys are the machine's.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = self.folder.path().display();
        for option in [
            format!("Dir::State::Lists={folder}/lists"),
            format!("Dir::Cache={folder}/cache"),
            format!("Dir::Etc::SourceParts={folder}/sources"),
            "Dir::Etc::SourceList=/dev/null".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

/// Unpacks the packages in one folder into another; they are gone afterwards.
fn extract(packages: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for package in files(packages)? {
        if package.extension().is_some_and(|extension| extension == "deb") {
            execute(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(folder))?;
            fs::remove_file(package)?;
        }
    }
    Ok(())
}

/// The suite that this machine is of.
///
/// # Errors
/// It is no Debian.
pub fn own_name() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let own = codename(&release).context("/etc/os-release names no release of Debian")?;
    Ok(own.to_owned())
}

/// The first entry of the distribution itself, for another suite.
fn own_entry(suite: &str) -> Result<(String, Format)> {
    let own = &own_name()?;
    for place in ENTRIES.map(Path::new) {
        for file in files(place)? {
            let format = match file.extension().and_then(|extension| extension.to_str()) {
                Some("list") => Format::OneLine,
                Some("sources") => Format::Deb822,
                _ => continue,
            };
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            if let Some(entry) = entry(&text, format, own, suite) {
                return Ok((entry, format));
            }
        }
    }
    bail!("apt has no entry for {own} (sources.list(5)), from which one for {suite} could be made")
}

/// The name of the release, where it is one of Debian's (os-release(5)).
fn codename(release: &str) -> Option<&str> {
    let value = |key: &str| {
        release
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    };
    (value("ID") == Some("debian")).then(|| value("VERSION_CODENAME")).flatten()
}

/// The first entry of packages of the suite `own`, with the name of the suite `wanted`.
fn entry(text: &str, format: Format, own: &str, wanted: &str) -> Option<String> {
    let is_own = |word: &str| word == own || ALIASES.contains(&word);
    match format {
        Format::OneLine => text.lines().find_map(|line| {
            let (kind, rest) = line.split_once(char::is_whitespace)?;
            let suite = rest.split_whitespace().find(|word| is_own(word))?;
            let (before, _) = rest.split_once(&format!(" {suite} "))?;
            (kind == "deb").then(|| format!("deb {before} {wanted} main\n"))
        }),
        Format::Deb822 => text.split("\n\n").find_map(|paragraph| {
            let value = |key: &str| {
                let value = paragraph.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
                value.unwrap_or_default().split_whitespace().collect::<Vec<_>>()
            };
            let is_on = value("Types").contains(&"deb") && value("Enabled") != ["no"];
            let is_ours = value("Suites").into_iter().any(is_own);
            (is_on && is_ours).then(|| paragraph.lines().map(|line| replaced(line, wanted)).collect())
        }),
    }
}

/// A line of a paragraph, for another suite.
fn replaced(line: &str, suite: &str) -> String {
    let line = match line.split_once(':').map(|(key, _)| key) {
        Some("Types") => "Types: deb",
        Some("Suites") => return format!("Suites: {suite}\n"),
        Some("Components") => "Components: main",
        _ => line,
    };
    format!("{line}\n")
}

/// The packages in a field `Depends` (deb-control(5)); of alternatives, the first.
fn dependencies(field: &str) -> impl Iterator<Item = &str> {
    field.split(',').filter_map(|clause| clause.split_whitespace().next())
}

/// The files in a folder, sorted; a file is its own folder, and what does not exist has none.
fn files(place: &Path) -> Result<Vec<PathBuf>> {
    if place.is_file() {
        return Ok(vec![place.to_owned()]);
    }
    let Ok(listing) = fs::read_dir(place) else { return Ok(Vec::new()) };
    let mut files = listing.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(format: Format, text: &str, expected: Option<&str>) {
        assert_eq!(entry(text, format, "bookworm", "forky").as_deref(), expected, "{text}");
    }

    #[test]
    fn an_entry_of_one_line_is_read_for_another_suite() {
        let own = "# first\ndeb-src mirror:/a bookworm main\n\
                   deb [arch=amd64] mirror:/a bookworm main contrib\n";
        check(Format::OneLine, own, Some("deb [arch=amd64] mirror:/a forky main\n"));
        check(Format::OneLine, "deb mirror:/d stable main\n", Some("deb mirror:/d forky main\n"));
        check(Format::OneLine, "deb mirror:/a bookworm-updates main\n", None);
        check(Format::OneLine, "#deb mirror:/a bookworm main\n", None);
    }

    #[test]
    fn a_paragraph_is_read_for_another_suite() {
        let security = "Types: deb\nURIs: mirror:/s\nSuites: bookworm-security\nComponents: main\n\n";
        let own = "Types: deb deb-src\nURIs: mirror:/d\nSuites: bookworm bookworm-updates\nComponents: main contrib\nSigned-By:\n key\n";
        let expected = "Types: deb\nURIs: mirror:/d\nSuites: forky\nComponents: main\nSigned-By:\n key\n";
        check(Format::Deb822, &format!("{security}{own}"), Some(expected));
        check(Format::Deb822, security, None);
        check(Format::Deb822, &format!("Enabled: no\n{own}"), None);
    }

    #[test]
    fn only_a_release_of_debian_has_a_name_here() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("ID=\"debian\"\nVERSION_CODENAME=\"trixie\"\n"), Some("trixie"));
        assert_eq!(codename("ID=ubuntu\nVERSION_CODENAME=noble\n"), None);
    }

    #[test]
    fn dependencies_are_names_without_versions() {
        let field = "dracut | initramfs-tools (>= 0.120), linux-binary-7.2 (= 7.2.13-1)";
        assert_eq!(dependencies(field).collect::<Vec<_>>(), ["dracut", "linux-binary-7.2"]);
        assert_eq!(dependencies("").count(), 0);
    }
}
