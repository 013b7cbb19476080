//! With the real `runsc`: the contract of the trait, and what has gone wrong before.

use super::super::testing::{self, INNER, Net, answer, command, count, eventually, get, others};
use super::super::{Container, Dns, Error, Observed, Orphans, Sandbox, Spec, Steps, logs};
use super::{Gvisor, IMAGE_FILES};
use crate::api::resources::Limits;
use crate::api::security;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

mod ahead;
mod inside;
mod limits;

/// A slot: backend, network, directories under the test's own `/run`.
struct Slot {
    gvisor: Gvisor,
    net: Net,
    orphans: Orphans,
}

impl Slot {
    fn new(orphans: Orphans) -> Slot {
        Slot {
            gvisor: Gvisor::new("/run/runsc".into(), testing::groups(), orphans.clone()).unwrap(),
            net: Net::new(),
            orphans,
        }
    }

    fn spec(&self, actor: &str, epoch: u64) -> Spec {
        let dir = |kind: &str| {
            let dir = PathBuf::from(format!("/run/actors/{actor}/{kind}-{epoch}"));
            std::fs::create_dir_all(&dir).unwrap();
            dir
        };
        self.net.refresh();
        Spec {
            actor_id: actor.into(),
            generation: format!("generation-{epoch}"),
            containers: vec![container("app", 8080)],
            address: INNER.into(),
            dns: Dns::default(),
            limits: Limits::default(),
            runtime: testing::find("runsc"),
            netns: self.net.path.clone(),
            state_dir: dir("state"),
            log_dir: dir("log"),
        }
    }

    /// As `spec`, but before it is known whose it is.
    fn ahead(&self, spec: &Spec) -> Spec {
        let log_dir = spec.state_dir.join("logs");
        std::fs::create_dir_all(&log_dir).unwrap();
        Spec {
            actor_id: String::new(),
            log_dir,
            ..spec.clone()
        }
    }

    /// The image of an actor that was asked once.
    async fn image(&self) -> &'static Path {
        let image = Path::new("/run/image");
        self.gvisor.run(&self.spec("golden", 1)).await.unwrap();
        assert_eq!(count(8080).await.0, 1);
        self.gvisor.checkpoint(image).await.unwrap();
        image
    }

    fn pid(&self) -> Pid {
        let current = self.gvisor.current().unwrap();
        Pid::from_raw(current.pid.load(Ordering::SeqCst))
    }
}

fn container(name: &str, port: u16) -> Container {
    Container {
        name: name.into(),
        rootfs: testing::rootfs(),
        args: vec!["/testserver".into()],
        env: vec![("PORT".into(), port.to_string())],
        cwd: String::new(),
        uid: 0,
        gid: 0,
        additional_gids: vec![],
        read_only_rootfs: false,
        capabilities: security::capabilities(None),
    }
}

#[test]
fn memory_files_and_listeners_survive_and_identity_is_new() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let sandbox = &slot.gvisor;
        assert_eq!(sandbox.observe().await.unwrap(), Observed::Absent);
        let first = slot.spec("golden", 1);
        let steps = sandbox.run(&first).await.unwrap();
        assert_eq!(
            steps.iter().map(|s| s.0).collect::<Vec<_>>(),
            ["create", "start"]
        );
        assert_eq!(sandbox.observe().await.unwrap(), Observed::Running);
        assert!(matches!(sandbox.run(&first).await, Err(Error::Exists)));
        assert_eq!(
            count(8080).await,
            (1, 1, "golden".into(), "generation-1".into())
        );
        let memory = answer(8080, "/mem?mb=8").await;
        let image = Path::new("/run/image");
        sandbox.checkpoint(image).await.unwrap();
        assert_eq!(sandbox.observe().await.unwrap(), Observed::Absent);
        assert_eq!(sandbox.residue().unwrap(), Vec::<String>::new());
        assert_eq!(others(), Vec::<String>::new());

        // Twice from one image, as other actors whose names have other lengths.
        for (actor, epoch) in [("a", 2), ("another-actor", 3)] {
            let spec = slot.spec(actor, epoch);
            sandbox.restore(&spec, image).await.unwrap();
            assert_eq!(
                count(8080).await,
                (2, 2, actor.into(), format!("generation-{epoch}"))
            );
            assert_eq!(answer(8080, "/mem").await, memory);
            sandbox.stop().await.unwrap();
            assert_eq!(sandbox.observe().await.unwrap(), Observed::Absent);
        }
        sandbox.stop().await.unwrap();
        assert_eq!(others(), Vec::<String>::new());
        // All that runsc does to the image is to make mount points, empty.
        let image = testing::rootfs();
        let list = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
        assert_eq!((list(&image), list(&image.join("run/ate"))), (3, 0));
        let files = std::fs::read_dir(image.join("etc")).unwrap();
        let sizes: Vec<_> = files
            .map(|f| f.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes, [0; 3]);
    });
}

fn names(steps: &Steps) -> Vec<&'static str> {
    steps.iter().map(|step| step.0).collect()
}

#[test]
fn an_open_connection_does_not_prevent_a_checkpoint() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        slot.gvisor.run(&slot.spec("a", 1)).await.unwrap();
        count(8080).await;
        let addr = std::net::SocketAddr::from((INNER, 8080));
        let open = tokio::net::TcpStream::connect(addr).await.unwrap();
        slot.gvisor
            .checkpoint(Path::new("/run/image"))
            .await
            .unwrap();
        drop(open);
        let spec = slot.spec("a", 2);
        slot.gvisor
            .restore(&spec, Path::new("/run/image"))
            .await
            .unwrap();
        assert_eq!(count(8080).await.0, 2);
    });
}

#[test]
fn a_frozen_sandbox_stands_still_and_goes_on_where_it_was() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let sandbox = &slot.gvisor;
        assert!(sandbox.freeze().await.is_err() && sandbox.thaw().await.is_err());
        let one = vec![container("one", 8080)];
        let two = vec![container("one", 8080), container("two", 8082)];
        for (epoch, containers) in [(1, one), (2, two)] {
            let spec = Spec {
                containers,
                ..slot.spec("a", epoch)
            };
            sandbox.run(&spec).await.unwrap();
            assert_eq!(count(8080).await.0, 1);
            for _ in 0..2 {
                sandbox.freeze().await.unwrap();
                assert_eq!(sandbox.observe().await.unwrap(), Observed::Frozen);
            }
            let late = tokio::spawn(count(8080));
            let still = tokio::time::timeout(Duration::from_millis(300), sandbox.exited());
            assert!(still.await.is_err(), "to stand still is no end");
            assert!(!late.is_finished(), "nobody answers");
            let refused = sandbox.checkpoint(Path::new("/run/no")).await;
            assert!(
                matches!(refused, Err(Error::NotRunning { .. })),
                "{refused:?}"
            );
            for _ in 0..2 {
                sandbox.thaw().await.unwrap();
                assert_eq!(sandbox.observe().await.unwrap(), Observed::Running);
            }
            assert_eq!(late.await.unwrap().0, 2);
            sandbox.freeze().await.unwrap();
            sandbox.stop().await.unwrap();
            assert_eq!(sandbox.observe().await.unwrap(), Observed::Absent);
            assert_eq!(others(), Vec::<String>::new());
        }
    });
}

#[test]
fn several_containers_share_a_sandbox_and_survive() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let mut spec = slot.spec("pod", 1);
        spec.containers = vec![container("one", 8081), container("two", 8082)];
        slot.gvisor.run(&spec).await.unwrap();
        assert_eq!(count(8081).await.0, 1);
        assert_eq!(count(8081).await.0, 2);
        assert_eq!(count(8082).await.0, 1);
        assert_eq!(slot.gvisor.observe().await.unwrap(), Observed::Running);
        let image = Path::new("/run/image");
        slot.gvisor.checkpoint(image).await.unwrap();
        assert_eq!(others(), Vec::<String>::new());

        let mut again = slot.spec("pod2", 2);
        again.containers = vec![container("one", 8081), container("two", 8082)];
        slot.gvisor.restore(&again, image).await.unwrap();
        let (memory, file, actor, _) = count(8081).await;
        assert_eq!((memory, file, actor.as_str()), (3, 3, "pod2"));
        assert_eq!(count(8082).await.0, 2);
        let _ = get((INNER, 8082), "/exit?code=3").await;
        let ended = tokio::time::timeout(testing::PATIENCE, slot.gvisor.exited());
        let ended = ended.await.unwrap();
        let said = "container \"two\" exited with code 3";
        assert_eq!(
            ended.to_string(),
            said,
            "one container's end is the sandbox's"
        );
        let observed = slot.gvisor.observe().await.unwrap();
        assert_eq!(observed, Observed::Exited(ended));
        slot.gvisor.stop().await.unwrap();
        assert_eq!(others(), Vec::<String>::new());
        assert_eq!(slot.gvisor.residue().unwrap(), Vec::<String>::new());
    });
}

#[test]
fn what_cannot_run_is_said_and_leaves_nothing() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let mut spec = slot.spec("a", 1);
        spec.containers[0].args = vec!["/no-such-program".into()];
        let error = slot.gvisor.run(&spec).await.unwrap_err();
        assert!(
            matches!(&error, Error::Runtime { message, .. } if message.contains("no-such-program")),
            "{error}"
        );
        spec.containers[0].rootfs = "/no-such-dir".into();
        let error = slot.gvisor.run(&spec).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        spec.containers.clear();
        let error = slot.gvisor.run(&spec).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        assert_eq!(slot.gvisor.observe().await.unwrap(), Observed::Absent);
        eventually("no process is left", || others().is_empty()).await;
        slot.gvisor.run(&slot.spec("a", 2)).await.unwrap();
        count(8080).await;
    });
}

#[test]
fn pitfall_1_deleting_one_id_spares_those_that_begin_alike() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        slot.gvisor.made.store(0x10, Ordering::SeqCst);
        slot.gvisor.run(&slot.spec("a", 1)).await.unwrap();
        let current = slot.gvisor.current().unwrap();
        // What the slot's second sandbox would have been called.
        let other = format!("s{:016x}{:02x}", 1, 0);
        current
            .call(&super::runsc::DELETE, &["-force", &other])
            .await
            .unwrap();
        assert_eq!(slot.gvisor.observe().await.unwrap(), Observed::Running);
        assert_eq!(count(8080).await.0, 1);
    });
}

#[test]
fn pitfall_2_a_full_disk_does_not_end_the_actor() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        slot.gvisor.run(&slot.spec("a", 1)).await.unwrap();
        assert_eq!(count(8080).await.0, 1);
        answer(8080, "/mem?mb=16").await;
        std::fs::create_dir("/run/small").unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=4m", "tmpfs", "/run/small"];
        command("mount", &mount);
        let error = slot
            .gvisor
            .checkpoint(Path::new("/run/small/image"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::Runtime { .. } | Error::Incomplete { .. }),
            "{error}"
        );
        assert_eq!(
            std::fs::read_dir("/run/small").unwrap().count(),
            0,
            "no partial file"
        );
        assert_eq!(slot.gvisor.observe().await.unwrap(), Observed::Running);
        assert_eq!(count(8080).await.0, 2);
        // And the next attempt, where there is space, succeeds.
        slot.gvisor
            .checkpoint(Path::new("/run/image"))
            .await
            .unwrap();
    });
}

#[test]
fn pitfall_3_the_image_is_three_files_that_others_can_hash() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        slot.gvisor.run(&slot.spec("a", 1)).await.unwrap();
        count(8080).await;
        let image = Path::new("/run/image");
        slot.gvisor.checkpoint(image).await.unwrap();
        let mut files: Vec<_> = std::fs::read_dir(image)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut known = IMAGE_FILES.map(str::to_owned);
        known.sort();
        assert_eq!(files, known, "a file that nobody knows would not be hashed");
        // A file that is cut short is refused, and leaves nothing.
        let pages = image.join("pages.img");
        let length = pages.metadata().unwrap().len();
        let file = std::fs::File::options().write(true).open(&pages).unwrap();
        file.set_len(length / 2).unwrap();
        let error = slot.gvisor.restore(&slot.spec("a", 2), image).await;
        assert!(matches!(error, Err(Error::Runtime { .. })), "{error:?}");
        std::fs::remove_file(&pages).unwrap();
        let error = slot.gvisor.restore(&slot.spec("a", 3), image).await;
        assert!(matches!(error, Err(Error::Incomplete { .. })), "{error:?}");
        assert_eq!(slot.gvisor.observe().await.unwrap(), Observed::Absent);
        eventually("no process is left", || others().is_empty()).await;
    });
}

#[test]
fn pitfall_4_a_death_is_noticed_and_its_remains_are_reaped() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let sandbox = &slot.gvisor;
        sandbox.run(&slot.spec("a", 1)).await.unwrap();
        count(8080).await;
        kill(slot.pid(), Signal::SIGKILL).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(5), sandbox.exited()).await;
        let ended = ended.unwrap();
        let said = "container \"app\" was ended by signal 9";
        assert_eq!((ended.code, &*ended.to_string()), (137, said));
        assert_eq!(ended.out_of_memory, None);
        let observed = sandbox.observe().await.unwrap();
        assert_eq!(observed, Observed::Exited(ended));
        eventually("all of it is reaped", || others().is_empty()).await;
        sandbox.stop().await.unwrap();

        // An exit of its own accord, with its code.
        sandbox.run(&slot.spec("a", 2)).await.unwrap();
        count(8080).await;
        let _ = get((INNER, 8080), "/exit?code=7").await;
        let ended = tokio::time::timeout(Duration::from_secs(5), sandbox.exited()).await;
        let ended = ended.unwrap();
        assert_eq!(ended.to_string(), "container \"app\" exited with code 7");
        let observed = sandbox.observe().await.unwrap();
        assert_eq!(observed, Observed::Exited(ended));
        sandbox.stop().await.unwrap();
        assert_eq!(sandbox.residue().unwrap(), Vec::<String>::new());
    });
}

#[test]
fn pitfall_5_what_is_stopped_or_half_made_can_be_deleted() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        for epoch in 1..=5 {
            slot.gvisor.run(&slot.spec("a", epoch)).await.unwrap();
            kill(slot.pid(), Signal::SIGKILL).unwrap();
            // At once: whether the runtime has noticed or not.
            slot.gvisor.stop().await.unwrap();
            assert_eq!(slot.gvisor.observe().await.unwrap(), Observed::Absent);
            eventually("no process is left", || others().is_empty()).await;
        }
    });
}

#[test]
fn pitfall_6_only_what_runs_is_checkpointed() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let image = Path::new("/run/image");
        let error = slot.gvisor.checkpoint(image).await.unwrap_err();
        assert!(matches!(error, Error::NotRunning { .. }), "{error}");
        // Created, not started.
        let spec = slot.spec("a", 1);
        slot.gvisor.create_only(&spec).await.unwrap();
        let error = slot.gvisor.checkpoint(image).await.unwrap_err();
        assert!(
            matches!(&error, Error::NotRunning { state } if state == "created"),
            "{error}"
        );
        assert!(!image.exists());
        slot.gvisor.stop().await.unwrap();
        // Dead.
        slot.gvisor.run(&slot.spec("a", 2)).await.unwrap();
        kill(slot.pid(), Signal::SIGKILL).unwrap();
        slot.orphans.ended(slot.pid().as_raw()).await;
        let error = slot.gvisor.checkpoint(image).await.unwrap_err();
        assert!(matches!(error, Error::NotRunning { .. }), "{error}");
    });
}

#[test]
fn pitfall_7_an_image_directory_is_new() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        slot.gvisor.run(&slot.spec("a", 1)).await.unwrap();
        count(8080).await;
        let image = Path::new("/run/images/image");
        std::fs::create_dir_all(image).unwrap();
        let error = slot.gvisor.checkpoint(image).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        assert_eq!(count(8080).await.0, 2, "the actor goes on");
        std::fs::remove_dir(image).unwrap();
        slot.gvisor.checkpoint(image).await.unwrap();
        assert_eq!(std::fs::read_dir("/run/images").unwrap().count(), 1);
    });
}

#[test]
fn pitfall_8_checkpoints_follow_one_another_without_waiting_for_the_next() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        slot.gvisor.run(&slot.spec("a", 1)).await.unwrap();
        for epoch in 2..5 {
            let before = count(8080).await.0;
            let image = PathBuf::from(format!("/run/image-{epoch}"));
            let took = std::time::Instant::now();
            slot.gvisor.checkpoint(&image).await.unwrap();
            assert!(took.elapsed() < super::runsc::STATE.timeout);
            slot.gvisor
                .restore(&slot.spec("a", epoch), &image)
                .await
                .unwrap();
            assert_eq!(count(8080).await.0, before + 1);
        }
    });
}

#[test]
fn pitfall_9_output_goes_to_bounded_files_before_and_after_a_restore() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let first = slot.spec("a", 1);
        slot.gvisor.run(&first).await.unwrap();
        answer(8080, "/log?bytes=100000").await;
        let size = |spec: &Spec| {
            let log = logs::path(&spec.log_dir, "app");
            log.metadata().unwrap().len()
        };
        let old = size(&first);
        assert!(old >= 100_000, "{old}");
        assert!(logs::rotate(&first.log_dir, "app", 50_000).unwrap());
        answer(8080, "/log?bytes=1000").await;
        assert_eq!(size(&first), 1000, "goes on at the cut, without a hole");
        let image = Path::new("/run/image");
        slot.gvisor.checkpoint(image).await.unwrap();

        let second = slot.spec("b", 2);
        slot.gvisor.restore(&second, image).await.unwrap();
        answer(8080, "/log?bytes=3000").await;
        assert_eq!(size(&second), 3000, "to the new sandbox's file");
        assert_eq!(size(&first), 1000, "and no longer to the old one's");
    });
}
