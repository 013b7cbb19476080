//! The store: restarted, with lost writes, full, slow, away. Clients are told what is wrong, and everything goes on when it
//! is over, without a restart of ours.

use super::direct::{Answer, Direct};
use super::faults::{assert_followed, beside_writers, through_kubernetes};
use super::follow::{Follower, Written};
use super::harness::{ACTORS, Cluster, Namespace, actor, alone_first, shared};
use super::own::{OWN, Own};
use crate::parts::look;
use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Longest time that a request waits for a store that says nothing.
const BOUND: Duration = Duration::from_secs(20);
/// How soon after the fault everybody is served again.
const SOON: Duration = Duration::from_secs(30);
/// A watch that hears nothing of the store ends by then.
const SILENT: Duration = Duration::from_secs(30);

/// A test's own store and replicas, a namespace, and somebody who follows its actors at each replica.
struct Scene {
    own: Own,
    ns: Namespace,
    direct: Direct,
    urls: Vec<String>,
    followers: Vec<Follower>,
}

impl Scene {
    fn new(prefix: &str) -> Self {
        Self::on(Own::start(prefix), prefix)
    }

    fn on(own: Own, prefix: &str) -> Self {
        let ns = own.cluster().namespace(prefix);
        let urls: Vec<_> = own
            .urls()
            .into_iter()
            .map(|root| format!("{root}{}", ns.actors()))
            .collect();
        let mut scene = Self {
            direct: own.admin(),
            followers: vec![],
            own,
            ns,
            urls,
        };
        let follow = |n| Follower::start(scene.own.admin(), scene.urls.clone(), n);
        scene.followers = (0..OWN).map(follow).collect();
        scene
    }

    fn create(&self, replica: usize, name: &str) -> Answer {
        let url = &self.urls[replica];
        self.direct
            .send(Method::POST, url, "application/json", actor(name))
    }

    /// Creates an actor; its version.
    #[track_caller]
    fn created(&self, replica: usize, name: &str) -> u64 {
        let made = self.create(replica, name);
        assert_eq!(made.code, 201, "{}", made.text);
        version(&made.body)
    }

    /// Waits until both followers have seen more.
    fn goes_on(&self, by: usize) {
        let count = |f: &Follower| f.seen().versions.len();
        let before: Vec<_> = self.followers.iter().map(count).collect();
        look::until(SOON, "writes and watches go on", || {
            let mut all = self.followers.iter().zip(&before);
            all.all(|(f, before)| count(f) >= before + by).then_some(())
        });
    }

    /// Everybody knows of what is written now, and nobody was told anything wrong.
    fn ends_well(&self, written: &[Written]) {
        for url in &self.urls {
            assert_followed(&self.direct, url, &self.followers, written);
        }
        for refused in written.iter().flat_map(|w| &w.refused) {
            unavailable(refused.0, &refused.1, "the store is unavailable: it ");
        }
    }
}

fn version(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.unwrap().parse().unwrap()
}

/// 503, in words that say why.
#[track_caller]
fn unavailable(code: u16, status: &Value, why: &str) {
    assert_eq!(code, 503, "{status}");
    assert_eq!(status["kind"], "Status", "{status}");
    assert_eq!(status["reason"], "ServiceUnavailable", "{status}");
    assert_eq!(status["details"]["retryAfterSeconds"], 1, "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains(why), "{message}");
}

/// What does not need the store is served as ever.
#[track_caller]
fn the_rest_is_served(direct: &Direct, root: &str) {
    for path in [
        "/readyz",
        "/apis",
        "/apis/runtime.ate.dev/v1alpha1",
        "/openapi/v2",
        "/openapi/v3",
    ] {
        let began = Instant::now();
        let answer = direct.get(&format!("{root}{path}"));
        assert_eq!(answer.code, 200, "{path}: {}", answer.text);
        assert!(began.elapsed() < BOUND, "{path}");
    }
}

#[test]
fn a_store_that_is_restarted_has_all_that_was_acknowledged() {
    let s = Scene::new("restart");
    let written = beside_writers(&s.direct, &s.urls, 4, || {
        for _ in 0..3 {
            s.goes_on(40);
            s.own.kill_store();
            s.own.start_store();
            s.goes_on(20);
        }
    });
    s.ends_well(&written);
    // Stamps that no durable write had may be lost while the disk is busy; then that is said, and only then.
    let said = |what: &str| (0..OWN).any(|n| s.own.log(n).contains(what));
    if s.followers.iter().any(|f| f.seen().gone > 0) {
        assert!(said("a version is too old"), "without a word");
        assert!(
            said("the store lost writes; "),
            "nothing was lost, so nothing expired"
        );
    }
}

/// Writes that will be lost; the newest version that anybody saw of them.
fn doomed(s: &Scene) -> u64 {
    let last = (0..20)
        .map(|n| s.created(n % OWN, &format!("lost{n}")))
        .last();
    s.followers.iter().for_each(|f| f.knows(SOON, "lost19"));
    last.unwrap()
}

/// After writes were lost: nobody takes the past for the present, and versions go on from the highest that was seen.
fn lost_is_told(s: &Scene, kept: u64, lost: u64) {
    for follower in &s.followers {
        look::until(SOON, "who watches is told", || {
            (follower.seen().gone > 0).then_some(())
        });
    }
    for url in &s.urls {
        let next = s.direct.get(url);
        assert!(version(&next.body) > lost, "versions rewound");
        for old in [kept, lost] {
            let watch = format!("{url}?watch=1&timeoutSeconds=1&resourceVersion={old}");
            let told = s.direct.get(&watch);
            assert_eq!(
                (told.code, &told.body["reason"]),
                (410, &json!("Expired")),
                "{}",
                told.text
            );
            let exact = format!("{url}?resourceVersionMatch=Exact&resourceVersion={old}");
            assert_eq!(s.direct.get(&exact).code, 410);
        }
        let gone = s.direct.get(&format!("{url}/lost3"));
        assert_eq!(gone.code, 404, "{}", gone.text);
    }
    assert!(s.created(0, "next") > lost);
    assert_eq!(
        s.own.ask(&["HGET", "{ate}:meta", "incarnation"]).trim(),
        "2"
    );
    let told = |n| s.own.log(n).contains("the store lost writes; ");
    assert!((0..OWN).any(told), "it is in the log");
    s.ends_well(&[]);
    for follower in &s.followers {
        let seen = follower.seen();
        assert!(seen.state.contains_key("kept") && !seen.state.contains_key("lost3"));
    }
}

#[test]
fn check_14_a_store_restored_from_older_files_is_noticed() {
    let s = Scene::new("older");
    let dir = tempfile::tempdir().unwrap();
    let older = dir.path().join("older");
    let kept = s.created(0, "kept");
    s.own.copy_store(&older);
    let lost = doomed(&s);
    s.own.kill_store();
    s.own.restore_store(&older);
    s.own.start_store();
    lost_is_told(&s, kept, lost);
}

#[test]
fn check_14_a_copy_that_lagged_is_promoted_and_that_is_noticed() {
    let s = Scene::new("lagging");
    let copy = s.own.lagging();
    let kept = s.created(0, "kept");
    s.own.caught_up(&copy);
    copy.cut_off();
    let lost = doomed(&s);
    s.own.kill_store();
    s.own.promote(copy);
    lost_is_told(&s, kept, lost);
}

#[test]
fn a_full_store_says_so_and_everything_else_goes_on() {
    let s = Scene::new("full");
    for name in ["a", "b"] {
        s.created(0, name);
    }
    s.own.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    for url in &s.urls {
        let full = "its memory is full";
        let refused = s
            .direct
            .send(Method::POST, url, "application/json", actor("c"));
        unavailable(refused.code, &refused.body, full);
        let patch = json!({"metadata": {"labels": {"x": "y"}}}).to_string();
        let kind = "application/merge-patch+json";
        let refused = s
            .direct
            .send(Method::PATCH, &format!("{url}/a"), kind, patch);
        unavailable(refused.code, &refused.body, full);
        let list = s.direct.get(url);
        assert_eq!(list.code, 200, "{}", list.text);
        assert_eq!(s.direct.get(&format!("{url}/a")).code, 200);
        let page = s.direct.get(&format!("{url}?limit=1"));
        let token = page.body["metadata"]["continue"].as_str().unwrap();
        assert_eq!(
            s.direct
                .get(&format!("{url}?limit=1&continue={token}"))
                .code,
            200
        );
        let watch = format!("{url}?watch=1&timeoutSeconds=1");
        let watched = s.direct.get(&watch);
        assert!(
            watched.code == 200 && watched.text.contains("ADDED"),
            "{}",
            watched.text
        );
    }
    // Room can be made.
    let deleted = s.direct.send(
        Method::DELETE,
        &format!("{}/b", s.urls[1]),
        "application/json",
        "",
    );
    assert_eq!(deleted.code, 200, "{}", deleted.text);
    for follower in &s.followers {
        look::until(SOON, "b is gone", || {
            (!follower.seen().state.contains_key("b")).then_some(())
        });
    }
    s.own.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    s.created(0, "c");
    s.ends_well(&[]);
    assert!(
        s.followers.iter().all(|f| f.seen().ends == 0),
        "no watch ended"
    );
}

#[test]
fn a_store_that_says_nothing_is_waited_for_within_bounds() {
    let s = Scene::new("slow");
    s.created(0, "a");
    // So short that nobody need know.
    s.own.ask(&["CLIENT", "PAUSE", "1500", "ALL"]);
    s.created(1, "b");

    s.own.signal_store(Signal::SIGSTOP);
    let why = "it does not answer in time";
    std::thread::scope(|scope| {
        for url in &s.urls {
            for (method, path, body) in [
                (Method::GET, "", String::new()),
                (Method::GET, "/a", String::new()),
                (Method::GET, "?watch=1", String::new()),
                (Method::POST, "", actor("c")),
                (Method::DELETE, "/a", String::new()),
            ] {
                let s = &s;
                scope.spawn(move || {
                    let began = Instant::now();
                    let url = format!("{url}{path}");
                    let answer = s
                        .direct
                        .send(method.clone(), &url, "application/json", body);
                    assert!(
                        began.elapsed() < BOUND,
                        "{method} {url}: {:?}",
                        began.elapsed()
                    );
                    unavailable(answer.code, &answer.body, why);
                });
            }
        }
        s.own
            .urls()
            .iter()
            .for_each(|root| the_rest_is_served(&s.direct, root));
    });
    s.own.signal_store(Signal::SIGCONT);
    look::until(SOON, "it goes on", || {
        (s.create(0, "d").code == 201).then_some(())
    });
    s.ends_well(&[]);
}

#[test]
fn replicas_start_without_the_store_and_bear_its_absence() {
    let own = Own::stopped(shared(), "absent");
    own.start_replicas();
    let direct = own.admin();
    let away = |root: &str| {
        the_rest_is_served(&direct, root);
        let answer = direct.get(&format!("{root}{ACTORS}/default/actors"));
        unavailable(answer.code, &answer.body, "it cannot be reached");
    };
    own.urls().iter().for_each(|root| away(root));
    own.start_store();
    for root in own.urls() {
        look::until(SOON, "the store is used", || {
            (direct.get(&format!("{root}{ACTORS}/default/actors")).code == 200).then_some(())
        });
    }
    let s = Scene::on(own, "absent");
    s.created(0, "a");
    s.own.kill_store();
    s.own.urls().iter().for_each(|root| away(root));
    for follower in &s.followers {
        look::until(SILENT, "watches end", || {
            (follower.seen().ends > 0).then_some(())
        });
    }
    s.own.urls().iter().for_each(|root| away(root));
    s.own.start_store();
    look::until(SOON, "it goes on", || {
        (s.create(1, "b").code == 201).then_some(())
    });
    s.ends_well(&[]);
    drop(s.ns);
}

/// How long the cluster's store is away.
const AWAY: Duration = Duration::from_secs(60);

fn available(c: &Cluster) -> String {
    let path = r#".status.conditions[?(@.type=="Available")].status"#;
    c.field("", "apiservice/v1alpha1.runtime.ate.dev", path)
}

/// The API stays available to the cluster, and what has nothing to do with actors goes on.
#[test]
fn a_cluster_bears_a_minute_without_the_store() {
    let c = alone_first();
    let (ns, unrelated) = (c.0.namespace("away"), c.0.namespace("unrelated"));
    ns.actor("a");
    unrelated.kubectl(&["create", "configmap", "content"]);
    let (direct, url, followers) = through_kubernetes(&c, &ns, 4);
    let inhabited = c.0.namespace("inhabited");
    inhabited.actor("a");
    inhabited.kubectl(&["create", "configmap", "content"]);
    c.kill_store();
    let gone = Instant::now();
    for namespace in [&unrelated, &inhabited] {
        c.kubectl(&["delete", "namespace", &namespace.1, "--wait=false"]);
    }
    while gone.elapsed() < AWAY {
        assert_eq!(available(&c), "True");
        for path in [
            "/apis/runtime.ate.dev/v1alpha1",
            "/openapi/v3/apis/runtime.ate.dev/v1alpha1",
        ] {
            let answer = direct.get(&format!("{}{path}", c.kubernetes()));
            assert_eq!(answer.code, 200, "{path}: {}", answer.text);
        }
        let answer = direct.get(&url);
        unavailable(answer.code, &answer.body, "it cannot be reached");
        let refused = direct.send(Method::POST, &url, "application/json", actor("b"));
        unavailable(refused.code, &refused.body, "it cannot be reached");
        std::thread::sleep(look::LOOK);
    }
    let said = ns.try_kubectl(&["get", "actors"]).unwrap_err();
    assert!(said.contains("the store is unavailable"), "{said}");
    let left = |namespace: &Namespace| c.try_kubectl(&["get", "namespace", &namespace.1]);
    assert!(left(&unrelated).is_err(), "one without actors goes");
    assert!(left(&inhabited).is_ok(), "one with actors waits for them");
    let content = inhabited.try_kubectl(&["get", "configmap", "content"]);
    assert!(content.is_err(), "what is not actors goes");
    assert!(followers.iter().all(|f| f.seen().ends > 0), "watches ended");
    c.start_store();
    look::until(SOON, "the API is back", || {
        (direct.get(&url).code == 200).then_some(())
    });
    assert_followed(&direct, &url, &followers, &[]);
    let path = format!("namespace/{}", inhabited.1);
    c.kubectl(&["wait", "--for=delete", &path, "--timeout=100s"]);
}
