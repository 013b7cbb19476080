//! What the tests of this room share: layers, layouts, a registry.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::*;

/// A layer, entry by entry, as somebody without scruples writes it: nothing is checked.
pub struct Layer(tar::Builder<Vec<u8>>);

/// One entry's header; the defaults are a file `rw-r--r--` of root.
pub struct Entry {
    header: tar::Header,
    content: Vec<u8>,
}

impl Entry {
    pub fn new(kind: tar::EntryType, name: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        let field = &mut header.as_gnu_mut().unwrap().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        let content = Vec::new();
        Self { header, content }
    }

    pub fn link(mut self, target: &str) -> Self {
        let field = &mut self.header.as_gnu_mut().unwrap().linkname;
        field[..target.len()].copy_from_slice(target.as_bytes());
        self
    }

    pub fn content(mut self, content: &[u8]) -> Self {
        self.content = content.to_vec();
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.header.set_uid(uid);
        self.header.set_gid(gid);
        self
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.header.set_mode(mode);
        self
    }

    pub fn time(mut self, time: u64) -> Self {
        self.header.set_mtime(time);
        self
    }
}

impl Layer {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub fn entry(mut self, mut entry: Entry) -> Self {
        entry.header.set_size(entry.content.len() as u64);
        entry.header.set_cksum();
        self.0.append(&entry.header, &entry.content[..]).unwrap();
        self
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        let entry = Entry::new(tar::EntryType::Regular, name);
        self.entry(entry.content(content.as_bytes()))
    }

    pub fn dir(self, name: &str) -> Self {
        self.entry(Entry::new(tar::EntryType::Directory, name))
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(Entry::new(tar::EntryType::Symlink, name).link(target))
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(Entry::new(tar::EntryType::Link, name).link(target))
    }

    pub fn pax(mut self, key: &str, value: &[u8]) -> Self {
        self.0.append_pax_extensions([(key, value)]).unwrap();
        self
    }

    pub fn plain(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    pub fn gzip(self) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&self.plain()).unwrap();
        gzip.finish().unwrap()
    }

    pub fn zstd(self) -> Vec<u8> {
        zstd::encode_all(&self.plain()[..], 1).unwrap()
    }
}

/// An OCI layout that is written blob by blob.
pub struct Blobs {
    pub dir: PathBuf,
}

impl Blobs {
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let dir = dir.to_owned();
        Self { dir }
    }

    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    pub fn add(&self, media_type: &str, bytes: &[u8]) -> serde_json::Value {
        let digest = Digest::of(Sha256::new_with_prefix(bytes));
        std::fs::write(self.path(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// An image for the platform of this build.
    pub fn image(&self, layers: Vec<Vec<u8>>) -> serde_json::Value {
        let arch = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let config = json!({
            "architecture": arch, "os": "linux",
            "config": {"Cmd": ["serve"], "Entrypoint": ["/bin/app"], "Env": ["A=1"], "User": "app", "WorkingDir": "/srv"},
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        let config = config.to_string();
        let config = self.add(
            "application/vnd.oci.image.config.v1+json",
            config.as_bytes(),
        );
        let layer = |l: &Vec<u8>| self.add("application/vnd.oci.image.layer.v1.tar", l);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        });
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let mut image = self.add(media_type, manifest.to_string().as_bytes());
        image["platform"] = json!({"os": "linux", "architecture": arch});
        image
    }

    pub fn index(&self, images: &[serde_json::Value]) -> serde_json::Value {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": images});
        self.add(media_type, index.to_string().as_bytes())
    }

    pub fn reference(&self, image: &serde_json::Value) -> ImageRef {
        let digest = image["digest"].as_str().unwrap();
        format!("oci-layout:{}@{digest}", self.dir.display())
            .parse()
            .unwrap()
    }
}

/// Every path below `dir`, relative, sorted.
pub fn tree(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            let name = entry.path().strip_prefix(dir).unwrap().to_owned();
            found.push(name.to_str().unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
