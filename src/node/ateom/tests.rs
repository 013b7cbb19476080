//! Real executors in their own namespaces, with real sandboxes, on a machine whose network is the test's own.

mod freeze;

use super::*;
use crate::network::host::HostNetwork;
use crate::network::testing::apart;
use crate::node::deadline::boottime;
use crate::proto::atenode::ateom_client::AteomClient;
use crate::proto::atenode::observe_workload_response::State;
use crate::proto::atenode::{
    ActorIdentity, CheckpointWorkloadRequest, ContainerBundle, EnvVar, FreezeWorkloadRequest,
    GvisorConfig, HttpGet, ObserveWorkloadRequest, ObserveWorkloadResponse, PrepareWorkloadRequest,
    Readyz, RenewLeaseRequest, RestoreWorkloadRequest, RunWorkloadRequest, RuntimeConfig,
    SandboxSpec, StopWorkloadRequest, ThawWorkloadRequest, runtime_config::Backend,
};
use crate::sandbox::cgroup;
use crate::sandbox::testing::{PATIENCE, find, get, rootfs};
use nix::sys::signal::Signal;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Makes a copy of the test binary an executor: uid and directory.
const EXECUTOR: &str = "ATE_TEST_EXECUTOR";
const DIR: &str = "/run/ate";

/// An executor needs the first thread of its process, which in tests is not to be had but before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BECOME_EXECUTOR: extern "C" fn() = become_executor;

extern "C" fn become_executor() {
    let Ok(uid) = std::env::var(EXECUTOR) else {
        return;
    };
    tracing_subscriber::fmt().init();
    let result = run(Options {
        uid,
        dir: DIR.into(),
        binds: vec![],
        refused: vec![],
    });
    if let Err(e) = &result {
        eprintln!("{e:?}");
    }
    std::process::exit(if result.is_ok() { 0 } else { 1 });
}

/// A worker: an executor and how to reach it.
struct Worker {
    uid: String,
    process: Process,
    client: AteomClient<Channel>,
    address: Ipv4Addr,
    log: PathBuf,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.signal(Signal::SIGKILL);
        while self.process.is_alive() {
            std::thread::yield_now();
        }
        cgroup::remove_all(&self.uid);
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log);
            eprintln!("the executor said: {}", log.unwrap_or_default());
        }
    }
}

impl Worker {
    async fn new(index: u16) -> Worker {
        std::fs::create_dir_all(DIR).unwrap();
        // Control groups are not in the test's namespaces.
        let uid = format!("worker-{index}-{}", uuid::Uuid::new_v4());
        let log = PathBuf::from(format!("/run/{uid}.log"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(EXECUTOR, &uid);
        let process = Process::spawn(command, &log).unwrap();
        let host = HostNetwork::new("ate-test", "10.231.0.0/16".parse().unwrap()).unwrap();
        let addresses = host.attach(index, process.pid()).await.unwrap();
        let socket = socket_path(Path::new(DIR), &uid);
        let start = Instant::now();
        let client = loop {
            match connect(&socket).await {
                Ok(client) => break client,
                Err(e) => assert!(
                    start.elapsed() < PATIENCE && process.is_alive(),
                    "{e}; {:?}",
                    std::fs::read_to_string(&log)
                ),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        Worker {
            uid,
            process,
            client,
            address: addresses.slot,
            log,
        }
    }

    async fn run(&self, spec: &SandboxSpec) -> Result<Vec<String>, Status> {
        let request = RunWorkloadRequest {
            spec: Some(spec.clone()),
        };
        let response = self.client.clone().run_workload(request).await?;
        let steps = response.into_inner().steps.into_iter();
        Ok(steps.map(|step| step.name).collect())
    }

    async fn checkpoint(&self, epoch: u64, image_dir: &str) -> Result<(), Status> {
        let request = CheckpointWorkloadRequest {
            epoch,
            image_dir: image_dir.into(),
        };
        let call = self.client.clone().checkpoint_workload(request).await;
        call.map(drop)
    }

    async fn restore(&self, spec: &SandboxSpec, image_dir: &str) -> Result<Vec<String>, Status> {
        let request = RestoreWorkloadRequest {
            spec: Some(spec.clone()),
            image_dir: image_dir.into(),
        };
        let response = self.client.clone().restore_workload(request).await?;
        let steps = response.into_inner().steps.into_iter();
        Ok(steps.map(|step| step.name).collect())
    }

    async fn prepare(&self, spec: &SandboxSpec) -> Result<(), Status> {
        let request = PrepareWorkloadRequest {
            spec: Some(SandboxSpec {
                actor: None,
                epoch: 0,
                ..spec.clone()
            }),
        };
        let call = self.client.clone().prepare_workload(request).await;
        call.map(drop)
    }

    async fn stop(&self, epoch: u64) -> Result<(), Status> {
        let request = StopWorkloadRequest { epoch };
        self.client.clone().stop_workload(request).await.map(drop)
    }

    async fn freeze(&self, epoch: u64) -> Result<(), Status> {
        let request = FreezeWorkloadRequest { epoch };
        self.client.clone().freeze_workload(request).await.map(drop)
    }

    async fn thaw(&self, epoch: u64) -> Result<(), Status> {
        let request = ThawWorkloadRequest { epoch };
        self.client.clone().thaw_workload(request).await.map(drop)
    }

    async fn lease(&self, length: Duration) {
        let until = boottime() + length;
        let request = RenewLeaseRequest {
            until_boottime_ms: until.as_millis() as u64,
        };
        self.client.clone().renew_lease(request).await.unwrap();
    }

    async fn observe(&self) -> ObserveWorkloadResponse {
        let request = ObserveWorkloadRequest {};
        let mut client = self.client.clone();
        let answer = client.observe_workload(request).await;
        answer.unwrap().into_inner()
    }

    async fn state(&self) -> State {
        self.observe().await.state()
    }

    async fn until(&self, state: State) -> ObserveWorkloadResponse {
        let start = Instant::now();
        loop {
            let observed = self.observe().await;
            if observed.state() == state {
                return observed;
            }
            assert!(start.elapsed() < PATIENCE, "never {state:?}: {observed:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn at(&self, spec: &SandboxSpec) -> SocketAddr {
        (self.address, spec.host_port as u16).into()
    }

    /// The counters of the actor, as somebody outside the worker gets them.
    async fn count(&self, spec: &SandboxSpec) -> serde_json::Value {
        let (status, body) = get(self.at(spec), "/").await.unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn refuses(&self, spec: &SandboxSpec) {
        let error = tokio::net::TcpStream::connect(self.at(spec)).await;
        assert_eq!(
            error.err().map(|e| e.kind()),
            Some(std::io::ErrorKind::ConnectionRefused)
        );
    }

    /// Pids of the executor and of all that descend from it, as seen from here.
    fn pids(&self) -> Vec<u32> {
        let parent = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (_, fields) = stat.rsplit_once(") ")?;
            fields.split(' ').nth(1)?.parse::<u32>().ok()
        };
        let all: Vec<u32> = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
            .collect();
        let mut family = vec![self.process.pid()];
        loop {
            let more = all.iter().copied().filter(|pid| {
                !family.contains(pid) && parent(*pid).is_some_and(|p| family.contains(&p))
            });
            let more: Vec<_> = more.collect();
            if more.is_empty() {
                return family;
            }
            family.extend(more);
        }
    }
}

fn actor(name: &str, epoch: u64) -> SandboxSpec {
    let dir = |kind: &str| {
        let dir = format!("/run/actors/{name}/{kind}-{epoch}");
        std::fs::create_dir_all(&dir).unwrap();
        dir
    };
    SandboxSpec {
        actor: Some(ActorIdentity {
            namespace: "default".into(),
            name: name.into(),
            actor_id: format!("{name}.default"),
            uid: format!("uid-of-{name}"),
            ..Default::default()
        }),
        epoch,
        generation: format!("generation-{epoch}"),
        containers: vec![ContainerBundle {
            name: "app".into(),
            rootfs: rootfs().to_str().unwrap().into(),
            args: vec!["/testserver".into()],
            readyz: Some(Readyz {
                http_get: Some(HttpGet {
                    path: "/healthz".into(),
                    port: 8080,
                }),
                timeout_seconds: 30,
            }),
            ..Default::default()
        }],
        runtime: Some(RuntimeConfig {
            backend: Some(Backend::Gvisor(GvisorConfig::default())),
        }),
        runtime_path: find("runsc").to_str().unwrap().into(),
        app_port: 8080,
        host_port: 31000 + epoch as u32,
        state_dir: dir("state"),
        log_dir: dir("log"),
        limits: None,
        dns: None,
    }
}

fn with_env(mut spec: SandboxSpec, name: &str, value: &str) -> SandboxSpec {
    spec.containers[0].env.push(EnvVar {
        name: name.into(),
        value: value.into(),
    });
    spec
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.unwrap_err().code()
}

#[test]
fn an_actor_goes_on_in_another_slot_and_leaves_the_first_one_clean() {
    apart(|| async {
        let (first, second) = (Worker::new(0).await, Worker::new(1).await);
        assert_eq!(first.state().await, State::Clean);
        let spec = with_env(actor("a", 5), "READY_DELAY_MS", "200");
        let steps = first.run(&spec).await.unwrap();
        assert_eq!(steps, ["create", "start", "readyz"]);
        assert_eq!(first.count(&spec).await["memory"], 1);
        let observed = first.observe().await;
        assert_eq!(observed.state(), State::Running);
        assert_eq!((observed.epoch, observed.host_port), (5, 31005));
        assert_eq!(observed.actor, spec.actor);

        // Late and doubled orders.
        assert_eq!(first.run(&spec).await.unwrap(), Vec::<String>::new());
        assert_eq!(
            code(first.run(&actor("a", 4)).await),
            Code::FailedPrecondition
        );
        assert_eq!(
            code(first.run(&actor("b", 9)).await),
            Code::FailedPrecondition
        );
        assert_eq!(code(first.stop(4).await), Code::FailedPrecondition);
        assert_eq!(
            code(first.checkpoint(4, "/run/no").await),
            Code::FailedPrecondition
        );
        assert_eq!(
            first.count(&spec).await["memory"],
            2,
            "it was not disturbed"
        );

        first.checkpoint(5, "/run/image").await.unwrap();
        assert_eq!(first.state().await, State::Clean);
        assert_eq!(first.pids().len(), 1);
        first.refuses(&spec).await;
        first
            .checkpoint(5, "/run/image")
            .await
            .expect("may be repeated");
        assert_eq!(code(first.run(&spec).await), Code::FailedPrecondition);

        let again = actor("a", 6);
        second.restore(&again, "/run/image").await.unwrap();
        let counters = second.count(&again).await;
        assert_eq!(
            (&counters["memory"], &counters["file"]),
            (&3.into(), &3.into())
        );
        assert_eq!(counters["actor"], "a.default");
        assert_eq!(counters["generation"], "generation-6");

        // The first slot's next actor sees nothing of it.
        let other = actor("b", 1);
        first.run(&other).await.unwrap();
        let counters = first.count(&other).await;
        assert_eq!(
            (&counters["memory"], &counters["file"]),
            (&1.into(), &1.into())
        );
        first.stop(1).await.unwrap();
        first.stop(1).await.expect("may be repeated");
        assert_eq!(first.state().await, State::Clean);
    });
}

#[test]
fn a_slot_with_a_sandbox_created_ahead_is_clean_and_its_next_actor_takes_it() {
    apart(|| async {
        let worker = Worker::new(0).await;
        let first = actor("a", 1);
        worker.run(&first).await.unwrap();
        worker.count(&first).await;
        let taken = worker.prepare(&first).await;
        assert_eq!(code(taken), Code::FailedPrecondition);
        worker.checkpoint(1, "/run/image").await.unwrap();

        let second = actor("a", 2);
        worker.prepare(&second).await.unwrap();
        assert!(worker.pids().len() > 2, "executor, sandbox, gofer");
        for _ in 0..3 {
            assert_eq!(worker.state().await, State::Clean);
        }
        let steps = worker.restore(&second, "/run/image").await.unwrap();
        assert_eq!(steps, ["restore", "readyz"]);
        assert_eq!(worker.count(&second).await["memory"], 2);
        worker.stop(2).await.unwrap();
        assert_eq!(
            (worker.state().await, worker.pids().len()),
            (State::Clean, 1)
        );

        // What is not of it is a stranger still.
        worker.prepare(&actor("a", 3)).await.unwrap();
        let command = format!("{} 1000", find("sleep").display());
        let pid = worker.process.pid().to_string();
        let mut stranger = Command::new("nsenter");
        stranger.args(["--target", &pid, "--pid", "sh", "-c", &command]);
        let mut stranger = stranger.spawn().unwrap();
        worker.until(State::Dirty).await;
        worker.stop(3).await.unwrap();
        stranger.wait().unwrap();
        assert_eq!(
            (worker.state().await, worker.pids().len()),
            (State::Clean, 1)
        );

        // And one that nobody took ends with its executor.
        worker.prepare(&actor("a", 4)).await.unwrap();
        let pids = worker.pids();
        assert!(pids.len() > 2);
        worker.process.signal(Signal::SIGKILL).unwrap();
        let ended = tokio::time::timeout(PATIENCE, worker.process.ended());
        ended.await.expect("it ends").unwrap();
        for pid in pids {
            assert!(!Path::new("/proc").join(pid.to_string()).exists());
        }
    });
}

#[test]
fn killing_the_executor_kills_its_sandbox() {
    apart(|| async {
        let worker = Worker::new(0).await;
        let spec = actor("a", 1);
        worker.run(&spec).await.unwrap();
        worker.count(&spec).await;
        let pids = worker.pids();
        assert!(pids.len() > 2, "executor, sandbox, gofer: {pids:?}");
        worker.process.signal(Signal::SIGKILL).unwrap();
        let ended = tokio::time::timeout(PATIENCE, worker.process.ended());
        ended.await.expect("it ends").unwrap();
        for pid in pids {
            let gone = !Path::new("/proc").join(pid.to_string()).exists();
            assert!(
                gone,
                "{pid} still runs when the executor is known to be dead"
            );
        }
        assert!(!worker.process.is_alive());
    });
}

#[test]
fn an_executor_is_adopted_by_its_name_and_ends_when_asked() {
    apart(|| async {
        let worker = Worker::new(0).await;
        let (pid, start) = (worker.process.pid(), worker.process.start_time());
        let spec = actor("a", 1);
        worker.run(&spec).await.unwrap();
        assert!(Process::adopt(pid, start + 1).unwrap().is_none());
        let adopted = Process::adopt(pid, start).unwrap().expect("it runs");
        assert!(adopted.is_alive());
        let socket = socket_path(Path::new(DIR), &worker.uid);
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&socket.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        adopted.signal(Signal::SIGTERM).unwrap();
        // What it has is to be saved first.
        worker.until(State::Running).await;
        assert!(adopted.is_alive());
        worker.stop(1).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, adopted.ended());
        ended.await.expect("it ends").unwrap();
        assert!(!socket.exists(), "it ended in good order");
        assert!(Process::adopt(pid, start).unwrap().is_none());
        // A new one takes over its directory.
        drop(worker);
        let worker = Worker::new(0).await;
        assert_eq!(worker.state().await, State::Clean);
    });
}

#[test]
fn a_sandbox_that_ends_is_reported_and_nobody_waits_for_it() {
    apart(|| async {
        let worker = Worker::new(0).await;
        let spec = actor("a", 1);
        worker.run(&spec).await.unwrap();
        let _ = get(worker.at(&spec), "/exit?code=9").await;
        let observed = worker.until(State::Exited).await;
        let exit = observed.exit.unwrap();
        assert_eq!(exit.message, "container \"app\" exited with code 9");
        assert_eq!((exit.out_of_memory, observed.epoch), (false, 1));
        worker.refuses(&spec).await;
        assert_eq!(code(worker.run(&spec).await), Code::Aborted);
        assert_eq!(
            code(worker.checkpoint(1, "/run/no").await),
            Code::FailedPrecondition
        );
        worker.stop(1).await.unwrap();
        assert_eq!(worker.state().await, State::Clean);

        let spec = actor("a", 2);
        worker.run(&spec).await.unwrap();
        let sandbox = worker.pids().into_iter().find(|pid| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
            command.unwrap_or_default().starts_with("runsc-sandbox")
        });
        let sandbox = nix::unistd::Pid::from_raw(sandbox.unwrap() as i32);
        nix::sys::signal::kill(sandbox, Signal::SIGKILL).unwrap();
        let exit = worker.until(State::Exited).await.exit.unwrap();
        assert_eq!(exit.message, "container \"app\" was ended by signal 9");
        worker.stop(2).await.unwrap();
        assert_eq!(worker.state().await, State::Clean);
    });
}

#[test]
fn a_start_that_is_stopped_or_fails_leaves_a_clean_slot() {
    apart(|| async {
        let worker = Worker::new(0).await;
        let never = with_env(actor("a", 1), "READY_DELAY_MS", "1000000");
        let (started, stopped) = tokio::join!(worker.run(&never), async {
            worker.until(State::Busy).await;
            worker.stop(1).await
        });
        assert_eq!(code(started), Code::Cancelled);
        stopped.unwrap();
        assert_eq!(worker.state().await, State::Clean);
        assert_eq!(code(worker.run(&never).await), Code::FailedPrecondition);

        let mut late = with_env(actor("a", 2), "READY_DELAY_MS", "1000000");
        late.containers[0].readyz.as_mut().unwrap().timeout_seconds = 1;
        assert_eq!(code(worker.run(&late).await), Code::DeadlineExceeded);
        assert_eq!(worker.state().await, State::Clean);
        worker
            .run(&actor("a", 2))
            .await
            .expect("what failed may be tried again");
        worker.stop(2).await.unwrap();

        let mut crashing = actor("a", 3);
        crashing.containers[0].env.push(EnvVar {
            name: "PORT".into(),
            value: "no port".into(),
        });
        let error = worker.run(&crashing).await.unwrap_err();
        assert_eq!(error.code(), Code::Aborted, "{error}");
        let log = crate::sandbox::logs::path(Path::new(&crashing.log_dir), "app");
        assert!(std::fs::read_to_string(log).unwrap().contains("no port"));
        assert_eq!(worker.state().await, State::Clean);
    });
}

#[test]
fn a_slot_that_is_not_clean_is_not_used() {
    apart(|| async {
        let worker = Worker::new(0).await;
        let inside = |args: &[&str]| {
            let target = format!("--target={}", worker.process.pid());
            let status = Command::new("nsenter")
                .args([&target, "--mount", "--net"])
                .args(args)
                .status();
            assert!(status.unwrap().success(), "{args:?}");
        };
        inside(&["mount", "-t", "tmpfs", "left-over", "/mnt"]);
        let observed = worker.observe().await;
        assert_eq!(observed.state(), State::Dirty);
        assert!(observed.message.contains("/mnt"), "{}", observed.message);
        let refused = worker.run(&actor("a", 1)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(code(worker.stop(1).await), Code::FailedPrecondition);
        inside(&["umount", "/mnt"]);
        assert_eq!(worker.state().await, State::Clean);
        worker.run(&actor("a", 1)).await.unwrap();
    });
}
