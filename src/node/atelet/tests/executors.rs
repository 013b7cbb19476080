//! Slots whose executors end.

use super::super::testing::{World, actor, count, with_node};
use super::{refused, sandboxes};
use crate::node::atelet::files;
use crate::proto::atenode::slot::Phase;
use crate::rpc::nodes::NodeError;
use crate::sandbox::testing::eventually;

#[test]
fn a_slot_whose_executor_was_about_to_start_gets_one() {
    with_node(1, |mut world| async move {
        let old = world.settled(1).await.remove(0).uid;
        world.stop().await;
        let slots = world.node_dir().join("slots");
        let name = files::names(&slots).unwrap().remove(0);
        let path = slots.join(name).join("slot.json");
        let mut file: files::SlotFile = files::read(&path).unwrap().unwrap();
        let executor = file.executor.as_mut().unwrap();
        (executor.pid, executor.start_time) = (0, 0);
        files::write(&path, &file).unwrap();
        world.start().await;
        assert_ne!(world.settled(1).await[0].uid, old);
    });
}

#[test]
fn a_slot_whose_executor_dies_is_another_slot() {
    with_node(1, |mut world| async move {
        let old = world.settled(1).await[0].clone();
        let a = actor("a");
        let address = world.run(&old.uid, &a, 1).await.unwrap();
        count(&address).await;
        let slot = |world: &World| world.node_dir().join("slots/team:p-0");
        let pid = |world: &World| {
            let file: files::SlotFile = files::read(&slot(world).join("slot.json"))
                .unwrap()
                .unwrap();
            file.executor.unwrap().pid
        };
        let kill = |world: &World| {
            let pid = nix::unistd::Pid::from_raw(pid(world) as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
        };
        eventually("a spare runs", || world.executors().len() == 2).await;
        let ran = world.executors();
        kill(&world);
        let other = |s: &[crate::proto::atenode::Slot]| {
            s.len() == 1 && s[0].uid != old.uid && s[0].phase() == Phase::Free
        };
        let new = world.until("rebuilt", other).await.remove(0);
        assert_eq!(new.name, old.name);
        assert!(new.actor.is_none());
        assert!(ran.contains(&pid(&world)), "it is the one that was spare");
        let log = |name: &str| std::fs::read_to_string(slot(&world).join(name)).unwrap();
        assert!(log("ateom.log").contains(&new.uid) && log("ateom.log.1").contains(&old.uid));
        eventually("another spare runs", || world.executors().len() == 2).await;
        assert_eq!(sandboxes(&world), [""; 0]);
        assert!(!world.run_dir().join("ateoms").join(&old.uid).exists());
        let gone = world.run(&old.uid, &a, 2).await;
        assert!(matches!(gone, Err(NodeError::NotFound { .. })), "{gone:?}");
        let said = refused(world.run(&new.uid, &a, 1).await);
        assert!(said.contains("ended"), "{said}");
        let address = world.run(&new.uid, &a, 2).await.unwrap();
        count(&address).await;
        // The same while nobody looks.
        world.stop().await;
        kill(&world);
        world.start().await;
        let third = world.settled(1).await.remove(0);
        assert_ne!(third.uid, new.uid);
    });
}
