//! From the wire to what the sandbox and the network understand.

use super::Error;
use crate::api::resources::Limits;
use crate::network::slot;
use crate::proto::atenode::{
    self as wire, ActorIdentity, ContainerBundle, Readyz, SandboxSpec, StepTiming,
    runtime_config::Backend,
};
use crate::sandbox::{Container, Dns, Exit, Spec, Steps, readyz};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What an executor is to run.
pub(super) struct Order {
    pub epoch: u64,
    pub spec: Spec,
    pub probes: Vec<readyz::Probe>,
    pub app_port: u16,
    /// 0: the gate stays closed.
    pub host_port: u16,
    pub actor: ActorIdentity,
}

/// Checks an order. `netns` is the slot's interior network.
pub(super) fn order(wire: Option<SandboxSpec>, netns: &Path) -> Result<Order, Error> {
    let mut wire = wire.ok_or_else(|| Error::Invalid("spec is missing".into()))?;
    let actor = wire
        .actor
        .take()
        .ok_or_else(|| Error::Invalid("spec.actor is missing".into()))?;
    if actor.actor_id.is_empty() || wire.generation.is_empty() || wire.epoch == 0 {
        return Err(Error::Invalid(
            "spec.actor.actor_id, spec.generation and spec.epoch are required".into(),
        ));
    }
    let probes = wire.containers.iter().filter_map(|c| c.readyz.as_ref());
    Ok(Order {
        epoch: wire.epoch,
        probes: probes.map(probe).collect::<Result<_, _>>()?,
        app_port: port("spec.app_port", wire.app_port)?,
        host_port: port("spec.host_port", wire.host_port)?,
        spec: spec(wire, actor.actor_id.clone(), netns)?,
        actor,
    })
}

/// Checks what is to be created ahead of an order.
pub(super) fn ahead(wire: Option<SandboxSpec>, netns: &Path) -> Result<Spec, Error> {
    let wire = wire.ok_or_else(|| Error::Invalid("spec is missing".into()))?;
    if wire.generation.is_empty() {
        return Err(Error::Invalid("spec.generation is required".into()));
    }
    spec(wire, String::new(), netns)
}

fn spec(wire: SandboxSpec, actor_id: String, netns: &Path) -> Result<Spec, Error> {
    match wire.runtime.and_then(|runtime| runtime.backend) {
        Some(Backend::Gvisor(_)) => {}
        Some(Backend::Criu(_) | Backend::Microvm(_)) | None => {
            return Err(Error::Invalid("this executor runs gVisor only".into()));
        }
    }
    Ok(Spec {
        actor_id,
        generation: wire.generation,
        containers: wire
            .containers
            .into_iter()
            .map(container)
            .collect::<Result<_, _>>()?,
        runtime: absolute("spec.runtime_path", wire.runtime_path)?,
        netns: netns.to_owned(),
        address: slot::INNER.into(),
        limits: limits(wire.limits),
        dns: dns(wire.dns.unwrap_or_default()),
        state_dir: absolute("spec.state_dir", wire.state_dir)?,
        log_dir: absolute("spec.log_dir", wire.log_dir)?,
    })
}

/// A path that does not depend on where we are.
pub(super) fn absolute(field: &str, path: String) -> Result<PathBuf, Error> {
    let path = PathBuf::from(path);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Error::Invalid(format!(
            "{field} must be an absolute path, not {}",
            path.display()
        ))),
    }
}

/// Steps as they are reported.
pub(super) fn timings(steps: &Steps) -> Vec<StepTiming> {
    let timing = |(name, took): &(&str, Duration)| StepTiming {
        name: (*name).to_owned(),
        micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    };
    steps.iter().map(timing).collect()
}

fn limits(wire: Option<wire::Limits>) -> Limits {
    let wire = wire.unwrap_or_default();
    Limits {
        memory: wire.memory_bytes,
        cpu: wire.cpu_millis,
        share: wire.cpu_share_millis,
    }
}

/// The end of a sandbox as it is reported.
pub(super) fn exit(exit: &Exit) -> wire::Exit {
    wire::Exit {
        message: exit.to_string(),
        out_of_memory: exit.out_of_memory.is_some(),
    }
}

fn dns(wire: wire::Dns) -> Dns {
    Dns {
        alone: wire.alone,
        nameservers: wire.nameservers,
        searches: wire.searches,
        options: wire.options,
    }
}

fn container(wire: ContainerBundle) -> Result<Container, Error> {
    let capability = |name: String| {
        let unknown = || Error::Invalid(format!("container {}: no capability {name:?}", wire.name));
        name.parse().map_err(|_| unknown())
    };
    let capabilities = wire.capabilities.into_iter().map(capability);
    Ok(Container {
        read_only_rootfs: wire.read_only_rootfs,
        capabilities: capabilities.collect::<Result<_, _>>()?,
        name: wire.name,
        rootfs: wire.rootfs.into(),
        args: wire.args,
        env: wire.env.into_iter().map(|e| (e.name, e.value)).collect(),
        cwd: wire.cwd,
        uid: wire.uid,
        gid: wire.gid,
        additional_gids: wire.additional_gids,
    })
}

fn probe(wire: &Readyz) -> Result<readyz::Probe, Error> {
    let get = wire
        .http_get
        .as_ref()
        .ok_or_else(|| Error::Invalid("readyz.http_get is missing".into()))?;
    let path = match get.path.as_str() {
        "" => "/".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    Ok(readyz::Probe {
        path,
        port: port("readyz.http_get.port", get.port)?,
        timeout: match wire.timeout_seconds {
            0 => readyz::DEFAULT_TIMEOUT,
            seconds => Duration::from_secs(seconds.into()),
        },
    })
}

fn port(field: &str, value: u32) -> Result<u16, Error> {
    u16::try_from(value).map_err(|_| Error::Invalid(format!("{field}: {value} is no port")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::atenode::{CriuConfig, GvisorConfig, RuntimeConfig};

    #[test]
    fn an_order_says_which_field_is_wrong() {
        let good = SandboxSpec {
            actor: Some(ActorIdentity {
                actor_id: "a".into(),
                ..Default::default()
            }),
            epoch: 1,
            generation: "g".into(),
            runtime: Some(RuntimeConfig {
                backend: Some(Backend::Gvisor(GvisorConfig::default())),
            }),
            runtime_path: "/runsc".into(),
            state_dir: "/state".into(),
            log_dir: "/log".into(),
            ..Default::default()
        };
        type Spoil = fn(&mut SandboxSpec);
        let spoils: [(&str, Spoil); 7] = [
            ("actor", |s| s.actor = None),
            ("epoch", |s| s.epoch = 0),
            ("generation", |s| s.generation.clear()),
            ("gVisor", |s| {
                s.runtime = Some(RuntimeConfig {
                    backend: Some(Backend::Criu(CriuConfig {})),
                })
            }),
            ("host_port", |s| s.host_port = 65536),
            ("state_dir", |s| s.state_dir = "state".into()),
            ("runtime_path", |s| s.runtime_path.clear()),
        ];
        order(Some(good.clone()), Path::new("/netns")).unwrap();
        for (field, spoil) in spoils {
            let mut bad = good.clone();
            spoil(&mut bad);
            let error = order(Some(bad), Path::new("/netns")).err().unwrap();
            assert!(error.to_string().contains(field), "{field}: {error}");
        }
    }
}
