//! What a node does whose lease with the control plane lapses.

use super::super::testing::{LONG, World, actor, count, fence, with_node};
use super::{refused, sandboxes};
use crate::lifecycle::slot::SKEW;
use crate::proto::atenode::PublishRequest;
use crate::proto::atenode::slot::Phase;
use crate::rpc::nodes::NodeClient;
use crate::sandbox::testing::{PATIENCE, get};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const LEASE: Duration = Duration::from_secs(2);
/// What a loaded machine may take beyond what was promised.
const SLACK: Duration = Duration::from_secs(6);

impl World {
    /// The control plane grants leases of that length from now on; waits until the node has one.
    async fn grant(&self, lease: Duration) {
        self.apiserver.lease.send_replace(Some(lease));
        let answered = || self.apiserver.reports.lock().unwrap().len();
        let before = answered();
        self.wait("reports are answered", || answered() > before + 1)
            .await;
    }

    fn fall_silent(&self) {
        self.apiserver.lease.send_replace(None);
    }

    async fn wait(&self, what: &str, so: impl Fn() -> bool) {
        let start = Instant::now();
        while !so() {
            assert!(start.elapsed() < PATIENCE, "never: {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the gate is closed: frozen, or gone.
    async fn shut(&self, address: &str) {
        let at: SocketAddr = address.parse().unwrap();
        let start = Instant::now();
        loop {
            match get(at, "/healthz").await {
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => return,
                other => assert!(start.elapsed() < PATIENCE, "still open: {other:?}"),
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[test]
fn sandboxes_freeze_while_the_control_plane_is_silent_and_go_on_afterwards() {
    with_node(2, |world| async move {
        let slots = world.settled(2).await;
        let (slot, other) = (&*slots[0].uid, &*slots[1].uid);
        let (a, b) = (actor("a"), actor("b"));
        let kept = {
            let address = world.run(slot, &b, 1).await.unwrap();
            count(&address).await;
            world.checkpoint(slot, &b, 2, true).await.unwrap()
        };
        let address = world.run(slot, &a, 1).await.unwrap();
        let (_, _, generation) = count(&address).await;
        world.grant(LEASE).await;
        assert!(
            world
                .apiserver
                .reports
                .lock()
                .unwrap()
                .iter()
                .all(|r| !r.lapsed)
        );

        world.fall_silent();
        let silent = Instant::now();
        world.shut(&address).await;
        let took = silent.elapsed();
        assert!(took < LEASE + SKEW + SLACK, "{took:?}");
        // It is still there, and nothing else begins.
        assert_eq!(world.slots().await[0].phase(), Phase::Running);
        for order in [
            world.run(other, &actor("c"), 1).await.map(drop),
            world.restore(other, &b, 3, &kept).await.map(drop),
            world.checkpoint(slot, &a, 2, true).await.map(drop),
            world
                .nodes
                .publish(
                    &world.address,
                    PublishRequest {
                        like: vec![],
                        actor: Some(b.clone()),
                        snapshot: Some(kept.clone()),
                        fence: Some(fence(3)),
                    },
                    LONG,
                )
                .await
                .map(drop),
        ] {
            let said = refused(order);
            assert!(said.contains("lease"), "{said}");
        }

        let before = world.apiserver.reports.lock().unwrap().len();
        world.grant(LEASE).await;
        let (memory, file, same) = count(&address).await;
        assert_eq!((memory, file, same), (2, 2, generation), "it went on");
        let reports = world.apiserver.reports.lock().unwrap()[before..].to_vec();
        assert!(reports.iter().any(|r| r.lapsed), "it said so");
        assert!(!reports.last().unwrap().lapsed, "and no longer does");
        world.checkpoint(slot, &a, 3, true).await.unwrap();
    });
}

#[test]
fn what_was_given_away_meanwhile_ends_and_never_goes_on() {
    with_node(1, |world| async move {
        let slot = world.settled(1).await.remove(0).uid;
        let a = actor("a");
        let address = world.run(&slot, &a, 1).await.unwrap();
        count(&address).await;
        world.grant(LEASE).await;
        world.fall_silent();
        world.shut(&address).await;
        world
            .apiserver
            .stop_slots
            .lock()
            .unwrap()
            .push(slot.clone());
        world.grant(LONG).await;
        assert_eq!(
            world.settled(1).await[0].uid,
            slot,
            "its executor could end it"
        );
        assert_eq!(sandboxes(&world), [""; 0]);
        world.shut(&address).await;
        let said = refused(world.run(&slot, &a, 1).await);
        assert!(said.contains("ended"), "{said}");
        world.run(&slot, &a, 2).await.unwrap();
    });
}

#[test]
fn a_start_that_outlasts_the_lease_is_given_up() {
    with_node(1, |world| async move {
        let slot = world.settled(1).await.remove(0).uid;
        world.grant(LEASE).await;
        let a = actor("a");
        let mut request = world.run_request(&slot, &a, 1);
        request.workload = Some(world.workload(&[("READY_DELAY_MS", "25000")]));
        let start = world.nodes.run(&world.address, request, LONG);
        let silence = async {
            let under_way = |s: &[crate::proto::atenode::Slot]| {
                s[0].phase() == Phase::Busy && !s[0].address.is_empty()
            };
            world.until("under way", under_way).await;
            world.fall_silent();
        };
        let (start, ()) = tokio::join!(start, silence);
        let said = refused(start);
        assert!(said.contains("lease"), "{said}");
        assert_eq!(sandboxes(&world), [""; 0]);
        world.grant(LONG).await;
        world.settled(1).await;
        world.run(&slot, &a, 2).await.unwrap();
    });
}

#[test]
fn an_executor_without_an_agent_freezes_by_itself() {
    with_node(1, |mut world| async move {
        let slot = world.settled(1).await.remove(0).uid;
        let a = actor("a");
        let address = world.run(&slot, &a, 1).await.unwrap();
        count(&address).await;
        world.grant(LEASE).await;
        world.stop().await;
        world.shut(&address).await;
        // A new agent does not know of any lease: nothing goes on before the control plane answers.
        world.fall_silent();
        world.start().await;
        let taken_over = |s: &[crate::proto::atenode::Slot]| s[0].phase() == Phase::Running;
        world.until("taken over", taken_over).await;
        world.shut(&address).await;
        world.grant(LONG).await;
        let (memory, file, _) = count(&address).await;
        assert_eq!((memory, file), (2, 2), "it went on");
        assert_eq!(world.slots().await[0].uid, slot);
    });
}
