//! Certificates that our controller issues, with exactly its rights, between processes that mount them as in pods: an API server
//! behind kube-apiserver, and a router.

use super::controller::Controller;
use super::direct::Direct;
use super::harness::{Alone, Cluster, alone, eventually, free_port, kill};
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use substrate::identity::tls::client_config;

const SECRETS: [&str; 7] = [
    "ate-ca",
    "ate-apiserver-tls",
    "ate-controller-tls",
    "ate-objects-tls",
    "ate-router-tls",
    "ate-store-tls",
    "atelet-tls",
];
const APISERVICE: &str = "apiservice/v1alpha1.runtime.ate.dev";
const NOBODY: &str = "nobody.default.actors.resources.substrate.ate.dev";
/// How long nothing may be written.
const REST: Duration = Duration::from_secs(4);
/// How often Secrets are brought to who mounts them.
const SYNC: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(20);

fn secrets(c: &Cluster) -> BTreeMap<String, Secret> {
    let said = c.kubectl(&["-n", "ate-system", "get", "secrets", "-o", "json"]);
    let list: Value = serde_json::from_str(&said).unwrap();
    let all: Vec<Secret> = serde_json::from_value(list["items"].clone()).unwrap();
    let named = all
        .into_iter()
        .map(|s| (s.metadata.name.clone().unwrap(), s));
    named
        .filter(|(name, _)| SECRETS.contains(&name.as_str()))
        .collect()
}

fn text(secret: &Secret, key: &str) -> String {
    String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap()
}

fn of(c: &Cluster, secret: &str, key: &str) -> String {
    secrets(c)
        .get(secret)
        .map(|s| text(s, key))
        .unwrap_or_default()
}

fn delete(c: &Cluster, secret: &str) {
    c.kubectl(&[
        "-n",
        "ate-system",
        "delete",
        "secret",
        secret,
        "--wait=false",
    ]);
}

fn cas(pem: &str) -> usize {
    pem.matches("BEGIN CERTIFICATE").count()
}

fn versions(c: &Cluster) -> Vec<String> {
    let of = |s: &Secret| s.metadata.resource_version.clone().unwrap();
    let mut all: Vec<_> = secrets(c).values().map(of).collect();
    all.push(c.field("default", APISERVICE, ".metadata.resourceVersion"));
    all
}

fn folder(c: &Cluster, secret: &str) -> PathBuf {
    c.path("mounts").join(secret)
}

/// Brings a Secret's files as a kubelet does: a symbolic link to a new folder.
fn mount(c: &Cluster, secret: &str, found: &Secret) {
    let dir = folder(c, secret);
    let version = format!("..{}", found.metadata.resource_version.clone().unwrap());
    if dir.join(&version).exists() {
        return;
    }
    std::fs::create_dir_all(dir.join(&version)).unwrap();
    for key in found.data.iter().flatten().map(|(key, _)| key) {
        std::fs::write(dir.join(&version).join(key), text(found, key)).unwrap();
        let link = std::os::unix::fs::symlink(format!("..data/{key}"), dir.join(key));
        drop(link);
    }
    std::os::unix::fs::symlink(&version, dir.join("..new")).unwrap();
    std::fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
}

/// Something that is done again and again until it is dropped, and how often it was done.
struct Again {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Again {
    fn every(pause: Duration, mut act: impl FnMut() + Send + 'static) -> Self {
        let (stop, count) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (stopped, counted) = (stop.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                act();
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(pause);
            }
        });
        Self {
            stop,
            count,
            thread: Some(thread),
        }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// So often more.
    fn more(&self, times: usize) {
        let now = self.count();
        eventually("it is done some more", || {
            let failed = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
            (failed || self.count() >= now + times).then_some(())
        });
    }

    fn end(&mut self) -> std::thread::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Puts back what the cluster has without a controller.
pub struct PutBack(pub &'static Cluster);

impl Drop for PutBack {
    fn drop(&mut self) {
        self.0.trust_authority();
        let mut args = vec!["-n", "ate-system", "delete", "secret", "--ignore-not-found"];
        args.extend(SECRETS);
        self.0.kubectl(&args);
        let _ = std::fs::remove_dir_all(self.0.path("mounts"));
    }
}

/// Processes that mount Secrets.
struct Processes {
    cluster: &'static Cluster,
    apiserver: Child,
    router: Child,
    rest: u16,
    http: u16,
}

impl Processes {
    fn start(cluster: &'static Cluster) -> Self {
        let host = cluster.host();
        let (rest, grpc, http) = (free_port(&host), free_port(&host), free_port("127.0.0.1"));
        let tls = |secret| {
            let flags = [("ca", "ca.crt"), ("cert", "tls.crt"), ("key", "tls.key")];
            let dir = folder(cluster, secret);
            flags.map(|(flag, file)| format!("--tls-{flag}={}", dir.join(file).display()))
        };
        let kubeconfig = cluster.path("ours/kubeconfig");
        let args = [
            "apiserver".to_owned(),
            format!("--listen={host}:{rest}"),
            format!("--listen-grpc={host}:{grpc}"),
            format!("--store={}", cluster.store_url()),
            format!("--kubeconfig={}", kubeconfig.display()),
        ];
        let args = [&args[..], &tls("ate-apiserver-tls")].concat();
        let apiserver = cluster.spawn(env!("CARGO_BIN_EXE_ate"), &args, "log/issued.log");
        let args = [
            "router".to_owned(),
            format!("--listen=127.0.0.1:{http}"),
            format!("--apiserver={host}:{grpc}"),
        ];
        let args = [&args[..], &tls("ate-router-tls")].concat();
        let router = cluster.spawn(env!("CARGO_BIN_EXE_ate"), &args, "log/issued.log");
        cluster.route_to(&[rest]);
        Self {
            cluster,
            apiserver,
            router,
            rest,
            http,
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        kill(&mut self.apiserver);
        kill(&mut self.router);
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.cluster.path("log/issued.log"));
            eprintln!("--- issued\n{}", log.unwrap_or_default());
        }
    }
}

/// Asks the router for an actor that there is not: its API server says so.
fn ask_router(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nhost: {NOBODY}\r\nconnection: close\r\n\r\n"
    )?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

/// Whether somebody who trusts only this CA finds the API server's certificate good.
fn is_served_by(c: &Cluster, port: u16, ca: &str) -> bool {
    let address = format!("{}:{port}", c.host()).parse().unwrap();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(client_config(None, ca).unwrap())
        .resolve("apiserver", address)
        .build()
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let asked = client
        .get(format!("https://apiserver:{port}/readyz"))
        .send();
    runtime.block_on(asked).is_ok_and(|a| a.status() == 200)
}

fn wait_for_all(c: &Alone) {
    eventually("all Secrets are there", || {
        (secrets(c).len() == SECRETS.len()).then_some(())
    });
    eventually("kube-apiserver trusts the CA", || {
        let bundle = c.field("default", APISERVICE, ".spec.caBundle");
        let ca = secrets(c);
        let ca = serde_json::to_value(&ca["ate-ca"].data.as_ref().unwrap()["ca.crt"]).unwrap();
        (ca == bundle).then_some(())
    });
}

#[test]
fn certificates_are_issued_kept_and_changed_under_traffic() {
    let c = alone();
    let cluster = c.0;
    let _put_back = PutBack(cluster);
    let _controller = Controller::issuing(cluster, "issuing", &[]);
    wait_for_all(&c);
    for (name, secret) in secrets(cluster) {
        mount(cluster, &name, &secret);
    }
    let processes = Processes::start(cluster);
    let _kubelet = Again::every(SYNC, move || {
        secrets(cluster)
            .iter()
            .for_each(|(name, secret)| mount(cluster, name, secret));
    });
    let url = format!("{}/apis/runtime.ate.dev/v1alpha1/actors", c.kubernetes());
    let admin = Direct::kubernetes(cluster);
    eventually("kube-apiserver reaches our API", || {
        (admin.try_get(&url).ok()?.code == 200).then_some(())
    });
    let http = processes.http;
    let not_found = "HTTP/1.1 404 Not Found";
    eventually("the router reaches the API server", || {
        (ask_router(http).ok()? == not_found).then_some(())
    });

    // At rest nothing is written.
    let before = versions(cluster);
    std::thread::sleep(REST);
    assert_eq!(versions(cluster), before);

    put_back(&c);
    eventually("kube-apiserver reaches our API again", || {
        (admin.try_get(&url).ok()?.code == 200).then_some(())
    });

    let mut traffic = [
        Again::every(PAUSE, move || assert_eq!(admin.get(&url).code, 200)),
        Again::every(PAUSE, move || {
            assert_eq!(ask_router(http).unwrap(), not_found)
        }),
    ];

    // A new CA beside the old one, then new certificates of it.
    let old = of(cluster, "ate-ca", "tls.crt");
    assert!(is_served_by(cluster, processes.rest, &old));
    delete(cluster, "ate-ca");
    eventually("all trust both", || {
        let all = secrets(cluster);
        let both = all.values().all(|s| cas(&text(s, "ca.crt")) == 2);
        (both && all.len() == SECRETS.len()).then_some(())
    });
    wait_for_all(&c);
    let new = of(cluster, "ate-ca", "tls.crt");
    assert_ne!(new, old);
    let is_mounted = |secret: &str| {
        let file = folder(cluster, secret).join("..data/tls.crt");
        std::fs::read_to_string(file).unwrap() == of(cluster, secret, "tls.crt")
            && cas(&std::fs::read_to_string(folder(cluster, secret).join("ca.crt")).unwrap()) == 2
    };
    for secret in ["ate-apiserver-tls", "ate-router-tls"] {
        eventually("the bundle is mounted", || is_mounted(secret).then_some(()));
    }
    assert!(
        is_served_by(cluster, processes.rest, &old),
        "until it is due"
    );
    // They look every two seconds.
    traffic.iter().for_each(|t| t.more(120));
    for secret in ["ate-apiserver-tls", "ate-router-tls"] {
        delete(cluster, secret);
    }
    eventually("a certificate of the new CA is served", || {
        is_served_by(cluster, processes.rest, &new).then_some(())
    });
    traffic.iter().for_each(|t| t.more(120));
    traffic.iter_mut().for_each(|t| t.end().unwrap());
}

/// What somebody deletes or edits comes back.
fn put_back(c: &Alone) {
    let uid = |name: &str| secrets(c)[name].metadata.uid.clone();
    let patch = |what: &str, patch: &str| {
        c.kubectl(&[
            "-n",
            "ate-system",
            "patch",
            what,
            "--type=merge",
            "-p",
            patch,
        ]);
    };
    let key = of(c, "atelet-tls", "tls.key");
    delete(c, "atelet-tls");
    eventually("it is made again", || {
        let new = of(c, "atelet-tls", "tls.key");
        (!new.is_empty() && new != key).then_some(())
    });
    let edited = secrets(c)["atelet-tls"].metadata.uid.clone();
    patch("secret/atelet-tls", r#"{"data": {"tls.key": "IQ=="}}"#);
    eventually("it is put back", || {
        (of(c, "atelet-tls", "tls.key").contains("PRIVATE KEY")).then_some(())
    });
    assert_eq!(uid("atelet-tls"), edited);
    patch(
        "secret/atelet-tls",
        r#"{"data": {"tls.key": "IQ=="}, "immutable": true}"#,
    );
    eventually("one that cannot be changed is made again", || {
        let found = secrets(c).remove("atelet-tls")?;
        let good = text(&found, "tls.key").contains("PRIVATE KEY");
        (good && found.metadata.uid != edited).then_some(())
    });
    let ca = of(c, "ate-ca", "ca.crt");
    patch(
        APISERVICE,
        r#"{"spec": {"caBundle": null, "insecureSkipTLSVerify": false}}"#,
    );
    wait_for_all(c);
    assert_eq!(of(c, "ate-ca", "ca.crt"), ca);
}
