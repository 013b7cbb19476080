//! A second node, for as long as a test has it. All that is not of a node of its own stays on the first.

use super::world::{NAMESPACE, World};
use crate::aggregated::{eventually, port_of};

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

    /// Moves all workers to it.
    pub fn gather(&self) {
        let both = [self.name(), self.name()];
        self.without_first(&["-l", "ate.dev/worker-pool"], &both);
    }

    /// Puts a free worker on each node, where both are on the first.
    pub fn spread(&self) {
        let (free, _) = self.0.free().pop().unwrap();
        self.without_first(&[&free], &[self.first(), self.name()]);
    }

    /// Deletes pods of workers; the second node gets the new ones, and `then` workers are there.
    fn without_first(&self, pods: &[&str], then: &[String]) {
        let (w, first) = (self.0, self.first());
        w.kubectl(&["cordon", &first]);
        w.kubectl(&[&["delete", "pods"], pods].concat());
        eventually("the workers are on those nodes", || {
            let nodes = w.field("workers", ".items[*].status.node");
            let mut nodes: Vec<_> = nodes.split(' ').collect();
            nodes.sort_unstable();
            (nodes == then).then_some(())
        });
        w.settled();
        w.kubectl(&["uncordon", &first]);
    }

    /// Takes its cable out.
    pub fn cut(&self) -> Cut<'_> {
        done(self.0.cluster.connect_node(NUMBER, false));
        Cut(self)
    }

    /// Address of an actor that runs on it.
    pub fn address(&self, ip: &str, actor: &str) -> String {
        let slots = self.0.cluster.path(DISK).join("var/lib/ate/slots");
        format!("{ip}:{}", port_of(&slots, actor))
    }

    /// Whether a request that begins on it is answered.
    pub fn answers(&self, address: &str) -> bool {
        let url = format!("http://{address}/");
        let curl = ["curl", "-sS", "--fail", "-m", "1", &url];
        self.0.cluster.try_on(NUMBER, &curl).is_ok()
    }

    /// Something of the pods that are on it.
    pub fn pods(&self, namespace: &str, label: &str, path: &str) -> String {
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

/// A node that hears and is heard by nobody; all that runs on it goes on. Its cable is put in again with this.
pub struct Cut<'a>(&'a Second<'a>);

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        done(self.0.0.cluster.connect_node(NUMBER, true));
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
