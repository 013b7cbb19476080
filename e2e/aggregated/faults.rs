//! Replicas that die, and clients that do not behave, while others go on.

use super::direct::Direct;
use super::follow::{self, Follower};
use super::harness::{Cluster, Namespace, REPLICAS, actor, alone, eventually, shared_first};
use super::own::Own;
use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};
use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use substrate::identity::Leaf;
use substrate::identity::tls::client_config;

/// How soon after a fault everybody is served again.
const SOON: Duration = Duration::from_secs(30);

/// Runs writers while `meanwhile` lasts; what was acknowledged to each.
pub fn beside_writers(
    direct: &Direct,
    urls: &[String],
    writers: usize,
    meanwhile: impl FnOnce(),
) -> Vec<follow::Written> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let (stop, direct) = (&stop, direct);
        let writers: Vec<_> = (0..writers)
            .map(|n| {
                let write =
                    async move { follow::write(direct, urls, &format!("w{n}"), stop).await };
                s.spawn(move || direct.runtime.block_on(write))
            })
            .collect();
        stopping(stop, meanwhile);
        writers.into_iter().map(|w| w.join().unwrap()).collect()
    })
}

/// Does something and then tells others to stop, however it ended.
pub fn stopping(others: &AtomicBool, act: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let _stop = Stop(others);
    act();
}

/// The administrator, the actors of a namespace, and so many who follow them, all through kube-apiserver.
pub fn through_kubernetes(
    cluster: &Cluster,
    ns: &Namespace,
    followers: usize,
) -> (Direct, String, Vec<Follower>) {
    let url = format!("{}{}", cluster.kubernetes(), ns.actors());
    let follow = |_| Follower::start(Direct::kubernetes(cluster), vec![url.clone()], 0);
    let followers = (0..followers).map(follow).collect();
    (Direct::kubernetes(cluster), url, followers)
}

/// Asserts that everything acknowledged is there and that followers were shown each of it once.
pub fn assert_followed(
    direct: &Direct,
    url: &str,
    followers: &[Follower],
    written: &[follow::Written],
) {
    let last = format!("last-{:08x}", rand::random::<u32>());
    let made = direct.send(Method::POST, url, "application/json", actor(&last));
    assert_eq!(made.code, 201, "{}", made.text);
    for follower in followers {
        follower.knows(SOON, &last);
        let seen = follower.seen();
        assert!(seen.wrong.is_empty(), "{:?}", seen.wrong);
        for name in written.iter().flat_map(|w| w.labels.keys()) {
            assert!(seen.state.contains_key(name), "{name} is not known");
            if seen.lists == 1 {
                assert_eq!(seen.added.get(name), Some(&1), "{name}");
            }
        }
    }
    for written in written {
        follow::assert_kept(direct, url, written);
    }
}

fn grows(follower: &Follower, by: usize) {
    let before = follower.seen().versions.len();
    eventually("writes and watches go on", || {
        (follower.seen().versions.len() >= before + by).then_some(())
    });
}

#[test]
fn a_replica_is_killed_and_nobody_loses_anything() {
    let c = alone();
    let ns = c.0.namespace("killed");
    let (direct, url, followers) = through_kubernetes(&c, &ns, 6);
    let written = beside_writers(&direct, std::slice::from_ref(&url), 4, || {
        for n in (0..REPLICAS).chain(0..REPLICAS) {
            grows(&followers[0], 40);
            c.kill_replica(n);
            grows(&followers[0], 20);
            c.start_replica(n);
        }
    });
    assert_followed(&direct, &url, &followers, &written);
    let ends: u32 = followers.iter().map(|f| f.seen().ends).sum();
    assert!(ends >= 4, "watches of the killed replicas broke: {ends}");
    assert!(
        followers.iter().all(|f| f.seen().lists == 1),
        "nobody had to list again"
    );
}

/// Answers that nobody reads at once.
const STUCK: usize = 20;
/// Objects, more than a page of a list, and bytes of each: all of them are far more than any window.
const OBJECTS: usize = 520;
const SIZE: usize = 8 << 10;
/// A replica may be so much larger in the end, in KiB: what ten answers come to of the twenty-five.
const GROWTH: u64 = (10 * OBJECTS * SIZE) as u64 >> 10;

fn large(name: &str) -> String {
    let mut object: Value = serde_json::from_str(&actor(name)).unwrap();
    object["metadata"]["annotations"] = json!({"large": "x".repeat(SIZE)});
    object.to_string()
}

/// Resident memory of a process, in KiB.
pub fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn sockets(pid: u32) -> usize {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    links
        .filter(|to| to.to_string_lossy().starts_with("socket"))
        .count()
}

/// Asks by HTTP/1.1 and reads nothing.
fn ask_and_leave(c: &Cluster, address: &str, path: &str) -> impl Read + use<> {
    use std::io::Write;
    let read = |file: &str| std::fs::read_to_string(c.path(file)).unwrap();
    let leaf = Leaf {
        chain: read("pki/front-proxy-client.crt"),
        key: read("pki/front-proxy-client.key"),
    };
    let config = client_config(Some(&leaf), c.authority().certificate()).unwrap();
    let host = address.split(':').next().unwrap().to_owned();
    let name = rustls::pki_types::ServerName::try_from(host.clone()).unwrap();
    let session = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut stream = rustls::StreamOwned::new(session, TcpStream::connect(address).unwrap());
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nx-remote-user: admin\r\nx-remote-group: system:masters\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream.flush().unwrap();
    stream
}

/// How often the first replica said something of something.
fn said(own: &Own, what: &str, of: &str) -> usize {
    let log = own.log(0);
    let lines = log.lines().filter(|l| l.contains(what) && l.contains(of));
    lines.count()
}

/// Clients that ask and do not read, on streams of one connection and on connections of their own, until the replica got rid
/// of them.
fn nobody_reads(own: &Own, url: &str, path: &str) {
    let before = sockets(own.pid(0));
    let (never, other) = (own.admin(), own.admin());
    let stuck: Vec<_> = never.runtime.block_on(async {
        let ask = |n: usize| {
            let query = ["", "?watch=1"][n % 2];
            never.request(Method::GET, &format!("{url}{query}")).send()
        };
        let answers = futures::future::join_all((0..STUCK).map(ask)).await;
        answers.into_iter().map(Result::unwrap).collect()
    });
    let address = own.url(0).replace("https://", "");
    let mut left: Vec<_> = (0..STUCK / 4)
        .map(|_| ask_and_leave(&own.cluster, &address, path))
        .collect();
    eventually("streams are reset", || {
        let small = other.get(&format!("{url}?limit=1"));
        assert_eq!(small.code, 200, "{}", small.text);
        (said(own, "a stream is reset", path) >= STUCK).then_some(())
    });
    assert!(said(own, "a stream is reset", "?watch=1") >= STUCK / 2);
    eventually("connections are closed", || {
        let closed = said(own, "a connection is closed", "takes nothing") >= left.len();
        (closed && sockets(own.pid(0)) <= before + 2).then_some(())
    });
    for answer in stuck {
        let read = never.runtime.block_on(answer.bytes());
        assert!(read.is_err(), "it was not complete");
    }
    for connection in &mut left {
        let mut read = vec![];
        let ended = connection.read_to_end(&mut read);
        assert!(ended.is_err() || read.len() < OBJECTS * SIZE);
    }
}

#[test]
fn clients_that_never_read_are_cut_off() {
    let own = Own::start_beside(shared_first(), "unread");
    let ns = own.cluster().namespace("unread");
    let direct = own.admin();
    let url = format!("{}{}", own.url(0), ns.actors());
    direct.runtime.block_on(async {
        let make = |n| {
            let request = direct.request(Method::POST, &url);
            let request = request.header("content-type", "application/json");
            request.body(large(&format!("a{n}"))).send()
        };
        let made = futures::stream::iter((0..OBJECTS).map(make)).buffer_unordered(8);
        let codes: Vec<_> = made.map(|m| m.unwrap().status().as_u16()).collect().await;
        assert_eq!(codes, [201; OBJECTS]);
    });
    // Others do not notice.
    let follower = Follower::start(own.admin(), vec![url.clone()], 0);
    let before = memory(own.pid(0));
    let written = beside_writers(&direct, std::slice::from_ref(&url), 1, || {
        nobody_reads(&own, &url, &ns.actors());
    });
    assert_eq!(written[0].refused, []);
    assert!(written[0].longest < SOON, "{:?}", written[0].longest);
    assert_followed(&direct, &url, &[follower], &written);
    eventually("memory is given back", || {
        (memory(own.pid(0)) < before + GROWTH).then_some(())
    });
}
