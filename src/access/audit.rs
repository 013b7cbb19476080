//! A line per write: who did what to which object, and what came of it. No bodies.

use super::attributes::Resource;
use super::user::User;
use std::time::Duration;

/// Where the lines go: `ATE_LOG=audit=off` silences them.
const TARGET: &str = "audit";
/// The longest request id that is taken from a client.
const MAX_ID: usize = 64;

/// Which door a write came through.
#[derive(Clone, Copy, Debug)]
pub enum Door {
    /// REST.
    Rest,
    /// gRPC.
    Grpc,
}

/// The id of a request: the one that came with it (kube-apiserver sends its own as `Audit-ID`), else a new one.
pub fn request_id(given: Option<&str>) -> String {
    let usable = |id: &&str| {
        (1..=MAX_ID).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match given.filter(usable) {
        Some(id) => id.to_owned(),
        None => uuid::Uuid::new_v4().to_string(),
    }
}

/// Writes the line.
pub fn line(door: Door, user: &User, what: &Resource, code: u16, request_id: &str, took: Duration) {
    let door = match door {
        Door::Rest => "rest",
        Door::Grpc => "grpc",
    };
    tracing::info!(
        target: TARGET,
        door,
        user = user.name,
        verb = what.verb,
        object = what.object(),
        code,
        request = request_id,
        ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "write"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_from_outside_cannot_break_the_line() {
        assert_eq!(request_id(Some("a-1")), "a-1");
        for bad in ["", "a b", "a\nb", &"x".repeat(MAX_ID + 1)] {
            assert_eq!(request_id(Some(bad)).len(), 36, "{bad}");
        }
    }
}
