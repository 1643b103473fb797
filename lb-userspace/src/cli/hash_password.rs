// SPDX-License-Identifier: MIT OR Apache-2.0
//! `lb hash-password`.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use argon2::password_hash::{PasswordHasher, SaltString, rand_core::OsRng};
use argon2::{Algorithm, Argon2, Params, Version};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::output;
use crate::exit;

/// Longest password, in bytes; longer ones are accidents such as a file in the pipe.
const PASSWORD_MAX: u64 = 1024;

#[derive(Debug, thiserror::Error)]
enum PasswordError {
    #[error("the password is empty")]
    Empty,
    #[error("the password is longer than {PASSWORD_MAX} bytes")]
    TooLong,
    #[error("the two passwords differ")]
    Differ,
    #[error("cannot read the password")]
    Read(#[from] io::Error),
}

/// Reads a password, twice from a terminal, and prints its hash.
pub(super) fn run() -> ExitCode {
    let password = match if io::stdin().is_terminal() { ask_twice() } else { read(io::stdin().lock()) } {
        Ok(password) => password,
        Err(PasswordError::Read(err)) => {
            output::error_line(format_args!("error: cannot read the password: {err}"));
            return exit::IO_ERROR.into();
        }
        Err(err) => {
            output::error_line(format_args!("error: {err}"));
            return exit::DATA_ERROR.into();
        }
    };
    match hash(&password) {
        Ok(hash) => {
            output::line(hash);
            ExitCode::SUCCESS
        }
        Err(err) => {
            output::error_line(format_args!("error: cannot hash the password: {err}"));
            exit::SOFTWARE.into()
        }
    }
}

fn ask_twice() -> Result<String, PasswordError> {
    let _silence = Silence::begin()?;
    let first = ask("Password: ")?;
    let second = ask("Again: ")?;
    if first == second { Ok(first) } else { Err(PasswordError::Differ) }
}

fn ask(prompt: &str) -> Result<String, PasswordError> {
    let mut terminal = io::stderr().lock();
    terminal.write_all(prompt.as_bytes())?;
    let password = read(io::stdin().lock());
    // The user's own line end was not echoed either.
    terminal.write_all(b"\n")?;
    password
}

/// Reads the first line.
fn read(input: impl BufRead) -> Result<String, PasswordError> {
    let mut line = String::new();
    input.take(PASSWORD_MAX + 2).read_line(&mut line)?;
    let password = line.strip_suffix('\n').unwrap_or(&line);
    let password = password.strip_suffix('\r').unwrap_or(password);
    match password.len() as u64 {
        0 => Err(PasswordError::Empty),
        1..=PASSWORD_MAX => Ok(password.into()),
        _ => Err(PasswordError::TooLong),
    }
}

/// Hashes with argon2id and the first recommendation of the OWASP password storage cheat sheet: 19 MiB, 2 passes, 1 lane.
fn hash(password: &str) -> Result<String, argon2::password_hash::Error> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(19 * 1024, 2, 1, None)?);
    Ok(argon2.hash_password(password.as_bytes(), &SaltString::generate(&mut OsRng))?.to_string())
}

/// A terminal that does not show what is typed, until dropped.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use argon2::PasswordVerifier;
    use argon2::password_hash::PasswordHash;

    use super::*;

    #[test]
    fn hashes_verify_and_differ() {
        let (one, other) = (hash("secret").unwrap(), hash("secret").unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && one != other);
        let parsed = PasswordHash::new(&one).unwrap();
        assert!(Argon2::default().verify_password(b"secret", &parsed).is_ok());
        assert!(Argon2::default().verify_password(b"Secret", &parsed).is_err());
    }

    #[test]
    fn the_first_line_is_the_password() {
        let check = |input: &str, expected: Result<&str, &str>| {
            let read = read(input.as_bytes()).map_err(|err| err.to_string());
            assert_eq!(read.as_deref().map_err(String::as_str), expected);
        };
        check("secret\n", Ok("secret"));
        check("secret\r\nmore\n", Ok("secret"));
        check(" se cret ", Ok(" se cret "));
        check("\n", Err("the password is empty"));
        check("", Err("the password is empty"));
        let (longest, longer) = ("x".repeat(1024), "x".repeat(1025));
        check(&longest, Ok(&longest));
        check(&longer, Err("the password is longer than 1024 bytes"));
        check(&"x".repeat(5000), Err("the password is longer than 1024 bytes"));
    }
}
