//! Images that come from registries.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::server::Server;

/// A registry of this machine.
struct Registry {
    server: Server,
    _dir: TempDir,
}

impl Registry {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(|address| {
            let mut command = Command::new("crane");
            let address = address.to_string();
            command.args(["registry", "serve", "--address", &address, "--disk"]);
            command.arg(dir.path());
            command
        });
        Self { server, _dir: dir }
    }

    fn push(&self, layout: &Path, name: &str) {
        let pushed = Command::new("crane")
            .args(["push", "--insecure", "--index"])
            .arg(layout)
            .arg(format!("{}/{name}", self.server.address()))
            .output()
            .unwrap();
        assert!(pushed.status.success(), "{pushed:?}");
    }
}

#[tokio::test]
async fn images_come_from_a_registry() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start();
    let blobs = blobs(&dir);
    let image = blobs.image(three_layers());
    let list = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [image]});
    std::fs::write(blobs.dir.join("index.json"), list.to_string()).unwrap();
    registry.push(&blobs.dir, "team/app:v1");
    std::fs::remove_dir_all(&blobs.dir).unwrap();

    let store = store(&dir).await;
    let digest = image["digest"].as_str().unwrap();
    let reference = format!("{}/team/app:ignored@{digest}", registry.server.address());
    let unpacked = store
        .ensure(&reference.parse().unwrap(), &nobody())
        .await
        .unwrap();
    assert_eq!(
        tree(&unpacked.rootfs),
        ["bin", "bin/app", "bin/other", "etc", "etc/passwd"]
    );
    assert_eq!(tree(&dir.path().join("store/tmp")), Vec::<String>::new());

    // The index that was pushed, too.
    let index = blob_digest(list.to_string().as_bytes());
    let reference = format!("{}/team/app@{index}", registry.server.address());
    assert_eq!(
        store
            .ensure(&reference.parse().unwrap(), &nobody())
            .await
            .unwrap(),
        unpacked
    );

    for (missing, part) in [
        ("team/none", digest),
        ("team/app", &format!("sha256:{}", "1".repeat(64))),
    ] {
        let fresh = tempfile::tempdir().unwrap();
        let store = ImageStore::open(fresh.path()).await.unwrap();
        let reference = format!("{}/{missing}@{part}", registry.server.address());
        let error = store
            .ensure(&reference.parse().unwrap(), &nobody())
            .await
            .unwrap_err();
        assert!(
            matches!(error, ImageError::NotFound { .. }),
            "{missing}: {error:?}"
        );
    }

    let addr = registry.server.address();
    drop(registry);
    let gone = format!("{addr}/team/app@sha256:{}", "2".repeat(64));
    let error = store
        .ensure(&gone.parse().unwrap(), &nobody())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Unavailable { .. }), "{error:?}");
}

fn blob_digest(bytes: &[u8]) -> Digest {
    Digest::of(sha2::Digest::new_with_prefix(bytes))
}

#[tokio::test]
async fn a_registry_that_lies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(&dir);
    let image = blobs.image(three_layers());
    let digest = image["digest"].as_str().unwrap().to_owned();
    // Serves the right blobs except that one of them, in turn, has a byte changed or is longer.
    for lie in 0..10 {
        let names = tree(&blobs.dir.join("blobs/sha256"));
        let served: std::collections::HashMap<String, Vec<u8>> = names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let mut bytes = std::fs::read(blobs.dir.join("blobs/sha256").join(name)).unwrap();
                match (i == lie % 5, lie < 5) {
                    (true, true) => *bytes.last_mut().unwrap() ^= 1,
                    (true, false) => bytes.push(0),
                    _ => {}
                }
                (name.clone(), bytes)
            })
            .collect();
        let app = axum::Router::new().fallback(move |uri: http::Uri| {
            let name = uri
                .path()
                .rsplit("sha256:")
                .next()
                .unwrap_or_default()
                .to_owned();
            let found = served.get(&name).cloned();
            async move { found.ok_or(http::StatusCode::NOT_FOUND) }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let store = store(&dir).await;
        let reference = format!("{addr}/app@{digest}");
        let error = store
            .ensure(&reference.parse().unwrap(), &nobody())
            .await
            .unwrap_err();
        assert!(
            matches!(error, ImageError::DigestMismatch { .. }),
            "{lie}: {error:?}"
        );
        assert_empty(&dir);
        server.abort();
    }
}
