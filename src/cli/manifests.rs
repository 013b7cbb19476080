//! `ate manifests`: the custom resource definitions, from the Rust types.

use crate::api::{ActorTemplate, WorkerPool};
use anyhow::Context;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Directory to write to
    #[arg(default_value = "crds")]
    dir: PathBuf,
}

pub(super) fn main(args: &Args) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot create {}", args.dir.display()))?;
    for (name, yaml) in rendered()? {
        let path = args.dir.join(name);
        std::fs::write(&path, yaml).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// File names and contents.
fn rendered() -> anyhow::Result<Vec<(String, String)>> {
    let file = |crd: CustomResourceDefinition| {
        let name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
        Ok((name, serde_yaml_ng::to_string(&crd)?))
    };
    vec![WorkerPool::crd(), ActorTemplate::crd()]
        .into_iter()
        .map(file)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crds_are_as_the_types_say() {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crds");
        for (name, yaml) in rendered().unwrap() {
            let written = std::fs::read_to_string(dir.join(&name)).unwrap_or_default();
            assert!(
                written == yaml,
                "crds/{name} is not what the types say: run make manifests"
            );
        }
    }
}
