//! Container output in bounded files.
//!
//! A container's stdout and stderr are one file, open for appending, which outlives the call that started the
//! container: a pipe would have to be read for ever. When it grows beyond [`MAX_BYTES`] its content moves to
//! `NAME.log.1` and it is cut to nothing (copy and truncate: the sandbox holds it open). `NAME.log.at` says how many bytes
//! were cut off so far: with it a byte of the log has a position that stays, for those who follow it.

use super::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Size at which a log file is rotated. Two of them are kept, so a container's logs take at most about twice
/// this, and what it writes until the next look.
pub const MAX_BYTES: u64 = 4 << 20;
/// How often the size is looked at.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The same while there is that much to rotate.
pub const BUSY_INTERVAL: Duration = Duration::from_millis(20);
/// Digits of a number of bytes.
const DIGITS: usize = 20;

/// The log file of a container.
pub fn path(log_dir: &Path, container: &str) -> PathBuf {
    log_dir.join(format!("{container}.log"))
}

/// What the name of a log's older part ends with.
const OLDER: &str = "1";

/// The older part of a container's log.
fn rotated_path(log_dir: &Path, container: &str) -> PathBuf {
    path(log_dir, container).with_added_extension(OLDER)
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

/// How many bytes were cut off a log, locked: nobody rotates it meanwhile, or reads it.
struct Cut(File);

impl Cut {
    fn file(log_dir: &Path, container: &str) -> io::Result<File> {
        let path = log_dir.join(format!("{container}.log.at"));
        let mut options = OpenOptions::new();
        options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
    }

    fn to_read(log_dir: &Path, container: &str) -> io::Result<Cut> {
        let file = Self::file(log_dir, container)?;
        file.lock_shared()?;
        Ok(Cut(file))
    }

    fn to_rotate(log_dir: &Path, container: &str) -> io::Result<Cut> {
        let file = Self::file(log_dir, container)?;
        file.lock()?;
        Ok(Cut(file))
    }

    fn bytes(&self) -> io::Result<u64> {
        let mut digits = [0; DIGITS];
        match self.0.read_exact_at(&mut digits, 0) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(0),
            read => read?,
        }
        let number = std::str::from_utf8(&digits)
            .ok()
            .and_then(|d| d.parse().ok());
        number.ok_or_else(|| io::Error::other("the length of a log is not a number"))
    }

    fn set(&self, bytes: u64) -> io::Result<()> {
        let digits = format!("{bytes:0width$}", width = DIGITS);
        self.0.write_all_at(digits.as_bytes(), 0)
    }
}

fn length(file: &Path) -> io::Result<u64> {
    match std::fs::metadata(file) {
        Ok(meta) => Ok(meta.len()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e),
    }
}

/// The position after the last byte of a container's log.
///
/// # Errors
/// When it cannot be read.
pub fn end(log_dir: &Path, container: &str) -> io::Result<u64> {
    let cut = Cut::to_read(log_dir, container)?;
    Ok(cut.bytes()? + length(&path(log_dir, container))?)
}

/// What is kept of a container's log from a position on, `most` bytes of it, and the position of the first of them: a later one where what
/// was asked for is gone.
///
/// # Errors
/// When it cannot be read.
pub fn read(log_dir: &Path, container: &str, from: u64, most: u64) -> io::Result<(Vec<u8>, u64)> {
    let cut = Cut::to_read(log_dir, container)?;
    let (base, older) = (cut.bytes()?, rotated_path(log_dir, container));
    let oldest = base.saturating_sub(length(&older)?);
    let from = from.max(oldest);
    let (file, at) = match from.checked_sub(base) {
        Some(at) => (path(log_dir, container), at),
        None => (older, from - oldest),
    };
    let mut data = Vec::new();
    match File::open(file) {
        Ok(mut file) => {
            file.seek(SeekFrom::Start(at))?;
            file.take(most).read_to_end(&mut data)?;
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    Ok((data, from))
}

/// Makes the logs in `from`, to which nothing was written yet, those of `log_dir`: they go on where these end. Whoever has them open keeps
/// them.
///
/// # Errors
/// When they cannot be copied or moved.
pub fn take_over(from: &Path, log_dir: &Path) -> io::Result<()> {
    for log in std::fs::read_dir(from)? {
        let log = log?.path();
        let name = log.file_name().and_then(|name| name.to_str());
        let Some(container) = name.and_then(|name| name.strip_suffix(".log")) else {
            continue;
        };
        rotate(log_dir, container, MAX_BYTES)?;
        let _nobody_reads = Cut::to_rotate(log_dir, container)?;
        let to = path(log_dir, container);
        match std::fs::copy(&to, &log) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => std::fs::rename(&log, &to)?,
        }
    }
    Ok(())
}

/// Rotates the container's log if it is larger than `max` bytes. Lines that are written meanwhile may be lost.
///
/// # Errors
/// When it cannot be read or written.
pub fn rotate(log_dir: &Path, container: &str, max: u64) -> io::Result<bool> {
    let current = path(log_dir, container);
    if length(&current)? <= max {
        return Ok(false);
    }
    let cut = Cut::to_rotate(log_dir, container)?;
    let mut from = File::open(&current)?;
    let len = from.metadata()?.len();
    // Only the newest part when the writer was faster than we.
    from.seek(SeekFrom::Start(len.saturating_sub(max)))?;
    let half_done = log_dir.join(format!("{container}.log.new"));
    let mut to = File::create(&half_done)?;
    io::copy(&mut from.take(max), &mut to)?;
    std::fs::rename(&half_done, rotated_path(log_dir, container))?;
    // Were we to end in between, it would be kept twice: better than not at all.
    cut.set(cut.bytes()? + len)?;
    OpenOptions::new().write(true).open(&current)?.set_len(0)?;
    Ok(true)
}

/// Lets the file `next`, in the same file system, be the log `current` from now on. What was written before, by one who has ended, is the
/// older part.
///
/// # Errors
/// When a file cannot be moved.
pub fn replace(current: &Path, next: &Path) -> io::Result<()> {
    if length(current)? > 0 {
        std::fs::rename(current, current.with_added_extension(OLDER))?;
    }
    std::fs::rename(next, current)
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
    fn a_byte_keeps_its_position_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), "app").unwrap();
        let read = |from| read(dir.path(), "app", from, 4).unwrap();
        assert_eq!(read(0), (vec![], 0));
        for digit in b"0123456789abcdef" {
            log.write_all(&[*digit]).unwrap();
            rotate(dir.path(), "app", 5).unwrap();
        }
        // Cut after the sixth and the twelfth, of which five bytes each are kept.
        assert_eq!(end(dir.path(), "app").unwrap(), 16);
        assert_eq!(read(0), (b"789a".to_vec(), 7), "what is gone is left out");
        assert_eq!(
            read(9),
            (b"9ab".to_vec(), 9),
            "to the end of the older part"
        );
        assert_eq!(read(12), (b"cdef".to_vec(), 12));
        assert_eq!(read(16), (vec![], 16));
        let ahead = tempfile::tempdir().unwrap();
        let mut log = open(ahead.path(), "app").unwrap();
        take_over(ahead.path(), dir.path()).unwrap();
        log.write_all(b"g").unwrap();
        assert_eq!(read(13), (b"defg".to_vec(), 13));
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
