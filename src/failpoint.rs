//! Crash points for the fault tests: compiled in only with the feature `failpoints`, never part of a release.
//!
//! The tests name a directory in `ATE_CRASH_DIR`; creating a file in it with the name of a crash point arms that
//! point once, in whichever process passes it first. That process removes the file and ends itself by SIGKILL, as if the machine had
//! taken it away.

/// Ends this process here if the crash point `name` is armed.
#[cfg(feature = "failpoints")]
pub fn crash(name: &str) {
    static DIR: std::sync::LazyLock<Option<std::path::PathBuf>> =
        std::sync::LazyLock::new(|| std::env::var_os("ATE_CRASH_DIR").map(Into::into));
    if let Some(dir) = &*DIR
        && std::fs::remove_file(dir.join(name)).is_ok()
    {
        tracing::error!(name, "crash point");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Does nothing: crash points are compiled in for tests only.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn crash(_name: &str) {}
