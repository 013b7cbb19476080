//! From templates to what a node is told to run.

use crate::api::dns::{DnsOption, DnsPolicy};
use crate::api::record::ActorRecord;
use crate::api::template::{Container, PullSecret, Readyz};
use crate::api::{ActorTemplate, ActorTemplateSpec, Reason, SandboxClass, resources, security};
use crate::kube::Secrets;
use crate::kube::secrets::Reader;
use crate::lifecycle::placement::request_port;
use crate::proto::atenode as wire;

/// Bytes of all pull secrets of a workload: as much as one Secret may have.
const MAX_PULL_SECRETS: usize = 1 << 20;

/// What of a template's Secrets a workload gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum With {
    /// Nothing: what is restored has its environment in memory, and its node most likely has its images.
    Nothing,
    /// What images are pulled with.
    PullSecrets,
    /// The values of variables too.
    Everything,
}

/// The workload of a template on machines of `arch` (`amd64` or `arm64`).
pub(super) async fn workload(
    template: &ActorTemplate,
    arch: &str,
    secrets: &dyn Secrets,
    with: With,
) -> Result<wire::Workload, (Reason, String)> {
    let namespace = template.metadata.namespace.as_deref().unwrap_or_default();
    let mut secrets = Reader::new(secrets, namespace);
    let mut containers = Vec::with_capacity(template.spec.containers.len());
    for c in &template.spec.containers {
        let values = (with == With::Everything).then_some(&mut secrets);
        let env = environment(c, values).await?;
        containers.push(container(c, env));
    }
    let named = &template.spec.image_pull_secrets;
    let pull_secrets = match with {
        With::Nothing => vec![],
        With::PullSecrets | With::Everything => pull_secrets(named, &mut secrets).await?,
    };
    Ok(wire::Workload {
        containers,
        runtime: Some(wire::RuntimeConfig {
            backend: Some(backend(template, arch)?),
        }),
        port: u32::from(request_port(template)),
        limits: Some(limits(template)),
        dns: Some(dns(&template.spec)),
        pull_secrets_left_out: pull_secrets.len() < named.len(),
        pull_secrets,
    })
}

fn limits(template: &ActorTemplate) -> wire::Limits {
    let limits = resources::limits(&template.spec);
    wire::Limits {
        memory_bytes: limits.memory,
        cpu_millis: limits.cpu,
        cpu_share_millis: limits.share,
    }
}

fn dns(spec: &ActorTemplateSpec) -> wire::Dns {
    let config = spec.dns_config.clone().unwrap_or_default();
    let option = |o: DnsOption| match o.value {
        Some(value) => format!("{}:{value}", o.name),
        None => o.name,
    };
    wire::Dns {
        alone: spec.dns_policy == DnsPolicy::None,
        nameservers: config.nameservers,
        searches: config.searches,
        options: config.options.into_iter().map(option).collect(),
    }
}

fn security(container: &Container) -> wire::Security {
    let said = container.security_context.as_ref();
    let capabilities = security::capabilities(said).into_iter();
    let said = said.cloned().unwrap_or_default();
    let id = |id: i64| u32::try_from(id).ok();
    wire::Security {
        user: said.run_as_user.and_then(id),
        group: said.run_as_group.and_then(id),
        groups: said
            .supplemental_groups
            .into_iter()
            .filter_map(id)
            .collect(),
        non_root: said.run_as_non_root.unwrap_or_default(),
        read_only_rootfs: said.read_only_root_filesystem.unwrap_or_default(),
        capabilities: capabilities.map(|c| c.to_string()).collect(),
    }
}

async fn pull_secrets(
    named: &[PullSecret],
    secrets: &mut Reader<'_>,
) -> Result<Vec<wire::PullSecret>, (Reason, String)> {
    let failed = |why: String| {
        let message = format!("imagePullSecrets: {why}");
        (Reason::SecretUnavailable, message)
    };
    let mut read = Vec::with_capacity(named.len());
    let mut bytes = 0;
    for PullSecret { name } in named {
        let config = secrets.docker_config(name).await;
        let config = config.map_err(|why| failed(why.to_string()))?;
        bytes += config.len();
        if bytes > MAX_PULL_SECRETS {
            let why = format!("they have over {MAX_PULL_SECRETS} bytes together; name fewer");
            return Err(failed(why));
        }
        let name = secrets.full(name);
        read.push(wire::PullSecret { name, config });
    }
    Ok(read)
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
        security: Some(security(container)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::SecretError;
    use crate::kube::secrets::Data;

    /// A Secret of each kind.
    struct Each;

    #[async_trait::async_trait]
    impl Secrets for Each {
        async fn read(&self, namespace: &str, name: &str) -> Result<Data, SecretError> {
            let (key, value) = match name {
                "registry" => (".dockerconfigjson", b"{}".to_vec()),
                "large" => (".dockerconfigjson", vec![b' '; MAX_PULL_SECRETS + 1]),
                "words" => ("word", b"open".to_vec()),
                _ => return Err(SecretError::Missing(format!("{namespace}/{name}"))),
            };
            Ok([(key.to_owned(), value)].into())
        }
    }

    fn template(pull: &[&str]) -> ActorTemplate {
        let spec = serde_json::json!({
            "containers": [{"name": "c", "image": "i", "env": [
                {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "words", "key": "word"}}}]}],
            "imagePullSecrets": pull.iter().map(|name| serde_json::json!({"name": name})).collect::<Vec<_>>(),
        });
        let mut template = ActorTemplate::new("t", serde_json::from_value(spec).unwrap());
        template.metadata.namespace = Some("team".into());
        template
    }

    #[tokio::test]
    async fn secrets_go_where_they_are_needed() {
        for (pull, with, env, sent, left_out) in [
            (&[][..], With::Nothing, 0, &[][..], false),
            (&["registry"], With::Nothing, 0, &[], true),
            (
                &["registry"],
                With::PullSecrets,
                0,
                &["team/registry"],
                false,
            ),
            (
                &["registry"],
                With::Everything,
                1,
                &["team/registry"],
                false,
            ),
            (&["gone"], With::Nothing, 0, &[], true),
        ] {
            let made = workload(&template(pull), "amd64", &Each, with)
                .await
                .unwrap();
            assert_eq!(made.containers[0].env.len(), env, "{pull:?} {with:?}");
            let names: Vec<&str> = made.pull_secrets.iter().map(|s| &*s.name).collect();
            assert_eq!(names, sent, "{pull:?} {with:?}");
            assert_eq!(made.pull_secrets_left_out, left_out, "{pull:?} {with:?}");
        }
        for (name, said) in [
            ("gone", "imagePullSecrets: there is no Secret team/gone"),
            (
                "large",
                "imagePullSecrets: they have over 1048576 bytes together; name fewer",
            ),
            (
                "words",
                r#"imagePullSecrets: Secret team/words has no key ".dockerconfigjson": make it with kubectl create secret docker-registry"#,
            ),
        ] {
            let failed = workload(&template(&[name]), "amd64", &Each, With::PullSecrets).await;
            assert_eq!(failed, Err((Reason::SecretUnavailable, said.into())));
        }
    }

    #[test]
    fn a_pull_secret_is_not_shown() {
        let secret = wire::PullSecret {
            name: "team/registry".into(),
            config: b"hunter2".to_vec(),
        };
        let shown = format!(
            "{:?}",
            wire::Workload {
                pull_secrets: vec![secret],
                ..Default::default()
            }
        );
        assert!(
            shown.contains("team/registry") && !shown.contains("104, 117"),
            "{shown}"
        );
    }
}
