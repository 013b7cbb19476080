//! What a container finds in its sandbox: who it is, and what it can.

use super::super::super::etc;
use super::*;
use crate::api::security::Capability;
use testing::put;

async fn file(path: &str) -> String {
    answer(8080, &format!("/files?path={path}")).await
}

/// What the kernel says of the process.
async fn status(name: &str) -> String {
    let status = file("/proc/self/status").await;
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    line.unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn users_groups_and_capabilities_are_as_the_template_says() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let mut spec = slot.spec("a", 1);
        let mut run = async |change: &dyn Fn(&mut Container)| {
            change(&mut spec.containers[0]);
            slot.gvisor.stop().await.unwrap();
            slot.net.refresh();
            slot.gvisor.run(&spec).await.unwrap();
            answer(8080, "/healthz").await;
        };
        // Bits of capabilities(7).
        run(&|_| {}).await;
        assert_eq!(
            (status("Uid:").await, status("CapEff:").await),
            ("0 0 0 0".into(), "00000000a00405fb".into())
        );
        assert_eq!(status("NoNewPrivs:").await, "1");
        let (written, _) = put((INNER, 8080), "/files?path=/here", 1).await;
        assert_eq!(written, 200);
        run(&|c| {
            c.capabilities = [Capability::NetBindService].into();
            c.read_only_rootfs = true;
        })
        .await;
        let (written, why) = put((INNER, 8080), "/files?path=/here", 1).await;
        assert!(written == 403 && why.contains("read-only"), "{why}");
        assert_eq!(status("CapEff:").await, "0000000000000400");
        run(&|c| (c.uid, c.gid, c.additional_gids) = (1000, 1001, vec![7])).await;
        assert_eq!(status("Uid:").await, "1000 1000 1000 1000");
        assert_eq!(status("Gid:").await, "1001 1001 1001 1001");
        assert_eq!(status("Groups:").await, "7");
        assert_eq!(status("CapEff:").await, "0000000000000000");
        assert_eq!(status("CapBnd:").await, "0000000000000400");
        slot.gvisor.stop().await.unwrap();
    });
}

#[test]
fn shared_memory_is_bounded_and_devices_are_the_sandboxs() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        slot.gvisor.run(&slot.spec("a", 1)).await.unwrap();
        answer(8080, "/healthz").await;
        let (written, _) = put((INNER, 8080), "/files?path=/dev/shm/some", 32 << 20).await;
        assert_eq!(written, 200);
        let (written, why) = put((INNER, 8080), "/files?path=/dev/shm/more", 40 << 20).await;
        assert!(
            written != 200 && why.contains("no space left"),
            "{written}: {why}"
        );
        let devices = file("/dev").await;
        for of_host in ["vda", "sda", "mem", "kvm", "loop0", "kmsg"] {
            assert!(!devices.lines().any(|name| name == of_host), "{devices}");
        }
        slot.gvisor.stop().await.unwrap();
    });
}

#[test]
fn who_it_is_and_how_names_are_resolved_is_new_at_every_restore() {
    testing::inside(|orphans| async {
        let slot = Slot::new(orphans);
        let image = Path::new("/run/image");
        let mut spec = slot.spec("golden", 1);
        spec.dns = Dns {
            alone: true,
            nameservers: vec!["10.0.0.10".into()],
            ..Dns::default()
        };
        slot.gvisor.run(&spec).await.unwrap();
        assert_eq!(file("/etc/hostname").await, "golden\n");
        assert_eq!(file("/etc/resolv.conf").await, "nameserver 10.0.0.10\n");
        slot.gvisor.checkpoint(image).await.unwrap();

        let mut spec = slot.spec("another-actor", 2);
        spec.dns = Dns {
            alone: true,
            nameservers: vec!["10.0.0.11".into()],
            searches: vec!["example.org".into()],
            ..Dns::default()
        };
        slot.gvisor.prepare(&slot.ahead(&spec)).await.unwrap();
        let empty = std::fs::read_to_string(etc::file(&spec.state_dir, "hostname"));
        assert_eq!(empty.unwrap(), "\n", "nobody's yet");
        let steps = slot.gvisor.restore(&spec, image).await.unwrap();
        assert_eq!(names(&steps), ["restore"]);
        assert_eq!(file("/etc/hostname").await, "another-actor\n");
        let hosts = file("/etc/hosts").await;
        assert!(hosts.contains("169.254.17.2\tanother-actor\n"), "{hosts}");
        let resolved = "nameserver 10.0.0.11\nsearch example.org\n";
        assert_eq!(file("/etc/resolv.conf").await, resolved);
        let (written, _) = put((INNER, 8080), "/files?path=/etc/hosts", 1).await;
        assert_ne!(written, 200, "it is the node's file");
        slot.gvisor.stop().await.unwrap();
    });
}
