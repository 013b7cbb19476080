//! Deadlines travel with the request, as gRPC's `grpc-timeout` (gRPC over HTTP/2, "Timeout"): at most eight digits
//! and a unit.

use std::time::Duration;
use tonic::Request;
use tonic::metadata::MetadataMap;

/// No caller waits longer, whatever it asks for.
pub const MAX: Duration = Duration::from_secs(600);

const HEADER: &str = "grpc-timeout";
const MAX_DIGITS: usize = 8;

/// How long the caller of `request` waits: what it says, at most [`MAX`]; `default` if it says nothing readable.
pub fn of<T>(request: &Request<T>, default: Duration) -> Duration {
    from_metadata(request.metadata())
        .unwrap_or(default)
        .min(MAX)
}

/// Tells the server of `request` how long we wait, at most [`MAX`]. The channel enforces it too.
pub fn set<T>(request: &mut Request<T>, timeout: Duration) {
    request.set_timeout(timeout.min(MAX));
}

fn from_metadata(metadata: &MetadataMap) -> Option<Duration> {
    parse(metadata.get(HEADER)?.to_str().ok()?)
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units() {
        for (text, want) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1s", None),
            ("1ä", None),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_set_is_read_and_capped() {
        let default = Duration::from_secs(7);
        let mut request = Request::new(());
        assert_eq!(of(&request, default), default);
        set(&mut request, Duration::from_millis(1500));
        assert_eq!(of(&request, default), Duration::from_millis(1500));
        set(&mut request, Duration::from_secs(86_400));
        assert_eq!(of(&request, default), MAX);
        let far = request.metadata_mut();
        far.insert("grpc-timeout", "99999999H".parse().unwrap());
        assert_eq!(of(&request, default), MAX);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_tonic_writes_we_read(ms in 0u64..86_400_000) {
            let mut request = Request::new(());
            request.set_timeout(Duration::from_millis(ms));
            prop_assert_eq!(from_metadata(request.metadata()), Some(Duration::from_millis(ms)));
        }
    }
}
