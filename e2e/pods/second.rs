//! A second node, for as long as a test has it. All that is not of a node of its own stays on the first.

use super::world::{NAMESPACE, World};
use crate::aggregated::eventually;

/// What the scripts of the cluster call it.
const NUMBER: u8 = 2;
/// Where the cluster's folder has its disk.
const DISK: &str = "root2";

/// The node; it is gone with this, and all workers are on the first again.
pub struct Second<'a>(&'a World);

impl<'a> Second<'a> {
    pub fn start(w: &'a World) -> Self {
        w.lay_out(DISK);
        let second = Second(w);
        let added = w.cluster.add_node(NUMBER);
        added.unwrap_or_else(|e| panic!("{e}"));
        let ready = ".items[*].status.conditions[?(@.type==\"Ready\")].status";
        eventually("the second node has an agent", || {
            (second.pods("ate-system", "app=atelet", ready) == "True").then_some(())
        });
        second
    }

    pub fn name(&self) -> String {
        format!("{}{NUMBER}", self.first())
    }

    /// The other node.
    pub fn first(&self) -> String {
        format!("e2e{}-node", self.0.cluster.id())
    }

    /// Moves all workers to a node.
    pub fn gather(&self, node: &str) {
        let other = match node == self.first() {
            true => self.name(),
            false => self.first(),
        };
        self.0.kubectl(&["cordon", &other]);
        self.0
            .kubectl(&["delete", "pods", "-l", "ate.dev/worker-pool"]);
        self.0.settled();
        self.0.kubectl(&["uncordon", &other]);
        let nodes = self.0.field("workers", ".items[*].status.node");
        assert!(nodes.split(' ').all(|n| n == node), "{nodes}");
    }

    /// Something of the pods that are on it.
    fn pods(&self, namespace: &str, label: &str, path: &str) -> String {
        let on = format!("--field-selector=spec.nodeName={}", self.name());
        let path = format!("jsonpath={{{path}}}");
        let get = ["-n", namespace, "get", "pods", "-l", label, &on];
        let said = self
            .0
            .cluster
            .try_kubectl(&[&get[..], &["-o", &path]].concat());
        said.unwrap_or_default()
    }
}

impl Drop for Second<'_> {
    fn drop(&mut self) {
        let (w, first, name) = (self.0, self.first(), self.name());
        let on = format!("--field-selector=spec.nodeName={name}");
        let kubectl = |args: &[&str]| done(w.cluster.try_kubectl(args));
        kubectl(&["uncordon", &first]);
        kubectl(&["cordon", &name]);
        kubectl(&["-n", NAMESPACE, "delete", "pods", &on, "--timeout=60s"]);
        if !std::thread::panicking() {
            // Else they would count until its lease has lapsed.
            eventually("it has no workers", || {
                let nodes = w.field("workers", ".items[*].status.node");
                (!nodes.contains(&name)).then_some(())
            });
        }
        done(w.cluster.lose_node(NUMBER));
        kubectl(&["delete", "node", &name]);
        kubectl(&["delete", "pods", "-A", &on, "--force", "--grace-period=0"]);
    }
}

/// A test that failed already is not ended by what follows from it.
fn done(outcome: Result<String, String>) {
    match outcome {
        Err(error) if !std::thread::panicking() => panic!("{error}"),
        _ => {}
    }
}
