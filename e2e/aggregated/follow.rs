//! Clients that write, and clients that list and watch as client-go's reflector does, through whatever happens.

use super::direct::Direct;
use super::harness::{PATIENCE, actor};
use crate::parts::look;
use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// One request that is no watch; more is a hang.
pub const ANSWER: Duration = Duration::from_secs(45);

/// What a client got: code and body; `None` where the connection broke.
pub async fn ask(
    direct: &Direct,
    method: Method,
    url: &str,
    body: Option<(&str, &str)>,
) -> Option<(u16, Value)> {
    let mut request = direct.request(method.clone(), url).timeout(ANSWER);
    if let Some((kind, body)) = body {
        request = request.header("content-type", kind).body(body.to_owned());
    }
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) => {
            assert!(
                !error.is_timeout(),
                "{method} {url}: no answer within {ANSWER:?}"
            );
            return None;
        }
    };
    let code = answer.status().as_u16();
    let text = answer.text().await.ok()?;
    Some((code, serde_json::from_str(&text).unwrap_or(json!(text))))
}

/// What somebody who follows a collection has seen.
#[derive(Default, Debug)]
pub struct Seen {
    /// As they know it: versions of the objects by name.
    pub state: BTreeMap<String, u64>,
    /// How often each name was shown as new, and versions in the order in which they came.
    pub added: BTreeMap<String, u32>,
    pub versions: Vec<u64>,
    /// Lists that were needed, answers 410, watches that ended.
    pub lists: u32,
    pub gone: u32,
    pub ends: u32,
    /// What must never be.
    pub wrong: Vec<String>,
    /// Where they are.
    at: u64,
}

/// Somebody who follows a collection, until dropped.
pub struct Follower {
    direct: Arc<Direct>,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Follower {
    /// The task ends first: a runtime cannot be dropped by its own threads.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = self.direct.runtime.block_on(task);
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(object: &Value) -> u64 {
    let text = object.pointer("/metadata/resourceVersion");
    text.and_then(Value::as_str)
        .and_then(|v| v.parse().ok())
        .unwrap_or_default()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

impl Seen {
    fn listed(&mut self, list: &Value) {
        let version = number(list);
        if version < self.at {
            self.wrong
                .push(format!("a list at {version} after {}", self.at));
        }
        self.at = version;
        self.lists += 1;
        let items = list["items"].as_array().into_iter().flatten();
        self.state = items.map(|o| (name(o), number(o))).collect();
    }

    /// Takes an event; `false` when it ends the watch.
    fn event(&mut self, event: &Value) -> bool {
        let object = &event["object"];
        let version = number(object);
        match event["type"].as_str() {
            Some("BOOKMARK") => self.at = self.at.max(version),
            Some(kind @ ("ADDED" | "MODIFIED" | "DELETED")) => {
                if version <= self.at {
                    let what = name(object);
                    self.wrong
                        .push(format!("{kind} {what} at {version} after {}", self.at));
                }
                self.at = version;
                self.versions.push(version);
                let before = match kind {
                    "DELETED" => self.state.remove(&name(object)),
                    _ => self.state.insert(name(object), version),
                };
                if kind == "ADDED" {
                    *self.added.entry(name(object)).or_default() += 1;
                }
                if before.is_some() == (kind == "ADDED") {
                    self.wrong
                        .push(format!("{kind} {} but before: {before:?}", name(object)));
                }
            }
            Some("ERROR") => {
                if object["code"] == 410 {
                    self.gone += 1;
                    return false;
                }
                self.wrong.push(event.to_string());
                return false;
            }
            _ => self.wrong.push(event.to_string()),
        }
        true
    }
}

impl Follower {
    /// Follows a collection at any of several servers, beginning with the `first`th.
    pub fn start(direct: Direct, urls: Vec<String>, first: usize) -> Self {
        let mut follower = Self {
            direct: Arc::new(direct),
            seen: Arc::default(),
            stop: Arc::default(),
            task: None,
        };
        let (direct, seen) = (follower.direct.clone(), follower.seen.clone());
        let stop = follower.stop.clone();
        let task = follower.direct.runtime.spawn(async move {
            let mut lists = true;
            for url in urls.iter().cycle().skip(first) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                lists = match lists {
                    true => !list(&direct, url, &seen).await,
                    false => watch(&direct, url, &seen, &stop).await,
                };
                tokio::time::sleep(look::LOOK).await;
            }
        });
        follower.task = Some(task);
        let until = Instant::now() + PATIENCE;
        while follower.seen().lists == 0 {
            assert!(Instant::now() < until, "nobody lists");
            std::thread::sleep(look::LOOK);
        }
        follower
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Waits until it knows an object.
    #[track_caller]
    pub fn knows(&self, patience: Duration, what: &str) {
        let until = Instant::now() + patience;
        while !self.seen().state.contains_key(what) {
            assert!(
                Instant::now() < until,
                "{what}: not seen within {patience:?}: {:?}",
                self.seen()
            );
            std::thread::sleep(look::LOOK);
        }
    }
}

async fn list(direct: &Direct, url: &str, seen: &Mutex<Seen>) -> bool {
    match ask(direct, Method::GET, url, None).await {
        Some((200, list)) => {
            lock(seen).listed(&list);
            true
        }
        Some((code @ (429 | 500 | 502 | 503 | 504), _)) if code != 500 => false,
        Some((code, body)) => {
            lock(seen).wrong.push(format!("list: {code} {body}"));
            false
        }
        None => false,
    }
}

/// Watches until the watch ends; whether the state has to be listed again.
async fn watch(direct: &Direct, url: &str, seen: &Mutex<Seen>, stop: &AtomicBool) -> bool {
    let at = lock(seen).at;
    let url = format!("{url}?watch=1&allowWatchBookmarks=true&resourceVersion={at}");
    let Ok(answer) = direct.request(Method::GET, &url).send().await else {
        return false;
    };
    match answer.status().as_u16() {
        200 => {}
        410 => {
            lock(seen).gone += 1;
            return true;
        }
        429 | 502..=504 => return false,
        code => {
            let text = answer.text().await.unwrap_or_default();
            lock(seen).wrong.push(format!("watch: {code} {text}"));
            return false;
        }
    }
    let (mut body, mut rest) = (answer.bytes_stream(), Vec::new());
    while let Some(Ok(bytes)) = body.next().await {
        rest.extend_from_slice(&bytes);
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let Ok(event) = serde_json::from_slice(&line) else {
                continue;
            };
            if !lock(seen).event(&event) {
                return true;
            }
        }
        if stop.load(Ordering::SeqCst) {
            return false;
        }
    }
    lock(seen).ends += 1;
    false
}

/// What was acknowledged to somebody who wrote.
#[derive(Default, Debug)]
pub struct Written {
    /// Names, and the last label that was acknowledged for each.
    pub labels: BTreeMap<String, Option<String>>,
    /// Answers that were no success, in order.
    pub refused: Vec<(u16, Value)>,
    /// The longest that an answer took.
    pub longest: Duration,
}

/// Creates actors and labels them, one after the other, at any of several servers, until told to stop. What is not
/// acknowledged is tried again.
pub async fn write(direct: &Direct, urls: &[String], prefix: &str, stop: &AtomicBool) -> Written {
    let mut written = Written::default();
    let mut turn = 0;
    for n in 0.. {
        let name = format!("{prefix}-{n}");
        let label = n.to_string();
        let patch = json!({"metadata": {"labels": {"n": label}}}).to_string();
        let steps = [
            (
                Method::POST,
                String::new(),
                "application/json",
                actor(&name),
            ),
            (
                Method::PATCH,
                format!("/{name}"),
                "application/merge-patch+json",
                patch,
            ),
        ];
        for (method, path, kind, body) in steps {
            let creates = method == Method::POST;
            loop {
                if stop.load(Ordering::SeqCst) {
                    return written;
                }
                let url = format!("{}{path}", urls[turn % urls.len()]);
                turn += 1;
                let began = Instant::now();
                let answer = ask(direct, method.clone(), &url, Some((kind, &body))).await;
                written.longest = written.longest.max(began.elapsed());
                match answer {
                    // An earlier attempt that was not acknowledged did it.
                    Some((200 | 201, _)) => break,
                    Some((409, _)) if creates => break,
                    Some(refused) => written.refused.push(refused),
                    None => {}
                }
                tokio::time::sleep(look::LOOK).await;
            }
            let known = written.labels.entry(name.clone()).or_default();
            if !creates {
                *known = Some(label.clone());
            }
        }
    }
    written
}

/// Asserts that all that was acknowledged is there, at one server.
pub fn assert_kept(direct: &Direct, url: &str, written: &Written) {
    let list = direct.get(url);
    assert_eq!(list.code, 200, "{}", list.text);
    let items = list.body["items"].as_array().unwrap();
    let found: BTreeMap<_, _> = items
        .iter()
        .map(|o| (name(o), o["metadata"]["labels"]["n"].as_str()))
        .collect();
    for (name, label) in &written.labels {
        let Some(kept) = found.get(name) else {
            panic!("{name} was acknowledged and is gone");
        };
        if label.is_some() {
            assert_eq!(kept.map(str::to_owned), *label, "the label of {name}");
        }
    }
}
