//! Layers into a directory: OCI image-spec `layer.md`, with nothing in them trusted.
//!
//! An entry's name is resolved below the image's root one component at a time (`tree`), so that neither `..` nor a symlink
//! of this or an earlier layer leads out; the entry itself replaces what is there and is never written through. Device
//! nodes are left out: a sandbox has a `/dev` of its own, and on the node's file system they would open the node's
//! devices. Everything here blocks.

mod entry;
mod metered;
mod mount;
#[cfg(test)]
mod tests;
mod tree;
mod whiteout;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::refused;
use super::{MAX_IMAGE_BYTES, MAX_IMAGE_FILES, Result};
pub(super) use mount::{make_dir, make_file};

use metered::Metered;
use tree::Tree;

/// Cap on what one entry's headers (long names, extended attributes) may take, in bytes.
const MAX_HEADERS: u64 = 1 << 20;

/// An image that is being unpacked, layer after layer.
pub(super) struct Unpack {
    tree: Tree,
    totals: Totals,
    /// Modification times of directories, which are set when nothing is put in them any more.
    dir_times: BTreeMap<PathBuf, i64>,
    /// What the layer at hand made, which its own whiteouts do not remove.
    made: HashSet<PathBuf>,
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) skipped_devices: u64,
}

impl Unpack {
    /// Begins in the empty directory `root`.
    pub(super) fn new(root: &Path) -> Result<Self> {
        Ok(Self {
            tree: Tree::open(root)?,
            totals: Totals::default(),
            dir_times: BTreeMap::new(),
            made: HashSet::new(),
        })
    }

    /// Applies one layer, given as uncompressed tar.
    pub(super) fn layer(&mut self, tar: &mut dyn Read) -> Result<()> {
        self.made.clear();
        let (metered, allowance) = Metered::new(tar);
        let mut archive = tar::Archive::new(metered);
        let mut entries = archive.entries().map_err(not_tar)?;
        loop {
            allowance.set(MAX_HEADERS);
            let Some(next) = entries.next() else {
                return Ok(());
            };
            let mut next = next.map_err(not_tar)?;
            let size = next.size();
            allowance.set(MAX_HEADERS.saturating_add(size));
            self.count(size)?;
            self.entry(&mut next)?;
            self.totals.files += self.tree.take_implied();
            // The reader would skip what is left itself, but on the next header's allowance.
            io::copy(&mut next, &mut io::sink()).map_err(not_tar)?;
        }
    }

    /// Sets what could not be set before all layers were applied.
    pub(super) fn finish(self) -> Result<Totals> {
        for (path, time) in &self.dir_times {
            self.tree.set_dir_time(path, *time)?;
        }
        Ok(self.totals)
    }

    fn count(&mut self, size: u64) -> Result<()> {
        self.totals.files += 1;
        self.totals.bytes = self.totals.bytes.saturating_add(size);
        if self.totals.files > MAX_IMAGE_FILES {
            return Err(refused(
                "the image",
                format!("over {MAX_IMAGE_FILES} files"),
            ));
        }
        if self.totals.bytes > MAX_IMAGE_BYTES {
            let reason = format!("over {MAX_IMAGE_BYTES} bytes unpacked");
            return Err(refused("the image", reason));
        }
        Ok(())
    }
}

fn not_tar(e: io::Error) -> super::ImageError {
    refused("a layer", format!("it is not a whole tar archive ({e})"))
}
