//! What an actor that runs prints, as it is followed through the control plane.

use super::harness::{Cluster, Namespace, eventually, shared_first};
use super::node::Node;
use crate::dev::harness::image;
use crate::parts::look;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// When kube-apiserver ends a request that it does not take for a stream (`--request-timeout`), and a little more.
const LIMIT: Duration = Duration::from_secs(62);
const PATIENCE: Duration = Duration::from_secs(90);
/// How often the actor prints a line.
const PRINT: Duration = Duration::from_millis(500);

/// A client that follows a log.
struct Follower {
    child: Child,
    /// When the last line came.
    last: Arc<Mutex<Option<Instant>>>,
}

impl Follower {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let last = Arc::new(Mutex::new(None));
        let (lines, seen) = (BufReader::new(child.stdout.take().unwrap()), last.clone());
        std::thread::spawn(move || {
            for _ in lines.lines().map_while(Result::ok) {
                *seen.lock().unwrap() = Some(Instant::now());
            }
        });
        Self { child, last }
    }

    fn heard_after(&self, time: Instant) -> bool {
        self.last.lock().unwrap().is_some_and(|last| last > time)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn plugin(c: &Cluster, ns: &Namespace, args: &[&str]) -> Command {
    let mut command = c.client(env!("CARGO_BIN_EXE_kubectl-ate"));
    command.args(args).args(["-n", &ns.1]);
    command
}

/// The actor prints a line.
fn print(address: &str) {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET /log?bytes=80 HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
}

/// A pool of one worker, and a template whose actors boot from the image.
fn objects() -> String {
    let container = json!({"name": "app", "image": image(), "ports": [{"name": "http", "containerPort": 8080}],
        "readyz": {"httpGet": {"path": "/healthz", "port": 8080}}});
    let of = |kind: &str, name: &str, spec| json!({"apiVersion": "ate.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let template = json!({"containers": [container], "golden": {"policy": "Disabled"}});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        of("WorkerPool", "pool", json!({"replicas": 1})), of("ActorTemplate", "counter", template)]})
    .to_string()
}

#[test]
fn check_40_a_followed_log_outlives_the_limit_of_requests() {
    let c = shared_first();
    let ns = c.0.namespace("log");
    ns.pipe(&["create", "-f", "-"], &objects());
    ns.actor("a");
    let node = Node::start(c.0);
    eventually("the actor wakes", || {
        let output = plugin(&c, &ns, &["resume", "a"]).output().unwrap();
        look::outcome("resume", &output).ok()
    });
    let path = format!("{}/a/log?follow=true", ns.actors());
    let mut raw = ns.client();
    raw.args(["get", "--raw", &path]);
    let mut followers = [raw, plugin(&c, &ns, &["logs", "-f", "a"])].map(Follower::start);
    let began = Instant::now();
    let address = node.address(&ns.1, "a");
    look::until(PATIENCE, "lines come after the limit", || {
        print(&address);
        std::thread::sleep(PRINT);
        let heard = |f: &Follower| f.heard_after(began + LIMIT);
        followers.iter().all(heard).then_some(())
    });
    for follower in &mut followers {
        assert_eq!(follower.child.try_wait().unwrap(), None, "it goes on");
    }
    ns.kubectl(&["delete", "actor", "a", "--timeout=60s"]);
}
