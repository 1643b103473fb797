// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a file to a [`Config`], or to every problem at once.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::context::{Context, ReadFile};
use super::limits::FILE_MAX;
use super::problem::{Problem, Problems};
use super::reader::Reader;
use super::source::Source;
use super::{Config, root, syntax};

/// A configuration that may be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What looks wrong in it, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is missing, not permitted, too large or no text.
    #[error("cannot read the configuration {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file can be read and not be used.
    #[error(transparent)]
    Problems(#[from] Problems),
}

impl Config {
    /// Reads a configuration file and the files that it names.
    ///
    /// # Errors
    /// [`LoadError::Unreadable`] if the file itself cannot be read, [`LoadError::Problems`] for everything else.
    pub fn load(path: &Path) -> Result<Loaded, LoadError> {
        let text = read_text(path).map_err(|source| LoadError::Unreadable { path: path.into(), source })?;
        Ok(Self::parse(&text, &path.display().to_string(), &|path| read_text(path))?)
    }

    /// Turns a text into a configuration. `file_name` stands in messages, and its folder in front of the relative paths that the
    /// text names; `read_file` gives the contents of those. Beside that and the number of cores, nothing outside counts.
    ///
    /// # Errors
    /// Every problem of the text and of the files it names.
    pub fn parse(text: &str, file_name: &str, read_file: ReadFile<'_>) -> Result<Loaded, Problems> {
        parse_known(text, file_name, read_file).0
    }
}

/// [`Config::parse`], and the keys that have a meaning.
pub(super) fn parse_known(
    text: &str,
    file_name: &str,
    read_file: ReadFile<'_>,
) -> (Result<Loaded, Problems>, std::collections::BTreeSet<String>) {
    // Editors of other systems put a byte order mark in front; TOML text must not begin with one that the parser sees.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (table, broken) = DeTable::parse_recoverable(text);
    let cx = Context::new(Source::new(file_name, text), read_file);
    let config = root::read(Reader::root(&cx, table.get_ref()));
    let syntax = syntax::problems(&cx.source, table.get_ref(), &broken);
    let file = cx.source.file.clone();
    let order = |problem: &Problem| (problem.place.file != file, problem.place.clone());
    let recorded = cx.into_recorded();

    let kept = recorded.errors.into_iter().filter(|(depends, problem)| syntax.keeps(*depends, problem));
    let mut errors: Vec<Problem> = kept.map(|(_, problem)| problem).collect();
    errors.extend(syntax.problems);
    sort(&mut errors, order);
    let mut warnings = recorded.warnings;
    let result = match config {
        Some(config) if errors.is_empty() => {
            warnings.extend(recorded.warnings_if_valid);
            sort(&mut warnings, order);
            Ok(Loaded { config, warnings })
        }
        _ => {
            sort(&mut warnings, order);
            Err(Problems { file: file.clone(), errors, warnings })
        }
    };
    (result, recorded.known)
}

/// Brings problems into the order of the files. Defaults are read once for each table they apply to: what is wrong in them counts once.
fn sort<K: Ord>(problems: &mut Vec<Problem>, order: impl Fn(&Problem) -> K) {
    problems.sort_by_key(order);
    let mut seen = std::collections::HashSet::new();
    problems.retain(|problem| seen.insert(problem.to_string()));
}

/// Reads a text file of bounded size.
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {} MiB", FILE_MAX >> 20),
        ));
    }
    Ok(text)
}
