//! The Go program `e2e/goclient`: client-go as controllers use it. It is told lines, and says JSON lines.

use super::harness::{Cluster, Namespace, PATIENCE};
use crate::parts::look::text;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// client-go's switch for watch lists.
const WATCH_LIST: &str = "KUBE_FEATURE_WatchListClient";

/// The program; built once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build("goclient", "e2e/goclient"))
}

/// Builds a Go program.
pub fn build(name: &str, source: &str) -> PathBuf {
    let done = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Another run may be using the one that is there.
    let new = done.with_extension(std::process::id().to_string());
    let built = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/go.sh"))
        .args(["build", "-o"])
        .args([&new, Path::new(".")])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(source))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built.stderr));
    std::fs::rename(&new, &done).unwrap();
    done
}

/// One that runs.
pub struct Go {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
    /// What it said so far.
    pub said: Vec<Value>,
}

impl Go {
    /// Starts it in a namespace.
    pub fn start(c: &Cluster, ns: &Namespace, args: &[&str]) -> Go {
        Self::spawn(c, ns, args, false)
    }

    /// An informer that has its objects; `watch_list`: it asks for them by a watch alone.
    pub fn inform(c: &Cluster, ns: &Namespace, args: &[&str], watch_list: bool) -> Go {
        let mut go = Self::spawn(c, ns, &[&["inform"], args].concat(), watch_list);
        go.until("the informer syncs", |said| said["synced"].as_bool());
        go
    }

    fn spawn(c: &Cluster, ns: &Namespace, args: &[&str], watch_list: bool) -> Go {
        // client-go's own words about broken watches are no output of a test.
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(c.path("log/goclient.log"))
            .unwrap();
        let mut child = c
            .client(program().to_str().unwrap())
            .env(WATCH_LIST, watch_list.to_string())
            .arg(args[0])
            .args(["-n", &ns.1])
            .args(&args[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (say, lines) = channel();
        std::thread::spawn(move || {
            let parsed = |line: String| serde_json::from_str(&line).unwrap_or(Value::String(line));
            let lines = output.lines().map_while(Result::ok).map(parsed);
            lines.map(|line| say.send(line)).find(Result::is_err)
        });
        Go {
            input: child.stdin.take(),
            child,
            lines,
            said: vec![],
        }
    }

    /// Tells it a line.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Its next line.
    #[track_caller]
    pub fn next(&mut self) -> Value {
        self.next_within(PATIENCE)
            .expect("the program says something in time")
    }

    /// Its next line, or none within some time.
    #[track_caller]
    pub fn next_within(&mut self, patience: Duration) -> Option<Value> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => {
                self.said.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("it ended; it said {:?}", self.said),
        }
    }

    /// Its next line that is of interest.
    #[track_caller]
    pub fn until<T>(&mut self, what: &str, look: impl Fn(&Value) -> Option<T>) -> T {
        let before = self.said.len();
        loop {
            let Some(line) = self.next_within(PATIENCE) else {
                panic!("{what}: it only said {:?}", &self.said[before..]);
            };
            if let Some(found) = look(&line) {
                return found;
            }
        }
    }

    /// The next event of an actor of some name.
    #[track_caller]
    pub fn event(&mut self, name: &str) -> Value {
        self.until(&format!("an event of {name}"), |line| {
            (line.get("event").is_some() && line["name"] == name).then(|| line.clone())
        })
    }

    /// What an informer stores, after `command`.
    #[track_caller]
    pub fn store(&mut self, command: &str) -> Value {
        self.tell(command);
        self.until("its store", |said| said.get("store").cloned())
    }

    /// What it asked of the server so far: verb, query and answer.
    pub fn requests(&self) -> Vec<&Value> {
        let said = self.said.iter();
        said.filter(|line| line.get("request").is_some()).collect()
    }

    /// What comes of an order to the dynamic client, or the error's Status.
    #[track_caller]
    pub fn order(&mut self, order: Value) -> Result<Value, Value> {
        self.tell(&order.to_string());
        let mut said = self.next();
        match said.get_mut("error") {
            Some(error) => Err(error.take()),
            None => Ok(said["result"].take()),
        }
    }

    /// Ends its input; returns the last that it says.
    #[track_caller]
    pub fn end(mut self) -> Value {
        self.input = None;
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.said.push(line);
        }
        self.said.last().cloned().unwrap_or_default()
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `Go` shows of the objects of a list.
pub fn briefly(list: &Value) -> Value {
    let brief = |object: &Value| {
        let meta = &object["metadata"];
        let mut brief =
            json!({"name": meta["name"], "rv": meta["resourceVersion"], "uid": meta["uid"]});
        if let Some(labels) = meta.get("labels") {
            brief["labels"] = labels.clone();
        }
        brief
    };
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(brief)
        .collect()
}
