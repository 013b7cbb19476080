//! Conformance by twin: our kind's schema once more as a CustomResourceDefinition of the same kube-apiserver. A recorded
//! corpus of requests is sent to both, and every difference between the answers is a failure, or one that
//! `docs/api-differences.md` explains and the corpus expects. One that is expected and does not show is a failure too.
//!
//! The requests are data: a file a group, with a namespace of its own.

mod corpus;
mod crd;
mod diff;
mod normal;
mod side;

use super::direct::Direct;
use super::harness::{Cluster, PATIENCE, shared_first};
use crate::parts::look::LOOK;
use corpus::{Group, Known, Step, media};
use crd::{OURS, TWIN, Twin};
use diff::{Difference, matches};
use futures::StreamExt;
use normal::Raw;
use serde_json::Value;
use side::Side;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use substrate::identity::{Leaf, tls::client_config};

/// Requests that there must be at least.
const MIN_REQUESTS: usize = 300;
/// Groups that are replayed at once.
const AT_ONCE: usize = 8;
/// An answer takes no longer.
const ANSWER: Duration = Duration::from_secs(20);
/// What somebody else has to do first takes no longer: the garbage collector looks for new kinds every 30 s.
const OTHERS: Duration = Duration::from_secs(90);
/// What a client calls itself that does not say it.
const AGENT: &str = "twin/1.0";
const DIFFERENCES: &str = "docs/api-differences.md";

/// A client of kube-apiserver, as administrator.
struct Client {
    http: reqwest::Client,
    server: String,
}

impl Client {
    fn new(cluster: &Cluster) -> Self {
        let read = |file: &str| std::fs::read_to_string(cluster.path(file)).unwrap();
        let leaf = Leaf {
            chain: read("pki/admin.crt"),
            key: read("pki/admin.key"),
        };
        let config: Value = serde_yaml_ng::from_str(&read("kubeconfig")).unwrap();
        let server = config["clusters"][0]["cluster"]["server"].as_str();
        let mut tls = client_config(Some(&leaf), &read("pki/ca.crt")).unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Self {
            http: reqwest::Client::builder()
                .tls_backend_preconfigured(tls)
                .timeout(PATIENCE)
                .build()
                .unwrap(),
            server: server.unwrap().to_owned(),
        }
    }

    /// What a side answers in the end.
    async fn ask(&self, side: &Side, step: &Step) -> Result<Raw, reqwest::Error> {
        loop {
            let raw = self.send(side, step).await?;
            if !step.wait || raw.code == step.code {
                return Ok(raw);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn send(&self, side: &Side, step: &Step) -> Result<Raw, reqwest::Error> {
        let method = step.method().parse().unwrap();
        let url = format!("{}{}", self.server, side.url(step.target()));
        let agent = step.agent.as_deref().unwrap_or(AGENT);
        let mut request = self.http.request(method, url).header("user-agent", agent);
        if let Some(accept) = &step.accept {
            request = request.header("accept", media(accept));
        }
        let body = step.body();
        let kind = step.content_type.as_deref();
        if let Some(kind) = kind.or(body.as_ref().map(|_| "json")) {
            request = request.header("content-type", media(kind));
        }
        if let Some(body) = body {
            request = request.body(side.fill(&body));
        }
        let response = request.send().await?;
        let (code, headers) = (response.status().as_u16(), response.headers().clone());
        let until = step.until.as_deref().filter(|_| code == 200);
        let mut body = vec![];
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk?);
            if let Some(end) = until.and_then(|name| came(&body, name)) {
                body.truncate(end);
                break;
            }
        }
        Ok(Raw {
            code,
            headers,
            body,
        })
    }
}

/// Where a watch has told that an object was added.
fn came(body: &[u8], name: &str) -> Option<usize> {
    let mut events = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    while let Some(Ok(event)) = events.next() {
        let named = |pointer| event.pointer(pointer).is_some_and(|n| n == name);
        let is_it = named("/object/metadata/name") || named("/object/rows/0/cells/0");
        if event["type"] == "ADDED" && is_it {
            return Some(events.byte_offset());
        }
    }
    None
}

/// What came of a group.
#[derive(Default)]
struct Outcome {
    requests: usize,
    /// How often each known difference showed.
    known: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.requests += other.requests;
        for (id, n) in other.known {
            *self.known.entry(id).or_default() += n;
        }
        self.failures.extend(other.failures);
    }

    /// Sorts differences into known ones and failures.
    fn judge(&mut self, what: &str, found: &[Difference], expected: &Known, everywhere: &Known) {
        let by = |known: &Known, d: &Difference| {
            let mut all = known.iter();
            let found = all.find(|(_, at)| at.iter().any(|p| matches(p, &d.path)));
            found.map(|(id, _)| id.clone())
        };
        let mut lines = vec![];
        for difference in found {
            match by(expected, difference).or_else(|| by(everywhere, difference)) {
                Some(id) => *self.known.entry(id).or_default() += 1,
                None => lines.push(format!("   {difference}")),
            }
        }
        for (id, patterns) in expected {
            for pattern in patterns {
                if !found.iter().any(|d| matches(pattern, &d.path)) {
                    lines.push(format!("   {id} does not differ at {pattern} any more"));
                }
            }
        }
        if !lines.is_empty() {
            self.failures.push(format!("{what}\n{}", lines.join("\n")));
        }
    }
}

async fn replay(client: &Client, group: &Group, namespace: &str, everywhere: &Known) -> Outcome {
    let mut out = Outcome::default();
    let (mut ours, mut twin) = (Side::new(OURS, namespace), Side::new(TWIN, namespace));
    for (n, step) in group.steps.iter().enumerate() {
        let what = format!("{} step {}: {}", group.name, n + 1, step.action);
        out.requests += 1;
        let bound = if step.wait { OTHERS } else { ANSWER };
        let ask = async |of| match tokio::time::timeout(bound, client.ask(of, step)).await {
            Ok(answer) => answer.map_err(|e| format!("{e:?}")),
            Err(_) => Err(format!("no end within {bound:?}")),
        };
        let answers = match futures::future::join(ask(&ours), ask(&twin)).await {
            (Ok(ours), Ok(twin)) => (ours, twin),
            (a, b) => {
                let said =
                    |side, answer: Result<_, String>| Some(format!("{side}: {}", answer.err()?));
                let errors = [said("ours", a.map(drop)), said("custom", b.map(drop))];
                let errors: Vec<String> = errors.into_iter().flatten().collect();
                out.failures
                    .push(format!("{what}\n   {}", errors.join("\n   ")));
                continue;
            }
        };
        if answers.1.code != step.code {
            let said = String::from_utf8_lossy(&answers.1.body);
            let why = format!("the custom resource says {}: {said}", answers.1.code);
            out.failures.push(format!("{what}\n   {why}"));
        }
        let is_watch = ["watch=1", "watch=true"]
            .iter()
            .any(|w| step.target().contains(w));
        let a = normal::normal(&mut ours, &answers.0, is_watch && answers.0.code == 200);
        let b = normal::normal(&mut twin, &answers.1, is_watch && answers.1.code == 200);
        out.judge(&what, &diff::diff(&a, &b), &step.differs, everywhere);
    }
    out
}

/// Ids of the differences that the document explains: the first cells of its tables.
fn documented() -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(DIFFERENCES);
    let text = std::fs::read_to_string(file).unwrap();
    let ids = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    ids.map(|(id, _)| id.to_owned()).collect()
}

#[test]
fn twin_a_custom_resource_answers_the_same() {
    let (groups, everywhere) = corpus::load();
    let c = shared_first();
    let names: Vec<_> = groups.iter().map(|_| crd::new_namespace()).collect();
    let twin = Twin::install(c.0, &names);

    let client = Client::new(&c);
    let runtime = Direct::stranger(&c).runtime;
    let outcomes: Vec<_> = runtime.block_on(async {
        let all = groups.iter().zip(&names);
        let all = all.map(|(group, ns)| replay(&client, group, ns, &everywhere));
        futures::stream::iter(all).buffered(AT_ONCE).collect().await
    });
    drop(twin);
    let mut all = Outcome::default();
    outcomes.into_iter().for_each(|o| all.add(o));
    let documented = documented();
    for id in all.known.keys().filter(|id| !documented.contains(id)) {
        let why = format!("{id} is not in {DIFFERENCES}");
        all.failures.push(why);
    }
    for id in documented.iter().filter(|id| !all.known.contains_key(*id)) {
        all.failures
            .push(format!("{DIFFERENCES}: {id} does not show any more"));
    }
    let (requests, differences) = (all.requests, all.known.values().sum::<usize>());
    println!(
        "twin: {requests} requests to both, {differences} answers or parts of them differ for {} known reasons",
        all.known.len()
    );
    assert!(all.failures.is_empty(), "\n{}", all.failures.join("\n"));
    assert!(requests >= MIN_REQUESTS, "only {requests} requests");
}
