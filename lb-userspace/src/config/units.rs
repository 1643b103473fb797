// SPDX-License-Identifier: MIT OR Apache-2.0
//! Durations and sizes with their units, both ways.

use std::time::Duration;

/// The units of durations, the largest first, in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The units of sizes, the largest first, in bytes.
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// Reads a duration: a whole number and one of the units `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
/// What is wrong with the text, as a sentence for the user.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    scaled(text, &DURATION_UNITS, "ms, s, m, h and d", "5s").map(Duration::from_millis)
}

/// Reads a size: a whole number and one of the units `B`, `KiB`, `MiB`, `GiB`.
///
/// # Errors
/// What is wrong with the text, as a sentence for the user.
pub fn parse_size(text: &str) -> Result<Bytes, String> {
    scaled(text, &SIZE_UNITS, "B, KiB, MiB and GiB", "16KiB").map(Bytes)
}

/// The shortest text that [`parse_duration`] reads as this duration; parts of a millisecond are lost.
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 { "0s".into() } else { shortest(millis, &DURATION_UNITS) }
}

/// The shortest text that [`parse_size`] reads as this size.
pub fn format_size(size: Bytes) -> String {
    if size.0 == 0 { "0B".into() } else { shortest(size.0, &SIZE_UNITS) }
}

fn scaled(text: &str, units: &[(&str, u64)], allowed: &str, example: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    if number.is_empty() {
        return Err(format!("must be a whole number with a unit, such as \"{example}\""));
    }
    if unit.is_empty() {
        return Err(format!(
            "the unit is missing: write a number with one of {allowed}, such as \"{example}\""
        ));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        if unit.starts_with(['.', ',']) {
            return Err(format!("must be a whole number with a unit, such as \"{example}\""));
        }
        return Err(format!("unknown unit \"{unit}\": allowed are {allowed}"));
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(*factor)).ok_or_else(|| "is too large".into())
}

fn shortest(value: u64, units: &[(&str, u64)]) -> String {
    let (unit, factor) = units.iter().find(|(_, factor)| value.is_multiple_of(*factor)).unwrap_or(&("", 1));
    format!("{}{unit}", value / factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, millis: u64| {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        };
        check("5s", 5_000);
        check("500ms", 500);
        check("500 ms", 500);
        check("2m", 120_000);
        check("1h", 3_600_000);
        check("30d", 2_592_000_000);
        check("0s", 0);
    }

    #[test]
    fn sizes() {
        let check = |text: &str, bytes: u64| assert_eq!(parse_size(text), Ok(Bytes(bytes)), "{text}");
        check("16KiB", 16_384);
        check("1 GiB", 1 << 30);
        check("100B", 100);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check =
            |text: &str, message: &str| assert_eq!(parse_duration(text), Err(message.into()), "{text}");
        check("5", "the unit is missing: write a number with one of ms, s, m, h and d, such as \"5s\"");
        check("", "must be a whole number with a unit, such as \"5s\"");
        check("s", "must be a whole number with a unit, such as \"5s\"");
        check("-5s", "must be a whole number with a unit, such as \"5s\"");
        check("1.5s", "must be a whole number with a unit, such as \"5s\"");
        check("5sec", "unknown unit \"sec\": allowed are ms, s, m, h and d");
        check("99999999999999999d", "is too large");
        check("99999999999999999999999d", "is too large");
        assert_eq!(parse_size("16KB"), Err("unknown unit \"KB\": allowed are B, KiB, MiB and GiB".into()));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(value in 0u64..=u64::MAX / 2) {
            let duration = Duration::from_millis(value);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&format_size(Bytes(value))), Ok(Bytes(value)));
        }
    }
}
