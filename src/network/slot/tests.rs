//! In namespaces of their own: a machine, a worker, an interior, and what passes between them.

use super::super::host::{HostNetwork, SlotAddresses};
use super::super::testing::apart;
use super::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
/// On the machine, and refused to sandboxes.
const FORBIDDEN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A process in a network namespace of its own, which stands for a worker.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Worker {
    fn new() -> Worker {
        let child = Command::new("unshare")
            .args(["--net", "sleep", "1000"])
            .spawn()
            .unwrap();
        let worker = Worker(child);
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let start = Instant::now();
        while std::fs::read_link(worker.netns()).unwrap() == own {
            assert!(start.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        worker
    }

    fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

/// A machine with one worker, whose slot is set up.
struct Setting {
    host: HostNetwork,
    addresses: SlotAddresses,
    worker: Worker,
    interior: PathBuf,
}

impl Setting {
    async fn new() -> Setting {
        let links = Links::connect().unwrap();
        links.address("lo", FORBIDDEN, 32).await.unwrap();
        links.up("lo").await.unwrap();
        let cidr = "10.231.0.0/16".parse().unwrap();
        let killed = HostNetwork::new("ate-old", cidr).unwrap();
        killed.setup().await.unwrap();
        let host = HostNetwork::new("ate-dev", cidr).unwrap();
        host.setup().await.unwrap();
        host.setup().await.expect("may be repeated");
        let worker = Worker::new();
        host.attach(7, worker.0.id()).await.unwrap();
        let addresses = host
            .attach(7, worker.0.id())
            .await
            .expect("may be repeated");
        let interior = PathBuf::from("/run/interior");
        let path = interior.clone();
        let refused = [
            "192.0.2.0/24".parse().unwrap(),
            Cidr::host([10, 0, 0, 1].into()),
        ];
        netns::within(&worker.netns(), move || async move {
            SlotNetwork::create(&path, &refused).await
        })
        .await
        .unwrap();
        Setting {
            host,
            addresses,
            worker,
            interior,
        }
    }

    /// Runs `work` with the slot, in the worker's namespace.
    async fn slot<F, T>(&self, work: impl FnOnce(SlotNetwork) -> F + Send + 'static) -> T
    where
        F: Future<Output = Result<T, Error>>,
        T: Send + 'static,
    {
        let slot = SlotNetwork {
            netns: self.interior.clone(),
        };
        netns::within(&self.worker.netns(), || work(slot))
            .await
            .unwrap()
    }

    async fn proof(&self) -> Vec<String> {
        self.slot(|slot| async move { slot.proof().await }).await
    }

    /// Connects from the interior; the address as the other side sees it.
    async fn dial(&self, to: impl Into<SocketAddr>) -> std::io::Result<SocketAddr> {
        let to = to.into();
        netns::within(&self.interior, move || async move { Ok(seen_as(to)) })
            .await
            .unwrap()
    }

    fn connect(&self, port: u16) -> std::io::Result<TcpStream> {
        let to = SocketAddr::from((self.addresses.slot, port));
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

fn seen_as(to: SocketAddr) -> std::io::Result<SocketAddr> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    stream.write_all(b"?")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer.parse().map_err(std::io::Error::other)
}

/// Answers `?` with the peer's address and closes; echoes everything else. Serves in the namespace of the caller.
fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut byte = [0];
                while matches!(stream.read(&mut byte), Ok(1)) {
                    if &byte == b"?" {
                        let peer = stream.peer_addr().unwrap().to_string();
                        let _ = stream.write_all(peer.as_bytes());
                        return;
                    }
                    if stream.write_all(&byte).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

async fn serve_in(netns: &Path, address: Ipv4Addr, port: u16) {
    netns::within(netns, move || async move {
        serve(TcpListener::bind((address, port)).map_err(Error::io("listen"))?);
        Ok(())
    })
    .await
    .unwrap();
}

fn echoes(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut byte = [0];
    stream.write_all(b"x")?;
    stream.read_exact(&mut byte)
}

#[test]
fn an_assignment_is_reachable_at_its_port_while_the_gate_is_open() {
    apart(|| async {
        let setting = Setting::new().await;
        serve_in(&setting.interior, INNER, 8080).await;
        let refused = |port| match setting.connect(port) {
            Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionRefused, "{port}"),
            Ok(_) => panic!("{port} is open"),
        };
        refused(31000);
        refused(8080);
        setting.slot(|s| async move { s.open(31000, 8080) }).await;
        echoes(&mut setting.connect(31000).unwrap()).unwrap();
        refused(8080);
        // The next assignment: another port, and the old one is closed.
        setting.slot(|s| async move { s.open(31001, 8080) }).await;
        refused(31000);
        let mut established = setting.connect(31001).unwrap();
        echoes(&mut established).unwrap();
        let left = setting.proof().await;
        assert_eq!(left.len(), 2, "{left:?}");
        assert_eq!(left[0], "1 ports in the gate");

        setting.slot(|s| async move { s.close() }).await;
        refused(31001);
        echoes(&mut established).expect("closing the gate lets finish what is in flight");
        setting.slot(|s| async move { s.cut() }).await;
        assert_eq!(setting.proof().await, Vec::<String>::new());
        assert!(echoes(&mut established).is_err(), "it was cut");
    });
}

#[test]
fn what_leaves_has_the_workers_address_and_some_places_are_refused() {
    apart(|| async {
        let setting = Setting::new().await;
        serve(TcpListener::bind("0.0.0.0:9000").unwrap());
        serve_in(&setting.worker.netns(), Ipv4Addr::UNSPECIFIED, 9000).await;
        let host = setting.addresses.host;
        let seen = setting.dial((host, 9000)).await.unwrap();
        assert_eq!(seen.ip(), IpAddr::V4(setting.addresses.slot));
        assert_eq!(
            seen_as((FORBIDDEN, 9000).into()).unwrap().ip(),
            IpAddr::V4(FORBIDDEN),
            "it would answer"
        );
        let metadata = Ipv4Addr::new(169, 254, 169, 254);
        for address in [FORBIDDEN, metadata, GATEWAY, setting.addresses.slot] {
            let start = Instant::now();
            let result = setting.dial((address, 9000)).await;
            assert!(result.is_err(), "{address} answers");
            assert!(
                start.elapsed() < Duration::from_secs(2),
                "{address}: no timeout"
            );
        }
        setting.slot(|s| async move { s.cut() }).await;
        assert_eq!(setting.proof().await, Vec::<String>::new());
    });
}

#[test]
fn pitfall_10_what_a_sandbox_takes_away_or_leaves_is_seen_and_put_back() {
    apart(|| async {
        let setting = Setting::new().await;
        assert_eq!(setting.proof().await, Vec::<String>::new());
        let ip = |args: &[&str]| {
            let netns = format!("--net={}", setting.interior.display());
            let status = Command::new("nsenter")
                .arg(netns)
                .arg("ip")
                .args(args)
                .status();
            assert!(status.unwrap().success(), "ip {args:?}");
        };
        ip(&["addr", "flush", "dev", "eth0"]);
        assert_eq!(setting.proof().await.len(), 2, "address and route");
        setting.slot(|s| async move { s.refresh().await }).await;
        assert_eq!(setting.proof().await, Vec::<String>::new());
        setting.slot(|s| async move { s.refresh().await }).await;
        assert_eq!(setting.proof().await, Vec::<String>::new());
        ip(&["addr", "add", "10.9.9.9/24", "dev", "eth0"]);
        assert_eq!(setting.proof().await, ["address 10.9.9.9/24"]);
        ip(&["addr", "del", "10.9.9.9/24", "dev", "eth0"]);
        ip(&[
            "link", "add", "extra", "type", "veth", "peer", "name", "other",
        ]);
        assert_eq!(setting.proof().await.len(), 2, "two links");
    });
}

#[test]
fn nothing_is_left_after_removal() {
    apart(|| async {
        let setting = Setting::new().await;
        setting.slot(|s| async move { s.remove().await }).await;
        assert!(!setting.interior.exists());
        let worker = setting.worker.netns();
        let in_worker = netns::within(&worker, || async {
            let names = Links::connect()?.names().await?;
            Ok(names.into_iter().map(|(_, name)| name).collect::<Vec<_>>())
        });
        let names = in_worker.await.unwrap();
        assert!(!names.contains(&LINK.to_owned()), "{names:?}");
        setting.host.remove().await.unwrap();
        let links = Links::connect().unwrap();
        assert_eq!(links.find("ate-dev7").await.unwrap(), None);
        let rules = Command::new("nft")
            .args(["list", "tables"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&rules.stdout), "");
        setting.host.detach(7).await.unwrap();
    });
}

#[test]
fn addresses_of_somebody_else_are_not_taken() {
    apart(|| async {
        let cidr = "10.231.0.0/16".parse().unwrap();
        let setting = Setting::new().await;
        let other = HostNetwork::new("ate-two", cidr).unwrap();
        let refused = other.setup().await.unwrap_err().to_string();
        assert!(refused.contains("link ate-dev7"), "{refused}");
        setting.host.detach(7).await.unwrap();
        other.setup().await.unwrap();
    });
}

#[test]
fn what_is_meant_for_a_slot_that_is_gone_does_not_leave_the_machine() {
    apart(|| async {
        let setting = Setting::new().await;
        let ip = |args: &[&str]| assert!(Command::new("ip").args(args).status().unwrap().success());
        ip(&[
            "link",
            "add",
            "elsewhere",
            "type",
            "veth",
            "peer",
            "name",
            "away",
        ]);
        ip(&["link", "set", "away", "up"]);
        ip(&["address", "add", "198.51.100.1/24", "dev", "elsewhere"]);
        ip(&["link", "set", "elsewhere", "up"]);
        ip(&["route", "add", "default", "dev", "elsewhere"]);
        setting.host.detach(7).await.unwrap();
        let refused = setting.connect(9000).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    });
}
