//! Symlinks of an image: they stay in it, and what is written does not go through them.

use super::*;

#[test]
fn symlinks_do_not_lead_out() {
    let outside = |f: &Fixture| f.outside();
    let up = |_: &Fixture| "../outside".to_owned();
    let far_up = |_: &Fixture| "../../../../../../../../tmp".to_owned();
    let proc = |_: &Fixture| "/proc/self/root".to_owned();
    let targets: [&dyn Fn(&Fixture) -> String; 4] = [&outside, &up, &far_up, &proc];
    for target in targets {
        type Attack = fn(Layer) -> Layer;
        let attacks: [(&str, Attack); 5] = [
            ("write", |l| l.file("link/evil", "x")),
            ("overwrite", |l| l.file("link/secret", "x")),
            ("make a directory", |l| l.dir("link/sub/dir")),
            ("link in", |l| l.symlink("link/evil", "x")),
            ("link by two steps", |l| {
                l.symlink("two", "link").file("two/evil", "x")
            }),
        ];
        for (what, attack) in attacks {
            // In one layer, and in the layer after.
            let f = Fixture::new();
            let link = Layer::new().symlink("link", &target(&f));
            f.refuses(what, vec![attack(link)]);
            let f = Fixture::new();
            let link = Layer::new().symlink("link", &target(&f));
            f.refuses(what, vec![link, attack(Layer::new())]);
        }
    }
}

#[test]
fn symlinks_are_not_followed_by_whiteouts_and_hard_links() {
    let f = Fixture::new();
    let outside = f.outside();
    let link = || Layer::new().symlink("link", &outside);
    f.unpack(vec![link(), Layer::new().file("link/.wh.secret", "")])
        .unwrap();
    f.assert_nothing_outside();
    f.unpack(vec![link(), Layer::new().file("link/.wh..wh..opq", "")])
        .unwrap();
    f.assert_nothing_outside();
    f.refuses("hard link", vec![link().hard_link("mine", "link/secret")]);
    f.refuses(
        "hard link",
        vec![Layer::new().hard_link("mine", &format!("{outside}/secret"))],
    );
    // The symlink itself may get a second name; a whiteout of it removes it, not what it names.
    f.unpack(vec![link().hard_link("mine", "link")]).unwrap();
    assert!(f.meta("mine").is_symlink());
    f.unpack(vec![link(), Layer::new().file(".wh.link", "")])
        .unwrap();
    f.assert_nothing_outside();
}

#[test]
fn an_entry_replaces_a_symlink_and_is_not_written_through_it() {
    for kind in [EntryType::Regular, EntryType::Directory, EntryType::Fifo] {
        let f = Fixture::new();
        for target in [
            f.outside(),
            format!("{}/secret", f.outside()),
            "inside".into(),
        ] {
            let layer = Layer::new()
                .file("inside", "before")
                .symlink("name", &target);
            f.unpack(vec![
                layer.entry(Entry::new(kind, "name").mode(0o777).owner(9, 9)),
            ])
            .unwrap();
            assert!(!f.meta("name").is_symlink());
            assert_eq!(f.read("inside"), "before");
            f.assert_nothing_outside();
            let secret = std::fs::metadata(format!("{}/secret", f.outside())).unwrap();
            assert_eq!(secret.uid(), 0);
        }
    }
}

#[test]
fn symlinks_that_stay_inside_are_followed() {
    let f = Fixture::new();
    f.unpack(vec![
        Layer::new()
            .dir("usr/bin")
            .symlink("bin", "usr/bin")
            .dir("run")
            .dir("var")
            .symlink("var/run", "/run")
            .symlink("usr/up", "../usr/./bin/../bin"),
        Layer::new()
            .file("bin/sh", "1")
            .file("var/run/pid", "2")
            .file("usr/up/ls", "3"),
    ])
    .unwrap();
    assert_eq!(
        (f.read("usr/bin/sh"), f.read("run/pid")),
        ("1".into(), "2".into())
    );
    assert_eq!(f.read("usr/bin/ls"), "3");
    assert!(f.meta("bin").is_symlink());
    f.refuses(
        "loop",
        vec![
            Layer::new()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/x", ""),
        ],
    );
    f.refuses(
        "nowhere",
        vec![Layer::new().symlink("c", "none/x").file("c/x", "")],
    );
    f.refuses(
        "through a file",
        vec![Layer::new().file("plain", "").file("plain/x", "")],
    );
}
