//! Images as their users see them: from layouts and a real registry ([`served`]), damaged, raced for, interrupted, packed.

mod served;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::testing::{Blobs, Layer, tree};
use super::*;

async fn store(dir: &TempDir) -> ImageStore {
    ImageStore::open(&dir.path().join("store")).await.unwrap()
}

fn nobody() -> Credentials {
    Credentials::default()
}

fn blobs(dir: &TempDir) -> Blobs {
    Blobs::new(&dir.path().join("layout"))
}

fn three_layers() -> Vec<Vec<u8>> {
    vec![
        Layer::new()
            .file("etc/passwd", "app:x:5:6::/:/bin/sh\n")
            .file("bin/app", "old")
            .plain(),
        Layer::new()
            .file("bin/.wh.app", "")
            .file("bin/other", "x")
            .gzip(),
        Layer::new().file("bin/app", "new").zstd(),
    ]
}

/// What a store must look like when nothing is in it or on its way.
fn assert_empty(dir: &TempDir) {
    for part in ["images", "tmp", "refs"] {
        assert_eq!(
            tree(&dir.path().join("store").join(part)),
            Vec::<String>::new(),
            "{part}"
        );
    }
}

#[tokio::test]
async fn an_image_of_a_layout_is_unpacked_once() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(&dir);
    let reference = blobs.reference(&blobs.image(three_layers()));
    let store = store(&dir).await;
    let image = store.ensure(&reference, &nobody()).await.unwrap();
    assert_eq!(image.digest, reference.digest);
    assert_eq!(
        tree(&image.rootfs),
        ["bin", "bin/app", "bin/other", "etc", "etc/passwd"]
    );
    assert_eq!(
        std::fs::read_to_string(image.rootfs.join("bin/app")).unwrap(),
        "new"
    );
    let config = ImageConfig {
        entrypoint: vec!["/bin/app".into()],
        cmd: vec!["serve".into()],
        env: vec!["A=1".into()],
        workdir: "/srv".into(),
        user: "app".into(),
    };
    assert_eq!(image.config, config);
    let user = image.user(None).unwrap();
    assert_eq!((user.uid, user.gid), (5, 6));
    assert_eq!(image.user(Some("0")).unwrap().uid, 0);

    // From now on the layout is not needed, also not by the next process.
    std::fs::remove_dir_all(&blobs.dir).unwrap();
    assert_eq!(store.ensure(&reference, &nobody()).await.unwrap(), image);
    let next = ImageStore::open(&dir.path().join("store")).await.unwrap();
    assert_eq!(next.ensure(&reference, &nobody()).await.unwrap(), image);
    assert_eq!(tree(&dir.path().join("store/tmp")), Vec::<String>::new());
}

#[tokio::test]
async fn an_index_leads_to_the_image_of_this_platform() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(&dir);
    let image = blobs.image(three_layers());
    let mut other = image.clone();
    other["platform"]["architecture"] = "s390x".into();
    let index = blobs.index(&[other, image.clone()]);
    let store = store(&dir).await;
    let unpacked = store
        .ensure(&blobs.reference(&index), &nobody())
        .await
        .unwrap();
    assert_eq!(
        unpacked.digest.to_string(),
        image["digest"].as_str().unwrap()
    );
    // The index is remembered, and the image is there under its own name too.
    std::fs::remove_dir_all(&blobs.dir).unwrap();
    assert_eq!(
        store
            .ensure(&blobs.reference(&index), &nobody())
            .await
            .unwrap(),
        unpacked
    );
    assert_eq!(
        store
            .ensure(&blobs.reference(&image), &nobody())
            .await
            .unwrap(),
        unpacked
    );
}

#[tokio::test]
async fn a_layer_may_be_there_twice_and_an_image_may_have_none() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(&dir);
    let layer = Layer::new().file("a", "x").gzip();
    let twice = blobs.image(vec![layer.clone(), layer]);
    let none = blobs.image(vec![]);
    let store = store(&dir).await;
    let image = store
        .ensure(&blobs.reference(&twice), &nobody())
        .await
        .unwrap();
    assert_eq!(tree(&image.rootfs), ["a"]);
    let image = store
        .ensure(&blobs.reference(&none), &nobody())
        .await
        .unwrap();
    assert_eq!(tree(&image.rootfs), Vec::<String>::new());
}

#[tokio::test]
async fn a_changed_byte_in_any_blob_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(&dir);
    let reference = blobs.reference(&blobs.image(three_layers()));
    let store = store(&dir).await;
    let files = tree(&blobs.dir.join("blobs/sha256"));
    assert_eq!(files.len(), 5);
    for file in files {
        let path = blobs.dir.join("blobs/sha256").join(&file);
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 4;
        let longer = [&whole[..], b"x"].concat();
        for bad in [&flipped[..], &whole[..whole.len() / 2], &[], &longer] {
            std::fs::write(&path, bad).unwrap();
            let error = store.ensure(&reference, &nobody()).await.unwrap_err();
            assert!(
                matches!(error, ImageError::DigestMismatch { .. }),
                "{error:?}"
            );
            assert_empty(&dir);
        }
        std::fs::remove_file(&path).unwrap();
        let error = store.ensure(&reference, &nobody()).await.unwrap_err();
        assert!(matches!(error, ImageError::NotFound { .. }), "{error:?}");
        assert!(error.to_string().contains(&file), "{error}");
        // A pipe in its place must not keep us waiting.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = store.ensure(&reference, &nobody()).await.unwrap_err();
        assert!(matches!(error, ImageError::Io { .. }), "{error:?}");
        assert_empty(&dir);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, whole).unwrap();
    }
    store.ensure(&reference, &nobody()).await.unwrap();
}

#[tokio::test]
async fn a_refused_layer_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(&dir);
    let evil = blobs.image(vec![
        Layer::new().file("ok", "").gzip(),
        Layer::new().file("../evil", "").gzip(),
    ]);
    let store = store(&dir).await;
    let error = store
        .ensure(&blobs.reference(&evil), &nobody())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Refused { .. }), "{error:?}");
    assert_empty(&dir);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let digest = "0".repeat(64);
    let missing = format!("oci-layout:{}/none@sha256:{digest}", dir.path().display());
    let error = store
        .ensure(&missing.parse().unwrap(), &nobody())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::NotFound { .. }), "{error:?}");
    assert!(error.to_string().contains("/none"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_unpack_once() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(&dir);
    let image = blobs.image(three_layers());
    let index = blobs.index(std::slice::from_ref(&image));
    // Two stores stand for two processes: they share nothing but the lock files.
    let stores = [store(&dir).await, store(&dir).await];
    let asking = (0..24).map(|i| {
        let store = stores[i % 2].clone();
        let reference = blobs.reference(if i % 3 == 0 { &index } else { &image });
        tokio::spawn(async move {
            let image = store.ensure(&reference, &nobody()).await.unwrap();
            std::fs::metadata(image.rootfs.join("bin/app"))
                .unwrap()
                .ino()
        })
    });
    let inodes = futures::future::join_all(asking).await;
    let first = *inodes[0].as_ref().unwrap();
    assert!(
        inodes.iter().all(|i| *i.as_ref().unwrap() == first),
        "unpacked twice"
    );
    assert_eq!(
        tree(&dir.path().join("store/images"))
            .iter()
            .filter(|p| !p.contains('/'))
            .count(),
        1
    );
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(&dir);
    let reference = blobs.reference(&blobs.image(three_layers()));
    let store = store(&dir).await;
    {
        let nobody = nobody();
        let call = store.ensure(&reference, &nobody);
        futures::pin_mut!(call);
        // Past the first look, so that the work is on its way.
        while futures::poll!(&mut call).is_pending()
            && tree(&dir.path().join("store/locks")).is_empty()
        {
            tokio::task::yield_now().await;
        }
    }
    store.ensure(&reference, &nobody()).await.unwrap();
    assert_eq!(tree(&dir.path().join("store/tmp")), Vec::<String>::new());
}

#[tokio::test]
async fn what_a_killed_process_left_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(&dir);
    let reference = blobs.reference(&blobs.image(three_layers()));
    drop(store(&dir).await);
    let hex = reference.digest.hex();
    // Killed while unpacking, with everything but the rename done; and an image directory without its record.
    let tmp = dir.path().join("store/tmp").join(hex);
    std::fs::create_dir_all(tmp.join("content/rootfs/bin")).unwrap();
    std::fs::write(tmp.join("content/rootfs/bin/half"), "").unwrap();
    std::fs::write(tmp.join("content/image.json"), "{}").unwrap();
    std::fs::write(tmp.with_extension("ref"), "half").unwrap();
    let store = store(&dir).await;
    assert_eq!(
        tree(&dir.path().join("store/tmp")),
        Vec::<String>::new(),
        "swept at start"
    );
    // Left between start and use by another process.
    std::fs::create_dir_all(tmp.join("content/rootfs/bin/half")).unwrap();
    let image = store.ensure(&reference, &nobody()).await.unwrap();
    assert_eq!(
        tree(&image.rootfs),
        ["bin", "bin/app", "bin/other", "etc", "etc/passwd"]
    );
    assert!(!tmp.exists());
}

#[tokio::test]
async fn work_in_progress_of_a_live_process_is_not_swept() {
    let dir = tempfile::tempdir().unwrap();
    drop(store(&dir).await);
    let tmp = dir.path().join("store/tmp/abc");
    std::fs::create_dir(&tmp).unwrap();
    let lock = std::fs::File::create(dir.path().join("store/locks/abc")).unwrap();
    lock.lock().unwrap();
    drop(store(&dir).await);
    assert!(tmp.exists());
    drop(lock);
    drop(store(&dir).await);
    assert!(!tmp.exists());
}

#[tokio::test]
async fn images_that_nobody_uses_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(&dir);
    let layer = |name: &str| Layer::new().file(name, "xxxxxxxx").gzip();
    let plain = blobs.reference(&blobs.image(vec![layer("a")]));
    let image = blobs.image(vec![layer("b")]);
    let index = blobs.reference(&blobs.index(std::slice::from_ref(&image)));
    let first = store(&dir).await;
    first.ensure(&plain, &nobody()).await.unwrap();
    first.ensure(&index, &nobody()).await.unwrap();
    let none = HashSet::new();
    assert_eq!(first.trim(0, none.clone()).await.unwrap(), [], "just used");

    // A later process, long after.
    let images = dir.path().join("store/images");
    let age = || {
        for entry in std::fs::read_dir(&images).unwrap() {
            let record = entry.unwrap().path().join("image.json");
            let record = std::fs::File::options().write(true).open(record).unwrap();
            let then = SystemTime::now() - Duration::from_secs(3600);
            record.set_modified(then).unwrap();
        }
    };
    age();
    let later = store(&dir).await;
    assert_eq!(later.trim(16, none.clone()).await.unwrap(), [], "both fit");
    let pinned = HashSet::from([index.digest.clone()]);
    let gone = later.trim(0, pinned).await.unwrap();
    assert_eq!(gone, std::slice::from_ref(&plain.digest));
    assert_eq!(later.find(&plain).await.unwrap(), None);
    later.find(&index).await.unwrap().unwrap();
    assert_eq!(later.trim(0, none.clone()).await.unwrap(), [], "just used");
    let third = store(&dir).await;
    assert_eq!(
        third.trim(0, none.clone()).await.unwrap(),
        [],
        "as the process before knew"
    );
    age();
    assert_eq!(third.trim(7, none).await.unwrap().len(), 1);
    assert_empty(&dir);
    later.ensure(&plain, &nobody()).await.unwrap();
}

/// A directory as a newcomer packs it.
fn sources(dir: &Path) -> std::path::PathBuf {
    let root = dir.join("app");
    std::fs::create_dir_all(root.join("lib/deep")).unwrap();
    std::fs::write(root.join("server.py"), "print('hello')").unwrap();
    std::fs::write(root.join("lib/deep/data"), vec![7u8; 200_000]).unwrap();
    std::os::unix::fs::symlink("server.py", root.join("main")).unwrap();
    let run = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(root.join("server.py"), run).unwrap();
    std::os::unix::fs::chown(root.join("server.py"), Some(1000), Some(1000)).unwrap();
    root
}

#[tokio::test]
async fn what_is_packed_can_be_run() {
    let dir = tempfile::tempdir().unwrap();
    let root = sources(dir.path());
    let config = ImageConfig {
        cmd: vec!["/server.py".into()],
        env: vec!["PORT=80".into()],
        ..ImageConfig::default()
    };
    let layout = dir.path().join("layout");
    let digest = layout::write(&layout, &root, &config).unwrap();
    let reference = format!("oci-layout:{}@{digest}", layout.display());
    let image = store(&dir)
        .await
        .ensure(&reference.parse().unwrap(), &nobody())
        .await
        .unwrap();
    assert_eq!(image.config, config);
    assert_eq!(tree(&image.rootfs), tree(&root));
    let packed = std::fs::metadata(image.rootfs.join("server.py")).unwrap();
    assert_eq!(
        (packed.uid(), packed.mode() & 0o7777, packed.mtime()),
        (0, 0o755, 0)
    );
    assert_eq!(
        std::fs::read_link(image.rootfs.join("main")).unwrap(),
        Path::new("server.py")
    );
}

#[test]
fn equal_directories_have_equal_digests_and_images_live_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let config = ImageConfig::default();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let first = layout::write(&a.join("layout"), &sources(&a), &config).unwrap();
    let second = layout::write(&b.join("layout"), &sources(&b), &config).unwrap();
    assert_eq!(first, second);
    std::fs::write(b.join("app/server.py"), "changed").unwrap();
    let third = layout::write(&b.join("layout"), &b.join("app"), &config).unwrap();
    assert_ne!(second, third);
    let again = layout::write(&b.join("layout"), &b.join("app"), &config).unwrap();
    assert_eq!(third, again);
    let index = std::fs::read_to_string(b.join("layout/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
}

#[test]
fn what_cannot_be_packed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = ImageConfig::default();
    let out = dir.path().join("out");
    let root = sources(dir.path());
    let error = layout::write(&root.join("layout"), &root, &config).unwrap_err();
    assert!(matches!(error, ImageError::BadRoot { .. }), "{error}");
    let error = layout::write(&out, &root.join("server.py"), &config).unwrap_err();
    assert!(matches!(error, ImageError::BadRoot { .. }), "{error}");
    nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = layout::write(&out, &root, &config).unwrap_err();
    assert!(error.to_string().contains("app/pipe"), "{error}");
    let error = layout::write(&out, &dir.path().join("none"), &config).unwrap_err();
    assert!(
        matches!(&error, ImageError::Io { source, .. } if source.kind() == ErrorKind::NotFound)
    );
}
