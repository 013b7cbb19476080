//! Sandboxes that are created ahead of the restore that takes them.

use super::*;

#[test]
fn a_restore_takes_what_was_created_ahead_and_calls_the_runtime_once_and_a_checkpoint_thrice() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let sandbox = &slot.gvisor;
        let image = slot.image().await;
        // The runtime, and a line for each time that it is called.
        let counting = Path::new("/run/counting");
        let script = format!(
            "#!/bin/sh\necho \"$*\" >>/run/calls\nexec {} \"$@\"\n",
            testing::find("runsc").display()
        );
        std::fs::write(counting, script).unwrap();
        std::fs::set_permissions(counting, PermissionsExt::from_mode(0o755)).unwrap();
        let spec = Spec {
            runtime: counting.into(),
            ..slot.spec("another-actor", 2)
        };
        let ahead = slot.ahead(&spec);
        assert_eq!(names(&sandbox.prepare(&ahead).await.unwrap()), ["create"]);
        assert_eq!(sandbox.observe().await.unwrap(), Observed::Absent);
        assert_eq!(sandbox.residue().unwrap(), Vec::<String>::new());
        assert!(!others().is_empty(), "it is there");
        assert!(get((INNER, 8080), "/").await.is_err(), "and nothing runs");
        logs::take_over(&ahead.log_dir, &spec.log_dir).unwrap();

        std::fs::write("/run/calls", "").unwrap();
        let steps = sandbox.restore(&spec, image).await.unwrap();
        assert_eq!(names(&steps), ["restore"]);
        let calls = std::fs::read_to_string("/run/calls").unwrap();
        assert_eq!(calls.lines().count(), 1, "{calls}");
        let now = (2, 2, "another-actor".into(), "generation-2".into());
        assert_eq!(count(8080).await, now);
        answer(8080, "/log?bytes=1000").await;
        let log = logs::path(&spec.log_dir, "app").metadata().unwrap();
        assert_eq!(log.len(), 1000, "its output is the actor's");
        assert_eq!(sandbox.observe().await.unwrap(), Observed::Running);
        std::fs::remove_dir_all(image).unwrap();
        std::fs::write("/run/calls", "").unwrap();
        let steps = sandbox.checkpoint(image).await.unwrap();
        assert_eq!(names(&steps), ["pause", "checkpoint", "delete"]);
        let calls = std::fs::read_to_string("/run/calls").unwrap();
        assert_eq!(calls.lines().count(), 3, "{calls}");
        assert_eq!(others(), Vec::<String>::new());
        assert_eq!(sandbox.residue().unwrap(), Vec::<String>::new());
    });
}

#[test]
fn what_was_created_ahead_and_does_not_fit_goes() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let sandbox = &slot.gvisor;
        let image = slot.image().await;
        type Change = fn(&mut Spec);
        let changes: [Change; 4] = [
            |s| s.generation = "another".into(),
            |s| s.state_dir = "/run/elsewhere".into(),
            |s| s.containers[0].uid = 1000,
            |s| s.containers[0].args.push("--else".into()),
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let spec = slot.spec("a", 2 + n as u64);
            let mut ahead = slot.ahead(&spec);
            change(&mut ahead);
            sandbox.prepare(&ahead).await.unwrap();
            let steps = sandbox.restore(&spec, image).await.unwrap();
            assert_eq!(names(&steps), ["create", "restore"], "{n}");
            assert_eq!(count(8080).await.0, 2);
            sandbox.stop().await.unwrap();
            assert_eq!(others(), Vec::<String>::new());
            assert_eq!(sandbox.residue().unwrap(), Vec::<String>::new());
        }
        // One that died, and one that is replaced.
        let spec = slot.spec("a", 10);
        sandbox.prepare(&slot.ahead(&spec)).await.unwrap();
        sandbox.prepare(&slot.ahead(&spec)).await.unwrap();
        for pid in others() {
            // They end one another, too.
            let _ = kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL);
        }
        eventually("it is dead", || others().is_empty()).await;
        let steps = sandbox.restore(&spec, image).await.unwrap();
        assert_eq!(names(&steps), ["create", "restore"]);
        assert!(matches!(sandbox.prepare(&spec).await, Err(Error::Exists)));
        sandbox.stop().await.unwrap();
        // It has no environment: nothing is started in it.
        let spec = slot.spec("a", 11);
        sandbox.prepare(&slot.ahead(&spec)).await.unwrap();
        let steps = sandbox.run(&spec).await.unwrap();
        assert_eq!(names(&steps), ["create", "start"]);
        sandbox.stop().await.unwrap();
        // And nobody came.
        sandbox.prepare(&slot.ahead(&spec)).await.unwrap();
        sandbox.stop().await.unwrap();
        assert_eq!(others(), Vec::<String>::new());
        assert_eq!(sandbox.residue().unwrap(), Vec::<String>::new());
    });
}

#[test]
fn several_containers_are_created_ahead() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let two = |actor: &str, epoch| Spec {
            containers: vec![container("one", 8081), container("two", 8082)],
            ..slot.spec(actor, epoch)
        };
        slot.gvisor.run(&two("pod", 1)).await.unwrap();
        assert_eq!((count(8081).await.0, count(8082).await.0), (1, 1));
        let image = Path::new("/run/image");
        slot.gvisor.checkpoint(image).await.unwrap();
        let spec = two("pod2", 2);
        let ahead = slot.gvisor.prepare(&slot.ahead(&spec)).await.unwrap();
        assert_eq!(names(&ahead), ["create pause", "create", "create"]);
        assert_eq!(slot.gvisor.residue().unwrap(), Vec::<String>::new());
        let steps = slot.gvisor.restore(&spec, image).await.unwrap();
        assert_eq!(names(&steps), ["start pause", "restore", "restore"]);
        assert_eq!((count(8081).await.0, count(8082).await.0), (2, 2));
        slot.gvisor.stop().await.unwrap();
        slot.gvisor.prepare(&slot.ahead(&spec)).await.unwrap();
        slot.gvisor.stop().await.unwrap();
        assert_eq!(others(), Vec::<String>::new());
        assert_eq!(slot.gvisor.residue().unwrap(), Vec::<String>::new());
    });
}
