// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for conditions instead of sleeping.

use std::time::{Duration, Instant};

/// How long anything may take that should happen at once: generous, because two cores may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at a condition.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `condition` gives a value.
///
/// # Panics
/// After [`PATIENCE`], with `what` was waited for.
#[track_caller]
pub fn until_some<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, condition)
}

/// The same, for no longer than `patience`.
///
/// # Panics
/// After `patience`, with `what` was waited for.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "gave up after {patience:?} waiting for: {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// After [`PATIENCE`], with `what` was waited for.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_some(what, || condition().then_some(()));
}

/// Waits until `measure` gives the same value for `calm` in a row, and returns it.
///
/// # Panics
/// After [`PATIENCE`].
#[track_caller]
pub fn until_steady<T: PartialEq + std::fmt::Debug>(
    what: &str,
    calm: Duration,
    mut measure: impl FnMut() -> T,
) -> T {
    let mut value = measure();
    let mut since = Instant::now();
    until_some(what, || {
        let latest = measure();
        if latest != value {
            since = Instant::now();
        }
        let is_steady = since.elapsed() >= calm;
        value = latest;
        is_steady.then_some(())
    });
    value
}
