//! The files of a checkpoint: written beside their final place, looked at, then moved there.

use super::super::Error;
use std::path::{Path, PathBuf};

/// What `runsc checkpoint` writes: kernel state, index of the pages, pages.
pub const FILES: [&str; 3] = ["checkpoint.img", "pages_meta.img", "pages.img"];

/// A fresh directory that becomes the image, or goes.
pub(super) struct Draft {
    dir: PathBuf,
    target: PathBuf,
}

impl Draft {
    /// Makes a fresh directory beside `target`, which must not exist: `runsc` opens its files exclusively, and a failed
    /// attempt leaves some of them.
    pub fn new(target: &Path) -> Result<Draft, Error> {
        if target.symlink_metadata().is_ok() {
            return Err(Error::Invalid(format!(
                "the image directory {} exists already",
                target.display()
            )));
        }
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(Error::Invalid(format!(
                "{} is no path of an image",
                target.display()
            )));
        };
        let mut prefix = name.to_os_string();
        prefix.push(".partial-");
        let dir = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(parent)
            .map_err(Error::io(format!(
                "cannot make a directory in {}",
                parent.display()
            )))?;
        Ok(Draft {
            dir: dir.keep(),
            target: target.to_owned(),
        })
    }

    /// Where the runtime shall write.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Checks that all files are there and moves the image to its place.
    pub fn finish(self) -> Result<(), Error> {
        verify(&self.dir)?;
        std::fs::rename(&self.dir, &self.target).map_err(Error::io(format!(
            "cannot rename {} to {}",
            self.dir.display(),
            self.target.display()
        )))
    }
}

impl Drop for Draft {
    /// Removes what was not finished; after [`Draft::finish`] there is nothing.
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Checks that `dir` holds all files of an image and that none is empty.
pub(super) fn verify(dir: &Path) -> Result<(), Error> {
    for file in FILES {
        match std::fs::symlink_metadata(dir.join(file)) {
            Ok(meta) if meta.is_file() && meta.len() > 0 => {}
            _ => return Err(Error::Incomplete { file }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_image_gets_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("image");
        let draft = Draft::new(&target).unwrap();
        for file in FILES {
            assert!(matches!(verify(draft.dir()), Err(Error::Incomplete { .. })));
            std::fs::write(draft.dir().join(file), "x").unwrap();
        }
        draft.finish().unwrap();
        verify(&target).unwrap();
        assert!(matches!(Draft::new(&target), Err(Error::Invalid(_))));
    }

    #[test]
    fn an_unfinished_image_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let draft = Draft::new(&dir.path().join("image")).unwrap();
        std::fs::write(draft.dir().join(FILES[0]), "x").unwrap();
        assert!(draft.finish().is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
