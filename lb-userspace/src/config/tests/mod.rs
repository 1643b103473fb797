// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the configuration: rows of text and what is said of it.

use std::io;
use std::path::Path;
use std::sync::LazyLock;

use rcgen::{CertificateParams, KeyPair};

use super::{Config, Loaded, Problems};

mod checks;
mod defaults;
mod files;
mod messages;
mod properties;
mod proxy;
mod references;
mod syntax;
mod ten_mistakes;
mod warnings;

/// A configuration of eight lines that is valid.
pub(super) const VALID: &str = r#"[frontend.f]
bind = "127.0.0.1:1"
mode = "tls-passthrough"
default-backend = "b"
[backend.b]
[[backend.b.server]]
name = "s"
address = "10.0.0.1:1"
"#;

/// Parses with the files that tests have.
pub(super) fn parse(text: &str) -> Result<Loaded, Problems> {
    Config::parse(text, "conf/t.toml", &read_file)
}

/// The files beside `conf/t.toml`.
pub(super) fn read_file(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("conf/names.txt") => Ok("# shops\nA.example # first\n\n*.b.example\n~^c#d\n".into()),
        Some("conf/bad.txt") => Ok("a.example\n  b_ü.example\n# c\n10.0.0.1\n".into()),
        Some("conf/ca.pem") => Ok(certificate()),
        Some("conf/empty.txt") => Ok("# nothing\n\n".into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// A certificate in PEM, always the same.
fn certificate() -> String {
    static PEM: LazyLock<String> = LazyLock::new(|| {
        let params = CertificateParams::new(vec!["ca.example".to_owned()]).unwrap();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    });
    PEM.clone()
}

/// [`VALID`] with the first `old` replaced by `new`, or with `new` behind it if `old` is empty.
pub(super) fn edited(old: &str, new: &str) -> String {
    if old.is_empty() {
        return format!("{VALID}{new}");
    }
    assert!(VALID.contains(old), "{old}");
    VALID.replacen(old, new, 1)
}

/// The errors of a text, each without the file's name.
pub(super) fn errors(text: &str) -> Vec<String> {
    let errors = parse(text).err().map(|problems| problems.errors).unwrap_or_default();
    errors.iter().map(|error| error.to_string().replacen("conf/t.toml:", "", 1)).collect()
}

/// Without all but the first of a long list of keys, which grows with the product.
pub(super) fn shortened(error: &str) -> String {
    match error.split_once("; allowed are ") {
        Some((error, keys)) if keys.split(", ").count() > 6 => {
            format!("{error}; allowed are {}, …", keys.split(", ").next().unwrap_or_default())
        }
        _ => error.to_owned(),
    }
}

/// The warnings of a text, each without the file's name.
pub(super) fn warnings(text: &str) -> Vec<String> {
    let warnings = match parse(text) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => panic!("{problems}"),
    };
    warnings.iter().map(|warning| warning.to_string().replacen("conf/t.toml:", "", 1)).collect()
}

#[test]
fn the_base_of_the_rows_is_valid() {
    assert_eq!(warnings(VALID), Vec::<String>::new());
    assert_eq!(VALID.lines().count(), 8);
}
