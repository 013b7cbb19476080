//! The directories of an executor in a pod: mounted where a pod's manifest can name them, and needed where the host has them.

use super::Error;
use nix::mount::{MsFlags, mount};
use std::path::{Path, PathBuf};

/// In a directory of an executor's own: what the node agent lends it.
pub const LENT: &str = "lent";

/// A directory of the executor's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Where the pod has it.
    pub own: PathBuf,
    /// Where the host has it, and the executor too from then on.
    pub host: PathBuf,
}

impl std::str::FromStr for Bind {
    type Err = String;

    /// `OWN=HOST`, both absolute.
    fn from_str(text: &str) -> Result<Self, String> {
        let (own, host) = text.split_once('=').ok_or("give it as OWN=HOST")?;
        let bind = Bind {
            own: own.into(),
            host: host.into(),
        };
        match bind.own.is_absolute() && bind.host.is_absolute() {
            true => Ok(bind),
            false => Err("both directories must be absolute paths".to_owned()),
        }
    }
}

impl Bind {
    /// Below which the node agent mounts what assignments need, in both places.
    pub(super) fn lent(&self) -> [PathBuf; 2] {
        [self.own.join(LENT), self.host.join(LENT)]
    }

    /// Mounts it. What is mounted below it later shows in both places if it does in the one.
    ///
    /// # Errors
    /// [`Error::Io`] when a directory cannot be made or the mount is refused.
    pub fn mount(&self) -> Result<(), Error> {
        let Bind { own, host } = self;
        let what = format!("bind {} to {}", own.display(), host.display());
        std::fs::create_dir_all(host).map_err(Error::io(what.clone()))?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        let mounted = mount(Some(own), host, None::<&Path>, flags, None::<&Path>);
        mounted.map_err(Error::io(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_two_absolute_paths() {
        let bind: Bind = "/run/ate/own=/run/ate/ateoms/u-1".parse().unwrap();
        assert_eq!(bind.host, Path::new("/run/ate/ateoms/u-1"));
        for wrong in ["/run/ate", "own=/run", "/run=there"] {
            assert!(wrong.parse::<Bind>().is_err(), "{wrong}");
        }
    }
}
