//! Bytes of one object: compressed, or expanded and held against what they must be, in one pass. Everything here blocks.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::path::Path;

use super::BUFFER;
use super::manifest::DataObject;
use super::sum::{self, Sum};

/// Level of zstd: memory pages are written once and read once, so speed counts.
const LEVEL: i32 = 1;

/// Bytes that are expanded and passed on at a time: they are still in the processor's cache when they are written.
const STEP: usize = 256 << 10;

/// What compressing one file yielded.
pub(super) struct Compressed {
    pub(super) bytes: u64,
    pub(super) stored_bytes: u64,
    pub(super) hash: String,
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

/// An object that is written: one zstd frame, with zstd's own checksum, which tells a damaged object from others.
pub(super) struct Packer {
    encoder: zstd::Encoder<'static, BufWriter<File>>,
    bytes: u64,
}

impl Packer {
    /// Into the new file `to`.
    pub(super) fn new(to: &Path) -> io::Result<Packer> {
        let out = BufWriter::with_capacity(BUFFER, File::create_new(to)?);
        let mut encoder = zstd::Encoder::new(out, LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Packer { encoder, bytes: 0 })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.encoder.write_all(bytes)
    }

    /// Uncompressed bytes and those of the object.
    pub(super) fn finish(self) -> io::Result<(u64, u64)> {
        let out = self.encoder.finish()?;
        let out = out.into_inner().map_err(|e| e.into_error())?;
        Ok((self.bytes, out.metadata()?.len()))
    }
}

/// Compresses `from` into the new file `to`.
pub(super) fn compress(from: &Path, to: &Path) -> io::Result<Compressed> {
    let mut from = File::open(from)?;
    let mut packer = Packer::new(to)?;
    let (mut sum, mut buffer) = (Sum::default(), vec![0; BUFFER]);
    loop {
        let n = sum::fill(&mut from, &mut buffer)?;
        sum.update(&buffer[..n]);
        packer.write(&buffer[..n])?;
        if n < buffer.len() {
            break;
        }
    }
    let (bytes, stored_bytes) = packer.finish()?;
    Ok(Compressed {
        bytes,
        stored_bytes,
        hash: sum.hash(),
    })
}

/// Counts what passes and keeps the source's own error apart from the decoder's complaints.
struct Counted<R> {
    inner: R,
    bytes: u64,
    limit: u64,
    failed: Option<io::Error>,
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.inner.fill_buf() {
            Ok(bytes) if self.bytes + bytes.len() as u64 > self.limit => {
                Err(io::Error::other("longer than the manifest says"))
            }
            Ok(bytes) => Ok(bytes),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let told = io::Error::new(e.kind(), "the store broke off");
                self.failed = Some(e);
                Err(told)
            }
        }
    }

    fn consume(&mut self, n: usize) {
        self.inner.consume(n);
        self.bytes += n as u64;
    }
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

/// Expands an object, [`STEP`] by [`STEP`], and holds its length against `object`.
pub(super) fn unpack(
    from: impl BufRead,
    object: &DataObject,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ExpandError> {
    let source = Counted {
        inner: from,
        bytes: 0,
        limit: object.stored_bytes,
        failed: None,
    };
    let mut decoder = zstd::Decoder::with_buffer(source)
        .map_err(ExpandError::Target)?
        .single_frame();
    let mut buffer = vec![0; STEP];
    let mut bytes = 0u64;
    loop {
        let n = match sum::fill(&mut decoder, &mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) => return Err(blame(e, decoder.finish())),
        };
        bytes += n as u64;
        if bytes > object.bytes {
            let more = format!("more than {} bytes", object.bytes);
            return Err(ExpandError::Damaged(more));
        }
        take(&buffer[..n]).map_err(ExpandError::Target)?;
    }
    let mut rest = decoder.finish();
    match rest.read(&mut [0]) {
        Ok(0) => {}
        Ok(_) => return Err(ExpandError::Damaged("bytes after its end".to_owned())),
        Err(e) => return Err(blame(e, rest)),
    }
    let stored = rest.bytes;
    if (bytes, stored) != (object.bytes, object.stored_bytes) {
        return Err(ExpandError::Damaged(format!(
            "{bytes} bytes from {stored} stored, expected {} from {}",
            object.bytes, object.stored_bytes
        )));
    }
    Ok(())
}

/// Expands a whole stored file into the new file `to` and holds it against its `hash`.
///
/// On an error `to` may hold anything; the caller throws its directory away.
pub(super) fn expand(
    from: impl BufRead,
    to: &Path,
    object: &DataObject,
    hash: &str,
) -> Result<(), ExpandError> {
    let mut to = File::create_new(to).map_err(ExpandError::Target)?;
    let mut sum = Sum::default();
    unpack(from, object, |bytes| {
        sum.update(bytes);
        to.write_all(bytes)
    })?;
    match sum.hash() == hash {
        true => Ok(()),
        false => Err(ExpandError::Damaged("its hash differs".to_owned())),
    }
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

    fn stored(content: &[u8]) -> (tempfile::TempDir, Vec<u8>, DataObject, String) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("raw"), content).unwrap();
        let done = compress(&dir.path().join("raw"), &dir.path().join("stored")).unwrap();
        let bytes = std::fs::read(dir.path().join("stored")).unwrap();
        let object = DataObject {
            object: "raw.zst".into(),
            bytes: done.bytes,
            stored_bytes: done.stored_bytes,
        };
        (dir, bytes, object, done.hash)
    }

    #[test]
    fn expands_what_it_compressed() {
        for content in [vec![], vec![7; 3 * BUFFER + 5], b"short".to_vec()] {
            let (dir, bytes, object, hash) = stored(&content);
            assert_eq!(object.bytes, content.len() as u64);
            assert_eq!(object.stored_bytes, bytes.len() as u64);
            let to = dir.path().join("back");
            expand(&bytes[..], &to, &object, &hash).unwrap();
            assert_eq!(std::fs::read(&to).unwrap(), content);
            assert_eq!(sum::hash(&to).unwrap(), (object.bytes, hash));
        }
    }

    #[test]
    fn a_bomb_stops_at_the_length_of_the_manifest() {
        let (dir, bytes, mut object, hash) = stored(&vec![0; 64 * BUFFER]);
        object.bytes = 100;
        let to = dir.path().join("back");
        let refused = expand(&bytes[..], &to, &object, &hash);
        assert!(matches!(refused, Err(ExpandError::Damaged(_))));
        assert_eq!(std::fs::metadata(&to).unwrap().len(), 0);
    }

    #[test]
    fn trailing_bytes_are_damage_and_a_broken_source_is_not() {
        let (dir, mut bytes, object, hash) = stored(b"content");
        let broken = io::BufReader::new(io::Read::chain(&bytes[..4], Broken));
        let refused = expand(broken, &dir.path().join("a"), &object, &hash);
        assert!(
            matches!(refused, Err(ExpandError::Source(_))),
            "{refused:?}"
        );
        bytes.push(0);
        let refused = expand(&bytes[..], &dir.path().join("b"), &object, &hash);
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
