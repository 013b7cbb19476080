//! Memory that answers no longer need goes back to the system.
//!
//! glibc gives back what is free at the end of an arena (`M_TRIM_THRESHOLD`) and keeps what is free before it. Objects of all
//! sizes come and go here, so after many large answers at once nearly all of an arena is free and kept. Its thresholds
//! (`M_MMAP_THRESHOLD`) change that for large allocations only, and an answer is made of small ones.

use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often. Allocations wait meanwhile: 0.1 ms when there is nothing to give back, about 3 ms for 100 MiB.
const EVERY: Duration = Duration::from_secs(10);

/// Gives back what is free, again and again until `shutdown`.
pub async fn give_back(shutdown: CancellationToken) {
    let pause = || shutdown.run_until_cancelled(tokio::time::sleep(EVERY));
    while pause().await.is_some() && tokio::task::spawn_blocking(trim).await.is_ok() {}
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: it takes no pointers, and locks what it works on (malloc_trim(3): MT-safe).
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators have no such habit, or no such call.
#[cfg(not(target_env = "gnu"))]
fn trim() {}
