//! What is wrong with a template or a pool, and what somebody should know about it.

use crate::api::record::ActorRecord;
use crate::api::validate::{self, Violation};
use crate::api::{ActorTemplate, WorkerPool};
use crate::controller::WorkerImages;
use crate::kube::secrets::Reader;
use crate::kube::{Catalog, Secrets};
use crate::lifecycle::placement;
use kube::ResourceExt;
use std::sync::Arc;
use std::time::Duration;

/// Kubernetes waits for our word for a few seconds; for as long a Secret is waited for.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// What is said of an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Why it is refused; empty: it is not.
    pub refusals: Vec<String>,
    /// What the user is told all the same.
    pub warnings: Vec<String>,
}

/// What it is judged by.
pub(super) struct Judge {
    pub catalog: Arc<dyn Catalog>,
    pub secrets: Arc<dyn Secrets>,
    pub images: Option<WorkerImages>,
}

impl Judge {
    /// A missing pool or Secret is worth a warning only: what is applied together comes in any order.
    pub(super) async fn template(&self, template: &ActorTemplate) -> Verdict {
        let refusals = words(validate::object(
            &template.name_any(),
            &template.namespace().unwrap_or_default(),
            &template.spec,
        ));
        let mut verdict = Verdict {
            refusals,
            warnings: vec![],
        };
        if verdict.refusals.is_empty() && self.catalog.is_synced() && !self.has_pool(template) {
            let missing = match &template.spec.worker_pool_ref {
                Some(pool) => format!(
                    "spec.workerPoolRef: there is no WorkerPool {}",
                    pool.name.as_deref().unwrap_or_default()
                ),
                None => "no WorkerPool fits this template".to_owned(),
            };
            verdict
                .warnings
                .push(format!("{missing} yet; actors wait for one"));
        }
        if verdict.refusals.is_empty() {
            let look = tokio::time::timeout(LOOK_LIMIT, self.unreadable(template));
            verdict.warnings.extend(look.await.unwrap_or_default());
        }
        verdict
    }

    /// What a template takes from Secrets and would not get now.
    async fn unreadable(&self, template: &ActorTemplate) -> Vec<String> {
        let namespace = template.namespace().unwrap_or_default();
        let mut secrets = Reader::new(&*self.secrets, &namespace);
        let mut warnings = vec![];
        for (i, secret) in template.spec.image_pull_secrets.iter().enumerate() {
            if let Err(why) = secrets.docker_config(&secret.name).await {
                warnings.push(format!(
                    "spec.imagePullSecrets[{i}]: {why}; the golden snapshot waits for it"
                ));
            }
        }
        for (i, container) in template.spec.containers.iter().enumerate() {
            for (j, env) in container.env.iter().enumerate() {
                let Some(from) = &env.value_from else {
                    continue;
                };
                if let Err(why) = secrets.value(&from.secret_key_ref).await {
                    warnings.push(format!(
                        "spec.containers[{i}].env[{j}].valueFrom.secretKeyRef: {why}; the golden snapshot waits for it"
                    ));
                }
            }
        }
        warnings
    }

    fn has_pool(&self, template: &ActorTemplate) -> bool {
        let all = self.catalog.pools();
        let all = all.iter().map(AsRef::as_ref);
        placement::pools(&ActorRecord::default(), template, all).is_ok_and(|p| !p.is_empty())
    }

    pub(super) fn pool(&self, pool: &WorkerPool) -> Verdict {
        let mut verdict = Verdict {
            refusals: words(validate::object(
                &pool.name_any(),
                &pool.namespace().unwrap_or_default(),
                &pool.spec,
            )),
            warnings: vec![],
        };
        if let Some(images) = &self.images {
            match images.choose(pool.spec.ateom_image.as_deref()) {
                Ok(chosen) => verdict.warnings.extend(chosen.instead_of.map(|named| {
                    format!(
                        "spec.ateomImage: {named:?} does not speak our node protocol; {:?} runs instead",
                        chosen.image
                    )
                })),
                Err(why) => verdict.refusals.push(why),
            }
        }
        verdict
    }
}

fn words(violations: Vec<Violation>) -> Vec<String> {
    violations.iter().map(Violation::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::TemplateKey;
    use crate::api::template::{ActorTemplateSpec, Container, EnvVar, PullSecret};
    use crate::kube::SecretError;
    use crate::kube::secrets::Data;
    use k8s_openapi::api::core::v1::ObjectReference;

    struct Pools(Vec<Arc<WorkerPool>>);

    impl Catalog for Pools {
        fn is_synced(&self) -> bool {
            true
        }
        fn template(&self, _: &TemplateKey) -> Option<Arc<ActorTemplate>> {
            None
        }
        fn templates(&self) -> Vec<Arc<ActorTemplate>> {
            vec![]
        }
        fn pools(&self) -> Vec<Arc<WorkerPool>> {
            self.0.clone()
        }
    }

    struct NoSecrets;

    #[async_trait::async_trait]
    impl Secrets for NoSecrets {
        async fn read(&self, namespace: &str, name: &str) -> Result<Data, SecretError> {
            Err(SecretError::Missing(format!("{namespace}/{name}")))
        }
    }

    fn pool(name: &str, image: Option<&str>) -> WorkerPool {
        let mut pool = WorkerPool::new(name, Default::default());
        pool.metadata.namespace = Some("team".into());
        pool.spec.ateom_image = image.map(str::to_owned);
        pool
    }

    fn judge() -> Judge {
        Judge {
            catalog: Arc::new(Pools(vec![Arc::new(pool("p", None))])),
            secrets: Arc::new(NoSecrets),
            images: Some(WorkerImages {
                own: "ate:1".into(),
                ..WorkerImages::default()
            }),
        }
    }

    fn template(image: &str, pool: Option<&str>) -> ActorTemplate {
        let spec = ActorTemplateSpec {
            containers: vec![Container {
                name: "c".into(),
                image: image.into(),
                ..Container::default()
            }],
            worker_pool_ref: pool.map(|name| ObjectReference {
                name: Some(name.into()),
                ..ObjectReference::default()
            }),
            ..ActorTemplateSpec::default()
        };
        let mut template = ActorTemplate::new("t", spec);
        template.metadata.namespace = Some("team".into());
        template
    }

    #[tokio::test]
    async fn templates() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        let judge = judge();
        for good in [None, Some("p")] {
            let verdict = judge.template(&template(&digest, good)).await;
            assert_eq!(verdict, Verdict::default(), "{good:?}");
        }
        let verdict = judge.template(&template(&digest, Some("q"))).await;
        assert!(verdict.refusals.is_empty());
        let wanted = "spec.workerPoolRef: there is no WorkerPool q yet; actors wait for one";
        assert_eq!(verdict.warnings, [wanted]);
        let refused = judge.template(&template("a:1", Some("q"))).await;
        assert!(refused.refusals[0].starts_with("spec.containers[0].image: "));
        assert!(refused.warnings.is_empty());
        let mut secretive = template(&digest, None);
        let env: EnvVar = serde_json::from_value(serde_json::json!({
            "name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}},
        }))
        .unwrap();
        let mut optional = env.clone();
        optional
            .value_from
            .as_mut()
            .unwrap()
            .secret_key_ref
            .optional = Some(true);
        secretive.spec.containers[0].env = vec![optional, env];
        let wanted = "spec.containers[0].env[1].valueFrom.secretKeyRef: there is no Secret team/s; the golden snapshot waits for it";
        assert_eq!(judge.template(&secretive).await.warnings, [wanted]);
        let mut private = template(&digest, None);
        private.spec.image_pull_secrets = vec![PullSecret { name: "r".into() }];
        let wanted =
            "spec.imagePullSecrets[0]: there is no Secret team/r; the golden snapshot waits for it";
        assert_eq!(judge.template(&private).await.warnings, [wanted]);
    }

    #[test]
    fn pools() {
        let judge = judge();
        assert_eq!(judge.pool(&pool("q", None)), Verdict::default());
        let replaced = judge.pool(&pool("q", Some("ateom:1")));
        assert!(replaced.refusals.is_empty());
        assert!(replaced.warnings[0].contains("\"ate:1\" runs instead"));
        let foreign = judge.pool(&pool("q", Some("foreign:1")));
        assert!(foreign.refusals[0].starts_with("spec.ateomImage: "));
        let mut nothing = pool("q", None);
        nothing.spec.replicas = -1;
        assert!(judge.pool(&nothing).refusals[0].starts_with("spec.replicas: "));
    }
}
