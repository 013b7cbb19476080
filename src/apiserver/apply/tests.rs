//! What Kubernetes' own FieldManager makes of the same (`cases.json`, written by `e2e/applycases`), the cases that
//! structured-merge-diff publishes, in our words, and laws that hold for everything.

use super::managers::Managers;
use super::*;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::LazyLock;

const VERSION: &str = "example.org/v1";

#[derive(Deserialize)]
struct Cases {
    schema: Value,
    scenarios: Vec<Vec<Step>>,
}

#[derive(Deserialize)]
struct Step {
    apply: bool,
    manager: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    force: bool,
    given: Value,
    object: Option<Value>,
    error: Option<String>,
}

fn manager<'a>(of: &'a Type, subresource: &'a str, ignored: &'a FieldSet) -> FieldManager<'a> {
    FieldManager {
        of,
        version: VERSION,
        subresource,
        ignored,
        now: "2026-01-01T00:00:00Z",
    }
}

fn timeless(mut object: Value) -> Value {
    let all = object.pointer_mut("/metadata/managedFields");
    for entry in all.and_then(Value::as_array_mut).into_iter().flatten() {
        entry.as_object_mut().unwrap().remove("time");
    }
    object
}

static CASES: LazyLock<Cases> =
    LazyLock::new(|| serde_json::from_str(include_str!("cases.json")).unwrap());

#[test]
fn as_kubernetes_does() {
    let of = thing();
    for (i, scenario) in CASES.scenarios.iter().enumerate() {
        let mut live = json!({"apiVersion": VERSION, "kind": "Thing"});
        for (j, step) in scenario.iter().enumerate() {
            let reset = if step.subresource.is_empty() {
                "status"
            } else {
                "spec"
            };
            let ignored = FieldSet::of([Path::of(&[reset])]);
            let m = manager(&of, &step.subresource, &ignored);
            let made = if step.apply {
                m.apply(&live, &step.given, &step.manager, step.force)
            } else {
                let asked = step.given.pointer("/metadata/managedFields");
                Ok(m.update(&live, step.given.clone(), asked, &step.manager))
            };
            let place = format!("scenario {i} step {j}");
            match made {
                Ok(object) => {
                    let expected = step.object.as_ref();
                    let wanted = expected.unwrap_or_else(|| panic!("{place}: {:?}", step.error));
                    assert_eq!(timeless(object.clone()), *wanted, "{place}");
                    live = object;
                    live["metadata"]["uid"] = "u".into();
                }
                Err(e) => assert_eq!(Some(e.to_string()), step.error, "{place}"),
            }
        }
    }
}

/// A type with one of everything.
fn thing() -> Type {
    Type::of_kind(&CASES.schema)
}

fn with(spec: Value) -> Value {
    json!({"apiVersion": VERSION, "kind": "Thing", "metadata": {"name": "thing"}, "spec": spec})
}

/// An object's history.
struct History {
    of: Type,
    live: Value,
}

impl History {
    fn new() -> Self {
        let live = json!({"apiVersion": VERSION, "kind": "Thing"});
        Self { of: thing(), live }
    }

    fn keep(&mut self, object: Value) -> &mut Self {
        self.live = object;
        self.live["metadata"]["uid"] = "u".into();
        self
    }

    fn try_apply(&self, by: &str, spec: Value, force: bool) -> Result<Value, String> {
        let m = manager(&self.of, "", &NONE);
        let made = m.apply(&self.live, &with(spec), by, force);
        made.map_err(|e| e.to_string())
    }

    fn apply(&mut self, by: &str, spec: Value) -> &mut Self {
        let object = self.try_apply(by, spec, false).unwrap();
        self.keep(object)
    }

    fn force(&mut self, by: &str, spec: Value) -> &mut Self {
        let object = self.try_apply(by, spec, true).unwrap();
        self.keep(object)
    }

    fn update(&mut self, by: &str, spec: Value) -> &mut Self {
        let object = manager(&self.of, "", &NONE).update(&self.live, with(spec), None, by);
        self.keep(object)
    }

    /// Whether applying nothing for the second time removes the spec, as in Kubernetes: nothing is left in it but empty
    /// maps that nobody owns and empty lists, one of them owned. What an apply removes it knows from the fields that the
    /// object mentions, and an empty list is none: the maps go, and the spec, which looks empty then, with the lists.
    /// The third time brings back the empty map that is applied, and it stays.
    fn is_left_over(&self) -> bool {
        let mut all = FieldSet::default();
        let managers = Managers::decode(self.live.pointer("/metadata/managedFields")).unwrap();
        for entry in managers.0.values() {
            all = all.union(&entry.set);
        }
        let owned = |name: &str| all.has(&Path::of(&["spec", name]).0);
        let spec = || self.spec().as_object().into_iter().flatten();
        let lost = |name: &str, value: &Value| match value {
            Value::Object(map) => map.is_empty() && !owned(name),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        spec().all(|(name, value)| lost(name, value))
            && spec().any(|(_, value)| value.is_object())
            && spec().any(|(name, value)| value.is_array() && owned(name))
    }

    fn spec(&self) -> &Value {
        &self.live["spec"]
    }

    /// What a manager owns, as people write it.
    fn owns(&self, by: &str) -> Vec<String> {
        let all = self.live.pointer("/metadata/managedFields");
        let all = Managers::decode(all).unwrap();
        let own = all.0.iter().filter(|(id, _)| id.manager == by);
        own.flat_map(|(_, e)| e.set.paths())
            .map(|p| p.to_string())
            .collect()
    }
}

static NONE: LazyLock<FieldSet> = LazyLock::new(FieldSet::default);

#[test]
fn leaves() {
    let mut h = History::new();
    h.apply("one", json!({"number": 1, "text": "a"}));
    assert_eq!(h.owns("one"), [".spec.number", ".spec.text"]);
    // The same value is shared; another one is a conflict.
    h.apply("two", json!({"text": "a", "flag": true}));
    assert_eq!(h.owns("two"), [".spec.flag", ".spec.text"]);
    assert_eq!(
        h.try_apply("two", json!({"number": 2, "text": "b"}), false),
        Err(
            "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.number\n- .spec.text"
                .into()
        )
    );
    h.force("two", json!({"number": 2, "text": "a"}));
    assert_eq!(*h.spec(), json!({"number": 2, "text": "a"}));
    assert_eq!(h.owns("one"), [".spec.text"]);
    // What is shared stays while somebody owns it.
    h.apply("two", json!({"number": 2}));
    assert_eq!(*h.spec(), json!({"number": 2, "text": "a"}));
    h.apply("one", json!({}));
    assert_eq!(*h.spec(), json!({"number": 2}));
    assert_eq!(h.owns("one"), [".spec"]);
}

#[test]
fn who_updates_takes() {
    let mut h = History::new();
    h.apply("one", json!({"number": 1, "text": "a"}));
    h.update("edit", json!({"number": 5, "text": "a"}));
    assert_eq!(h.owns("one"), [".spec.text"]);
    assert_eq!(h.owns("edit"), [".spec.number"]);
    assert_eq!(
        h.try_apply("one", json!({"number": 1, "text": "a"}), false),
        Err(
            "Apply failed with 1 conflict: conflict with \"edit\" using example.org/v1: .spec.number"
                .into()
        )
    );
    h.update("edit", json!({"text": "a"}));
    assert!(h.owns("edit").is_empty());
}

#[test]
fn nested_and_maps() {
    let mut h = History::new();
    h.apply("one", json!({"nested": {"a": "x"}, "map": {"k": 1}}));
    h.apply("two", json!({"nested": {"b": "y"}, "map": {"l": 2}}));
    assert_eq!(h.owns("two"), [".spec.map.l", ".spec.nested.b"]);
    h.apply("one", json!({}));
    assert_eq!(*h.spec(), json!({"nested": {"b": "y"}, "map": {"l": 2}}));
    h.apply("two", json!({"whole": {"a": "1", "b": "2"}}));
    assert_eq!(h.owns("two"), [".spec.whole"]);
    let whole = h.try_apply("one", json!({"whole": {"c": "3"}}), false);
    assert!(whole.unwrap_err().ends_with(": .spec.whole"));
}

#[test]
fn lists_by_key() {
    let item = |name: &str, a: &str| json!({"name": name, "a": a});
    let mut h = History::new();
    h.apply("one", json!({"list": [item("a", "1"), item("b", "1")]}));
    h.apply("two", json!({"list": [item("c", "1"), item("b", "1")]}));
    let names = |h: &History| {
        let all = h.spec()["list"].as_array().unwrap().iter();
        all.map(|i| i["name"].as_str().unwrap().to_owned())
            .collect::<String>()
    };
    assert_eq!(names(&h), "acb");
    assert!(
        h.owns("two")
            .contains(&r#".spec.list[name="c",port=80]"#.to_owned())
    );
    // Reordered by who owns both; removed where nobody else has it.
    h.apply("one", json!({"list": [item("b", "1"), item("a", "1")]}));
    assert_eq!(names(&h), "cba");
    h.apply("one", json!({"list": [item("b", "1")]}));
    assert_eq!(names(&h), "cb");
    let twice = h.try_apply(
        "one",
        json!({"list": [item("b", "1"), item("b", "2")]}),
        true,
    );
    assert_eq!(
        twice.unwrap_err(),
        r#".spec.list: duplicate entries for key [name="b",port=80]"#
    );
    let nameless = h.try_apply("one", json!({"list": [{"a": "1"}]}), true);
    assert!(nameless.unwrap_err().contains("omits key field \"name\""));
}

#[test]
fn sets_and_atoms() {
    let mut h = History::new();
    h.apply("one", json!({"set": ["a", "b"], "atoms": ["x"]}));
    h.apply("two", json!({"set": ["c", "b"]}));
    assert_eq!(h.spec()["set"], json!(["a", "c", "b"]));
    assert_eq!(h.owns("two"), [r#".spec.set[="b"]"#, r#".spec.set[="c"]"#]);
    h.apply("one", json!({"set": ["a"], "atoms": ["x"]}));
    assert_eq!(h.spec()["set"], json!(["a", "c", "b"]));
    h.apply("two", json!({}));
    assert_eq!(h.spec()["set"], json!(["a"]));
    let atoms = h.try_apply("two", json!({"atoms": ["x", "y"]}), false);
    assert!(atoms.unwrap_err().ends_with(": .spec.atoms"));
}

#[test]
fn without_schema_maps_merge_and_lists_do_not() {
    let mut h = History::new();
    h.apply("one", json!({"free": {"m": {"a": 1}, "l": [1]}}));
    h.apply("two", json!({"free": {"m": {"b": 1}}}));
    assert_eq!(h.spec()["free"], json!({"m": {"a": 1, "b": 1}, "l": [1]}));
    let list = h.try_apply("two", json!({"free": {"l": [2]}}), false);
    assert!(list.unwrap_err().ends_with(": .spec.free.l"));
}

#[test]
fn what_does_not_fit_is_named() {
    let h = History::new();
    for (spec, why) in [
        (json!({"x": 1}), ".spec.x: field not declared in schema"),
        (
            json!({"number": "1"}),
            ".spec.number: expected numeric (int or float), got \"1\"",
        ),
        (
            json!({"nested": [1]}),
            ".spec.nested: expected map, got [1]",
        ),
        (json!({"set": {}}), ".spec.set: expected list, got {}"),
        (
            json!({"a": 1, "b": 1}),
            "errors:\n  .spec.a: field not declared in schema\n  .spec.b: field not declared in schema",
        ),
    ] {
        assert_eq!(h.try_apply("one", spec, true), Err(why.into()));
    }
}

#[test]
fn before_the_first_apply_somebody_owned_it_all() {
    let mut h = History::new();
    h.keep(with(json!({"number": 1, "text": "a"})));
    h.update("edit", json!({"number": 2, "text": "a"}));
    assert!(h.live.pointer("/metadata/managedFields").is_none());
    let conflict = h.try_apply("one", json!({"number": 3}), false);
    assert!(
        conflict
            .unwrap_err()
            .contains("\"before-first-apply\" using")
    );
}

#[test]
fn no_more_than_ten_updaters() {
    let mut h = History::new();
    for i in 0..20 {
        let map: serde_json::Map<_, _> = (0..=i).map(|k| (format!("k{k:02}"), json!(1))).collect();
        h.update(&format!("m{i:02}"), json!({"map": map}));
    }
    let all = Managers::decode(h.live.pointer("/metadata/managedFields")).unwrap();
    assert_eq!(all.0.len(), 10);
    let names: Vec<_> = all.0.keys().map(|id| id.manager.as_str()).collect();
    assert_eq!((names[0], names[1]), ("ancient-changes", "m11"));
    assert_eq!(
        h.owns("ancient-changes").len(),
        // Eleven keys, the map itself and what it is in.
        11 + 2
    );
}

#[test]
fn an_owner_follows_a_schema_that_became_atomic() {
    let of = |atomic: &str| {
        Type::of_kind(
            &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "m": {"type": "object", "x-kubernetes-map-type": atomic, "additionalProperties": {"type": "string"}}}}}}),
        )
    };
    let config = with(json!({"m": {"a": "1"}}));
    let (before, after) = (of("granular"), of("atomic"));
    let nothing = json!({"apiVersion": VERSION, "kind": "Thing"});
    let mut live = manager(&before, "", &NONE)
        .apply(&nothing, &config, "one", false)
        .unwrap();
    live["metadata"]["uid"] = "u".into();
    let other = with(json!({"m": {"b": "1"}}));
    let error = manager(&after, "", &NONE)
        .apply(&live, &other, "two", false)
        .unwrap_err();
    assert!(error.to_string().ends_with("\"one\": .spec.m"), "{error}");
}

#[test]
fn nothing_applied_twice_removes_what_is_left_over() {
    for (first, second) in [
        (json!({"map": {"a": 0}}), json!({"map": {}, "set": []})),
        (json!({"free": {"a": null}}), json!({"free": {}, "set": []})),
    ] {
        let mut h = History::new();
        h.apply("one", first).update("edit", second.clone());
        h.apply("two", json!({}));
        assert_eq!(*h.spec(), second);
        assert!(h.is_left_over());
        for spec in [json!(null), json!({}), json!({})] {
            h.apply("two", json!({}));
            assert_eq!(*h.spec(), spec);
            assert_eq!(h.owns("two"), [".spec"]);
            assert!(h.owns("edit").is_empty());
        }
    }
    // One thing in it, or an owner of the map, keeps it all.
    for (first, second) in [
        (json!({"map": {"a": 0}}), json!({"map": {}, "set": ["a"]})),
        (json!({"map": {}}), json!({"map": {}, "set": []})),
    ] {
        let mut h = History::new();
        h.apply("one", first).update("edit", second.clone());
        for _ in 0..3 {
            h.apply("two", json!({}));
            assert_eq!(*h.spec(), second);
        }
    }
}

fn arbitrary_spec() -> impl Strategy<Value = Value> {
    let word = || prop::sample::select(vec!["a", "b", "c"]);
    let words = move || prop::collection::btree_set(word(), 0..3);
    let map = move || prop::collection::btree_map(word(), 0..3i32, 0..3);
    let free = prop_oneof![
        Just(json!(null)),
        (0..3i32).prop_map(|n| json!(n)),
        words().prop_map(|w| json!(w)),
        map().prop_map(|m| json!(m)),
    ];
    let item = move || (word(), prop::option::of(word()));
    let list = prop::collection::vec(item(), 0..3).prop_map(|items| {
        let items: std::collections::BTreeMap<_, _> = items.into_iter().collect();
        let items = items.into_iter();
        let items = items.map(|(name, a)| match a {
            Some(a) => json!({"name": name, "a": a}),
            None => json!({"name": name}),
        });
        items.collect::<Vec<_>>()
    });
    let fields = (
        prop::option::of(map()),
        prop::option::of(words()),
        prop::option::of(list),
        prop::option::of(prop::collection::btree_map(word(), free, 0..3)),
    );
    fields.prop_map(|(map, set, list, free)| {
        let mut spec = json!({"map": map, "set": set, "list": list, "free": free});
        spec.as_object_mut().unwrap().retain(|_, v| !v.is_null());
        spec
    })
}

proptest! {
    #[test]
    fn applied_twice_is_applied_once(
        first in arbitrary_spec(), second in arbitrary_spec(), third in arbitrary_spec(),
    ) {
        let mut h = History::new();
        h.force("one", first).update("edit", second).force("two", third.clone());
        let left_over = third == json!({}) && h.is_left_over();
        let once = h.live.clone();
        h.apply("two", third.clone());
        if left_over {
            prop_assert_eq!(h.spec(), &Value::Null);
            h.apply("two", third.clone());
            prop_assert_eq!(h.spec(), &third);
        } else {
            prop_assert_eq!(&once, &h.live);
        }
        let settled = h.live.clone();
        h.apply("two", third);
        prop_assert_eq!(&settled, &h.live);
    }

    #[test]
    fn what_is_owned_survives_being_written(spec in arbitrary_spec()) {
        let of = thing();
        let set = super::compare::fields_of(&of, &with(spec));
        let read = FieldSet::from_json(&set.to_json()).unwrap();
        prop_assert_eq!(&set, &read);
        prop_assert!(set.paths().iter().all(|p| read.has(&p.0)));
        prop_assert!(set.difference(&read).is_empty());
        prop_assert_eq!(&set.union(&read), &set);
        prop_assert_eq!(&set.intersection(&read), &set);
    }

    #[test]
    fn any_bytes_are_read_or_refused(text in "\\PC{0,40}") {
        let _ = super::path::Element::decode(&text);
        let _ = FieldSet::from_json(&json!({text: {}}));
    }
}
