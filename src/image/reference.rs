//! References to images, by digest only.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ImageError;

/// Longest reference that is read, in bytes.
const MAX_REFERENCE: usize = 4096;
/// How a reference to a directory begins.
const LAYOUT: &str = "oci-layout:";
const SHA256: &str = "sha256:";
const PIN: &str = "name it by digest, NAME@sha256:..., so that it is the same image on every node and after every restart";

/// A SHA-256 digest, shown as `sha256:HEX`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// The digest of a finished hash.
    pub(super) fn of(hash: sha2::Sha256) -> Self {
        Self(hex::encode(sha2::Digest::finalize(hash)))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SHA256}{}", self.0)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let hex = s.strip_prefix(SHA256).unwrap_or_default();
        let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if hex.len() == 64 && hex.bytes().all(digit) {
            Ok(Self(hex.to_owned()))
        } else {
            Err("a digest is sha256: and 64 digits 0-9a-f".to_owned())
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// An OCI layout directory (<https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md>).
    Layout(PathBuf),
    /// A repository of a registry.
    Registry {
        /// Host and port.
        host: String,
        /// The repository's path.
        repository: String,
    },
}

/// A reference to one image, for good: `oci-layout:/dir@sha256:...` or `host/repository@sha256:...`.
///
/// A tag before the digest (`name:tag@sha256:...`) is accepted and left out. A name without a host is Docker Hub's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    /// Where to get it.
    pub source: ImageSource,
    /// Of its manifest or index.
    pub digest: Digest,
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            ImageSource::Layout(dir) => write!(f, "{LAYOUT}{}@{}", dir.display(), self.digest),
            ImageSource::Registry { host, repository } => {
                write!(f, "{host}/{repository}@{}", self.digest)
            }
        }
    }
}

impl FromStr for ImageRef {
    type Err = ImageError;

    fn from_str(reference: &str) -> Result<Self, ImageError> {
        parse(reference).map_err(|reason| ImageError::BadReference {
            reference: reference.chars().take(200).collect(),
            reason,
        })
    }
}

fn parse(reference: &str) -> Result<ImageRef, String> {
    if reference.len() > MAX_REFERENCE {
        return Err(format!("it is longer than {MAX_REFERENCE} bytes"));
    }
    let Some((name, digest)) = reference.rsplit_once('@') else {
        return Err(PIN.to_owned());
    };
    let digest = digest.parse()?;
    let source = match name.strip_prefix(LAYOUT) {
        Some(dir) => ImageSource::Layout(layout_dir(dir)?),
        None => registry_source(name)?,
    };
    Ok(ImageRef { source, digest })
}

fn layout_dir(dir: &str) -> Result<PathBuf, String> {
    let path = Path::new(dir);
    let plain = |c: Component| matches!(c, Component::RootDir | Component::Normal(_));
    if path.is_absolute() && path.components().all(plain) && !dir.contains(char::is_control) {
        Ok(path.components().collect())
    } else {
        Err("write oci-layout:/DIR@sha256:... with an absolute path without '..'".to_owned())
    }
}

fn registry_source(name: &str) -> Result<ImageSource, String> {
    if name.contains('@') {
        return Err("it has two digests".to_owned());
    }
    let parsed: oci_spec::distribution::Reference = name
        .parse()
        .map_err(|e: oci_spec::distribution::ParseError| format!("it is no image name ({e})"))?;
    Ok(ImageSource::Registry {
        host: parsed.registry().to_owned(),
        repository: parsed.repository().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const D: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn shown(reference: String) -> String {
        reference.parse::<ImageRef>().unwrap().to_string()
    }

    #[test]
    fn names_become_full_and_tags_go() {
        for (given, expected) in [
            ("oci-layout:/srv/img", "oci-layout:/srv/img"),
            ("oci-layout:/srv/a@b/", "oci-layout:/srv/a@b"),
            ("busybox", "docker.io/library/busybox"),
            ("busybox:1.36", "docker.io/library/busybox"),
            ("me/app", "docker.io/me/app"),
            ("ghcr.io/a/b/c:v1.2-x", "ghcr.io/a/b/c"),
            ("localhost:5000/app", "localhost:5000/app"),
            ("127.0.0.1:5000/app:latest", "127.0.0.1:5000/app"),
        ] {
            assert_eq!(shown(format!("{given}@{D}")), format!("{expected}@{D}"));
        }
    }

    #[test]
    fn what_is_not_pinned_or_not_a_name_is_refused_with_what_to_do() {
        let upper = D.to_uppercase();
        for (bad, says) in [
            ("busybox".to_owned(), "by digest"),
            ("busybox:latest".to_owned(), "by digest"),
            ("oci-layout:/srv/img".to_owned(), "by digest"),
            (format!("oci-layout:srv/img@{D}"), "absolute"),
            (format!("oci-layout:/srv/../img@{D}"), "'..'"),
            (format!("oci-layout:@{D}"), "absolute"),
            (format!("busybox@{upper}"), "64 digits"),
            ("busybox@sha512:00".to_owned(), "64 digits"),
            (format!("busybox@{D}0"), "64 digits"),
            (format!("busybox@{D}@{D}"), "two digests"),
            (format!("Busy Box@{D}"), "no image name"),
            (format!("../x@{D}"), "no image name"),
            (format!("@{D}"), "no image name"),
        ] {
            let error = bad.parse::<ImageRef>().unwrap_err().to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,300}") {
            drop(text.parse::<ImageRef>());
            drop(format!("{text}@{D}").parse::<ImageRef>());
            drop(format!("oci-layout:{text}@{D}").parse::<ImageRef>());
        }

        #[test]
        fn what_is_read_is_shown_as_something_that_reads_the_same(
            text in "(oci-layout:/)?[a-z0-9./:@_-]{1,40}",
        ) {
            if let Ok(image) = format!("{text}@{D}").parse::<ImageRef>() {
                prop_assert_eq!(image.to_string().parse::<ImageRef>().unwrap(), image.clone());
                if let ImageSource::Layout(dir) = image.source {
                    prop_assert!(dir.is_absolute() && !dir.components().any(|c| c == Component::ParentDir));
                }
            }
        }
    }
}
