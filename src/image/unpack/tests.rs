use std::os::unix::fs::{FileTypeExt, MetadataExt};

use tar::EntryType;

use super::super::testing::{Entry, Layer, tree};
use super::*;
use crate::image::{Digest, ImageError};

mod symlinks;

/// A directory to unpack in, beside one that nothing may touch.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for made in ["root", "outside"] {
            std::fs::create_dir(dir.path().join(made)).unwrap();
        }
        std::fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn outside(&self) -> String {
        self.dir.path().join("outside").to_str().unwrap().to_owned()
    }

    fn unpack(&self, layers: Vec<Layer>) -> Result<Totals> {
        let mut unpack = Unpack::new(&self.root())?;
        for layer in layers {
            unpack.layer(&mut &layer.plain()[..])?;
        }
        unpack.finish()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.root().join(name)).unwrap()
    }

    fn meta(&self, name: &str) -> std::fs::Metadata {
        std::fs::symlink_metadata(self.root().join(name)).unwrap()
    }

    fn assert_nothing_outside(&self) {
        let beside = tree(self.dir.path());
        let beside: Vec<_> = beside.iter().filter(|p| !p.starts_with("root/")).collect();
        assert_eq!(beside, ["outside", "outside/secret", "root"]);
        let secret = self.dir.path().join("outside/secret");
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(std::fs::metadata(&secret).unwrap().nlink(), 1);
    }

    fn refuses(&self, what: &str, layers: Vec<Layer>) {
        let error = self.unpack(layers).err();
        let error = error.unwrap_or_else(|| panic!("{what} was unpacked"));
        assert!(
            matches!(error, ImageError::Refused { .. }),
            "{what}: {error:?}"
        );
        self.assert_nothing_outside();
    }
}

#[test]
fn everything_of_an_entry_is_kept() {
    let f = Fixture::new();
    let file = Entry::new(EntryType::Regular, "bin/su")
        .mode(0o4755)
        .owner(7, 8)
        .time(1234);
    let totals = f
        .unpack(vec![
            Layer::new()
                .entry(Entry::new(EntryType::Directory, "./").mode(0o711).time(99))
                .entry(
                    Entry::new(EntryType::Directory, "bin/")
                        .mode(0o2750)
                        .owner(3, 4)
                        .time(555),
                )
                .pax("SCHILY.xattr.user.note", b"kept")
                .entry(file.content(b"setuid"))
                .hard_link("bin/su2", "bin/su")
                .entry(
                    Entry::new(EntryType::Symlink, "sh")
                        .link("bin/su")
                        .owner(5, 6)
                        .time(77),
                )
                .entry(Entry::new(EntryType::Fifo, "pipe").mode(0o600).owner(1, 2))
                .file("implied/deep/file", "x"),
        ])
        .unwrap();
    assert_eq!((totals.files, totals.bytes), (9, 7), "with those implied");
    let all = [
        "bin",
        "bin/su",
        "bin/su2",
        "implied",
        "implied/deep",
        "implied/deep/file",
        "pipe",
        "sh",
    ];
    assert_eq!(tree(&f.root()), all);

    let su = f.meta("bin/su");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid()), (0o4755, 7, 8));
    assert_eq!(
        (su.mtime(), su.nlink(), su.ino()),
        (1234, 2, f.meta("bin/su2").ino())
    );
    let bin = f.meta("bin");
    assert_eq!((bin.mode() & 0o7777, bin.uid(), bin.gid()), (0o2750, 3, 4));
    assert_eq!(bin.mtime(), 555, "set after files were put in");
    let sh = f.meta("sh");
    assert_eq!((sh.uid(), sh.gid(), sh.mtime()), (5, 6, 77));
    assert!(f.meta("pipe").file_type().is_fifo());
    assert_eq!(f.meta("implied/deep").mode() & 0o7777, 0o755);
    let root = f.meta("");
    assert_eq!((root.mode() & 0o7777, root.mtime()), (0o711, 99));
    let note = xattr(&f.root().join("bin/su"), "user.note");
    assert_eq!(note.as_deref(), Some(&b"kept"[..]));
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let name = std::ffi::CString::new(name).unwrap();
    let mut value = vec![0u8; 100];
    let (to, room) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: both strings and the buffer of `room` bytes are alive during the call.
    let n = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), to, room) };
    value.truncate(usize::try_from(n).ok()?);
    Some(value)
}

#[test]
fn long_names_and_leading_slashes() {
    let f = Fixture::new();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let mut unpack = Unpack::new(&f.root()).unwrap();
    unpack.layer(&mut &named(&long)[..]).unwrap();
    assert_eq!(f.read(&long), "x");
    f.unpack(vec![Layer::new().file("/ko-app/server", "elf")])
        .unwrap();
    assert_eq!(f.read("ko-app/server"), "elf");
}

/// A layer of one file whose name may be long.
fn named(name: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, &b"x"[..]).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn directories_without_entries_count_and_are_not_without_end() {
    let f = Fixture::new();
    let unpack = |name: &str| {
        let mut unpack = Unpack::new(&f.root())?;
        unpack.layer(&mut &named(name)[..])?;
        unpack.finish()
    };
    let deep = "d/".repeat(200_000);
    let error = unpack(&format!("{deep}file")).unwrap_err();
    assert!(error.to_string().contains("too many directories"));
    assert_eq!(tree(&f.root()), Vec::<String>::new(), "none was made");
    assert_eq!(unpack("a/b/c/file").unwrap().files, 4);
    assert_eq!(unpack("a/b/c/file").unwrap().files, 1);
    let deep = "d/".repeat(200);
    assert_eq!(unpack(&format!("{deep}file")).unwrap().files, 201);
    f.unpack(vec![Layer::new().symlink("link", &deep[..96])])
        .unwrap();
    let error = unpack(&format!("link/{deep}e/e/e/e/e/e/e/e/e/file")).unwrap_err();
    assert!(error.to_string().contains("too many directories"));
}

#[test]
fn device_nodes_are_left_out() {
    let f = Fixture::new();
    let layer = Layer::new()
        .entry(Entry::new(EntryType::Char, "dev/null"))
        .entry(Entry::new(EntryType::Block, "dev/sda"))
        .file("after", "x");
    let totals = f.unpack(vec![layer]).unwrap();
    assert_eq!(totals.skipped_devices, 2);
    assert_eq!(tree(&f.root()), ["after"]);
}

#[test]
fn names_that_climb_are_refused() {
    for name in [
        "../evil",
        "a/../../evil",
        "..",
        "a/..",
        "/../evil",
        "./../evil",
        "a/../b",
    ] {
        Fixture::new().refuses(name, vec![Layer::new().file(name, "x")]);
        Fixture::new().refuses(name, vec![Layer::new().dir(name)]);
        Fixture::new().refuses(name, vec![Layer::new().symlink(name, "x")]);
        Fixture::new().refuses(name, vec![Layer::new().file("x", "x").hard_link(name, "x")]);
        Fixture::new().refuses(name, vec![Layer::new().file("x", "x").hard_link("y", name)]);
        let whiteout = name.replace("evil", ".wh.outside");
        if whiteout != name {
            Fixture::new().refuses(&whiteout, vec![Layer::new().file(&whiteout, "")]);
        }
    }
    Fixture::new().refuses("opaque", vec![Layer::new().file("../.wh..wh..opq", "")]);
}

#[test]
fn whiteouts_take_away_what_earlier_layers_made() {
    let f = Fixture::new();
    let base = Layer::new()
        .file("a/one", "1")
        .file("a/two", "2")
        .file("b/c/d", "3")
        .file("keep", "4");
    f.unpack(vec![
        base,
        Layer::new()
            .file("a/.wh.one", "")
            .file(".wh.b", "")
            .file(".wh.missing", "")
            .file("no/.wh.x", ""),
    ])
    .unwrap();
    assert_eq!(tree(&f.root()), ["a", "a/two", "keep"]);
}

#[test]
fn opaque_directories_keep_what_their_own_layer_made_in_any_order() {
    for order in [0, 1, 2] {
        let f = Fixture::new();
        let base = Layer::new()
            .file("d/old", "")
            .file("d/sub/old", "")
            .file("d/sub/deep/old", "")
            .file("e", "");
        let mut layer = Layer::new();
        for step in 0..3 {
            layer = match (step + order) % 3 {
                0 => layer.file("d/.wh..wh..opq", ""),
                1 => layer.file("d/new", "").symlink("l", "d"),
                _ => layer.file("d/sub/new", ""),
            };
        }
        f.unpack(vec![base, layer]).unwrap();
        assert_eq!(
            tree(&f.root()),
            ["d", "d/new", "d/sub", "d/sub/new", "e", "l"],
            "{order}"
        );
    }
}

#[test]
fn a_whiteout_and_its_replacement_in_one_layer() {
    let f = Fixture::new();
    let base = || Layer::new().file("x/old", "").file("y", "old");
    let change = Layer::new()
        .file("x/new", "")
        .file("y", "new")
        .file(".wh.x", "")
        .file(".wh.y", "");
    f.unpack(vec![base(), change]).unwrap();
    assert_eq!(tree(&f.root()), ["x", "x/new", "y"]);
    assert_eq!(f.read("y"), "new");
    // What an earlier layer made is gone for the next one too.
    f.unpack(vec![Layer::new().file(".wh.x", "").file(".wh.y", "")])
        .unwrap();
    assert_eq!(tree(&f.root()), Vec::<String>::new());
}

#[test]
fn kinds_replace_each_other() {
    let f = Fixture::new();
    f.unpack(vec![
        Layer::new().file("d/x", "").file("f", ""),
        Layer::new()
            .file("d", "now a file")
            .dir("f")
            .file("f/y", ""),
    ])
    .unwrap();
    assert_eq!(tree(&f.root()), ["d", "f", "f/y"]);
    // The root cannot be anything but a directory.
    f.refuses("root", vec![Layer::new().symlink("./", "/")]);
    f.refuses("root", vec![Layer::new().file("/", "x")]);
}

#[test]
fn a_changed_hard_link_leaves_the_other_name_alone() {
    let f = Fixture::new();
    f.unpack(vec![
        Layer::new().file("a", "1").hard_link("b", "a"),
        Layer::new().file("b", "2"),
    ])
    .unwrap();
    assert_eq!((f.read("a"), f.read("b")), ("1".into(), "2".into()));
}

#[test]
fn headers_that_claim_gigabytes_are_refused() {
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
    ] {
        let f = Fixture::new();
        let layer = Layer::new().entry(Entry::new(kind, "long").content(&vec![b'a'; 3 << 20]));
        f.refuses("long headers", vec![layer.file("x", "")]);
    }
}

#[test]
fn a_file_that_is_too_large_is_refused_before_it_is_written() {
    let f = Fixture::new();
    let mut header = tar::Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_size(MAX_IMAGE_BYTES + 1);
    header.set_mode(0o644);
    header.set_cksum();
    let mut unpack = Unpack::new(&f.root()).unwrap();
    let mut endless = io::Read::chain(&header.as_bytes()[..], io::repeat(0));
    let error = unpack.layer(&mut endless).unwrap_err();
    assert!(error.to_string().contains("bytes unpacked"), "{error}");
    assert_eq!(tree(&f.root()), Vec::<String>::new());
}

/// The same bytes again and again.
struct Again<'a>(&'a [u8], usize);

impl Read for Again<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.1 % self.0.len();
        let n = buffer.len().min(self.0.len() - at);
        buffer[..n].copy_from_slice(&self.0[at..at + n]);
        self.1 += n;
        Ok(n)
    }
}

#[test]
fn a_layer_without_end_is_refused_at_its_millionth_entry() {
    let f = Fixture::new();
    // Entries that leave nothing on the disk are the fastest.
    let layer = Layer::new().entry(Entry::new(EntryType::Char, "dev/null"));
    let entry = &layer.plain()[..512];
    let mut unpack = Unpack::new(&f.root()).unwrap();
    let error = unpack.layer(&mut Again(entry, 0)).unwrap_err();
    assert!(error.to_string().contains("over 1000000 files"), "{error}");
    assert_eq!(unpack.totals.files, MAX_IMAGE_FILES + 1);
}

#[test]
fn what_a_compressed_layer_grows_to_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let f = Fixture::new();
    // A few kilobytes that claim to be 40 GiB, and would be: the claim is refused before a byte of them is written.
    let mut header = tar::Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_size(40 << 30);
    header.set_cksum();
    let plain = io::Read::chain(&header.as_bytes()[..], io::repeat(0).take(64 << 20));
    let zstd = zstd::encode_all(plain, 1).unwrap();
    assert!(zstd.len() < 64 << 10);
    let path = dir.path().join("layer");
    std::fs::write(&path, &zstd).unwrap();
    let digest = Digest::of(sha2::Digest::new_with_prefix(&zstd));
    let layer = serde_json::json!({"mediaType": "tar", "digest": digest, "size": zstd.len()});
    let layer = serde_json::from_value(layer).unwrap();
    let mut unpack = Unpack::new(&f.root()).unwrap();
    let read = crate::image::blob::read_layer(&path, &layer, |tar| unpack.layer(tar));
    let error = read.unwrap_err();
    assert!(error.to_string().contains("bytes unpacked"), "{error}");
    assert_eq!(tree(&f.root()), Vec::<String>::new());
}

#[test]
fn a_sparse_file_counts_as_what_it_becomes() {
    let f = Fixture::new();
    let sparse = |real: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..1].copy_from_slice(b"a");
        // In base 256, since octal digits end below the cap.
        let number = |field: &mut [u8; 12], value: u64| {
            field[0] = 0x80;
            field[4..].copy_from_slice(&value.to_be_bytes());
        };
        number(&mut gnu.realsize, real);
        number(&mut gnu.sparse[0].offset, real);
        number(&mut gnu.sparse[0].numbytes, 0);
        header.set_cksum();
        let mut layer = header.as_bytes().to_vec();
        layer.extend_from_slice(&[0; 1024]);
        layer
    };
    let unpack = |layer: Vec<u8>| Unpack::new(&f.root()).unwrap().layer(&mut &layer[..]);
    unpack(sparse(100_000)).unwrap();
    assert_eq!(std::fs::read(f.root().join("a")).unwrap(), vec![0; 100_000]);
    let error = unpack(sparse(MAX_IMAGE_BYTES + 1)).unwrap_err();
    assert!(error.to_string().contains("bytes unpacked"), "{error}");
}

#[test]
fn what_is_no_tar_is_refused() {
    let f = Fixture::new();
    let whole = Layer::new().file("a", &"x".repeat(5000)).plain();
    for bad in [
        &b"not a tar, but long enough to be read as a header".repeat(20)[..],
        &whole[..3000],
    ] {
        let error = Unpack::new(&f.root())
            .unwrap()
            .layer(&mut &bad[..])
            .unwrap_err();
        assert!(matches!(error, ImageError::Refused { .. }), "{error:?}");
    }
    f.refuses(
        "owner",
        vec![Layer::new().entry(Entry::new(EntryType::Regular, "a").owner(1 << 33, 0))],
    );
}

mod any_bytes {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Vec<(u8, String, String)>> {
        let part = prop_oneof![
            "[ab]",
            Just("..".to_owned()),
            Just(".wh.a".to_owned()),
            Just(".wh..wh..opq".to_owned())
        ];
        let name = prop::collection::vec(part, 1..4).prop_map(|p| p.join("/"));
        let target = prop_oneof![
            name.clone(),
            Just("/".to_owned()),
            Just("../../outside".to_owned()),
            "[ab](/[ab]){0,2}"
        ];
        prop::collection::vec((0u8..6, name, target), 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn no_sequence_of_entries_touches_anything_outside(layers in prop::collection::vec(entries(), 1..3)) {
            let f = Fixture::new();
            let layers = layers.into_iter().map(|entries| {
                entries.into_iter().fold(Layer::new(), |layer, (kind, name, target)| match kind {
                    0 => layer.dir(&name),
                    1 => layer.symlink(&name, &target),
                    2 => layer.symlink(&name, &f.outside()),
                    3 => layer.hard_link(&name, &target),
                    4 => layer.hard_link(&name, &format!("{target}/secret")),
                    _ => layer.file(&name, "x"),
                })
            });
            drop(f.unpack(layers.collect()));
            f.assert_nothing_outside();
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let f = Fixture::new();
            drop(Unpack::new(&f.root()).unwrap().layer(&mut &bytes[..]));
        }
    }
}
