//! Where everything lies below the node's directory.
//!
//! ```text
//! slots/NAMESPACE:NAME/    slot.json (what it is, its executor), desired.json (its assignment), ateom.log
//! actors/NAMESPACE:TEMPLATE:NAME/   uid, containers, logs/NAME.log: kept while the actor sleeps
//! sandboxes/GENERATION/    a sandbox's writable layer; no colon, for runsc splits options there
//! images/                  unpacked images
//! spool/ID/image/          an image while it is written; complete, it moves on to
//! snapshots/ID/, held/ID.json       node copies of snapshots, and what is known of each: whether it is the only one, that is,
//!                          still to be published, or was fetched or published before
//! workers/POD/             in a cluster, what a worker pod has of all this
//! runtimes/SHA256          fetched runtimes
//! spares/UID.log           of executors that are no slot's yet
//! incarnation              the highest store incarnation that was witnessed
//! ```

use super::error::{Error, io};
use super::files::Identity;
use std::path::{Path, PathBuf};

/// Makes the paths.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Below `root`, where all directories are made.
    pub fn create(root: &Path) -> Result<Layout, Error> {
        use std::os::unix::fs::DirBuilderExt;
        let layout = Layout {
            root: root.to_owned(),
        };
        for dir in [
            layout.slots(),
            layout.actors(),
            layout.sandboxes(),
            layout.held(),
            layout.spool(),
            layout.runtimes(),
        ] {
            // Nobody but root looks into the files of actors.
            let made = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir);
            made.map_err(io("create", &dir))?;
        }
        Ok(layout)
    }

    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub fn spare_logs(&self) -> PathBuf {
        self.root.join("spares")
    }

    pub fn slots(&self) -> PathBuf {
        self.root.join("slots")
    }

    pub fn actors(&self) -> PathBuf {
        self.root.join("actors")
    }

    pub fn actor(&self, actor: &Identity) -> PathBuf {
        let Identity {
            namespace,
            template_name,
            name,
            ..
        } = actor;
        self.actors()
            .join(format!("{namespace}:{template_name}:{name}"))
    }

    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub fn held(&self) -> PathBuf {
        self.root.join("held")
    }

    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    pub fn runtimes(&self) -> PathBuf {
        self.root.join("runtimes")
    }

    pub fn workers(&self) -> PathBuf {
        self.root.join("workers")
    }

    pub fn incarnation(&self) -> PathBuf {
        self.root.join("incarnation")
    }
}
