//! Making an image from a directory, without any other tool: `ate image pack` is built on this.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::error::io as failed;
use super::{BUFFER, Digest, ImageConfig, ImageError, MAX_IMAGE_BYTES, MAX_IMAGE_FILES, Result};
use super::{blob, manifest};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Level of zstd: an image is packed once and read by every node.
const LEVEL: i32 = 6;
/// Cap on the layout's own list of images, in bytes.
const MAX_INDEX: u64 = 4 << 20;

/// Packs the directory `rootfs` as an image of one layer into the OCI layout `dir`, made if missing; an image that is in
/// it already stays. Returns the digest for `oci-layout:DIR@DIGEST`.
///
/// Equal content yields an equal digest: entries are sorted, times are 0 and all files belong to root. Modes,
/// symlinks and the content of files are kept. Blocks.
///
/// # Errors
/// `BadRoot` when `rootfs` is no directory, holds `dir`, or something that is neither file, directory nor symlink; `Io`.
pub fn write(dir: &Path, rootfs: &Path, config: &ImageConfig) -> Result<Digest> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(failed("create", &blobs))?;
    refuse_nested(dir, rootfs)?;

    let (layer, diff_id) = write_layer(&blobs, rootfs)?;
    let config = manifest::write_config(config, &diff_id)?;
    let config = write_small(&blobs, CONFIG, &config)?;
    let manifest = encode(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.json(),
        "layers": [layer.json()],
    }))?;
    let manifest = write_small(&blobs, MANIFEST, &manifest)?;
    add_to_index(dir, &manifest)?;
    let marker = dir.join("oci-layout");
    replace(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(manifest.digest)
}

struct Stored {
    media_type: &'static str,
    digest: Digest,
    size: u64,
}

impl Stored {
    fn json(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.size})
    }
}

/// A layout inside of what it packs would pack itself.
fn refuse_nested(dir: &Path, rootfs: &Path) -> Result<()> {
    let bad = |reason: &str| ImageError::BadRoot {
        path: rootfs.to_owned(),
        reason: reason.to_owned(),
    };
    let real = fs::canonicalize(rootfs).map_err(failed("open", rootfs))?;
    if !real.is_dir() {
        return Err(bad("it is not a directory"));
    }
    let layout = fs::canonicalize(dir).map_err(failed("open", dir))?;
    if layout.starts_with(&real) {
        return Err(bad(
            "the image would be written into the directory that it is made of; write it elsewhere",
        ));
    }
    Ok(())
}

fn write_layer(blobs: &Path, rootfs: &Path) -> Result<(Stored, Digest)> {
    let new = tempfile::NamedTempFile::new_in(blobs).map_err(failed("write in", blobs))?;
    let stored = Hashing::new(BufWriter::with_capacity(BUFFER, new.as_file()));
    let write = failed::<io::Error>("write", new.path());
    let zstd = zstd::Encoder::new(stored, LEVEL).map_err(write)?;
    let mut tar = tar::Builder::new(Hashing::new(zstd));
    tar.follow_symlinks(false);
    append_all(&mut tar, rootfs)?;
    let finish = || -> io::Result<(Stored, Digest)> {
        let plain = tar.into_inner()?;
        let (zstd, diff_id) = (plain.inner, Digest::of(plain.hash));
        let mut stored = zstd.finish()?;
        stored.flush()?;
        let layer = Stored {
            media_type: LAYER,
            digest: Digest::of(stored.hash),
            size: stored.bytes,
        };
        Ok((layer, diff_id))
    };
    let (layer, diff_id) = finish().map_err(failed("write", new.path()))?;
    new.as_file()
        .sync_all()
        .map_err(failed("flush", new.path()))?;
    let to = blobs.join(layer.digest.hex());
    new.persist(&to)
        .map_err(|e| failed("write", &to)(e.error))?;
    Ok((layer, diff_id))
}

/// Adds everything below `rootfs` in the order of the paths.
fn append_all<W: Write>(tar: &mut tar::Builder<W>, rootfs: &Path) -> Result<()> {
    let mut todo: BTreeMap<PathBuf, ()> = BTreeMap::new();
    let (mut files, mut bytes) = (0u64, 0u64);
    todo.insert(PathBuf::new(), ());
    while let Some((name, ())) = todo.pop_first() {
        let path = rootfs.join(&name);
        let meta = fs::symlink_metadata(&path).map_err(failed("read", &path))?;
        files += 1;
        bytes = bytes.saturating_add(meta.len());
        if files > MAX_IMAGE_FILES || bytes > MAX_IMAGE_BYTES {
            return Err(ImageError::BadRoot {
                path: rootfs.to_owned(),
                reason: format!(
                    "an image may have {MAX_IMAGE_FILES} files of {MAX_IMAGE_BYTES} bytes together"
                ),
            });
        }
        append(tar, &name, &path, &meta)?;
        if meta.is_dir() {
            for entry in fs::read_dir(&path).map_err(failed("list", &path))? {
                let entry = entry.map_err(failed("list", &path))?;
                todo.insert(name.join(entry.file_name()), ());
            }
        }
    }
    Ok(())
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &Path,
    path: &Path,
    meta: &fs::Metadata,
) -> Result<()> {
    let bad = |reason: &str| ImageError::BadRoot {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let last = name.file_name().unwrap_or_default().as_bytes();
    if last.starts_with(b".wh.") {
        return Err(bad(
            "names that begin with '.wh.' mean a deletion in an image",
        ));
    }
    let mut header = tar::Header::new_gnu();
    header.set_mode(meta.mode() & 0o7777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    let kind = meta.file_type();
    let done = if kind.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        let name = if name.as_os_str().is_empty() {
            Path::new(".")
        } else {
            name
        };
        tar.append_data(&mut header, name, io::empty())
    } else if kind.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        let target = fs::read_link(path).map_err(failed("read", path))?;
        tar.append_link(&mut header, name, target)
    } else if kind.is_file() {
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(meta.len());
        let file = File::open(path).map_err(failed("read", path))?;
        tar.append_data(&mut header, name, Exactly::new(file, meta.len()))
    } else if kind.is_socket() || kind.is_fifo() {
        return Err(bad(
            "sockets and pipes cannot be packed; stop what uses it and remove it",
        ));
    } else {
        return Err(bad(
            "device nodes cannot be packed; a sandbox has its own /dev",
        ));
    };
    done.map_err(failed("pack", path))
}

/// A file that must not change its length while it is packed.
struct Exactly {
    file: io::Take<File>,
}

impl Exactly {
    fn new(file: File, length: u64) -> Self {
        let file = io::Read::take(file, length);
        Self { file }
    }
}

impl io::Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        if n == 0 && !buffer.is_empty() && self.file.limit() > 0 {
            return Err(io::Error::other(
                "the file became shorter while it was read",
            ));
        }
        Ok(n)
    }
}

/// Hashes and counts what is written through it.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            bytes: 0,
        }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buffer)?;
        self.hash.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn write_small(blobs: &Path, media_type: &'static str, bytes: &[u8]) -> Result<Stored> {
    let digest = Digest::of(Sha256::new_with_prefix(bytes));
    replace(&blobs.join(digest.hex()), bytes)?;
    Ok(Stored {
        media_type,
        digest,
        size: bytes.len() as u64,
    })
}

/// Lists the image in `index.json`, beside those that are there.
fn add_to_index(dir: &Path, manifest: &Stored) -> Result<()> {
    let path = dir.join("index.json");
    let mut images = match blob::open_plain(&path) {
        Ok(file) => {
            let old: Value = serde_json::from_reader(io::Read::take(file, MAX_INDEX))
                .map_err(|e| failed::<io::Error>("read", &path)(e.into()))?;
            old["manifests"].as_array().cloned().unwrap_or_default()
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(failed("read", &path)(e)),
    };
    let digest = manifest.digest.to_string();
    if !images.iter().any(|i| i["digest"] == digest.as_str()) {
        images.push(manifest.json());
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": images});
    replace(&path, &encode(&index)?)
}

fn encode(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| ImageError::Bug {
        what: format!("JSON cannot be encoded: {e}"),
    })
}

/// Writes a file so that it is there whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(parent).map_err(failed("write in", parent))?;
    new.write_all(bytes)
        .and_then(|()| new.as_file().sync_all())
        .map_err(failed("write", path))?;
    new.persist(path)
        .map_err(|e| failed("write", path)(e.error))?;
    Ok(())
}
