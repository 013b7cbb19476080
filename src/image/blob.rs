//! Blobs on their way through: counted, hashed, and held against their digest. Everything here blocks.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::error::io as failed;
use super::manifest::Descriptor;
use super::{BUFFER, Digest, ImageError, Result};

/// Opens a plain file; anything else (a pipe, a device) is refused without waiting on it.
pub(super) fn open_plain(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a plain file",
        ))
    }
}

/// Reads the small blob `path` of at most `limit` bytes whose digest is `digest`.
pub(super) fn read_small(path: &Path, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
    let file = open_plain(path).map_err(failed("read", path))?;
    let mut bytes = Vec::new();
    let read = file.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(failed("read", path))?;
    check_small(&bytes, digest, limit)?;
    Ok(bytes)
}

/// Holds a small blob against its digest and a cap on its length.
pub(super) fn check_small(bytes: &[u8], digest: &Digest, limit: u64) -> Result<()> {
    if bytes.len() as u64 > limit {
        let what = format!("document {digest}");
        return Err(super::error::refused(what, format!("over {limit} bytes")));
    }
    if Digest::of(Sha256::new_with_prefix(bytes)) == *digest {
        Ok(())
    } else {
        Err(ImageError::DigestMismatch {
            what: "a manifest or configuration".to_owned(),
            expected: digest.clone(),
        })
    }
}

/// Lets `read` have the uncompressed bytes of the layer in `path`, and fails unless the stored ones have the
/// layer's length and digest. What `read` did with them must be thrown away then.
///
/// Compression is told by its first bytes, as other runtimes do, since media types are often wrong.
pub(super) fn read_layer<T>(
    path: &Path,
    layer: &Descriptor,
    read: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    let file = open_plain(path).map_err(failed("read", path))?;
    let mut hashed = Hashed {
        inner: file,
        hash: Sha256::new(),
        left: layer.size,
        failed: None,
    };
    let done = decompress(&mut hashed).map_err(failed("read", path));
    let done = done.and_then(|mut plain| read(&mut plain));
    let rest = io::copy(&mut hashed, &mut io::sink());
    if let Some(source) = hashed.failed {
        return Err(failed("read", path)(source));
    }
    let longer = hashed.inner.read(&mut [0]);
    let whole = rest.is_ok() && hashed.left == 0 && matches!(longer, Ok(0));
    // Whatever was wrong with its content, a blob that is not the one that was named is the better explanation.
    if !whole || Digest::of(hashed.hash) != layer.digest {
        return Err(ImageError::DigestMismatch {
            what: "a layer".to_owned(),
            expected: layer.digest.clone(),
        });
    }
    done
}

fn decompress<'a>(from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut from = BufReader::with_capacity(BUFFER, from);
    let start = from.fill_buf()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(from))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::Decoder::with_buffer(from)?)
    } else {
        Box::new(from)
    })
}

/// Hashes what passes, ends after `left` bytes, and remembers the file's own error.
struct Hashed {
    inner: File,
    hash: Sha256,
    left: u64,
    failed: Option<io::Error>,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        match self.inner.read(&mut buffer[..most]) {
            Ok(n) => {
                self.hash.update(&buffer[..n]);
                self.left -= n as u64;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let told = io::Error::new(e.kind(), "the blob cannot be read");
                self.failed = Some(e);
                Err(told)
            }
        }
    }
}
