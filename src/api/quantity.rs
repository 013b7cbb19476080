//! Amounts as Kubernetes writes them: `250m`, `1.5`, `512Mi`, `1e9` (apimachinery, `resource.Quantity`).

use std::fmt;
use std::str::FromStr;

/// The longest text that is looked at.
const MAX_CHARS: usize = 32;
/// Decimals of what is kept: thousandths.
const THOUSAND: u128 = 1000;

/// An amount, in thousandths, rounded up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(u64);

impl Quantity {
    /// In thousandths, as processors are counted.
    pub fn millis(self) -> u64 {
        self.0
    }

    /// In whole units, as bytes are counted.
    pub fn whole(self) -> u64 {
        self.0.div_ceil(1000)
    }
}

/// A text that is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a quantity: write it like 500m, 2 or 512Mi")]
pub struct NotAQuantity;

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        parse(text).map(Quantity).ok_or(NotAQuantity)
    }
}

fn parse(text: &str) -> Option<u64> {
    let text = Some(text).filter(|text| text.len() <= MAX_CHARS)?;
    let digit = |c: char| c.is_ascii_digit() || c == '.';
    let end = text.find(|c| !digit(c)).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && decimals.is_empty() {
        return None;
    }
    let mantissa: u128 = format!("{whole}{decimals}").parse().ok()?;
    let (up, down) = scale(suffix)?;
    let down = 10u128
        .checked_pow(u32::try_from(decimals.len()).ok()?)?
        .checked_mul(down)?;
    let thousandths = mantissa.checked_mul(THOUSAND)?.checked_mul(up)?;
    u64::try_from(thousandths.div_ceil(down)).ok()
}

/// What a suffix multiplies with, and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let up = |n| Some((n, 1));
    match suffix {
        "" => up(1),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => up(1000),
        "M" => up(1000u128.pow(2)),
        "G" => up(1000u128.pow(3)),
        "T" => up(1000u128.pow(4)),
        "P" => up(1000u128.pow(5)),
        "E" => up(1000u128.pow(6)),
        "Ki" => up(1 << 10),
        "Mi" => up(1 << 20),
        "Gi" => up(1 << 30),
        "Ti" => up(1 << 40),
        "Pi" => up(1 << 50),
        "Ei" => up(1 << 60),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10u128.checked_pow(exponent.unsigned_abs())?;
            Some(if exponent < 0 { (1, power) } else { (power, 1) })
        }
    }
}

/// Bytes as people read them: in the largest unit that leaves nothing over.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
        let fits = |&&(bits, _): &&(u32, &str)| self.0 != 0 && self.0.trailing_zeros() >= bits;
        match units.iter().find(fits) {
            Some((bits, unit)) => write!(f, "{}{unit}", self.0 >> bits),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Processors as people read them.
#[derive(Clone, Copy, Debug)]
pub struct Cpus(pub u64);

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 1000 {
            0 => write!(f, "{}", self.0 / 1000),
            _ => write!(f, "{}m", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read_as_kubernetes_does() {
        for (text, millis) in [
            ("0", 0),
            ("1", 1000),
            ("250m", 250),
            ("1.5", 1500),
            (".5", 500),
            ("2.", 2000),
            ("1Ki", 1024 * 1000),
            ("1.5Gi", 3 * (1 << 29) * 1000),
            ("1k", 1_000_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("2E-3", 2),
            ("1u", 1),
            ("3500u", 4),
            ("16G", 16_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Quantity(millis)), "{text}");
        }
        for bad in [
            "", ".", "-1", "+1", "1 Gi", "1gi", "Mi", "1.2.3", "1e", "1e99", "99Ei", "½", "1i",
        ] {
            assert_eq!(bad.parse::<Quantity>(), Err(NotAQuantity), "{bad}");
        }
    }

    #[test]
    fn amounts_are_shown_as_they_are_written() {
        for bytes in ["64Mi", "3Gi", "1536Mi", "1Ki", "1000"] {
            let quantity: Quantity = bytes.parse().unwrap();
            assert_eq!(Bytes(quantity.whole()).to_string(), bytes);
        }
        assert_eq!(
            (Cpus(1500).to_string(), Cpus(2000).to_string()),
            ("1500m".into(), "2".into())
        );
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in ".{0,40}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
