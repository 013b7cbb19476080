//! Watches that begin at a version, break, and go on; the two doors to one room.

use super::direct::Direct;
use super::goclient::Go;
use super::harness::{
    Alone, Cluster, Namespace, REPLICAS, actor, alone, alone_first, eventually, shared,
};
use super::teams::{call, team};
use crate::parts::look;
use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

fn list(direct: &Direct, c: &Cluster, ns: &Namespace) -> Value {
    let list = direct.get(&format!("{}{}", c.replica(0), ns.actors()));
    assert_eq!(list.code, 200, "{}", list.text);
    list.body
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

#[test]
fn check_11_a_watch_goes_on_after_its_list() {
    let c = shared();
    let ns = c.0.namespace("after");
    let direct = Direct::proxy(&c).by_admin();
    let label = |name: &str, value: &str| {
        let patch = json!({"metadata": {"labels": {"n": value}}});
        ns.kubectl(&[
            "patch",
            "actor",
            name,
            "--type=merge",
            "-p",
            &patch.to_string(),
        ]);
    };
    for name in ["a", "b", "c"] {
        ns.actor(name);
        label(name, "old");
    }
    let list = list(&direct, &c, &ns);
    // Written before the watch begins, and while it lasts.
    label("b", "new");
    let mut go = Go::start(&c, &ns, &["watch", "-rv", version(&list)]);
    assert_eq!(go.next()["watching"], true);
    label("a", "new");
    ns.actor("d");
    ns.kubectl(&["delete", "actor", "c"]);
    ns.actor("last");
    let mut events = vec![];
    while events.last().is_none_or(|(name, _)| name != "last") {
        let said = go.next();
        let text = |key: &str| {
            said[key]
                .as_str()
                .unwrap_or_else(|| panic!("{said}"))
                .to_owned()
        };
        events.push((text("name"), text("event")));
    }
    let once = [("b", "MODIFIED"), ("a", "MODIFIED"), ("d", "ADDED")];
    let shown: Vec<_> = events
        .iter()
        .map(|(name, event)| (&name[..], &event[..]))
        .collect();
    assert_eq!(shown[..3], once);
    // Its deletion was marked, then done.
    let rest: Vec<_> = shown[3..]
        .iter()
        .filter(|e| **e != ("c", "MODIFIED"))
        .copied()
        .collect();
    assert_eq!(rest, [("c", "DELETED"), ("last", "ADDED")]);
    let versions: Vec<u64> = go.said[1..]
        .iter()
        .map(|e| e["rv"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
}

/// Actors, and how often each is written.
const ACTORS: usize = 200;
const WRITES: usize = 50;
const AT_ONCE: usize = 32;

/// Creates an actor and labels it with 1, 2, ..., at one replica after another; a write whose answer is lost is made again.
async fn writes(c: &Cluster, direct: &Direct, path: &str, n: usize, done: &AtomicUsize) {
    let name = format!("w{n:03}");
    for write in 0..WRITES {
        let labels = json!({"n": write.to_string()});
        let mut object: Value = serde_json::from_str(&actor(&name)).unwrap();
        object["metadata"]["labels"] = labels.clone();
        let patch = json!({"metadata": {"labels": labels}});
        let began = Instant::now();
        for attempt in n + write.. {
            let url = format!("{}{path}", c.replica(attempt % REPLICAS));
            let request = match write {
                0 => direct
                    .request(Method::POST, &url)
                    .header("content-type", "application/json")
                    .body(object.to_string()),
                _ => direct
                    .request(Method::PATCH, &format!("{url}/{name}"))
                    .header("content-type", "application/merge-patch+json")
                    .body(patch.to_string()),
            };
            match request.send().await.map(|r| r.status().as_u16()) {
                Ok(200 | 201) => break,
                Ok(409) if write == 0 && attempt > n => break,
                Err(_) | Ok(429 | 503) => {}
                Ok(other) => panic!("{name} {write}: {other}"),
            }
            assert!(began.elapsed() < super::harness::PATIENCE, "{name} {write}");
            tokio::time::sleep(look::LOOK).await;
        }
        done.fetch_add(1, Relaxed);
    }
}

/// What a watcher saw so far.
#[derive(Default)]
struct Saw {
    /// The next write of each actor.
    next: BTreeMap<String, usize>,
    events: usize,
    last: u64,
}

impl Saw {
    /// Each write of an actor once, in order; versions only rise.
    #[track_caller]
    fn see(&mut self, event: &Value) {
        let text = |value: &Value| {
            value
                .as_str()
                .unwrap_or_else(|| panic!("{event}"))
                .to_owned()
        };
        let next = self.next.entry(text(&event["name"])).or_default();
        let write: usize = text(&event["labels"]["n"]).parse().unwrap();
        assert_eq!(write, *next, "missed or doubled: {event}");
        assert_eq!(
            event["event"],
            if write == 0 { "ADDED" } else { "MODIFIED" }
        );
        let version = text(&event["rv"]).parse().unwrap();
        assert!(version > self.last, "{event} after {}", self.last);
        (self.last, *next) = (version, write + 1);
        self.events += 1;
    }
}

#[test]
fn check_12_no_watcher_misses_or_doubles_a_write() {
    const WATCHERS: usize = 3;
    let c = alone_first();
    let ns = c.0.namespace("resume");
    let direct = Direct::proxy(&c).by_admin();
    let from = list(&direct, &c, &ns);
    let watchers = WATCHERS.to_string();
    let args = [
        "resume",
        "-rv",
        version(&from),
        "-watchers",
        &watchers,
        "-retrying",
        "1",
    ];
    let mut go = Go::start(&c, &ns, &args);
    assert_eq!(go.next()["watching"], true);
    let done = AtomicUsize::new(0);
    let saw = std::thread::scope(|s| {
        s.spawn(|| {
            let path = ns.actors();
            let all = (0..ACTORS).map(|n| writes(&c, &direct, &path, n, &done));
            let all = futures::stream::iter(all).buffer_unordered(AT_ONCE);
            direct.runtime.block_on(all.collect::<()>());
        });
        s.spawn(|| {
            for (replica, quarter) in [(1, 1), (0, 2)] {
                let written = || done.load(Relaxed) >= ACTORS * WRITES / 4 * quarter;
                eventually("writes", || written().then_some(()));
                c.kill_replica(replica);
                c.start_replica(replica);
            }
        });
        let mut saw: Vec<Saw> = (0..WATCHERS).map(|_| Saw::default()).collect();
        while saw.iter().any(|w| w.events < ACTORS * WRITES) {
            let event = go.next();
            let watcher = event["watcher"]
                .as_u64()
                .unwrap_or_else(|| panic!("{event}"));
            saw[usize::try_from(watcher).unwrap()].see(&event);
        }
        saw
    });
    assert!(saw.iter().all(|w| w.next.values().all(|n| *n == WRITES)));
    // Nothing follows the last write but what is written next.
    ns.actor("end");
    for _ in 0..WATCHERS {
        assert_eq!(go.next()["name"], "end");
    }
    let restarts = go.end()["restarts"].as_u64().unwrap();
    assert!(restarts > 100, "{restarts}");
}

/// Resident kilobytes and sockets of a replica.
fn footprint(c: &Cluster, replica: usize) -> (u64, usize) {
    let proc = format!("/proc/{}", c.replica_pid(replica));
    let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let resident = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let files = std::fs::read_dir(format!("{proc}/fd")).unwrap();
    let links = files.filter_map(|f| std::fs::read_link(f.ok()?.path()).ok());
    let sockets = links.filter(|l| l.to_string_lossy().starts_with("socket:"));
    (resident, sockets.count())
}

/// Watches that come and go: through kube-apiserver on its one connection, and each on a connection of its own.
fn reconnects(c: &Alone, ns: &Namespace, times: usize) {
    let go = Go::start(c, ns, &["reconnect", "-times", &times.to_string()]);
    assert_eq!(go.end()["end"], true);
    for n in 0..times {
        let direct = Direct::proxy(c).by_admin();
        let url = format!("{}{}?watch=1", c.replica(n % REPLICAS), ns.actors());
        direct.runtime.block_on(async {
            let response = direct.request(Method::GET, &url).send().await.unwrap();
            let first = response.bytes_stream().next().await.unwrap().unwrap();
            assert!(first.starts_with(br#"{"type":"ADDED""#));
        });
    }
}

#[test]
fn check_44_watches_that_come_and_go_leave_nothing() {
    /// What of each watch stays would add up to more in every round; what else goes on grows in some.
    const KILOBYTES: u64 = 512;
    const SOCKETS: usize = 2;
    const ROUNDS: usize = 6;
    let c = alone();
    let ns = c.0.namespace("reconnect");
    ns.actor("a");
    reconnects(&c, &ns, 50);
    let look = || (0..REPLICAS).map(|n| footprint(&c, n)).collect::<Vec<_>>();
    let mut seen = vec![look()];
    let flat = |seen: &[Vec<(u64, usize)>], n: usize| {
        let mut rounds = seen.windows(2).map(|round| (round[0][n], round[1][n]));
        rounds.any(|(a, b)| b.0 <= a.0 + KILOBYTES && b.1 <= a.1 + SOCKETS)
    };
    while !(0..REPLICAS).all(|n| flat(&seen, n)) {
        assert!(seen.len() <= ROUNDS, "(kilobytes, sockets) grow: {seen:?}");
        reconnects(&c, &ns, 200);
        // Connections are closed a moment after their clients left.
        let before = seen.last().unwrap().clone();
        eventually("sockets are closed", || {
            let few = |(now, before): ((u64, usize), &(u64, usize))| now.1 <= before.1 + SOCKETS;
            look().into_iter().zip(&before).all(few).then_some(())
        });
        seen.push(look());
    }
}

/// What one door writes, the other's clients see at once, whatever replica they are at.
#[test]
fn grpc_and_rest_are_doors_to_one_room() {
    /// At once, on a machine that is busy with tests.
    const AT_ONCE: Duration = Duration::from_secs(2);
    let c = shared();
    let team = team(&c, "room");
    let ns = &team.namespace;
    ns.template();
    let from = list(&Direct::proxy(&c).by_admin(), &c, ns);
    let mut go = Go::start(&c, ns, &["watch", "-rv", version(&from)]);
    assert_eq!(go.next()["watching"], true);
    let grpc = |method: &str, request: Value| call(&c, Some(&team.token), method, &request);
    let flat = format!("room-{:08x}", rand::random::<u32>());
    let create = json!({"actor_id": flat, "actor_template_namespace": ns.1, "actor_template_name": "counter"});
    eventually("the team may create at home", || {
        grpc("CreateActor", create.clone()).ok()
    });
    let mut sees = |event: &str| {
        let said = go
            .next_within(AT_ONCE)
            .unwrap_or_else(|| panic!("no {event} in time"));
        assert_eq!(
            (&said["event"], &said["name"]),
            (&json!(event), &json!(flat)),
            "{said}"
        );
    };
    sees("ADDED");
    let selector = json!({"match_labels": {"disk": "fast"}});
    grpc(
        "UpdateActor",
        json!({"actor_id": flat, "worker_selector": selector}),
    )
    .unwrap();
    sees("MODIFIED");
    let path = ".spec.workerSelector.matchLabels.disk";
    assert_eq!(ns.field(&format!("actor/{flat}"), path), "fast");

    // The other way round: REST writes, gRPC reads.
    let patch = r#"{"spec": {"workerSelector": {"matchLabels": {"disk": "slow"}}}}"#;
    ns.kubectl(&["patch", "actor", &flat, "--type=merge", "-p", patch]);
    sees("MODIFIED");
    let read = grpc("GetActor", json!({"actor_id": flat})).unwrap();
    assert_eq!(
        read["actor"]["workerSelector"]["matchLabels"]["disk"],
        "slow"
    );
    ns.actor("rest");
    let long = json!({"actor_id": format!("rest.{}", ns.1)});
    assert_eq!(
        grpc("GetActor", long.clone()).unwrap()["actor"]["actorTemplateName"],
        "counter"
    );
    assert_eq!(go.event("rest")["event"], "ADDED");
    grpc("DeleteActor", long.clone()).unwrap();
    while go.event("rest")["event"] != "DELETED" {}
    assert!(
        ns.try_kubectl(&["get", "actor", "rest"])
            .unwrap_err()
            .contains("(NotFound)")
    );
    ns.kubectl(&["delete", "actor", &flat]);
    let gone = grpc("GetActor", json!({"actor_id": flat})).unwrap_err();
    assert!(gone.contains("NotFound"), "{gone}");
}
