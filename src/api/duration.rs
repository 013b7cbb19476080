//! Durations as users write them.

use std::fmt;
use std::str::FromStr;

/// A duration as Kubernetes writes it: whole or fractional numbers with units `ms`, `s`, `m`, `h`, one after another
/// (Go's `time.ParseDuration`, without signs and the units below a millisecond).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration(pub std::time::Duration);

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write it like 90s, 15m or 1h30m")]
pub struct DurationError(pub String);

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let fail = || DurationError(text.chars().take(40).collect());
        let (mut rest, mut total) = (text, 0.0f64);
        if text.is_empty() {
            return Err(fail());
        }
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(fail)?;
            let (number, tail) = rest.split_at(digits);
            let unit = tail
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let seconds = match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(fail()),
            };
            total += number.parse::<f64>().map_err(|_| fail())? * seconds;
            rest = tail;
        }
        std::time::Duration::try_from_secs_f64(total)
            .map(Duration)
            .map_err(|_| fail())
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
        let rest = millis % 60_000;
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        match (rest / 1000, rest % 1000) {
            (0, 0) if millis > 0 => Ok(()),
            (0, ms) if ms > 0 => write!(f, "{ms}ms"),
            (s, 0) => write!(f, "{s}s"),
            (s, ms) => write!(f, "{}s", format!("{s}.{ms:03}").trim_end_matches('0')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_and_print() {
        for (text, millis) in [
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("1.5s", 1500),
            ("0s", 0),
        ] {
            assert_eq!(
                text.parse::<Duration>().unwrap().0.as_millis(),
                millis,
                "{text}"
            );
        }
        for bad in ["", "5", "s", "-1s", "1d", "1s ", "1..5s"] {
            assert!(bad.parse::<Duration>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn durations_round_trip(millis in 0u64..1 << 40) {
            let d = Duration(std::time::Duration::from_millis(millis));
            let back = d.to_string().parse::<Duration>().unwrap().0.as_millis();
            prop_assert!(back.abs_diff(u128::from(millis)) <= 1, "{} {}", d, back);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Duration>();
        }
    }
}
