//! The manifest: what a snapshot consists of and what it was taken from.
//!
//! Stored as canonical JSON, `{"checksum": SHA256, "manifest": {...}}` without spaces, keys in the order of the types
//! below; the checksum is over the bytes of the inner object. A document that is not byte for byte what its own content
//! encodes to is refused, so that no flipped byte goes unseen.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::pages::PAGE;
use super::{MANIFEST_NAME, Result, SnapshotError, is_plain_name};

/// The format that this build writes and reads.
pub const FORMAT_VERSION: u32 = 2;
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

/// One file of the image and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEntry {
    /// The file's name in the image directory.
    pub name: String,
    /// Uncompressed length in bytes.
    pub bytes: u64,
    /// [`super::sum`] of the uncompressed file, hexadecimal.
    pub hash: String,
    /// What this snapshot itself stores of it: all of it where there is no map, else the pages that are new; `None`: none is.
    pub data: Option<DataObject>,
    /// Where its pages are.
    pub map: Option<MapObject>,
}

/// An object of one zstd frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataObject {
    /// The object's name below the snapshot's id.
    pub object: String,
    /// Uncompressed length in bytes.
    pub bytes: u64,
    /// Length of the object in bytes.
    pub stored_bytes: u64,
}

/// The object of a [`super::pages::Map`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MapObject {
    /// The object's name below the snapshot's id.
    pub object: String,
    /// Length of the object in bytes.
    pub stored_bytes: u64,
    /// BLAKE3 of the object, hexadecimal.
    pub hash: String,
}

impl FileEntry {
    /// Bytes of its objects.
    pub fn stored_bytes(&self) -> u64 {
        let data = self.data.as_ref().map_or(0, |d| d.stored_bytes);
        data.saturating_add(self.map.as_ref().map_or(0, |m| m.stored_bytes))
    }

    /// Names of its objects.
    pub fn objects(&self) -> impl Iterator<Item = &String> {
        let data = self.data.iter().map(|d| &d.object);
        data.chain(self.map.iter().map(|m| &m.object))
    }

    fn check(&self) -> Result<(), String> {
        if !is_plain_name(&self.name) || !self.objects().all(|o| is_plain_name(o)) {
            return Err(format!("it names a file {:?}", self.name));
        }
        let own = self.data.as_ref().map_or(0, |d| d.bytes);
        let whole = |bytes: u64| bytes.is_multiple_of(PAGE as u64);
        let fits = match self.map {
            None => self.data.is_some() && own == self.bytes,
            Some(_) => whole(self.bytes) && whole(own) && own <= self.bytes,
        };
        match fits {
            true => Ok(()),
            false => Err(format!("its data does not make up {}", self.name)),
        }
    }
}

/// Name, length and hash of one uncompressed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileSum {
    /// The file's name in the image directory.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// [`super::sum`], hexadecimal; empty while it is not known.
    pub hash: String,
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
    /// Sum of the bytes of its own objects: what is new in it.
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
            total_stored_bytes: files.iter().map(FileEntry::stored_bytes).sum(),
            files,
        }
    }

    /// Names, lengths and hashes of the uncompressed files, as [`super::LocalCache::adopt`] takes them.
    pub fn sums(&self) -> Vec<FileSum> {
        let sum = |f: &FileEntry| FileSum {
            name: f.name.clone(),
            bytes: f.bytes,
            hash: f.hash.clone(),
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
            file.check()?;
            totals.0 = totals.0.saturating_add(file.bytes);
            totals.1 = totals.1.saturating_add(file.stored_bytes());
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
            bytes: 10,
            hash: hex::encode(Sha256::digest(name)),
            data: Some(DataObject {
                object: format!("0011.{name}.zst"),
                bytes: 10,
                stored_bytes: 7,
            }),
            map: None,
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
        let newer = newer.encode().unwrap();
        let first = br#"{"checksum":"00","manifest":{"formatVersion":1,"id":"snap-1","files":[]}}"#;
        for (other, bytes) in [(9, &newer[..]), (1, first)] {
            let error = Manifest::decode("snap-1", bytes).unwrap_err();
            let said = format!("has format version {other}, this build reads version 2");
            assert!(
                matches!(error, SnapshotError::Unsupported { .. }),
                "{error}"
            );
            assert!(error.to_string().contains(&said), "{error}");
        }
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
