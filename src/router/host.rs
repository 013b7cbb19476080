//! Which actor a Host header names.

use crate::api::names::{ActorKey, is_dns_label};
use std::fmt;

/// What every actor's host name ends with, after a dot.
pub const SUFFIX: &str = "actors.resources.substrate.ate.dev";

/// Longest Host header that is looked at: a DNS name of 253 characters, a dot and a port.
const MAX_HOST: usize = 260;

/// Whom a request is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// `<name>.<namespace>.` and the suffix.
    Actor(ActorKey),
    /// `<id>.` and the suffix: an actor that was created with a flat id.
    Flat(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Actor(key) => key.fmt(f),
            Target::Flat(id) => id.fmt(f),
        }
    }
}

/// The host is no actor's: the user's input, never worth a retry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an actor's host name: use <name>.<namespace>.{SUFFIX}, or <id>.{SUFFIX}")]
pub struct HostError(String);

impl Target {
    /// Reads `host` as it stands in a Host header: any case, a port (ignored) and a final dot allowed.
    pub fn parse(host: &str) -> Result<Target, HostError> {
        read(host).ok_or_else(|| HostError(host.chars().take(MAX_HOST).collect()))
    }
}

fn read(host: &str) -> Option<Target> {
    if host.len() > MAX_HOST {
        return None;
    }
    let host = without_port(host)?.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let labels = host.strip_suffix(SUFFIX)?.strip_suffix('.')?;
    match labels.split_once('.') {
        Some((name, namespace)) => ActorKey::parse(namespace, name).ok().map(Target::Actor),
        None if is_dns_label(labels) => Some(Target::Flat(labels.to_owned())),
        None => None,
    }
}

/// `host` without `:port`; the port may be empty (RFC 3986, 3.2.3). `None` where what follows the colon is no port.
fn without_port(host: &str) -> Option<&str> {
    let Some((name, port)) = host.split_once(':') else {
        return Some(host);
    };
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    (digits && (port.is_empty() || port.parse::<u16>().is_ok())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn actor(namespace: &str, name: &str) -> Target {
        Target::Actor(ActorKey::new(namespace, name))
    }

    #[test]
    fn what_names_an_actor() {
        for (host, want) in [
            (
                "a.team.actors.resources.substrate.ate.dev",
                actor("team", "a"),
            ),
            (
                "A.Team.Actors.Resources.Substrate.ATE.dev",
                actor("team", "a"),
            ),
            (
                "a.team.actors.resources.substrate.ate.dev:8080",
                actor("team", "a"),
            ),
            (
                "a.team.actors.resources.substrate.ate.dev.",
                actor("team", "a"),
            ),
            (
                "a.team.actors.resources.substrate.ate.dev.:80",
                actor("team", "a"),
            ),
            (
                "a.team.actors.resources.substrate.ate.dev:",
                actor("team", "a"),
            ),
            (
                "x-1.actors.resources.substrate.ate.dev",
                Target::Flat("x-1".into()),
            ),
            (
                "actors.actors.resources.substrate.ate.dev",
                Target::Flat("actors".into()),
            ),
        ] {
            assert_eq!(Target::parse(host), Ok(want), "{host}");
        }
    }

    #[test]
    fn what_does_not() {
        for host in [
            "",
            ".",
            "localhost",
            "actors.resources.substrate.ate.dev",
            ".actors.resources.substrate.ate.dev",
            "a..actors.resources.substrate.ate.dev",
            ".a.actors.resources.substrate.ate.dev",
            "a.b.c.actors.resources.substrate.ate.dev",
            "a.b.actors.resources.substrate.ate.dev..",
            "a.b.actors.resources.substrate.ate.dev:http",
            "a.b.actors.resources.substrate.ate.dev:65536",
            "a.b.actors.resources.substrate.ate.dev:80:80",
            "a.b.actors.resources.substrate.ate.dev:-1",
            "a_b.actors.resources.substrate.ate.dev",
            "-a.actors.resources.substrate.ate.dev",
            "ä.actors.resources.substrate.ate.dev",
            "xactors.resources.substrate.ate.dev",
            "a.b.actors.resources.substrate.ate.dev.evil.example",
            " a.b.actors.resources.substrate.ate.dev",
        ] {
            assert!(Target::parse(host).is_err(), "{host}");
        }
        let error = Target::parse("localhost").unwrap_err().to_string();
        assert!(error.starts_with("\"localhost\" is not an actor's host name: use "));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(host in "\\PC{0,300}") {
            let _ = Target::parse(&host);
        }

        #[test]
        fn names_round_trip(
            labels in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?",
            upper in any::<bool>(), dot in any::<bool>(), port in proptest::option::of(any::<u16>()),
        ) {
            let mut host = format!("{labels}.{SUFFIX}");
            if upper { host.make_ascii_uppercase() }
            if dot { host.push('.') }
            if let Some(port) = port { host.push_str(&format!(":{port}")) }
            let shown = match Target::parse(&host).unwrap() {
                Target::Actor(key) => format!("{}.{}", key.name, key.namespace),
                Target::Flat(id) => id,
            };
            prop_assert_eq!(shown, labels);
        }

        #[test]
        fn what_is_read_is_made_of_labels(host in "[aA1.:-]{0,8}\\.actors\\.resources\\.substrate\\.ate\\.dev\\.?(:[0-9x]{0,6})?") {
            match Target::parse(&host) {
                Ok(Target::Actor(key)) => prop_assert!(is_dns_label(&key.name) && is_dns_label(&key.namespace)),
                Ok(Target::Flat(id)) => prop_assert!(is_dns_label(&id)),
                Err(_) => {}
            }
        }
    }
}
