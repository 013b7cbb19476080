//! A test's namespace, and kubectl in it.

use super::harness::{ACTORS, Cluster};
use crate::parts::look::{outcome, text};
use std::io::Write;
use std::process::{Command, Stdio};

/// Which kubectl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubectl {
    /// Of the cluster's version.
    OfCluster,
    /// The newest that `e2e/setup.sh` finds.
    Newest,
}

/// Runs a command.
pub fn run(mut command: Command, args: &[&str]) -> Result<String, String> {
    let output = command.args(args).output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e} (e2e/setup.sh test)"));
    outcome(&format!("kubectl {}", args.join(" ")), &output)
}

/// Runs a command with something on its standard input.
pub fn pipe(mut command: Command, args: &[&str], input: &str) -> Result<String, String> {
    command.args(args).stdin(Stdio::piped());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|e| panic!("{command:?}: {e} (e2e/setup.sh test)"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    outcome(&format!("kubectl {}", args.join(" ")), &output)
}

/// A test's namespace.
pub struct Namespace(&'static Cluster, pub String, Kubectl);

impl Namespace {
    pub fn new(cluster: &'static Cluster, name: String, kubectl: Kubectl) -> Self {
        Self(cluster, name, kubectl)
    }

    /// kubectl in it, not started yet.
    pub fn client(&self) -> Command {
        let mut command = self.0.with(self.2);
        command.args(["-n", &self.1]);
        command
    }

    /// kubectl in it.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        match self.try_kubectl(args) {
            Ok(said) => said,
            Err(error) => panic!("{error}"),
        }
    }

    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        run(self.client(), args)
    }

    #[track_caller]
    pub fn pipe(&self, args: &[&str], input: &str) -> String {
        match self.try_pipe(args, input) {
            Ok(said) => said,
            Err(error) => panic!("{error}"),
        }
    }

    pub fn try_pipe(&self, args: &[&str], input: &str) -> Result<String, String> {
        pipe(self.client(), args, input)
    }

    /// Something of an object.
    pub fn field(&self, what: &str, path: &str) -> String {
        let path = format!("jsonpath={{{path}}}");
        let output = self.client().args(["get", what, "-o", &path]).output();
        text(&output.unwrap().stdout)
    }

    /// An actor in it.
    #[track_caller]
    pub fn actor(&self, name: &str) {
        self.pipe(&["create", "-f", "-"], &actor(name));
    }

    /// The template that its actors name; they would boot.
    #[track_caller]
    pub fn template(&self) {
        let image = format!("example.org/counter@sha256:{}", "a".repeat(64));
        let template = serde_json::json!({
            "apiVersion": "ate.dev/v1alpha1", "kind": "ActorTemplate", "metadata": {"name": "counter"},
            "spec": {"containers": [{"name": "app", "image": image}], "golden": {"policy": "Disabled"}},
        });
        self.pipe(&["create", "-f", "-"], &template.to_string());
    }

    /// Path of its actors.
    pub fn actors(&self) -> String {
        format!("{ACTORS}/{}/actors", self.1)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.try_kubectl(&[
            "delete",
            "namespace",
            &self.1,
            "--wait=false",
            "--ignore-not-found",
        ]);
    }
}

/// The manifest of an actor.
pub fn actor(name: &str) -> String {
    serde_json::json!({
        "apiVersion": "runtime.ate.dev/v1alpha1", "kind": "Actor",
        "metadata": {"name": name}, "spec": {"templateRef": {"name": "counter"}},
    })
    .to_string()
}
