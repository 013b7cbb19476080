//! Manifests, indexes and configurations: the few fields that matter here.
//!
//! Formats: OCI image-spec 1.1 `manifest.md`, `image-index.md`, `config.md`, and Docker's image manifest version 2 schema 2, which
//! has the same fields. Lists may be `null` there, as Go writes them.

use serde::{Deserialize, Serialize};

use super::error::refused;
use super::{Digest, ImageError, MAX_IMAGE_BYTES, MAX_LAYERS, Result};

/// The architecture of this build as images name it.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

/// How an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// What is executed; `cmd` follows as its arguments.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Arguments, or the command where there is no entrypoint.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// `NAME=value`, later ones win.
    #[serde(default)]
    pub env: Vec<String>,
    /// Directory to start in; empty means `/`.
    #[serde(default)]
    pub workdir: String,
    /// `user` or `user:group`, names or numbers; empty means root.
    #[serde(default)]
    pub user: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

/// What a reference's digest names.
pub(super) enum Document {
    /// One image.
    Image(Manifest),
    /// Images for several platforms; this is the one for ours.
    Index(Descriptor),
}

/// One image's manifest.
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u32,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct RawConfigFile {
    os: Option<String>,
    architecture: Option<String>,
    config: Option<RawConfig>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
}

/// Reads a manifest or an index.
pub(super) fn read_document(bytes: &[u8]) -> Result<Document> {
    let raw: RawDocument =
        serde_json::from_slice(bytes).map_err(|e| refused("its manifest", e.to_string()))?;
    if raw.schema_version != 2 {
        let reason = format!("schema version {} is not 2", raw.schema_version);
        return Err(refused("its manifest", reason));
    }
    match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), None, None) => pick(manifests).map(Document::Index),
        (None, Some(config), layers) => {
            let layers = layers.unwrap_or_default();
            check_layers(&layers)?;
            Ok(Document::Image(Manifest { config, layers }))
        }
        _ => Err(refused(
            "its manifest",
            "it is neither of an image nor an index",
        )),
    }
}

fn pick(manifests: Vec<Descriptor>) -> Result<Descriptor> {
    let fits = |p: &Platform| p.os == "linux" && p.architecture == ARCHITECTURE;
    let named: Vec<String> = manifests
        .iter()
        .filter_map(|m| m.platform.as_ref())
        .map(|p| format!("{}/{}", p.os, p.architecture))
        .collect();
    // An index of one image need not name its platform.
    let alone = manifests.len() == 1 && named.is_empty();
    manifests
        .into_iter()
        .find(|m| alone || m.platform.as_ref().is_some_and(fits))
        .ok_or_else(|| {
            let reason = format!(
                "it has none for linux/{ARCHITECTURE}, only {}",
                named.join(", ")
            );
            refused("its index", reason)
        })
}

fn check_layers(layers: &[Descriptor]) -> Result<()> {
    if layers.len() > MAX_LAYERS {
        return Err(refused("its manifest", format!("over {MAX_LAYERS} layers")));
    }
    let mut total = 0u64;
    for layer in layers {
        total = total.saturating_add(layer.size);
        if !layer.media_type.contains("tar") {
            let what = format!("layer {}", layer.digest);
            let reason = format!("{:?} is not a file system layer", layer.media_type);
            return Err(refused(what, reason));
        }
    }
    if total > MAX_IMAGE_BYTES {
        let reason = format!("its layers have over {MAX_IMAGE_BYTES} bytes");
        return Err(refused("its manifest", reason));
    }
    Ok(())
}

/// Reads an image's configuration.
pub(super) fn read_config(bytes: &[u8]) -> Result<ImageConfig> {
    let raw: RawConfigFile =
        serde_json::from_slice(bytes).map_err(|e| refused("its configuration", e.to_string()))?;
    let wrong = |field: Option<&str>, ours| field.is_some_and(|f| !f.is_empty() && f != ours);
    if wrong(raw.os.as_deref(), "linux") || wrong(raw.architecture.as_deref(), ARCHITECTURE) {
        let (os, arch) = (
            raw.os.unwrap_or_default(),
            raw.architecture.unwrap_or_default(),
        );
        let reason = format!("it is for {os}/{arch}, this node runs linux/{ARCHITECTURE}");
        return Err(refused("its configuration", reason));
    }
    let config = raw.config.unwrap_or_default();
    Ok(ImageConfig {
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        workdir: config.working_dir.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
    })
}

/// The configuration file of an image of one layer, as [`read_config`] and other tools read it.
pub(super) fn write_config(config: &ImageConfig, diff_id: &Digest) -> Result<Vec<u8>> {
    let list = |l: &[String]| (!l.is_empty()).then(|| l.to_vec());
    let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
    let file = serde_json::json!({
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {
            "Cmd": list(&config.cmd),
            "Entrypoint": list(&config.entrypoint),
            "Env": list(&config.env),
            "User": text(&config.user),
            "WorkingDir": text(&config.workdir),
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    serde_json::to_vec(&file).map_err(|e| ImageError::Bug {
        what: format!("an image configuration cannot be encoded: {e}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn index(platforms: &[(&str, &str)]) -> Result<Document> {
        let entry = |(i, (os, arch)): (usize, &(&str, &str))| {
            serde_json::json!({"mediaType": "m", "digest": D, "size": i,
                "platform": {"os": os, "architecture": arch}})
        };
        let manifests: Vec<_> = platforms.iter().enumerate().map(entry).collect();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
        read_document(index.to_string().as_bytes())
    }

    #[test]
    fn an_index_yields_the_image_for_this_machine() {
        let other = if ARCHITECTURE == "amd64" {
            "arm64"
        } else {
            "amd64"
        };
        let found = index(&[
            ("windows", ARCHITECTURE),
            ("linux", other),
            ("linux", ARCHITECTURE),
        ]);
        assert!(matches!(found, Ok(Document::Index(d)) if d.size == 2));
        let error = index(&[("linux", "s390x")]).err().unwrap().to_string();
        assert!(error.contains("linux/s390x"), "{error}");
        assert!(index(&[]).is_err());
    }

    #[test]
    fn nulls_of_go_are_empty_lists() {
        let config = read_config(br#"{"config":{"Env":null,"Cmd":["a"],"User":""}}"#).unwrap();
        assert_eq!(config.cmd, ["a"]);
        assert_eq!(config.env, Vec::<String>::new());
        assert_eq!(read_config(b"{}").unwrap(), ImageConfig::default());
        assert!(read_config(br#"{"os":"windows"}"#).is_err());
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let layer = |media: &str| {
            let d = serde_json::json!({"mediaType": media, "digest": D, "size": 1});
            let m = serde_json::json!({"schemaVersion": 2, "config": d, "layers": [d]});
            read_document(m.to_string().as_bytes()).map(drop)
        };
        layer("application/vnd.oci.image.layer.v1.tar+gzip").unwrap();
        assert!(layer("application/vnd.in-toto+json").is_err());
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"schemaVersion":1}"#,
            r#"{"schemaVersion":2}"#,
        ] {
            assert!(read_document(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
