//! From templates to what a node is told to run.

use crate::api::record::ActorRecord;
use crate::api::template::{Container, Readyz};
use crate::api::{ActorTemplate, Reason, SandboxClass};
use crate::kube::Secrets;
use crate::kube::secrets::Reader;
use crate::lifecycle::placement::request_port;
use crate::proto::atenode as wire;

/// The workload of a template on machines of `arch` (`amd64` or `arm64`). Without `secrets` their values are left out: what is
/// restored has its environment in memory.
pub(super) async fn workload(
    template: &ActorTemplate,
    arch: &str,
    secrets: Option<&dyn Secrets>,
) -> Result<wire::Workload, (Reason, String)> {
    let namespace = template.metadata.namespace.as_deref().unwrap_or_default();
    let mut secrets = secrets.map(|secrets| Reader::new(secrets, namespace));
    let mut containers = Vec::with_capacity(template.spec.containers.len());
    for c in &template.spec.containers {
        let env = environment(c, secrets.as_mut()).await?;
        containers.push(container(c, env));
    }
    Ok(wire::Workload {
        containers,
        runtime: Some(wire::RuntimeConfig {
            backend: Some(backend(template, arch)?),
        }),
        port: u32::from(request_port(template)),
    })
}

fn backend(
    template: &ActorTemplate,
    arch: &str,
) -> Result<wire::runtime_config::Backend, (Reason, String)> {
    use wire::runtime_config::Backend;
    match template.spec.sandbox_class {
        SandboxClass::Gvisor => {}
        SandboxClass::Criu => return Ok(Backend::Criu(wire::CriuConfig {})),
        SandboxClass::Microvm => return Ok(Backend::Microvm(wire::MicrovmConfig {})),
    }
    let Some(runsc) = &template.spec.runsc else {
        return Ok(Backend::Gvisor(wire::GvisorConfig::default()));
    };
    let build = if arch == "arm64" {
        &runsc.arm64
    } else {
        &runsc.amd64
    };
    let build = build.as_ref().ok_or_else(|| {
        (
            Reason::RuntimeUnavailable,
            format!("spec.runsc names no build for {arch}; add spec.runsc.{arch}"),
        )
    })?;
    Ok(Backend::Gvisor(wire::GvisorConfig {
        url: build.url.clone(),
        sha256: build.sha256_hash.clone(),
    }))
}

async fn environment(
    container: &Container,
    mut secrets: Option<&mut Reader<'_>>,
) -> Result<Vec<wire::EnvVar>, (Reason, String)> {
    let mut env = Vec::with_capacity(container.env.len());
    for e in &container.env {
        let value = match (&e.value_from, &mut secrets) {
            (None, _) => Some(e.value.clone().unwrap_or_default()),
            (Some(_), None) => None,
            (Some(from), Some(secrets)) => {
                let value = secrets.value(&from.secret_key_ref).await;
                value
                    .map_err(|why| (Reason::SecretUnavailable, format!("env {}: {why}", e.name)))?
            }
        };
        let name = e.name.clone();
        env.extend(value.map(|value| wire::EnvVar { name, value }));
    }
    Ok(env)
}

fn container(container: &Container, env: Vec<wire::EnvVar>) -> wire::Container {
    wire::Container {
        name: container.name.clone(),
        image: container.image.clone(),
        command: container.command.clone(),
        args: container.args.clone(),
        env,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        readyz: container.readyz.as_ref().map(readyz),
    }
}

fn readyz(readyz: &Readyz) -> wire::Readyz {
    wire::Readyz {
        http_get: Some(wire::HttpGet {
            path: readyz.http_get.path.clone(),
            port: u32::try_from(readyz.http_get.port).unwrap_or(0),
        }),
        timeout_seconds: u32::try_from(readyz.timeout_seconds).unwrap_or(0),
    }
}

/// Who the actor is, for nodes and sandboxes.
pub(super) fn identity(actor: &ActorRecord) -> wire::ActorIdentity {
    wire::ActorIdentity {
        namespace: actor.key.namespace.clone(),
        name: actor.key.name.clone(),
        actor_id: actor.flat_id(),
        template_namespace: actor.spec.template.namespace.clone(),
        template_name: actor.spec.template.name.clone(),
        uid: actor.status.uid.to_string(),
    }
}
