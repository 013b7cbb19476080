//! A node: the node agent on the host, with slots for every pool of the cluster. It ends, and cleans up, with its handle.

use super::harness::{Cluster, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::Path;
use std::process::Child;
use substrate::identity::{LeafRequest, Usage, files};

pub struct Node {
    cluster: &'static Cluster,
    child: Child,
}

impl Node {
    pub fn start(cluster: &'static Cluster) -> Self {
        let host = cluster.host();
        let request = LeafRequest::new("atelet", Usage::Both)
            .group("ate:component")
            .sans(["atelet", host.as_str()]);
        let leaf = cluster.authority().leaf(&request).unwrap();
        let file = |name: &str| cluster.path(name).display().to_string();
        let write = |name: &str, mode, pem: &str| {
            files::write(&cluster.path(name), mode, pem.as_bytes()).unwrap();
        };
        write("ours/atelet.key", files::SECRET_MODE, &leaf.key);
        write("ours/atelet.crt", files::PUBLIC_MODE, &leaf.chain);
        let id = cluster.id();
        let args = [
            ("--node-name", "host".to_owned()),
            (
                "--listen",
                format!("{host}:{}", super::harness::free_port(&host)),
            ),
            ("--apiserver", cluster.grpc(0)),
            ("--dir", file("node")),
            ("--run-dir", file("node-run")),
            ("--subnet", format!("10.21{id}.0.0/16")),
            ("--network-name", format!("atek{id}")),
            ("--kubeconfig", file("kubeconfig")),
            ("--tls-ca", file("ours/ca.crt")),
            ("--tls-cert", file("ours/atelet.crt")),
            ("--tls-key", file("ours/atelet.key")),
        ];
        let args = args.into_iter().flat_map(|(k, v)| [k.to_owned(), v]);
        let args: Vec<_> = ["atelet".to_owned()].into_iter().chain(args).collect();
        let child = cluster.spawn(env!("CARGO_BIN_EXE_ate"), &args, "log/atelet.log");
        Self { cluster, child }
    }

    /// Where an actor that runs here is reached: its worker, and its port as the node keeps it.
    pub fn address(&self, namespace: &str, actor: &str) -> String {
        let what = format!("actor/{actor}");
        let ip = self.cluster.field(namespace, &what, ".status.worker.ip");
        let port = port_of(&self.cluster.path("node/slots"), actor);
        format!("{ip}:{port}")
    }
}

/// The port of an actor that runs on the node that keeps its slots here.
pub fn port_of(slots: &Path, actor: &str) -> String {
    let slots = std::fs::read_dir(slots).unwrap();
    let mut all = slots.filter_map(|slot| {
        let desired = std::fs::read(slot.ok()?.path().join("desired.json")).ok()?;
        let desired: Value = serde_json::from_slice(&desired).ok()?;
        let assignment = &desired["assignment"];
        let mine = assignment["actor"]["name"] == actor;
        mine.then(|| assignment["host_port"].to_string())
    });
    all.next().unwrap()
}

impl Drop for Node {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.cluster.path("log/atelet.log"));
            eprintln!("--- node\n{}", log.unwrap_or_default());
        }
        eventually("the node agent ends", || self.child.try_wait().unwrap());
    }
}
