//! Bytes of one file: hashed and compressed, or expanded and verified, in one pass. Everything here blocks.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::BUFFER;
use super::manifest::FileEntry;

/// Level of zstd: memory pages are written once and read once, so speed counts.
const LEVEL: i32 = 1;

/// What compressing one file yielded.
pub(super) struct Compressed {
    pub(super) bytes: u64,
    pub(super) stored_bytes: u64,
    pub(super) sha256: String,
}

/// Why a stored file could not be expanded.
#[derive(Debug)]
pub(super) enum ExpandError {
    /// The bytes are not those of the manifest; says how.
    Damaged(String),
    /// The store broke off.
    Source(io::Error),
    /// The target could not be written.
    Target(io::Error),
}

/// Compresses `from` into the new file `to`.
pub(super) fn compress(from: &Path, to: &Path) -> io::Result<Compressed> {
    let mut from = File::open(from)?;
    let pledged = from.metadata()?.len();
    let out = BufWriter::with_capacity(BUFFER, File::create_new(to)?);
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    encoder.set_pledged_src_size(Some(pledged))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut bytes = 0;
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        encoder.write_all(&buffer[..n])?;
        bytes += n as u64;
    }
    let out = encoder.finish()?.into_inner().map_err(|e| e.into_error())?;
    Ok(Compressed {
        bytes,
        stored_bytes: out.metadata()?.len(),
        sha256: hex::encode(hash.finalize()),
    })
}

/// Length and SHA-256 of a file.
pub(super) fn hash(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((bytes, hex::encode(hash.finalize())));
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// Counts what passes and keeps the source's own error apart from the decoder's complaints.
struct Counted<R> {
    inner: R,
    bytes: u64,
    limit: u64,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(n) => {
                self.bytes += n as u64;
                if self.bytes > self.limit {
                    return Err(io::Error::other("longer than the manifest says"));
                }
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let told = io::Error::new(e.kind(), "the store broke off");
                self.failed = Some(e);
                Err(told)
            }
        }
    }
}

/// Expands a stored file into the new file `to` and holds it against its `entry`.
///
/// On an error `to` may hold anything; the caller throws its directory away.
pub(super) fn expand(
    from: impl Read,
    to: &Path,
    entry: &FileEntry,
) -> std::result::Result<(), ExpandError> {
    let source = Counted {
        inner: from,
        bytes: 0,
        limit: entry.stored_bytes,
        failed: None,
    };
    let mut to = File::create_new(to).map_err(ExpandError::Target)?;
    let source = BufReader::with_capacity(BUFFER, source);
    let mut decoder = zstd::Decoder::with_buffer(source)
        .map_err(ExpandError::Target)?
        .single_frame();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut bytes = 0u64;
    loop {
        let n = match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) => return Err(blame(e, decoder.finish().into_inner())),
        };
        bytes += n as u64;
        if bytes > entry.bytes {
            return Err(ExpandError::Damaged(format!(
                "more than {} bytes",
                entry.bytes
            )));
        }
        hash.update(&buffer[..n]);
        to.write_all(&buffer[..n]).map_err(ExpandError::Target)?;
    }
    let mut rest = decoder.finish();
    match rest.read(&mut [0]) {
        Ok(0) => {}
        Ok(_) => return Err(ExpandError::Damaged("bytes after its end".to_owned())),
        Err(e) => return Err(blame(e, rest.into_inner())),
    }
    let stored = rest.into_inner().bytes;
    if (bytes, stored) != (entry.bytes, entry.stored_bytes) {
        return Err(ExpandError::Damaged(format!(
            "{bytes} bytes from {stored} stored, expected {} from {}",
            entry.bytes, entry.stored_bytes
        )));
    }
    if hex::encode(hash.finalize()) != entry.sha256 {
        return Err(ExpandError::Damaged("its sha256 differs".to_owned()));
    }
    Ok(())
}

fn blame<R>(decoder: io::Error, source: Counted<R>) -> ExpandError {
    match source.failed {
        Some(cause) => ExpandError::Source(cause),
        None => ExpandError::Damaged(decoder.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(content: &[u8]) -> (tempfile::TempDir, Vec<u8>, FileEntry) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("raw"), content).unwrap();
        let done = compress(&dir.path().join("raw"), &dir.path().join("stored")).unwrap();
        let bytes = std::fs::read(dir.path().join("stored")).unwrap();
        let entry = FileEntry {
            name: "raw".into(),
            object: "raw.zst".into(),
            bytes: done.bytes,
            stored_bytes: done.stored_bytes,
            sha256: done.sha256,
        };
        (dir, bytes, entry)
    }

    #[test]
    fn expands_what_it_compressed() {
        for content in [vec![], vec![7; 3 * BUFFER + 5], b"short".to_vec()] {
            let (dir, bytes, entry) = stored(&content);
            assert_eq!(entry.bytes, content.len() as u64);
            assert_eq!(entry.stored_bytes, bytes.len() as u64);
            let to = dir.path().join("back");
            expand(&bytes[..], &to, &entry).unwrap();
            assert_eq!(std::fs::read(&to).unwrap(), content);
            assert_eq!(hash(&to).unwrap(), (entry.bytes, entry.sha256));
        }
    }

    #[test]
    fn a_bomb_stops_at_the_length_of_the_manifest() {
        let (dir, bytes, mut entry) = stored(&vec![0; 64 * BUFFER]);
        entry.bytes = 100;
        let to = dir.path().join("back");
        let refused = expand(&bytes[..], &to, &entry);
        assert!(matches!(refused, Err(ExpandError::Damaged(_))));
        assert_eq!(std::fs::metadata(&to).unwrap().len(), 0);
    }

    #[test]
    fn trailing_bytes_are_damage_and_a_broken_source_is_not() {
        let (dir, mut bytes, entry) = stored(b"content");
        let broken = io::Read::chain(&bytes[..4], Broken);
        let refused = expand(broken, &dir.path().join("a"), &entry);
        assert!(
            matches!(refused, Err(ExpandError::Source(_))),
            "{refused:?}"
        );
        bytes.push(0);
        let refused = expand(&bytes[..], &dir.path().join("b"), &entry);
        assert!(
            matches!(refused, Err(ExpandError::Damaged(_))),
            "{refused:?}"
        );
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::ConnectionReset))
        }
    }
}
