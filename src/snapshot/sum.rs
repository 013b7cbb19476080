//! The hash of a file: BLAKE3 over the BLAKE3 of each [`CHUNK`] of it, so that what is equal to a file before is seen without reading that.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use super::BUFFER;

/// Bytes that are hashed together; the last chunk of a file may be shorter. Part of the format.
pub(super) const CHUNK: usize = 256 << 10;

/// BLAKE3 of a chunk.
pub(super) type Hash = [u8; 32];

/// Collects the hashes of a file's chunks.
#[derive(Default)]
pub(super) struct Sum {
    pub(super) chunks: Vec<Hash>,
    pub(super) bytes: u64,
}

impl Sum {
    /// Takes the next bytes: whole chunks, but for the last.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        debug_assert!(self.bytes.is_multiple_of(CHUNK as u64));
        let hash = |chunk| *blake3::hash(chunk).as_bytes();
        self.chunks.extend(bytes.chunks(CHUNK).map(hash));
        self.bytes += bytes.len() as u64;
    }

    /// The hash of the file, hexadecimal.
    pub(super) fn hash(&self) -> String {
        of(&self.chunks)
    }
}

/// The hash of a file with these chunks, hexadecimal.
pub(super) fn of(chunks: &[Hash]) -> String {
    blake3::hash(chunks.as_flattened()).to_hex().to_string()
}

/// Length and hash of a file.
pub(super) fn hash(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut sum, mut buffer) = (Sum::default(), vec![0; BUFFER]);
    loop {
        let n = fill(&mut file, &mut buffer)?;
        sum.update(&buffer[..n]);
        if n < buffer.len() {
            return Ok((sum.bytes, sum.hash()));
        }
    }
}

/// Reads until `buffer` is full or there is no more.
pub(super) fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match from.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(read) => n += read,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}
