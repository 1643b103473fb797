// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may see the surface: HTTP basic authentication (RFC 7617) against argon2 hashes.
//!
//! Argon2 is slow on purpose. So it runs beside the surface and one password at a time, and what has been right once is
//! remembered as a digest under a key that lives and dies with the process.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argon2::password_hash::rand_core::{OsRng, RngCore};
use argon2::{Algorithm, Argon2, PasswordHash, PasswordVerifier};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::config::AdminUser;

/// How long no other password is checked after a wrong one: guessing takes at most a part of one core.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

type Sha256Digest = [u8; 32];

/// Decides who is let in.
#[derive(Debug)]
pub(super) struct Gate {
    /// Empty: everybody.
    users: Vec<AdminUser>,
    /// How long the answer to wrong credentials is held back.
    failure_delay: Duration,
    key: [u8; 32],
    /// Keyed digests of credentials that were right; at most one a user, as one password fits one hash.
    remembered: Mutex<HashSet<Sha256Digest>>,
    /// One password at a time.
    turn: Arc<Semaphore>,
}

/// A user's name and a password, as a client sent them.
struct Credentials {
    /// `name:password`; a name has no colon (RFC 7617 section 2).
    text: Vec<u8>,
    colon: usize,
}

impl Gate {
    /// A gate for these users; without any, it is open.
    ///
    /// # Errors
    /// A password hash is not an argon2 hash in PHC string format, or the kernel gives no random bytes.
    pub(super) fn new(users: &[AdminUser], failure_delay: Duration) -> io::Result<Self> {
        for user in users {
            check_hash(&user.password_hash).map_err(|error| {
                let message = format!("password-hash of admin user {}: {error}", user.name);
                io::Error::new(io::ErrorKind::InvalidInput, message)
            })?;
        }
        let mut key = [0; 32];
        OsRng.try_fill_bytes(&mut key).map_err(io::Error::other)?;
        let turn = Arc::new(Semaphore::new(1));
        Ok(Self { users: users.to_vec(), failure_delay, key, remembered: Mutex::default(), turn })
    }

    /// Whether a request with this Authorization header is let in. For wrong credentials, the answer takes its time.
    pub(super) async fn admits(&self, authorization: Option<&HeaderValue>) -> bool {
        if self.users.is_empty() {
            return true;
        }
        let Some(credentials) = authorization.and_then(Credentials::parse) else {
            return false;
        };
        // The digest is keyed, so how long the comparison takes says nothing about what would match.
        let digest = self.digest(&credentials);
        if self.remembered().contains(&digest) {
            return true;
        }
        if self.verify(credentials).await {
            self.remembered().insert(digest);
            return true;
        }
        tokio::time::sleep(self.failure_delay).await;
        false
    }

    /// Checks a password on a thread of its own. For a user who does not exist, the first user's hash is checked all the same,
    /// so that time does not tell who exists.
    async fn verify(&self, credentials: Credentials) -> bool {
        let user = self.users.iter().find(|user| user.name.as_bytes() == credentials.name());
        let Some(checked) = user.or(self.users.first()) else { return false };
        let (hash, exists) = (checked.password_hash.clone(), user.is_some());
        let Ok(turn) = self.turn.clone().acquire_owned().await else { return false };
        let verification = tokio::task::spawn_blocking(move || {
            let is_right = is_password(&hash, credentials.password()) && exists;
            if !is_right {
                // Here and not in the caller, which ends as soon as its client hangs up.
                std::thread::sleep(FAILURE_PAUSE);
            }
            drop(turn);
            is_right
        });
        verification.await.unwrap_or(false)
    }

    fn digest(&self, credentials: &Credentials) -> Sha256Digest {
        Sha256::new_with_prefix(self.key).chain_update(&credentials.text).finalize().into()
    }

    fn remembered(&self) -> MutexGuard<'_, HashSet<Sha256Digest>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Credentials {
    fn parse(authorization: &HeaderValue) -> Option<Self> {
        let (scheme, encoded) = authorization.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = STANDARD.decode(encoded.trim()).ok()?;
        let colon = text.iter().position(|&byte| byte == b':')?;
        Some(Self { text, colon })
    }

    fn name(&self) -> &[u8] {
        &self.text[..self.colon]
    }

    fn password(&self) -> &[u8] {
        &self.text[self.colon + 1..]
    }
}

fn check_hash(hash: &str) -> Result<(), argon2::password_hash::Error> {
    let hash = PasswordHash::new(hash)?;
    Algorithm::try_from(hash.algorithm)?;
    argon2::Params::try_from(&hash)?;
    Ok(())
}

fn is_password(hash: &str, password: &[u8]) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::super::tests::user;
    use super::*;

    fn gate() -> Gate {
        Gate::new(&[user("admin", "s3cret:x"), user("prometheus", "scrape")], Duration::ZERO).unwrap()
    }

    fn basic(credentials: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(credentials))).unwrap()
    }

    async fn check(authorization: &str, expected: bool) {
        let header = HeaderValue::from_str(authorization).unwrap();
        assert_eq!(gate().admits(Some(&header)).await, expected, "{authorization}");
    }

    #[tokio::test]
    async fn only_the_right_pair_is_let_in() {
        for (credentials, expected) in [
            ("admin:s3cret:x", true),
            ("prometheus:scrape", true),
            ("admin:scrape", false),
            ("admin:", false),
            ("admin", false),
            ("Admin:s3cret:x", false),
            ("nobody:s3cret:x", false),
            (":", false),
            ("", false),
        ] {
            assert_eq!(gate().admits(Some(&basic(credentials))).await, expected, "{credentials}");
        }
        assert!(!gate().admits(None).await);
    }

    #[tokio::test]
    async fn only_well_formed_headers_are_let_in() {
        let encoded = STANDARD.encode("prometheus:scrape");
        check(&format!("basic  {encoded} "), true).await;
        check(&format!("BASIC {encoded}"), true).await;
        check(&encoded, false).await;
        check(&format!("Bearer {encoded}"), false).await;
        check("Basic !!!!", false).await;
        check("Basic", false).await;
        check("", false).await;
    }

    #[tokio::test]
    async fn without_users_everybody_is_let_in() {
        let gate = Gate::new(&[], Duration::from_secs(60)).unwrap();
        assert!(gate.admits(None).await);
        assert!(gate.admits(Some(&basic("x:y"))).await);
    }

    #[tokio::test]
    async fn only_what_was_right_is_remembered() {
        let gate = gate();
        assert!(!gate.admits(Some(&basic("admin:wrong"))).await);
        assert_eq!(gate.remembered().len(), 0);
        assert!(gate.admits(Some(&basic("admin:s3cret:x"))).await);
        gate.turn.close();
        assert!(gate.admits(Some(&basic("admin:s3cret:x"))).await, "needs no second verification");
        assert!(!gate.admits(Some(&basic("prometheus:scrape"))).await, "cannot be verified any more");
        assert_eq!(gate.remembered().len(), 1);
    }

    #[test]
    fn a_hash_that_is_none_is_refused_at_the_start() {
        for hash in
            ["", "s3cret", "$2b$12$abcdefghijklmnopqrstuv", "$argon2id$v=19$m=1,t=0,p=1$AAAAAAAAAAA$AAAA"]
        {
            let users = [AdminUser { name: "admin".to_owned(), password_hash: hash.to_owned() }];
            let error = Gate::new(&users, Duration::ZERO).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().starts_with("password-hash of admin user admin: "), "{error}");
        }
    }
}
