//! Faults in random order under traffic, and rest afterwards. `make soak` goes on with it for long; otherwise two faults show that
//! it works.

use super::outages::{Frozen, SOON, away, kill, others};
use super::traffic::Ending;
use super::world::{Actor, ROLLED_BACK, WORKERS, World, world};
use crate::parts::look::{LOOK, until};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Faults where nobody wants more.
const FEW: usize = 2;
/// So many requests between two suspends of the busy actor.
const COURSE: u64 = 40;
/// How long nothing may be written after a soak, and otherwise.
const REST: [Duration; 2] = [Duration::from_secs(600), Duration::from_secs(3)];
/// How soon there is rest at all.
const CALM: Duration = Duration::from_secs(120);
/// What we write in Kubernetes, but for leases, which must be renewed, and for pods, which are written by others too.
const OURS: &str = "actors,workers,actortemplates,workerpools,deployments,statefulsets,daemonsets,poddisruptionbudgets,services,secrets,\
    configmaps,apiservices,customresourcedefinitions,validatingwebhookconfigurations,mutatingwebhookconfigurations";

/// How long `make soak` wants it.
pub fn minutes() -> Option<u64> {
    let minutes = std::env::var("SOAK_MINUTES").ok()?;
    Some(minutes.parse().expect("SOAK_MINUTES is a number"))
}

/// What happens, and what it is called.
type Fault = (&'static str, fn(&World));

const FAULTS: &[Fault] = &[
    ("API servers killed", |w| killed(w, "ate apiserver")),
    ("controllers killed", |w| killed(w, "ate controller")),
    ("routers killed", |w| killed(w, "ate router")),
    ("node agent killed", |w| {
        killed(w, "ate atelet --slots=pods")
    }),
    ("store killed", |w| killed(w, "valkey-server")),
    ("S3 server killed", |w| killed(w, "versitygw --port")),
    ("workers killed", |w| killed(w, "ate ateom")),
    ("API servers replaced", |w| {
        replaced(w, "deployment/ate-api-server")
    }),
    ("controllers replaced", |w| {
        replaced(w, "deployment/ate-controller")
    }),
    ("routers replaced", |w| {
        replaced(w, "deployment/atenet-router")
    }),
    ("node agent replaced", |w| replaced(w, "daemonset/atelet")),
    ("workers' pods deleted", |w| {
        w.kubectl(&["delete", "pods", "-l", "ate.dev/worker-pool"]);
    }),
    ("pool of none and of all again", |w| {
        w.kubectl(&["scale", "workerpool/pool", "--replicas=0"]);
        until(SOON, "all workers are gone", || {
            w.field("workers", ".items[*].metadata.name")
                .is_empty()
                .then_some(())
        });
        w.kubectl(&["scale", "workerpool/pool", &format!("--replicas={WORKERS}")]);
    }),
    // Where it may be done: the last.
    SILENT,
];

const SILENT: Fault = ("Kubernetes silent", |w| {
    let frozen = Frozen::new(w);
    std::thread::sleep(away());
    drop(frozen);
    until(SOON, "Kubernetes is back", || {
        w.try_kubectl_system(&["get", "pods"]).ok()
    });
});

fn killed(w: &World, command: &str) {
    let before = kill(w, command);
    others(w, command, &before);
}

fn replaced(w: &World, what: &str) {
    w.kubectl_system(&["rollout", "restart", what]);
    w.kubectl_system(&["rollout", "status", what, "--timeout=120s"]);
}

/// What became of requests.
#[derive(Default)]
struct Course {
    answered: AtomicU64,
    /// Those that were sent again.
    again: AtomicU64,
    /// How often the actor was back at its last suspend, which it says.
    back: AtomicU64,
}

impl Course {
    /// Visits until `over`, with a suspend now and then. What was suspended is never lost.
    fn run(&self, actor: &Actor<'_>, over: &AtomicBool) {
        let (mut last, mut durable) = (0, 0);
        while !over.load(Relaxed) {
            let Ok((memory, file)) = actor.try_visit() else {
                self.again.fetch_add(1, Relaxed);
                std::thread::sleep(LOOK);
                continue;
            };
            assert_eq!(memory, file);
            assert!(memory > durable, "{memory}, and {durable} was suspended");
            if memory <= last {
                assert_eq!(actor.field(ROLLED_BACK), "True", "{memory} after {last}");
                self.back.fetch_add(1, Relaxed);
            }
            last = memory;
            let answered = self.answered.fetch_add(1, Relaxed);
            if answered % COURSE == COURSE - 1 && actor.try_sleep().is_ok() {
                durable = last;
            }
        }
    }
}

#[test]
fn faults_in_random_order_lose_nothing_and_leave_nothing_to_do() {
    let w = world();
    let (minutes, begun) = (minutes(), Instant::now());
    let seed = match std::env::var("SOAK_SEED") {
        Ok(seed) => seed.parse().expect("SOAK_SEED is a number"),
        Err(_) => minutes.map_or(0, |_| rand::random()),
    };
    println!("soak: SOAK_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let left_out = w.left_out("soak's fault which freezes kube-apiserver and etcd");
    let faults = &FAULTS[..FAULTS.len() - usize::from(left_out)];
    let (busy, sleeper) = (w.actor("busy"), w.actor("sleeper"));
    assert_eq!(sleeper.visit(), (1, 1));
    let (over, course, mut done) = (AtomicBool::new(false), Course::default(), vec![]);
    std::thread::scope(|scope| {
        scope.spawn(|| course.run(&busy, &over));
        // Also when something below fails.
        let _ending = Ending(&over);
        let mut before = 1;
        loop {
            let enough = match minutes {
                Some(minutes) => begun.elapsed() > Duration::from_secs(60 * minutes),
                None => done.len() == FEW,
            };
            if enough {
                break;
            }
            let (name, fault) = faults[random.random_range(..faults.len())];
            println!("soak: {:5.0} s  {name}", begun.elapsed().as_secs_f64());
            until(SOON, "it sleeps", || sleeper.try_sleep().ok());
            fault(&w);
            let (memory, file) = until(SOON, "it wakes", || sleeper.try_visit().ok());
            assert!(
                memory > before && memory == file,
                "{name}: {memory} after {before}, {file}"
            );
            before = memory;
            let answered = course.answered.load(Relaxed);
            until(SOON, "requests are answered", || {
                (course.answered.load(Relaxed) > answered).then_some(())
            });
            done.push(name);
        }
    });
    let took = begun.elapsed().as_secs_f64() / 60.0;
    let rest = rest(&w);
    println!(
        "soak: {} faults in {:.1} min, {} requests answered, {} sent again, {} times back at the last suspend, 0 lost; \
         {rest:?} without a write",
        done.len(),
        took,
        course.answered.load(Relaxed),
        course.again.load(Relaxed),
        course.back.load(Relaxed),
    );
}

/// Waits for calm, and sees that nothing is written then; for how long.
fn rest(w: &World) -> Duration {
    let [long, short] = REST;
    until(CALM, "nothing is written any more", || {
        let before = versions(w);
        std::thread::sleep(short);
        (before == versions(w)).then_some(())
    });
    if minutes().is_none() {
        return short;
    }
    let before = versions(w);
    std::thread::sleep(long);
    assert_eq!(before, versions(w), "nothing is to do");
    long
}

/// Every object that we write, with its version.
fn versions(w: &World) -> Vec<String> {
    let columns =
        "custom-columns=:.kind,:.metadata.namespace,:.metadata.name,:.metadata.resourceVersion";
    let said = w.kubectl_system(&["get", OURS, "-A", "--no-headers", "-o", columns]);
    said.lines().map(str::to_owned).collect()
}
