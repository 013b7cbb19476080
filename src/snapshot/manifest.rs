//! The manifest: what a snapshot consists of and what it was taken from.
//!
//! Stored as canonical JSON, `{"checksum": SHA256, "manifest": {...}}` without spaces, keys in the order of the types
//! below; the checksum is over the bytes of the inner object. A document that is not byte for byte what its own content
//! encodes to is refused, so that no flipped byte goes unseen.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{MANIFEST_NAME, Result, SnapshotError, is_plain_name};

/// The format that this build writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// Cap on the encoded manifest, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;
/// Cap on the files of one snapshot.
pub const MAX_FILES: usize = 256;
/// Cap on the uncompressed bytes of one snapshot.
pub const MAX_TOTAL_BYTES: u64 = 64 << 30;

/// Whose state a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActorIdentity {
    /// Namespace of the actor.
    pub namespace: String,
    /// Name of the actor.
    pub name: String,
    /// Unique id of this incarnation of the name.
    pub uid: String,
}

/// The build that wrote the image and that a restore needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimeIdentity {
    /// Sandbox class: `gvisor`, `criu`, `microvm`.
    pub class: String,
    /// Version or sha256 of the runtime's binary.
    pub build: String,
}

/// The processor that the image needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cpu {
    /// `amd64` or `arm64`.
    pub arch: String,
    /// The features that must be there, in the words of whoever compares them.
    pub baseline: String,
}

/// What the publisher knows of a snapshot beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Meta {
    /// When the checkpoint was taken.
    pub created: jiff::Timestamp,
    /// Whose state it is.
    pub actor: ActorIdentity,
    /// The actor's template, `namespace/name`.
    pub template: String,
    /// What wrote it.
    pub runtime: RuntimeIdentity,
    /// Where it can run.
    pub cpu: Cpu,
}

/// One file of the image and the object that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEntry {
    /// The file's name in the image directory.
    pub name: String,
    /// The object's name below the snapshot's id.
    pub object: String,
    /// Uncompressed length in bytes.
    pub bytes: u64,
    /// Length of the object in bytes.
    pub stored_bytes: u64,
    /// SHA-256 of the uncompressed file, hexadecimal.
    pub sha256: String,
}

/// Name, length and hash of one uncompressed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileSum {
    /// The file's name in the image directory.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// A published snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Always [`FORMAT_VERSION`] once read.
    pub format_version: u32,
    /// The snapshot's id.
    pub id: String,
    /// What it was taken from.
    pub meta: Meta,
    /// Its files, sorted by name.
    pub files: Vec<FileEntry>,
    /// Sum of the files' uncompressed bytes.
    pub total_bytes: u64,
    /// Sum of the objects' bytes.
    pub total_stored_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    checksum: String,
    manifest: Manifest,
}

#[derive(Deserialize)]
struct VersionProbe {
    manifest: VersionField,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionField {
    format_version: u64,
}

impl Manifest {
    /// The manifest of `files` (sorted here) under `id`.
    pub fn new(id: &str, meta: Meta, mut files: Vec<FileEntry>) -> Self {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            format_version: FORMAT_VERSION,
            id: id.to_owned(),
            meta,
            total_bytes: files.iter().map(|f| f.bytes).sum(),
            total_stored_bytes: files.iter().map(|f| f.stored_bytes).sum(),
            files,
        }
    }

    /// Names, lengths and hashes of the uncompressed files, as [`super::LocalCache::adopt`] takes them.
    pub fn sums(&self) -> Vec<FileSum> {
        let sum = |f: &FileEntry| FileSum {
            name: f.name.clone(),
            bytes: f.bytes,
            sha256: f.sha256.clone(),
        };
        self.files.iter().map(sum).collect()
    }

    /// The bytes to store.
    ///
    /// # Errors
    /// `TooLarge` when they exceed [`MAX_MANIFEST_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>> {
        let bug = |e: serde_json::Error| SnapshotError::Bug {
            what: format!("a manifest cannot be encoded: {e}"),
        };
        let envelope = Envelope {
            checksum: hex::encode(Sha256::digest(serde_json::to_vec(self).map_err(bug)?)),
            manifest: self.clone(),
        };
        let bytes = serde_json::to_vec(&envelope).map_err(bug)?;
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(SnapshotError::TooLarge {
                what: format!("the manifest of snapshot {}", self.id),
                limit: MAX_MANIFEST_BYTES as u64,
            });
        }
        Ok(bytes)
    }

    /// Reads what [`Manifest::encode`] wrote for `id`.
    ///
    /// # Errors
    /// `Unsupported` for another format version, `Damaged` for anything else that is not exactly such a document.
    pub fn decode(id: &str, bytes: &[u8]) -> Result<Self> {
        let damaged = |reason: String| SnapshotError::Damaged {
            id: id.to_owned(),
            what: MANIFEST_NAME.to_owned(),
            reason,
        };
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(damaged(format!("over {MAX_MANIFEST_BYTES} bytes")));
        }
        let probe: VersionProbe =
            serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        if probe.manifest.format_version != u64::from(FORMAT_VERSION) {
            return Err(SnapshotError::Unsupported {
                id: id.to_owned(),
                version: probe.manifest.format_version,
                supported: u64::from(FORMAT_VERSION),
            });
        }
        let envelope: Envelope =
            serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        if envelope.manifest.encode()? != bytes {
            return Err(damaged("its checksum does not fit its content".to_owned()));
        }
        envelope.manifest.check(id).map_err(damaged)?;
        Ok(envelope.manifest)
    }

    /// What must hold of every manifest, whoever wrote it.
    fn check(&self, id: &str) -> Result<(), String> {
        if self.id != id {
            return Err(format!("it is the manifest of snapshot {}", self.id));
        }
        if self.files.is_empty() || self.files.len() > MAX_FILES {
            return Err(format!("{} files", self.files.len()));
        }
        if !self.files.windows(2).all(|w| w[0].name < w[1].name) {
            return Err("its files are not sorted".to_owned());
        }
        let mut totals = (0u64, 0u64);
        for file in &self.files {
            if !is_plain_name(&file.name) || !is_plain_name(&file.object) {
                return Err(format!("it names a file {:?}", file.name));
            }
            totals.0 = totals.0.saturating_add(file.bytes);
            totals.1 = totals.1.saturating_add(file.stored_bytes);
        }
        if totals != (self.total_bytes, self.total_stored_bytes) || totals.0 > MAX_TOTAL_BYTES {
            return Err("its totals do not fit its files".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::meta;
    use super::*;

    fn sample() -> Manifest {
        let file = |name: &str| FileEntry {
            name: name.into(),
            object: format!("0011.{name}.zst"),
            bytes: 10,
            stored_bytes: 7,
            sha256: hex::encode(Sha256::digest(name)),
        };
        Manifest::new(
            "snap-1",
            meta("a"),
            vec![file("pages.img"), file("checkpoint.img")],
        )
    }

    #[test]
    fn reads_what_it_wrote() {
        let manifest = sample();
        let read = Manifest::decode("snap-1", &manifest.encode().unwrap()).unwrap();
        assert_eq!(read, manifest);
        assert_eq!(read.files[0].name, "checkpoint.img");
        assert_eq!((read.total_bytes, read.total_stored_bytes), (20, 14));
    }

    #[test]
    fn every_flipped_or_missing_byte_is_seen() {
        let bytes = sample().encode().unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(Manifest::decode("snap-1", &bad).is_err(), "{at}.{bit}");
            }
            assert!(Manifest::decode("snap-1", &bytes[..at]).is_err());
        }
        let mut longer = bytes.clone();
        longer.push(b'\n');
        assert!(Manifest::decode("snap-1", &longer).is_err());
    }

    #[test]
    fn another_version_and_another_id_are_named() {
        let mut newer = sample();
        newer.format_version = 9;
        let bytes = newer.encode().unwrap();
        let error = Manifest::decode("snap-1", &bytes).unwrap_err();
        assert!(
            matches!(error, SnapshotError::Unsupported { version: 9, .. }),
            "{error}"
        );
        let error = Manifest::decode("snap-2", &sample().encode().unwrap()).unwrap_err();
        assert!(error.to_string().contains("snap-1"), "{error}");
    }

    #[test]
    fn names_that_leave_the_directory_and_false_totals_are_refused() {
        let mut bad = sample();
        bad.files[1].name = "../pages.img".into();
        bad.files.sort_by(|a, b| a.name.cmp(&b.name));
        let refused = Manifest::decode("snap-1", &bad.encode().unwrap());
        assert!(matches!(refused, Err(SnapshotError::Damaged { .. })));
        let mut bad = sample();
        bad.total_bytes += 1;
        let refused = Manifest::decode("snap-1", &bad.encode().unwrap());
        assert!(matches!(refused, Err(SnapshotError::Damaged { .. })));
    }
}
