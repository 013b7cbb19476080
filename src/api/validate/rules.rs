//! Rules that garde does not have, for `#[garde(custom(...))]` on the types. What only one type needs is beside it.

use super::Cause;
use crate::api::duration::Duration;
use crate::api::names::is_dns_label;
use crate::api::selector::Selector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

const DIGEST_CHARS: usize = 64;
/// Characters of a user's text that a message repeats.
const MAX_QUOTED: usize = 80;
const LABEL: &str =
    "use at most 63 lower-case letters, digits and '-', starting and ending with a letter or digit";
/// The longest image reference.
const MAX_IMAGE: usize = 1024;

/// DNS label (RFC 1123).
pub fn dns_label<C>(value: &str, _: &C) -> garde::Result {
    ensure(!value.is_empty(), Cause::Required, || {
        format!("must not be empty: {LABEL}")
    })?;
    ensure(is_dns_label(value), Cause::Invalid, || {
        format!("{} is not a DNS label: {LABEL}", quoted(value))
    })
}

/// Something must be there; `fix` says what.
pub fn given<T, C>(fix: &'static str) -> impl Fn(&T, &C) -> garde::Result
where
    T: Default + PartialEq,
{
    move |value, _| ensure(*value != T::default(), Cause::Required, || fix.to_owned())
}

/// Nothing may be there; `fix` says why.
pub fn absent<T, C>(fix: &'static str) -> impl Fn(&Option<T>, &C) -> garde::Result {
    move |value, _| ensure(value.is_none(), Cause::Invalid, || fix.to_owned())
}

/// Known to the API, but nothing acts on it yet: only the default is accepted.
pub fn unsupported<T: Default + PartialEq, C>(value: &T, _: &C) -> garde::Result {
    ensure(*value == T::default(), Cause::NotSupported, || {
        "is not supported by this version; remove it".to_owned()
    })
}

/// A URL with one of `schemes`.
pub fn url<C>(schemes: &'static [&'static str]) -> impl Fn(&str, &C) -> garde::Result {
    move |value, _| {
        let known = schemes.iter().any(|scheme| value.starts_with(scheme));
        ensure(known, Cause::Invalid, || match schemes {
            [one] => format!("must begin with {one}"),
            [all @ .., last] => format!("must begin with {} or {last}", all.join(", ")),
            [] => "must be absent".to_owned(),
        })
    }
}

/// An image that is pinned by digest.
pub fn image<C>(value: &str, _: &C) -> garde::Result {
    ensure(!value.is_empty(), Cause::Required, || {
        "name the image, pinned by digest: NAME@sha256:DIGEST".to_owned()
    })?;
    ensure(value.len() <= MAX_IMAGE, Cause::Invalid, || {
        format!("is too long: at most {MAX_IMAGE} characters are possible")
    })?;
    let pinned = value
        .rsplit_once("@sha256:")
        .is_some_and(|(name, digest)| !name.is_empty() && is_digest(digest));
    ensure(pinned, Cause::Invalid, || {
        format!(
            "{} is not pinned by digest: write it as NAME@sha256:DIGEST",
            quoted(value)
        )
    })
}

/// The sha256 sum of a file, as `sha256sum` prints it.
pub fn sha256<C>(value: &str, _: &C) -> garde::Result {
    ensure(is_digest(value), Cause::Invalid, || {
        "must be 64 lower-case hex digits, as sha256sum prints them".to_owned()
    })
}

fn is_digest(text: &str) -> bool {
    text.len() == DIGEST_CHARS
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A selector that [`Selector`] can hold.
pub fn selector<C>(value: &LabelSelector, _: &C) -> garde::Result {
    match Selector::try_from(value) {
        Ok(_) => Ok(()),
        Err(why) => Err(Cause::Invalid.error(why)),
    }
}

/// A duration as Kubernetes writes it.
pub fn duration<C>(value: &str, _: &C) -> garde::Result {
    match value.parse::<Duration>() {
        Ok(_) => Ok(()),
        Err(why) => Err(Cause::Invalid.error(why)),
    }
}

/// A user's text as messages repeat it: on one line, and not longer than one reads.
pub fn quoted(value: &str) -> String {
    match value.char_indices().nth(MAX_QUOTED) {
        None => format!("{value:?}"),
        Some((end, _)) => format!("{:?}...", &value[..end]),
    }
}

/// An error of `cause` unless `holds`.
pub fn ensure(holds: bool, cause: Cause, message: impl FnOnce() -> String) -> garde::Result {
    match holds {
        true => Ok(()),
        false => Err(cause.error(message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(result: garde::Result) -> Option<(Cause, String)> {
        result.err().map(|e| Cause::split(e.message()))
    }

    #[test]
    fn images_are_pinned() {
        let digest = "0".repeat(DIGEST_CHARS);
        for good in [
            format!("a@sha256:{digest}"),
            format!("oci-layout:/x@sha256:{digest}"),
        ] {
            assert_eq!(said(image(&good, &())), None, "{good}");
        }
        let long = format!("{}@sha256:{digest}", "a".repeat(MAX_IMAGE));
        for (bad, cause) in [
            ("", Cause::Required),
            ("python:3", Cause::Invalid),
            ("a@sha256:12", Cause::Invalid),
            (&format!("@sha256:{digest}"), Cause::Invalid),
            (&format!("a@sha256:{}", "A".repeat(64)), Cause::Invalid),
            (&long, Cause::Invalid),
        ] {
            assert_eq!(said(image(bad, &())).unwrap().0, cause, "{bad}");
        }
    }

    #[test]
    fn long_texts_are_cut_where_a_character_ends() {
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
        let cut = quoted(&"é".repeat(MAX_QUOTED + 1));
        assert_eq!(cut, format!("\"{}\"...", "é".repeat(MAX_QUOTED)));
    }

    #[test]
    fn sums_are_64_lower_case_hex_digits() {
        assert_eq!(said(sha256(&"a".repeat(64), &())), None);
        for bad in ["", &"a".repeat(63), &"A".repeat(64), &"g".repeat(64)] {
            assert_eq!(said(sha256(bad, &())).unwrap().0, Cause::Invalid, "{bad}");
        }
    }

    #[test]
    fn urls_have_a_known_scheme() {
        let rule = url::<()>(&["s3://", "gs://", "file://"]);
        assert_eq!(said(rule("s3://bucket", &())), None);
        for bad in ["", "bucket", "http://s3://"] {
            let why = said(rule(bad, &())).unwrap().1;
            assert_eq!(why, "must begin with s3://, gs:// or file://", "{bad}");
        }
    }

    #[test]
    fn durations_and_selectors_say_what_is_wrong() {
        assert_eq!(said(duration("90s", &())), None);
        let (_, why) = said(duration("soon", &())).unwrap();
        assert_eq!(
            why,
            "\"soon\" is not a duration: write it like 90s, 15m or 1h30m"
        );
        assert_eq!(said(selector(&LabelSelector::default(), &())), None);
    }

    #[test]
    fn only_defaults_of_what_is_unsupported() {
        assert_eq!(said(unsupported(&None::<String>, &())), None);
        let (cause, _) = said(unsupported(&Some("1h"), &())).unwrap();
        assert_eq!(cause, Cause::NotSupported);
    }
}
