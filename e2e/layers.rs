//! A room imports only from rooms below it (`src/lib.rs` says which those are).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The rooms from the bottom up; rooms on one line do not import one another.
const LAYERS: &[&[&str]] = &[
    &["api", "proto"],
    &["lifecycle"],
    &["identity"],
    &[
        "store", "snapshot", "image", "sandbox", "network", "kube", "rpc",
    ],
    &["engine", "node", "access"],
    &["controller", "apiserver", "control", "router", "kubectl"],
    &["cli", "dev"],
];
/// Rooms on one line that may import one another all the same: the vocabulary, and what composes.
const TOGETHER: &[&[&str]] = &[&["api", "proto"], &["cli", "dev"]];
/// May be imported from everywhere, and imports nothing.
const ANYWHERE: &[&str] = &["telemetry", "failpoint"];

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

fn may_import(from: &str, to: &str) -> bool {
    let together = TOGETHER
        .iter()
        .any(|rooms| rooms.contains(&from) && rooms.contains(&to));
    from == to
        || ANYWHERE.contains(&to)
        || together
        || (!ANYWHERE.contains(&from) && layer(from) > layer(to))
}

pub fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The rooms that the code of a file names by `crate::`; what is compiled for tests only may look anywhere.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let code: String = code
        .lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut rooms = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let word = |text: &str| -> String {
            text.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        };
        match rest.strip_prefix('{') {
            None => {
                rooms.insert(word(rest));
            }
            Some(group) => rooms.extend(first_segments(group).iter().map(|s| word(s))),
        }
    }
    rooms.retain(|room| layer(room).is_some() || ANYWHERE.contains(&room.as_str()));
    rooms
}

/// `a::{b, c}, d}` -> `a::`, `d`
fn first_segments(group: &str) -> Vec<String> {
    let (mut depth, mut parts, mut part) = (0, vec![], String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            c if depth == 0 => part.push(c),
            _ => {}
        }
    }
    parts.push(part);
    parts.iter().map(|p| p.trim().to_owned()).collect()
}

fn is_for_tests(path: &Path) -> bool {
    let test_name =
        |name: &str| ["tests", "testing", "conformance", "memory", "stub"].contains(&name);
    path.components().any(|c| {
        c.as_os_str()
            .to_str()
            .is_some_and(|n| test_name(n.trim_end_matches(".rs")))
    })
}

#[test]
fn imports_point_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    sources(&src, &mut files);
    let mut wrong = vec![];
    for path in files {
        let relative = path.strip_prefix(&src).unwrap();
        let first = relative
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        let room = first.trim_end_matches(".rs");
        if ["lib", "main", "bin"].contains(&room) || is_for_tests(relative) {
            continue;
        }
        assert!(
            layer(room).is_some() || ANYWHERE.contains(&room),
            "src/{room} has no layer: give it one"
        );
        for import in imports(&std::fs::read_to_string(&path).unwrap()) {
            if !may_import(room, &import) {
                wrong.push(format!("src/{} imports {import}", relative.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that point upward or sideways:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_check_sees_every_form_of_import() {
    let code = "use crate::engine::{A, B};\nuse crate::{api::names, router};\nfn f() { crate::dev::x() }\n// crate::cli\n";
    assert_eq!(
        imports(code).into_iter().collect::<Vec<_>>(),
        ["api", "dev", "engine", "router"]
    );
    assert!(!may_import("store", "engine"), "upward");
    assert!(!may_import("store", "snapshot"), "sideways");
    assert!(may_import("engine", "store"));
}

#[test]
fn main_stays_short() {
    let main = include_str!("../src/main.rs");
    assert!(main.lines().count() < 40);
}
