//! Ten thousand requests that are almost right, from somebody who may do anything: each is answered, and none by a fault.
//!
//! A request is made from the seed and its number alone; `FUZZ_SEED` and `FUZZ_ONLY` (numbers with commas) make them again.

use super::direct::Direct;
use super::faults::memory;
use super::harness::{actor, shared_first};
use super::own::Own;
use futures::StreamExt;
use http::{HeaderName, HeaderValue, Method};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use std::time::Duration;

const REQUESTS: u64 = 10_000;
const AT_ONCE: usize = 32;
const SEED: u64 = 20_261_122;
/// After so many the server has allocated what it keeps.
const WARM: u64 = 3_000;
/// By how much it may grow after that, in KiB.
const GROWTH: u64 = 48 << 10;
/// An answer that has not begun by then never will.
const ANSWER: Duration = Duration::from_secs(20);
/// What lasts is left after this.
const LISTEN: Duration = Duration::from_millis(50);

/// More of an answer tells nothing new.
const ENOUGH: usize = 64 << 10;

const KINDS: [&str; 7] = [
    "application/json",
    "application/yaml",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/apply-patch+yaml",
    "application/strategic-merge-patch+json",
    "text/plain; charset=\"",
];
const ACCEPTS: [&str; 7] = [
    "application/json",
    "application/yaml",
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    "application/cbor,*/*;q=0.1",
    "a/b;;=,\",",
];
const KEYS: [&str; 19] = [
    "labelSelector",
    "fieldSelector",
    "limit",
    "continue",
    "resourceVersion",
    "resourceVersionMatch",
    "watch",
    "timeoutSeconds",
    "sendInitialEvents",
    "allowWatchBookmarks",
    "dryRun",
    "fieldManager",
    "force",
    "fieldValidation",
    "propagationPolicy",
    "gracePeriodSeconds",
    "pretty",
    "includeObject",
    "tail",
];
const VALUES: [&str; 32] = [
    "",
    "0",
    "1",
    "-1",
    "2",
    "true",
    "false",
    "All",
    "me",
    "Strict",
    "Warn",
    "Ignore",
    "Exact",
    "NotOlderThan",
    "9223372036854775807",
    "18446744073709551616",
    "1e9",
    "metadata.name=a0",
    "metadata.name!=a0,status.phase=Running",
    "a=b,c!=d,e in (f,g),h notin (i),!j,k",
    "a in (",
    "=,=",
    "Background",
    "Foreground",
    "None",
    "Object",
    "\u{0}",
    "ü\u{202e}𐍈",
    "%",
    "../..",
    "7b7d",
    "{\"a\":1}",
];
const METHODS: [&str; 8] = [
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW",
];

/// A request, as it is before it is sent.
#[derive(Clone, Debug)]
struct Fuzzed {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

fn pick<'a>(rng: &mut StdRng, from: &[&'a str]) -> &'a str {
    from.choose(rng).copied().unwrap_or_default()
}

fn object(rng: &mut StdRng, name: &str) -> Value {
    let mut object: Value = serde_json::from_str(&actor(name)).unwrap();
    if rng.random_bool(0.3) {
        object["metadata"]["labels"] = json!({"a": "b", "n": rng.random_range(0..9).to_string()});
    }
    if rng.random_bool(0.2) {
        object["metadata"]["finalizers"] = json!(["test.ate.dev/hold"]);
    }
    if rng.random_bool(0.2) {
        object["spec"]["operatingMode"] = json!("Suspended");
    }
    object
}

/// A request that is right.
fn valid(rng: &mut StdRng, namespace: &str) -> Fuzzed {
    let name = format!("a{}", rng.random_range(0..40));
    let all = format!("/apis/runtime.ate.dev/v1alpha1/namespaces/{namespace}/actors");
    let one = format!("{all}/{name}");
    let patch = json!({"metadata": {"labels": {"n": rng.random_range(0..9).to_string()}}});
    let json_patch = json!([{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]);
    let options =
        json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    let none = Value::Null;
    let whole = object(rng, &name);
    let (method, path, kind, body) = match rng.random_range(0..22) {
        0..4 => ("POST", all, KINDS[0], whole),
        4 => ("PUT", one, KINDS[0], whole),
        5 => ("PATCH", one, KINDS[2], patch),
        6 => ("PATCH", one, KINDS[3], json_patch),
        7..9 => ("PATCH", one, KINDS[4], whole),
        9 => ("DELETE", one, KINDS[0], options),
        10 => ("DELETE", all, KINDS[0], options),
        11 | 12 => ("GET", one, "", none),
        13 | 14 => ("GET", all, "", none),
        15 => ("GET", format!("{one}/status"), "", none),
        16 => (
            "POST",
            format!("{one}/{}", pick(rng, &["resume", "suspend", "pause"])),
            KINDS[0],
            whole,
        ),
        17 => ("GET", format!("{one}/log"), "", none),
        18 => ("GET", all.replace("actors", "workers"), "", none),
        19 => (
            "GET",
            "/apis/runtime.ate.dev/v1alpha1/actors".into(),
            "",
            none,
        ),
        20 => (
            "GET",
            pick(
                rng,
                &[
                    "/apis",
                    "/api",
                    "/version",
                    "/openapi/v2",
                    "/openapi/v3",
                    "/readyz",
                    "/",
                ],
            )
            .into(),
            "",
            none,
        ),
        _ => ("GET", "/apis/runtime.ate.dev/v1alpha1".into(), "", none),
    };
    let mut headers = vec![("accept".to_owned(), pick(rng, &ACCEPTS).as_bytes().to_vec())];
    let mut bytes = vec![];
    if body != Value::Null {
        headers.push(("content-type".to_owned(), kind.as_bytes().to_vec()));
        bytes = body.to_string().into_bytes();
    }
    let mut query = vec![];
    if kind == KINDS[4] {
        query.push(("fieldManager".to_owned(), "me".to_owned()));
    }
    for _ in 0..rng.random_range(0..3) {
        query.push((pick(rng, &KEYS).to_owned(), pick(rng, &VALUES).to_owned()));
    }
    Fuzzed {
        method: method.to_owned(),
        path,
        query,
        headers,
        body: bytes,
    }
}

fn scramble(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..4) {
            0 => bytes.insert(at, rng.random()),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 if at < bytes.len() => bytes[at] = rng.random(),
            _ => bytes.truncate(at),
        }
    }
}

/// A value that is not what was expected.
fn strange(rng: &mut StdRng) -> Value {
    match rng.random_range(0..9) {
        0 => Value::Null,
        1 => json!(rng.random::<i64>()),
        2 => json!(-1.5e300),
        3 => json!(pick(rng, &VALUES)),
        4 => json!([[[], {}], null]),
        5 => json!({"": {"a/b~c": [1]}}),
        6 => (0..100).fold(json!(1), |inner, _| json!([inner])),
        7 => json!("x".repeat(5_000)),
        _ => json!(rng.random_bool(0.5)),
    }
}

/// Changes something somewhere in a document.
fn bend(rng: &mut StdRng, value: &mut Value) {
    let deeper = rng.random_bool(0.7);
    match value {
        Value::Object(fields) if deeper && !fields.is_empty() => {
            let keys: Vec<_> = fields.keys().cloned().collect();
            let key = &keys[rng.random_range(0..keys.len())];
            bend(rng, &mut fields[key]);
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = rng.random_range(0..items.len());
            bend(rng, &mut items[at]);
        }
        Value::Object(fields) => bend_fields(rng, fields),
        other => *other = strange(rng),
    }
}

fn bend_fields(rng: &mut StdRng, fields: &mut Map<String, Value>) {
    const NAMES: [&str; 12] = [
        "name",
        "namespace",
        "generateName",
        "uid",
        "resourceVersion",
        "managedFields",
        "ownerReferences",
        "finalizers",
        "deletionTimestamp",
        "status",
        "apiVersion",
        "surprise",
    ];
    let name = pick(rng, &NAMES);
    match rng.random_bool(0.3) {
        true => drop(fields.remove(name)),
        false => drop(fields.insert(name.to_owned(), strange(rng))),
    }
}

fn mutate(rng: &mut StdRng, request: &mut Fuzzed) {
    match rng.random_range(0..8) {
        0 => request.method = pick(rng, &METHODS).to_owned(),
        1 => {
            let mut path = std::mem::take(&mut request.path).into_bytes();
            // Other namespaces are others'.
            let keep = rng.random_range(0..=path.len());
            let mut rest = path.split_off(keep);
            scramble(rng, &mut rest);
            path.extend(rest);
            let escaped = percent_encoding::percent_encode(&path, percent_encoding::CONTROLS);
            request.path = format!("/{}", escaped.to_string().trim_start_matches('/'));
        }
        2 => request
            .query
            .push((pick(rng, &KEYS).to_owned(), pick(rng, &VALUES).to_owned())),
        3 => {
            let mut key = pick(rng, &KEYS).to_owned().into_bytes();
            scramble(rng, &mut key);
            let key = String::from_utf8_lossy(&key).into_owned();
            request.query.push((key, pick(rng, &VALUES).repeat(50)));
        }
        4 => {
            let name = pick(
                rng,
                &[
                    "accept",
                    "content-type",
                    "user-agent",
                    "content-encoding",
                    "if-none-match",
                    "audit-id",
                    "x-remote-extra-%zz",
                    "authorization",
                ],
            );
            let mut value = pick(rng, &[&ACCEPTS[..], &KINDS[..]].concat())
                .as_bytes()
                .to_vec();
            scramble(rng, &mut value);
            request.headers.retain(|(n, _)| n != name);
            request.headers.push((name.to_owned(), value));
        }
        5 => scramble(rng, &mut request.body),
        _ => {
            if let Ok(mut document) = serde_json::from_slice(&request.body) {
                bend(rng, &mut document);
                request.body = document.to_string().into_bytes();
            }
        }
    }
}

/// The request of a number.
fn fuzzed(seed: u64, number: u64, namespace: &str) -> Fuzzed {
    let mut rng = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut request = valid(&mut rng, namespace);
    for _ in 0..rng.random_range(0..4) {
        mutate(&mut rng, &mut request);
    }
    request
}

/// Sends it; what is wrong with the answer.
async fn send(direct: &Direct, root: &str, fuzzed: &Fuzzed) -> Result<u16, String> {
    let query: Vec<_> = fuzzed
        .query
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    let url = format!("{root}{}", fuzzed.path.replace(' ', "%20"));
    let Ok(method) = Method::from_bytes(fuzzed.method.as_bytes()) else {
        return Ok(0);
    };
    let mut request = direct.request(method.clone(), &url).query(&query);
    for (name, value) in &fuzzed.headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            request = request.header(name, value);
        }
    }
    let Ok(request) = request.body(fuzzed.body.clone()).build() else {
        return Ok(0);
    };
    let sent = tokio::time::timeout(ANSWER, direct.http.execute(request)).await;
    let response = sent
        .map_err(|_| "no answer".to_owned())?
        .map_err(|e| format!("no answer: {e:?}"))?;
    let code = response.status().as_u16();
    if code < 400 {
        let read = async {
            let (mut body, mut left) = (response.bytes_stream(), ENOUGH);
            while let Some(Ok(bytes)) = body.next().await
                && left > bytes.len()
            {
                left -= bytes.len();
            }
        };
        // A watch lasts.
        let _ = tokio::time::timeout(LISTEN, read).await;
        return Ok(code);
    }
    let read = tokio::time::timeout(ANSWER, response.text()).await;
    let text = read.map_err(|_| "no end")?.map_err(|e| e.to_string())?;
    // Who wants YAML gets it; JSON is YAML too.
    let status: Value = serde_yaml_ng::from_str(&text).unwrap_or_default();
    // A version that is not there yet is the contract's only 5xx for what a client did.
    let future = status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge";
    let is_status =
        method == Method::HEAD || (status["kind"] == "Status" && status["code"] == code);
    match is_status && (code < 500 || future) {
        true => Ok(code),
        false => Err(format!("{code}: {text}")),
    }
}

#[test]
fn ten_thousand_fuzzed_requests_are_answered() {
    let own = Own::start_beside(shared_first(), "fuzz");
    let ns = own.cluster().namespace("fuzz");
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    let seed = number("FUZZ_SEED").unwrap_or(SEED);
    let only: Option<Vec<u64>> = std::env::var("FUZZ_ONLY")
        .ok()
        .map(|text| text.split(',').filter_map(|n| n.parse().ok()).collect());
    let (direct, root) = (own.admin(), own.url(0));
    let run = |numbers: Vec<u64>| {
        let one = |number: u64| {
            let (direct, root) = (&direct, &root);
            let fuzzed = fuzzed(seed, number, &ns.1);
            async move {
                let answer = send(direct, root, &fuzzed).await;
                answer.map_err(|why| format!("{number}: {why}\n{fuzzed:?}"))
            }
        };
        let all = futures::stream::iter(numbers.into_iter().map(one));
        direct
            .runtime
            .block_on(all.buffer_unordered(AT_ONCE).collect::<Vec<_>>())
    };
    let mut answers = run(only.clone().unwrap_or((0..WARM).collect()));
    let warm = memory(own.pid(0));
    if only.is_none() {
        answers.extend(run((WARM..REQUESTS).collect()));
    }
    let after = memory(own.pid(0));
    let wrong: Vec<_> = answers.iter().filter_map(|a| a.as_ref().err()).collect();
    assert!(
        wrong.is_empty(),
        "seed {seed}: {} of {} are wrong:\n{}",
        wrong.len(),
        answers.len(),
        wrong
            .iter()
            .take(10)
            .map(|w| w.chars().take(1500).collect::<String>())
            .collect::<Vec<_>>()
            .join("\n")
    );
    assert!(!own.log(0).contains("panicked"), "{}", own.log(0));
    assert!(after < warm + GROWTH, "{warm} -> {after} KiB");
    let good = answers
        .iter()
        .filter(|a| a.as_ref().is_ok_and(|c| (200..300).contains(c)));
    let good = good.count();
    println!(
        "seed {seed}: {good} of {} succeeded; {warm} -> {after} KiB",
        answers.len()
    );
    assert!(
        only.is_some() || good > REQUESTS as usize / 10,
        "{good} came through"
    );
}
