//! Looking at what others do: until it is so, and at what a command said.

use std::process::Output;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The kubectl of the tests, the newest that `e2e/setup.sh` finds: what is on PATH differs between machines, and may be a
/// launcher that asks the server for its version at every call.
pub const KUBECTL: &str = "kubectl1.35";
/// How often a condition is looked at.
pub const LOOK: Duration = Duration::from_millis(50);

/// Looks until it is so, within `patience`.
#[track_caller]
pub fn until<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            start.elapsed() < patience,
            "{what}: not within {patience:?}"
        );
        std::thread::sleep(LOOK);
    }
}

/// Returns in another second than it is called: whatever is written anew from then on has another time in Kubernetes' objects.
pub fn next_second() {
    let second = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.expect("after 1970").as_secs()
    };
    let called = second();
    until(Duration::from_secs(5), "the next second", || {
        (second() > called).then_some(())
    });
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command said, as an error that names it where it failed.
pub fn outcome(what: &str, output: &Output) -> Result<String, String> {
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    match output.status.success() {
        true => Ok(said),
        false => Err(format!("{what}: {said}")),
    }
}
