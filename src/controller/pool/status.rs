//! The status of a pool, from its workers in the store and its Deployment. Conditions as kstatus reads them: *Stalled* is
//! Failed, *Reconciling* is InProgress, else *Ready* is Current.

use super::rollout::{Pods, Rollout};
use crate::api::condition::{condition, set};
use crate::api::pool::POOL_LABEL;
use crate::api::record::{WorkerPhase, WorkerRecord};
use crate::api::{Timestamp, WorkerPool, WorkerPoolStatus};
use kube::ResourceExt;

/// Says that workers run another image than the pool names; there only while they do.
const REPLACED: &str = "ImageReplaced";

/// Workers by what they can do.
struct Count {
    wanted: i32,
    ready: i32,
}

pub(super) fn status(
    pool: &WorkerPool,
    workers: &[WorkerRecord],
    pods: &Pods,
    now: Timestamp,
) -> WorkerPoolStatus {
    let count = |phase| {
        i32::try_from(workers.iter().filter(|w| w.phase == phase).count()).unwrap_or(i32::MAX)
    };
    let (free, claimed) = (count(WorkerPhase::Free), count(WorkerPhase::Claimed));
    let there = i32::try_from(workers.len()).unwrap_or(i32::MAX);
    let count = Count {
        wanted: pool.spec.replicas,
        ready: free + claimed,
    };
    let replicas = match pods {
        Pods::None => there,
        Pods::Refused(..) => pool.status.as_ref().map_or(0, |s| s.replicas),
        Pods::Rollout(rollout) => rollout.replicas,
    };
    let generation = pool.metadata.generation.unwrap_or_default();
    let mut conditions = pool.status.clone().unwrap_or_default().conditions;
    let mut put = |kind, holds: bool, (reason, message): (&str, String)| {
        set(
            &mut conditions,
            condition(kind, holds, reason, message, generation, now),
        );
    };
    let stalled = stalled(pods);
    put(
        "Ready",
        count.ready >= count.wanted,
        ready(pool, &count, pods),
    );
    let moving =
        stalled.is_none() && (count.ready < count.wanted || !is_complete(pods, &count, there));
    put("Reconciling", moving, reconciling(moving, &count, replicas));
    let none = || {
        (
            "AsDesired",
            "nothing keeps workers from being made".to_owned(),
        )
    };
    put(
        "Stalled",
        stalled.is_some(),
        stalled.clone().unwrap_or_else(none),
    );
    match pods {
        Pods::Rollout(Rollout {
            instead_of: Some(named),
            ..
        }) => put(
            REPLACED,
            true,
            (
                "NotOurProtocol",
                format!(
                    "workers run the installation's image: {named} cannot speak to our node agent"
                ),
            ),
        ),
        Pods::None | Pods::Refused(..) | Pods::Rollout(_) => {
            conditions.retain(|c| c.type_ != REPLACED);
        }
    }
    WorkerPoolStatus {
        observed_generation: Some(generation),
        replicas,
        ready: count.ready,
        free,
        claimed,
        selector: Some(format!("{POOL_LABEL}={}", pool.name_any())),
        conditions,
    }
}

fn ready(pool: &WorkerPool, count: &Count, pods: &Pods) -> (&'static str, String) {
    let Count { wanted, ready } = count;
    let so_far = format!("{ready} of {wanted} workers are ready");
    if ready >= wanted {
        return ("WorkersReady", so_far);
    }
    let hint = match pods {
        Pods::None => "node agents start the others".to_owned(),
        Pods::Refused(..) => "condition Stalled says why".to_owned(),
        Pods::Rollout(_) => format!("see kubectl get pods -l {POOL_LABEL}={}", pool.name_any()),
    };
    ("WorkersMissing", format!("{so_far}; {hint}"))
}

fn is_complete(pods: &Pods, count: &Count, there: i32) -> bool {
    match pods {
        Pods::None => there == count.wanted,
        Pods::Refused(..) => true,
        Pods::Rollout(rollout) => rollout.complete,
    }
}

fn reconciling(moving: bool, count: &Count, replicas: i32) -> (&'static str, String) {
    match moving {
        false => ("AsDesired", "the workers are as the pool says".to_owned()),
        true if replicas > count.wanted => {
            let surplus = replicas - count.wanted;
            ("WorkersLeaving", format!("{surplus} more than wanted"))
        }
        true if count.ready < count.wanted => {
            let missing = count.wanted - count.ready;
            ("WorkersStarting", format!("{missing} are not ready yet"))
        }
        true => ("RollingOut", "workers are being replaced".to_owned()),
    }
}

fn stalled(pods: &Pods) -> Option<(&str, String)> {
    match pods {
        Pods::None | Pods::Rollout(Rollout { stuck: None, .. }) => None,
        Pods::Refused(reason, why) => Some((reason, why.clone())),
        Pods::Rollout(Rollout {
            stuck: Some((reason, why)),
            ..
        }) => Some((reason, why.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WorkerPoolSpec;

    fn pool(replicas: i32) -> WorkerPool {
        let spec = WorkerPoolSpec {
            replicas,
            ..WorkerPoolSpec::default()
        };
        WorkerPool::new("p", spec)
    }

    fn workers(phases: &[WorkerPhase]) -> Vec<WorkerRecord> {
        let worker = |&phase| WorkerRecord {
            phase,
            ..WorkerRecord::default()
        };
        phases.iter().map(worker).collect()
    }

    fn told(status: &WorkerPoolStatus) -> Vec<String> {
        let line = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message)
        };
        status.conditions.iter().map(line).collect()
    }

    #[test]
    fn counts_and_says_what_is_missing() {
        use WorkerPhase::{Claimed, Dirty, Free};
        let status = status(
            &pool(3),
            &workers(&[Free, Claimed, Dirty]),
            &Pods::None,
            Timestamp(0),
        );
        let counts = (status.replicas, status.ready, status.free, status.claimed);
        assert_eq!(counts, (3, 2, 1, 1));
        assert_eq!(
            told(&status),
            [
                "Ready=False WorkersMissing: 2 of 3 workers are ready; node agents start the others",
                "Reconciling=True WorkersStarting: 1 are not ready yet",
                "Stalled=False AsDesired: nothing keeps workers from being made",
            ]
        );
    }

    #[test]
    fn a_rollout_is_under_way_until_it_is_complete() {
        let free = workers(&[WorkerPhase::Free; 2]);
        let reason = |rollout, workers: &[WorkerRecord]| {
            let status = status(&pool(2), workers, &Pods::Rollout(rollout), Timestamp(0));
            let of = |kind: &str| {
                let c = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
                format!("{} {}", c.status, c.reason)
            };
            [of("Ready"), of("Reconciling"), of("Stalled")].join(", ")
        };
        let at = |replicas, complete| Rollout {
            replicas,
            complete,
            ..Rollout::default()
        };
        assert_eq!(
            reason(at(2, true), &free),
            "True WorkersReady, False AsDesired, False AsDesired"
        );
        assert_eq!(
            reason(at(2, false), &free),
            "True WorkersReady, True RollingOut, False AsDesired"
        );
        assert_eq!(
            reason(at(3, false), &free),
            "True WorkersReady, True WorkersLeaving, False AsDesired"
        );
        assert_eq!(
            reason(at(2, true), &free[..1]),
            "False WorkersMissing, True WorkersStarting, False AsDesired"
        );
        let stuck = Rollout {
            stuck: Some(("FailedCreate".into(), "forbidden".into())),
            ..at(0, false)
        };
        assert_eq!(
            reason(stuck, &[]),
            "False WorkersMissing, False AsDesired, True FailedCreate"
        );
    }

    #[test]
    fn a_replaced_image_is_said_while_it_is_so() {
        let rollout = |instead_of: Option<&str>| {
            Pods::Rollout(Rollout {
                instead_of: instead_of.map(str::to_owned),
                ..Rollout::default()
            })
        };
        let mut pool = pool(0);
        let first = status(&pool, &[], &rollout(Some("x/ateom-gvisor:1")), Timestamp(0));
        let said = told(&first).pop().unwrap();
        assert_eq!(
            said,
            "ImageReplaced=True NotOurProtocol: workers run the installation's image: x/ateom-gvisor:1 cannot speak to our node agent"
        );
        pool.status = Some(first);
        let then = status(&pool, &[], &rollout(None), Timestamp(0));
        assert_eq!(then.conditions.len(), 3);
    }
}
