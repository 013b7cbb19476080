//! What is not there for a while, and what was never there.

use super::soak::minutes;
use super::traffic::{Ending, traffic};
use super::world::{NAMESPACE, ROLLED_BACK, WORKERS, World, counter, world};
use crate::aggregated::eventually;
use crate::parts::look::until;
use serde_json::json;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How soon everything works again.
pub const SOON: Duration = Duration::from_secs(60);
/// How long Kubernetes is away: longer than its answers are remembered for; and in `make soak`.
const AWAY: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(60)];

/// Kills all processes of a kind; which those were.
pub fn kill(w: &World, command: &str) -> Vec<String> {
    let before = w.processes(command);
    assert!(!before.is_empty(), "{command}");
    w.signal("-KILL", &before);
    before
}

/// Waits until there are as many others.
pub fn others(w: &World, command: &str, before: &[String]) {
    until(SOON, "others work", || {
        let now = w.processes(command);
        let others = now.iter().all(|pid| !before.contains(pid));
        (others && now.len() == before.len()).then_some(())
    });
}

/// Kills all processes of a kind while one actor is busy and one asleep, which wakes and sleeps again; requests of the busy one that
/// were not answered.
fn killed(w: &World, command: &str) -> Vec<String> {
    let (busy, sleeper) = (w.actor("busy"), w.actor("sleeper"));
    assert_eq!((busy.visit(), sleeper.visit()), ((1, 1), (1, 1)));
    sleeper.sleep();
    let over = AtomicBool::new(false);
    let failed = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| traffic(&busy, &over));
        // Also when something below fails.
        let ending = Ending(&over);
        let before = kill(w, command);
        let (memory, file) = until(SOON, "it wakes", || sleeper.try_visit().ok());
        // A GET whose answer did not arrive is sent again.
        assert!(memory > 1 && memory == file, "{memory} {file}");
        others(w, command, &before);
        until(SOON, "it sleeps", || sleeper.try_sleep().ok());
        until(SOON, "requests are answered", || busy.try_visit().ok());
        drop(ending);
        traffic.join().unwrap()
    });
    assert_eq!(busy.field(ROLLED_BACK), "");
    failed
}

#[test]
fn actors_go_on_when_the_api_servers_are_killed() {
    let w = world();
    // A request that a router was just asking them about may fail.
    killed(&w, "ate apiserver");
}

#[test]
fn actors_go_on_when_the_controllers_are_killed() {
    let w = world();
    assert_eq!(killed(&w, "ate controller"), [] as [&str; 0]);
}

#[test]
fn actors_go_on_when_the_store_is_killed() {
    let w = world();
    // Also a router that was not asked for this actor before says what is the matter.
    let failed = killed(&w, "valkey-server");
    let said = |error: &String| error.contains("the store is unavailable");
    assert!(failed.iter().all(said), "{failed:?}");
}

#[test]
fn actors_go_on_when_the_s3_server_is_killed() {
    let w = world();
    assert_eq!(killed(&w, "versitygw --port"), [] as [&str; 0]);
}

#[test]
fn requests_are_answered_again_when_the_routers_were_killed() {
    let w = world();
    killed(&w, "ate router");
}

/// How long Kubernetes is away in this run.
pub fn away() -> Duration {
    AWAY[usize::from(minutes().is_some())]
}

/// Kubernetes' processes, which stand still until this is dropped.
pub struct Frozen<'a>(&'a World, Vec<String>);

impl<'a> Frozen<'a> {
    pub fn new(w: &'a World) -> Self {
        let pids: Vec<_> = ["kube-apiserver --etcd-servers", "etcd --name"]
            .iter()
            .flat_map(|command| w.processes(command))
            .collect();
        assert_eq!(pids.len(), 2, "{pids:?}");
        let frozen = Frozen(w, pids);
        w.signal("-STOP", &frozen.1);
        frozen
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.signal("-CONT", &self.1);
    }
}

#[test]
fn actors_go_on_and_wake_while_kubernetes_is_silent() {
    let w = world();
    if w.left_out("it freezes kube-apiserver and etcd") {
        return;
    }
    let (awake, asleep) = (w.actor("awake"), w.actor("asleep"));
    assert_eq!((awake.visit(), asleep.visit()), ((1, 1), (1, 1)));
    asleep.sleep();
    let worker = awake.worker();
    let begun = Instant::now();
    let frozen = Frozen::new(&w);
    let mut before = 1;
    while begun.elapsed() < away() {
        let (memory, file) = awake.visit();
        assert!(memory > before && memory == file, "{memory} {file}");
        before = memory;
    }
    assert_eq!(asleep.visit(), (2, 2));
    drop(frozen);
    let log = eventually("Kubernetes is back", || {
        let since = format!("--since={}s", begun.elapsed().as_secs());
        w.try_kubectl_system(&["logs", "daemonset/atelet", &since])
            .ok()
    });
    // Which would have cost the node its lease in the end.
    assert!(!log.contains("does not take our report"), "{log}");
    assert_eq!(awake.worker(), worker);
    assert_eq!(awake.field(ROLLED_BACK), "");
    asleep.sleep();
    assert_eq!(asleep.visit(), (3, 3));
}

/// Makes the pool anew, for the tests that follow.
struct Pool<'a>(&'a World);

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        self.0.pool();
    }
}

#[test]
fn a_pool_that_is_deleted_takes_no_actor_along() {
    let w = world();
    let actor = w.actor("swimmer");
    assert_eq!(actor.visit(), (1, 1));
    let again = Pool(&w);
    w.kubectl(&["delete", "workerpool/pool"]);
    eventually("all workers are gone", || {
        let left = w.field("workers,pods", ".items[*].metadata.name");
        left.is_empty().then_some(())
    });
    assert_eq!(actor.field(".status.phase"), "Suspended");
    assert_eq!(actor.field(ROLLED_BACK), "");
    drop(again);
    w.settled();
    assert_eq!(actor.visit(), (2, 2));
}

#[test]
fn a_template_that_is_deleted_in_use_goes_with_its_actor() {
    let w = world();
    w.template("passing", &counter());
    w.wait("actortemplate/passing", "condition=Ready");
    let actor = w.actor_of("passing", "last");
    assert_eq!(actor.visit(), (1, 1));
    w.kubectl(&["delete", "actortemplate/passing", "--wait=false"]);
    w.wait("actortemplate/passing", "condition=DeletionBlocked");
    actor.sleep();
    assert_eq!(actor.visit(), (2, 2));
    drop(actor);
    w.wait("actortemplate/passing", "delete");
}

#[test]
fn an_image_that_cannot_be_had_is_said_and_holds_no_worker() {
    let w = world();
    // Nobody listens there.
    let image = format!("127.0.0.1:1/none@sha256:{}", "0".repeat(64));
    w.template("missing", &image);
    let said = eventually("it is said", || {
        let said = w.kubectl(&["describe", "actortemplate/missing"]);
        let events = said.split_once("Events:")?.1;
        events.contains("ImageUnavailable").then_some(said)
    });
    assert!(said.contains("127.0.0.1:1/none"), "{said}");
    w.settled();
    w.kubectl(&["delete", "actortemplate/missing"]);
}

#[test]
fn a_bucket_that_does_not_exist_is_said_and_holds_no_worker() {
    let w = world();
    let mut template = World::template_of("astray", &counter());
    template["spec"]["snapshotsConfig"] = json!({"location": "s3://nowhere/team"});
    w.apply(&template);
    let said = eventually("it is said", || {
        let said = w.kubectl(&["describe", "actortemplate/astray"]);
        said.contains("there is no such bucket").then_some(said)
    });
    assert!(said.contains("s3://nowhere/"), "{said}");
    w.settled();
    w.kubectl(&["delete", "actortemplate/astray"]);
}

/// Node agents with keys that the S3 server does not take, until this is dropped.
struct Refused<'a>(&'a World);

impl<'a> Refused<'a> {
    fn new(w: &'a World) -> Self {
        let refused = Refused(w);
        refused.set("AWS_SECRET_ACCESS_KEY=another");
        refused
    }

    /// Sets a variable of theirs, or takes it away, and waits until all have it so.
    fn set(&self, variable: &str) {
        self.0
            .kubectl_system(&["set", "env", "daemonset/atelet", variable]);
        let rollout = ["rollout", "status", "daemonset/atelet", "--timeout=120s"];
        self.0.kubectl_system(&rollout);
    }
}

impl Drop for Refused<'_> {
    fn drop(&mut self) {
        self.set("AWS_SECRET_ACCESS_KEY-");
    }
}

#[test]
fn keys_that_the_s3_server_refuses_are_said_and_lose_nothing() {
    let w = world();
    let actor = w.actor("keyless");
    assert_eq!(actor.visit(), (1, 1));
    let refused = Refused::new(&w);
    let said = actor.try_sleep().unwrap_err();
    assert!(said.contains("SignatureDoesNotMatch"), "{said}");
    assert_eq!(actor.field(".status.phase"), "Paused");
    assert_eq!(actor.visit(), (2, 2));
    drop(refused);
    actor.sleep();
    assert_eq!(actor.visit(), (3, 3));
    assert_eq!(actor.field(ROLLED_BACK), "");
}

/// A pool of one worker with little memory, and a template for it; both go with this.
struct Narrow<'a>(&'a World);

impl<'a> Narrow<'a> {
    fn new(w: &'a World) -> Self {
        let narrow = Narrow(w);
        w.apply(&json!({
            "apiVersion": "ate.dev/v1alpha1", "kind": "WorkerPool",
            "metadata": {"name": "narrow", "namespace": NAMESPACE},
            "spec": {"replicas": 1, "template": {"resources": {"limits": {"memory": "256Mi"}}}},
        }));
        let mut template = World::template_of("narrow", &counter());
        template["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "96Mi"}});
        template["spec"]["workerPoolRef"] = json!({"name": "narrow", "namespace": NAMESPACE});
        w.apply(&template);
        w.wait("actortemplate/narrow", "condition=Ready");
        narrow
    }
}

impl Drop for Narrow<'_> {
    fn drop(&mut self) {
        self.0
            .kubectl(&["delete", "actortemplate/narrow", "workerpool/narrow"]);
    }
}

#[test]
fn an_actor_that_takes_more_memory_than_it_may_goes_back_to_its_snapshot_and_its_worker_stays() {
    let w = world();
    let narrow = Narrow::new(&w);
    let actor = w.actor_of("narrow", "greedy");
    assert_eq!(actor.visit(), (1, 1));
    actor.sleep();
    assert_eq!(actor.visit(), (2, 2));
    let worker = actor.worker();
    let failed = actor.get("/mem?mb=512").unwrap_err();
    eventually("it is noticed", || {
        (actor.field(ROLLED_BACK) == "True").then_some(())
    });
    let rolled_back = |what: &str| {
        let path = format!(".status.conditions[?(@.type==\"RolledBack\")].{what}");
        actor.field(&path)
    };
    assert_eq!(rolled_back("reason"), "OOMKilled");
    let message = rolled_back("message");
    assert!(message.contains("96Mi"), "{message}");
    let again = until(SOON, "it is back", || actor.try_visit().ok());
    assert!(
        again.0 >= 2 && again.0 == again.1,
        "{again:?} after {failed}"
    );
    assert_eq!(actor.worker(), worker, "what was killed is the sandbox");
    drop(actor);
    drop(narrow);
}

#[test]
fn evicted_pods_let_their_actors_go_to_sleep_and_one_goes_at_a_time() {
    let w = world();
    let actor = w.actor("moved");
    assert_eq!(actor.visit(), (1, 1));
    let pods: Vec<_> = w.free().into_iter().map(|(name, _)| name).collect();
    let pods = [pods, vec![actor.worker()]].concat();
    assert_eq!(pods.len(), WORKERS);
    let evict = |pod: &str| {
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE},
        });
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction");
        w.post(&path, &eviction)
    };
    let evict = &evict;
    let first: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = pods
            .iter()
            .map(|pod| scope.spawn(move || evict(pod)))
            .collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let refused: Vec<_> = first.iter().filter_map(|r| r.as_ref().err()).collect();
    assert_eq!(refused.len(), 1, "{first:?}");
    assert!(refused[0].contains("disruption budget"), "{first:?}");
    let mut before = 1;
    eventually("both are gone", || {
        let (memory, file) = actor.visit();
        assert!(memory > before && memory == file, "nothing is lost");
        before = memory;
        let left = w.field("pods", ".items[*].metadata.name");
        let left: Vec<_> = pods.iter().filter(|pod| left.contains(*pod)).collect();
        for pod in &left {
            // Not yet, or already.
            let _ = evict(pod);
        }
        left.is_empty().then_some(())
    });
    assert_eq!(actor.field(ROLLED_BACK), "");
}
