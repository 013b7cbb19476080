//! Container output in bounded files.
//!
//! A container's stdout and stderr are one file, open for appending, which outlives the call that started the
//! container: a pipe would have to be read for ever. When it grows beyond [`MAX_BYTES`] its content moves to
//! `NAME.log.1` and it is cut to nothing (copy and truncate: the sandbox holds it open).

use super::Error;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Size at which a log file is rotated. Two of them are kept, so a container's logs take at most about twice
/// this, and what it writes within one [`CHECK_INTERVAL`].
pub const MAX_BYTES: u64 = 4 << 20;
/// How often the size is looked at.
pub const CHECK_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// The log file of a container.
pub fn path(log_dir: &Path, container: &str) -> PathBuf {
    log_dir.join(format!("{container}.log"))
}

/// The older part of a container's log.
pub fn rotated_path(log_dir: &Path, container: &str) -> PathBuf {
    log_dir.join(format!("{container}.log.1"))
}

/// Opens a container's log for appending, and for reading what the runtime itself said there.
pub(super) fn open(log_dir: &Path, container: &str) -> Result<File, Error> {
    let path = path(log_dir, container);
    OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(&path)
        .map_err(Error::io(format!("cannot open the log {}", path.display())))
}

/// Makes the logs in `from`, to which nothing was written yet, those of `log_dir`: they go on where these end. Whoever has them open keeps
/// them.
pub fn take_over(from: &Path, log_dir: &Path) -> io::Result<()> {
    for log in std::fs::read_dir(from)? {
        let log = log?.path();
        let name = log.file_name().and_then(|name| name.to_str());
        let Some(container) = name.and_then(|name| name.strip_suffix(".log")) else {
            continue;
        };
        rotate(log_dir, container, MAX_BYTES)?;
        let to = path(log_dir, container);
        match std::fs::copy(&to, &log) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => std::fs::rename(&log, &to)?,
        }
    }
    Ok(())
}

/// Rotates the container's log if it is larger than `max` bytes. Lines that are written meanwhile may be lost.
pub fn rotate(log_dir: &Path, container: &str, max: u64) -> io::Result<bool> {
    let current = path(log_dir, container);
    match std::fs::metadata(&current) {
        Ok(meta) if meta.len() > max => {}
        Ok(_) => return Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    }
    let mut from = File::open(&current)?;
    let len = from.metadata()?.len();
    // Only the newest part when the writer was faster than we.
    io::Seek::seek(&mut from, io::SeekFrom::Start(len.saturating_sub(max)))?;
    let half_done = log_dir.join(format!("{container}.log.new"));
    let mut to = File::create(&half_done)?;
    io::copy(&mut io::Read::take(from, max), &mut to)?;
    std::fs::rename(&half_done, rotated_path(log_dir, container))?;
    OpenOptions::new().write(true).open(&current)?.set_len(0)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_log_over_its_bound_moves_aside_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), "app").unwrap();
        log.write_all(b"0123456789").unwrap();
        assert!(!rotate(dir.path(), "app", 10).unwrap());
        log.write_all(b"abc").unwrap();
        assert!(rotate(dir.path(), "app", 10).unwrap());
        log.write_all(b"new").unwrap();
        let now = std::fs::read(path(dir.path(), "app")).unwrap();
        assert_eq!(now, b"new", "appended at the cut, without a hole");
        let old = std::fs::read(rotated_path(dir.path(), "app")).unwrap();
        assert_eq!(old, b"3456789abc", "the newest bytes are kept");
    }

    #[test]
    fn a_log_that_was_opened_ahead_goes_on_where_the_actors_ends() {
        let (ahead, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for known in ["", "old "] {
            let mut log = open(ahead.path(), "app").unwrap();
            take_over(ahead.path(), own.path()).unwrap();
            log.write_all(b"new ").unwrap();
            let now = std::fs::read(path(own.path(), "app")).unwrap();
            assert_eq!(now, format!("{known}new ").into_bytes());
            std::fs::write(path(own.path(), "app"), "old ").unwrap();
            assert_eq!(std::fs::read_dir(ahead.path()).unwrap().count(), 0);
        }
    }
}
