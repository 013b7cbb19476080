//! From a workload and its images to what an executor is told to run.

use super::outcome::Failure;
use crate::api::Reason;
use crate::image::{
    Credentials, ImageConfig, ImageError, ImageRef, ImageStore, ResolvedUser, UnpackedImage,
};
use crate::proto::atenode::{Container, ContainerBundle, EnvVar, PullSecret, Security, Workload};
use crate::sandbox::ETC_FILES;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Where programs are looked for when neither image nor template says so; what container engines use.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Images whose configuration is kept at hand.
const MAX_KNOWN: usize = 1024;

/// Where the runtime mounts something in an image's files. It would make these directories itself, were it to write there.
const MOUNT_POINTS: [&str; 2] = ["dev", "run/ate"];

/// Images of this node, and what was read of them.
pub(super) struct Images {
    store: ImageStore,
    docker_config: Option<PathBuf>,
    /// Bytes that images may take.
    budget: u64,
    /// Images of golden snapshots; `None` before the API server named them.
    golden: Mutex<Option<Vec<String>>>,
    known: Mutex<HashMap<String, (UnpackedImage, ResolvedUser)>>,
}

impl Images {
    pub fn new(store: ImageStore, docker_config: Option<PathBuf>, budget: u64) -> Images {
        Images {
            store,
            docker_config,
            budget,
            golden: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// The bundles of a workload, its images fetched and unpacked. When they are known this costs a look per image.
    pub async fn bundles(&self, workload: &Workload) -> Result<Vec<ContainerBundle>, Failure> {
        let mut bundles = Vec::with_capacity(workload.containers.len());
        for container in &workload.containers {
            let (image, user) = self.image(&container.image, workload).await?;
            bundles.push(bundle(container, &image, user)?);
        }
        Ok(bundles)
    }

    /// The images of golden snapshots are these now.
    pub fn keep_golden(&self, images: Vec<String>) {
        *self.golden.lock().unwrap_or_else(PoisonError::into_inner) = Some(images);
    }

    /// Removes images beyond the budget, but for those that are `used` or of golden snapshots. Nothing before it is known which those are.
    pub async fn trim(&self, used: Vec<String>) -> Result<(), ImageError> {
        let golden = self
            .golden
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(golden) = golden else {
            return Ok(());
        };
        let pinned = used.into_iter().chain(golden);
        let pinned = pinned.filter_map(|image| Some(image.parse::<ImageRef>().ok()?.digest));
        let gone = self.store.trim(self.budget, pinned.collect()).await?;
        if !gone.is_empty() {
            tracing::info!(?gone, "images removed to make room");
            self.known()
                .retain(|_, (image, _)| !gone.contains(&image.digest));
        }
        Ok(())
    }

    /// Fails when a workload without its pull secrets has an image that is not here.
    pub async fn may_be_missing(&self, workload: &Workload) -> Result<(), Failure> {
        if !workload.pull_secrets_left_out {
            return Ok(());
        }
        for container in &workload.containers {
            let image: ImageRef = container.image.parse()?;
            if self.store.find(&image).await?.is_none() {
                let message = format!(
                    "image {image} is not on this node, and the order came without its pull secrets"
                );
                return Err(Failure::Failed(Reason::ImageUnavailable, message));
            }
        }
        Ok(())
    }

    async fn image(
        &self,
        reference: &str,
        workload: &Workload,
    ) -> Result<(UnpackedImage, ResolvedUser), Failure> {
        let known = self.known().get(reference).cloned();
        if let Some(known) = known {
            // Noted first, so that it is not removed from now on.
            self.store.used(&known.0);
            if known.0.rootfs.is_dir() {
                return Ok(known);
            }
        }
        let image: ImageRef = reference.parse()?;
        let image = match self.store.find(&image).await? {
            Some(image) => image,
            None => {
                let credentials = self.credentials(&workload.pull_secrets).await?;
                self.store.ensure(&image, &credentials).await?
            }
        };
        let user = image.user(None)?;
        let dirs = MOUNT_POINTS.map(|name| (name.to_owned(), image.make_dir(name)));
        let files = ETC_FILES.map(|name| format!("etc/{name}"));
        let files = files.map(|name| (name.clone(), image.make_file(&name)));
        for (name, made) in dirs.into_iter().chain(files) {
            // The runtime says better what is in the way, if it is.
            if let Err(error) = made {
                tracing::debug!(name, %error, "no mount point in an image");
            }
        }
        let mut all = self.known();
        if all.len() >= MAX_KNOWN {
            all.clear();
        }
        all.insert(reference.to_owned(), (image.clone(), user.clone()));
        Ok((image, user))
    }

    async fn credentials(&self, secrets: &[PullSecret]) -> Result<Credentials, Failure> {
        let mut credentials = Credentials::default();
        for secret in secrets {
            credentials.add(&format!("Secret {}", secret.name), &secret.config)?;
        }
        if let Some(file) = &self.docker_config {
            credentials.add_file(file).await?;
        }
        Ok(credentials)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, (UnpackedImage, ResolvedUser)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bundle(
    container: &Container,
    image: &UnpackedImage,
    user: ResolvedUser,
) -> Result<ContainerBundle, Failure> {
    let args = command_line(container, &image.config);
    if args.is_empty() {
        return Err(Failure::Failed(
            Reason::BootFailed,
            format!(
                "container {}: neither the template nor the image says what to run; set command",
                container.name
            ),
        ));
    }
    let security = container.security.clone().unwrap_or_default();
    let user = run_as(&security, image, user)?;
    if security.non_root && user.uid == 0 {
        return Err(Failure::Failed(
            Reason::BootFailed,
            format!(
                "container {}: securityContext.runAsNonRoot is true, and the image's user is root; set runAsUser",
                container.name
            ),
        ));
    }
    let cwd = match container.working_dir.as_str() {
        "" => image.config.workdir.clone(),
        dir => dir.to_owned(),
    };
    Ok(ContainerBundle {
        name: container.name.clone(),
        rootfs: image.rootfs.display().to_string(),
        args,
        env: environment(container, &image.config),
        cwd,
        uid: user.uid,
        gid: user.gid,
        additional_gids: user.additional_gids,
        readyz: container.readyz.clone(),
        read_only_rootfs: security.read_only_rootfs,
        capabilities: security.capabilities,
    })
}

/// Who the process is: as the template says, and where it says nothing as the image does; `own` is the image's.
fn run_as(
    security: &Security,
    image: &UnpackedImage,
    own: ResolvedUser,
) -> Result<ResolvedUser, Failure> {
    let mut user = match security.user {
        Some(uid) => image.user(Some(&uid.to_string()))?,
        None => own,
    };
    user.gid = security.group.unwrap_or(user.gid);
    user.additional_gids.extend(&security.groups);
    user.additional_gids.sort_unstable();
    user.additional_gids.dedup();
    Ok(user)
}

/// As Kubernetes has it: `command` replaces entrypoint and arguments of the image, `args` its arguments.
fn command_line(container: &Container, config: &ImageConfig) -> Vec<String> {
    let (entrypoint, arguments) = match (container.command.is_empty(), container.args.is_empty()) {
        (true, true) => (&config.entrypoint, &config.cmd),
        (true, false) => (&config.entrypoint, &container.args),
        (false, _) => (&container.command, &container.args),
    };
    entrypoint.iter().chain(arguments).cloned().collect()
}

/// The image's variables, then the template's; a later one replaces an earlier one in its place.
fn environment(container: &Container, config: &ImageConfig) -> Vec<EnvVar> {
    let mut env: Vec<EnvVar> = Vec::new();
    let of_image = config.env.iter().map(|line| {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        (name, value)
    });
    let of_template = container.env.iter().map(|e| (&*e.name, &*e.value));
    let default = [("PATH", DEFAULT_PATH)].into_iter();
    for (name, value) in default.chain(of_image).chain(of_template) {
        match env.iter_mut().find(|e| e.name == name) {
            Some(old) => value.clone_into(&mut old.value),
            None => env.push(EnvVar {
                name: name.to_owned(),
                value: value.to_owned(),
            }),
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn commands_and_arguments_are_overridden_as_in_kubernetes() {
        let config = ImageConfig {
            entrypoint: strings(&["ep"]),
            cmd: strings(&["cmd"]),
            ..ImageConfig::default()
        };
        for (command, args, want) in [
            (&[][..], &[][..], &["ep", "cmd"][..]),
            (&[], &["a"], &["ep", "a"]),
            (&["c"], &[], &["c"]),
            (&["c"], &["a"], &["c", "a"]),
        ] {
            let container = Container {
                command: strings(command),
                args: strings(args),
                ..Container::default()
            };
            assert_eq!(command_line(&container, &config), want);
        }
    }

    #[tokio::test]
    async fn an_image_that_is_not_here_is_told_of_where_its_pull_secrets_were_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(ImageStore::open(dir.path()).await.unwrap(), None, 0);
        let container = Container {
            image: format!("registry.example/a@sha256:{}", "0".repeat(64)),
            ..Container::default()
        };
        let mut workload = Workload {
            containers: vec![container],
            ..Workload::default()
        };
        images.may_be_missing(&workload).await.unwrap();
        workload.pull_secrets_left_out = true;
        let failed = images.may_be_missing(&workload).await;
        assert!(
            matches!(failed, Err(Failure::Failed(Reason::ImageUnavailable, _))),
            "{failed:?}"
        );
    }

    #[test]
    fn variables_of_the_template_win() {
        let config = ImageConfig {
            env: strings(&["PATH=/app", "A=image", "B=image=x"]),
            ..ImageConfig::default()
        };
        let var = |name: &str, value: &str| EnvVar {
            name: name.into(),
            value: value.into(),
        };
        let container = Container {
            env: vec![var("A", "template"), var("C", "")],
            ..Container::default()
        };
        let want = [
            var("PATH", "/app"),
            var("A", "template"),
            var("B", "image=x"),
            var("C", ""),
        ];
        assert_eq!(environment(&container, &config), want);
        let bare = environment(&Container::default(), &ImageConfig::default());
        assert_eq!(bare, [var("PATH", DEFAULT_PATH)]);
    }

    #[test]
    fn users_and_groups_are_those_of_the_template_and_else_of_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        std::fs::write(etc.join("passwd"), "app:x:1000:2000::/:/bin/sh\n").unwrap();
        std::fs::write(etc.join("group"), "extra:x:3000:app\n").unwrap();
        let image = UnpackedImage {
            rootfs: dir.path().to_owned(),
            config: ImageConfig {
                cmd: strings(&["/app"]),
                ..ImageConfig::default()
            },
            digest: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
        };
        let made = |security: Security| {
            let container = Container {
                name: "c".into(),
                security: Some(security),
                ..Container::default()
            };
            bundle(&container, &image, ResolvedUser::default())
        };
        let usual = Security::default();
        for (security, uid, gid, groups) in [
            (usual.clone(), 0, 0, &[][..]),
            (
                Security {
                    user: Some(1000),
                    ..usual.clone()
                },
                1000,
                2000,
                &[3000],
            ),
            (
                Security {
                    user: Some(7),
                    ..usual.clone()
                },
                7,
                0,
                &[],
            ),
            (
                Security {
                    user: Some(1000),
                    group: Some(5),
                    groups: vec![9, 3000, 4],
                    non_root: true,
                    ..usual.clone()
                },
                1000,
                5,
                &[4, 9, 3000],
            ),
        ] {
            let bundle = made(security.clone()).unwrap();
            assert_eq!((bundle.uid, bundle.gid), (uid, gid), "{security:?}");
            assert_eq!(bundle.additional_gids, groups, "{security:?}");
        }
        let refused = made(Security {
            non_root: true,
            ..usual
        })
        .unwrap_err();
        assert!(
            matches!(&refused, Failure::Failed(Reason::BootFailed, why) if why.contains("runAsNonRoot")),
            "{refused:?}"
        );
    }
}
