//! A runsc that fails on demand: a script in front of the real one, first on the PATH of an `ate dev`.

use super::harness::Dev;
use crate::parts::look::text;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The script; `@NAME@` stands for what differs.
const SCRIPT: &str = include_str!("wrapper.sh");

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Does nothing, complains on stderr, fails.
    Refuses,
    /// Does nothing and never ends.
    Hangs,
    /// Does nothing, prints garbage and claims success.
    Lies,
    /// Is killed before it does anything.
    Dies,
    /// Prints a Go panic and dies by SIGSEGV.
    Crashes,
    /// Does its work and never ends.
    Lingers,
    /// Does its work and says that it failed.
    Denies,
}

impl Fault {
    /// As the script calls it.
    fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// Where it is told what to do.
pub struct Wrapper {
    dir: tempfile::TempDir,
}

impl Wrapper {
    /// An `ate dev` that runs it.
    pub fn dev(flags: &[&str]) -> (Dev, Wrapper) {
        let dir = tempfile::tempdir().unwrap();
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", dir.path().join("bin").display());
        std::fs::create_dir_all(dir.path().join("bin")).unwrap();
        std::fs::create_dir_all(dir.path().join("faults")).unwrap();
        let wrapper = Wrapper { dir };
        // It is not looked for before there is a pool.
        let dev = Dev::start_with(flags, &[("PATH", &path)]);
        wrapper.install(&dev.path("lib/node/slots"));
        (dev, wrapper)
    }

    fn install(&self, slots: &Path) {
        let found = Command::new("which").arg("runsc").output().unwrap();
        let real = text(&found.stdout);
        let faults = self.faults();
        let script = SCRIPT
            .replace("@FAULTS@", faults.to_str().unwrap())
            .replace("@SLOTS@", slots.to_str().unwrap())
            .replace("@REAL@", real.trim());
        let file = self.dir.path().join("bin/runsc");
        std::fs::write(&file, script).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn faults(&self) -> PathBuf {
        self.dir.path().join("faults")
    }

    /// The next call of `call` on a slot goes wrong.
    pub fn arm(&self, slot: &str, call: &str, fault: Fault) {
        let (dir, draft) = (self.faults().join(slot), self.dir.path().join(slot));
        std::fs::create_dir_all(&dir).unwrap();
        let _ = std::fs::remove_file(dir.join(format!("met.{call}")));
        std::fs::write(&draft, fault.word() + "\n").unwrap();
        std::fs::rename(&draft, dir.join(call)).unwrap();
    }

    /// All calls of `call` on a slot go wrong, until nothing is armed any more.
    pub fn arm_for_good(&self, slot: &str, call: &str, fault: Fault) {
        self.arm(slot, &format!("{call}.always"), fault);
    }

    /// Nothing is armed for a slot any more.
    pub fn disarm(&self, slot: &str) {
        std::fs::remove_dir_all(self.faults().join(slot)).unwrap();
    }

    /// Whether what was armed last for a call has happened.
    pub fn met(&self, slot: &str, call: &str) -> bool {
        let met = format!("met.{call}");
        self.faults().join(slot).join(met).exists()
    }
}
