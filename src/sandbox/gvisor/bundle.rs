//! OCI bundles: what `runsc` is told about a container.
//!
//! The same specification always gives the same bytes. At a restore `runsc` compares the new configuration with
//! the saved one (`runsc/specutils/restore.go`): arguments, mounts but for their sources, user, capabilities and the like must be
//! equal; paths of rootfs and namespaces, environment and host name may differ.

use super::super::{Container, Error, Spec, etc};
use crate::api::security::Capability;
use oci_spec::runtime as oci;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Where a container finds who it is.
const IDENTITY_MOUNT: &str = "/run/ate";
/// Bytes of shared memory, as container engines have it.
const SHM_BYTES: u64 = 64 << 20;
/// Limit of open files, as container engines set it.
const OPEN_FILES: u64 = 1 << 20;

/// What a container is within its sandbox.
pub(super) enum Role<'a> {
    /// The sandbox's root and its only application container.
    Alone,
    /// The sandbox's root, which only holds it.
    PauseRoot,
    /// An application container in the sandbox of that id.
    Member { sandbox: &'a str },
}

/// The directory of this actor whose files appear in [`IDENTITY_MOUNT`].
pub(super) fn identity_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("identity")
}

/// Writes the files of [`IDENTITY_MOUNT`].
pub(super) fn write_identity(spec: &Spec) -> Result<(), Error> {
    let dir = identity_dir(&spec.state_dir);
    let write = |name: &str, content: &str| std::fs::write(dir.join(name), content);
    std::fs::create_dir_all(&dir)
        .and_then(|()| write("actor-id", &spec.actor_id))
        .and_then(|()| write("generation", &spec.generation))
        .map_err(Error::io(format!("cannot write {}", dir.display())))
}

/// Writes the bundle of `container` into the new directory `dir`.
pub(super) fn write(
    dir: &Path,
    spec: &Spec,
    container: &Container,
    role: &Role<'_>,
) -> Result<(), Error> {
    let config = config(spec, container, role)?;
    std::fs::create_dir(dir)
        .and_then(|()| std::fs::write(dir.join("config.json"), config))
        .map_err(Error::io(format!(
            "cannot write the bundle {}",
            dir.display()
        )))
}

fn config(spec: &Spec, container: &Container, role: &Role<'_>) -> Result<Vec<u8>, Error> {
    let mut config = oci::Spec::default();
    let mut root = oci::Root::default();
    root.set_path(container.rootfs.clone());
    root.set_readonly(Some(container.read_only_rootfs));
    config
        .set_version("1.2.0".to_owned())
        .set_root(Some(root))
        .set_process(Some(process(container)?))
        .set_mounts(Some(mounts(spec, role)?))
        .set_hostname(Some(spec.actor_id.clone()).filter(|name| !name.is_empty()))
        .set_annotations(Some(annotations(container, role)))
        .set_linux(Some(linux(spec)?));
    sorted(&config).map_err(|e| Error::Invalid(e.to_string()))
}

fn process(container: &Container) -> Result<oci::Process, Error> {
    let mut user = oci::User::default();
    // Never an empty list: it is saved as none, and then differs at the restore.
    let gids = Some(container.additional_gids.clone()).filter(|gids| !gids.is_empty());
    user.set_uid(container.uid)
        .set_gid(container.gid)
        .set_additional_gids(gids);
    let files = oci::PosixRlimitBuilder::default()
        .typ(oci::PosixRlimitType::RlimitNofile)
        .soft(OPEN_FILES)
        .hard(OPEN_FILES)
        .build()
        .map_err(|e| Error::Invalid(e.to_string()))?;
    let cwd = match container.cwd.as_str() {
        "" => "/",
        cwd => cwd,
    };
    let env = container.env.iter().map(|(k, v)| format!("{k}={v}"));
    let mut process = oci::Process::default();
    process
        .set_args(Some(container.args.clone()))
        .set_env(Some(env.collect()))
        .set_cwd(cwd.into())
        .set_capabilities(Some(capabilities(container)))
        .set_rlimits(Some(vec![files]))
        .set_no_new_privileges(Some(true));
    process.set_user(user);
    Ok(process)
}

fn capabilities(container: &Container) -> oci::LinuxCapabilities {
    let all = container.capabilities.iter();
    let set: HashSet<_> = all.map(|capability| named(*capability)).collect();
    // As the kernel does when a program starts that is not root's (capabilities(7)); the runtime does not.
    let held = match container.uid {
        0 => set.clone(),
        _ => HashSet::new(),
    };
    let mut capabilities = oci::LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set))
        .set_effective(Some(held.clone()))
        .set_permitted(Some(held))
        .set_inheritable(None)
        .set_ambient(None);
    capabilities
}

fn named(capability: Capability) -> oci::Capability {
    use oci::Capability as C;
    match capability {
        Capability::AuditWrite => C::AuditWrite,
        Capability::Chown => C::Chown,
        Capability::DacOverride => C::DacOverride,
        Capability::Fowner => C::Fowner,
        Capability::Fsetid => C::Fsetid,
        Capability::Kill => C::Kill,
        Capability::NetBindService => C::NetBindService,
        Capability::Setfcap => C::Setfcap,
        Capability::Setgid => C::Setgid,
        Capability::Setpcap => C::Setpcap,
        Capability::Setuid => C::Setuid,
        Capability::SysChroot => C::SysChroot,
    }
}

fn mounts(spec: &Spec, role: &Role<'_>) -> Result<Vec<oci::Mount>, Error> {
    let dir = |dir: PathBuf| {
        let text = dir.to_str().map(str::to_owned);
        text.ok_or_else(|| Error::Invalid(format!("{} is not valid UTF-8", dir.display())))
    };
    let identity = dir(identity_dir(&spec.state_dir))?;
    let shm = format!("size={SHM_BYTES}");
    let read_only = &["rbind", "ro", "nosuid", "nodev"][..];
    let kernels = [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"][..]),
        ("/dev", "tmpfs", "tmpfs", &["nosuid", "mode=755"]),
        ("/dev/pts", "devpts", "devpts", &["nosuid", "noexec"]),
        (
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "nodev", "noexec", "mode=1777", &shm],
        ),
        ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "ro"]),
        (
            IDENTITY_MOUNT,
            "bind",
            &identity,
            &["rbind", "ro", "nosuid"],
        ),
    ];
    let names = match role {
        Role::PauseRoot => &[][..],
        Role::Alone | Role::Member { .. } => &etc::FILES,
    };
    let files = names
        .iter()
        .map(|name| (format!("/etc/{name}"), etc::file(&spec.state_dir, name)));
    let files = files.map(|(to, from)| Ok((to, dir(from)?)));
    let files: Vec<(String, String)> = files.collect::<Result<_, Error>>()?;
    let files = files
        .iter()
        .map(|(to, from)| (&**to, "bind", &**from, read_only));
    kernels
        .into_iter()
        .chain(files)
        .map(|(destination, typ, source, options)| {
            let options: Vec<String> = options.iter().map(|&o| o.to_owned()).collect();
            oci::MountBuilder::default()
                .destination(destination)
                .typ(typ)
                .source(source)
                .options(options)
                .build()
                .map_err(|e| Error::Invalid(e.to_string()))
        })
        .collect()
}

/// How CRI runtimes tell `runsc` which containers share a sandbox. The name decides which saved container a new one
/// continues; without it they match by order.
fn annotations(container: &Container, role: &Role<'_>) -> HashMap<String, String> {
    let mut annotations = HashMap::new();
    let mut set = |key: &str, value: &str| {
        annotations.insert(format!("io.kubernetes.cri.{key}"), value.to_owned());
    };
    match role {
        Role::Alone => {}
        Role::PauseRoot => set("container-type", "sandbox"),
        Role::Member { sandbox } => {
            set("container-type", "container");
            set("sandbox-id", sandbox);
            set("container-name", &container.name);
        }
    }
    annotations
}

fn linux(spec: &Spec) -> Result<oci::Linux, Error> {
    use oci::LinuxNamespaceType::*;
    let namespaces = [Pid, Ipc, Uts, Mount].map(|typ| {
        let mut namespace = oci::LinuxNamespace::default();
        namespace.set_typ(typ);
        namespace
    });
    let network = oci::LinuxNamespaceBuilder::default()
        .typ(Network)
        .path(spec.netns.clone())
        .build()
        .map_err(|e| Error::Invalid(e.to_string()))?;
    let mut linux = oci::Linux::default();
    linux
        .set_namespaces(Some(namespaces.into_iter().chain([network]).collect()))
        .set_resources(None)
        .set_devices(None);
    Ok(linux)
}

/// JSON with sorted keys; capabilities, a set, are sorted too.
fn sorted(config: &oci::Spec) -> serde_json::Result<Vec<u8>> {
    let mut value = serde_json::to_value(config)?;
    if let Some(sets) = value
        .pointer_mut("/process/capabilities")
        .and_then(|v| v.as_object_mut())
    {
        for set in sets.values_mut().filter_map(|v| v.as_array_mut()) {
            set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
    }
    serde_json::to_vec(&value)
}

#[cfg(test)]
mod tests {
    use super::super::super::Dns;
    use super::*;
    use crate::api::resources::Limits;
    use crate::api::security;

    fn spec() -> Spec {
        Spec {
            actor_id: "a1".into(),
            generation: "g1".into(),
            containers: vec![Container {
                name: "app".into(),
                rootfs: "/images/x".into(),
                args: vec!["/server".into()],
                env: vec![("A".into(), "b=c".into())],
                cwd: String::new(),
                uid: 1000,
                gid: 1001,
                additional_gids: vec![7],
                read_only_rootfs: false,
                capabilities: security::capabilities(None),
            }],
            address: [169, 254, 17, 2].into(),
            dns: Dns::default(),
            limits: Limits::default(),
            runtime: "/usr/bin/runsc".into(),
            netns: "/run/netns/x".into(),
            state_dir: "/state".into(),
            log_dir: "/log".into(),
        }
    }

    #[test]
    fn the_same_specification_gives_the_same_bytes() {
        let spec = spec();
        let first = config(&spec, &spec.containers[0], &Role::Alone).unwrap();
        for _ in 0..20 {
            let again = config(&spec, &spec.containers[0], &Role::Alone).unwrap();
            assert_eq!(again, first);
        }
    }

    #[test]
    fn a_container_is_told_what_it_is() {
        let spec = spec();
        let role = Role::Member { sandbox: "s1" };
        let config = config(&spec, &spec.containers[0], &role).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["process"]["env"][0], "A=b=c");
        assert_eq!(config["process"]["cwd"], "/");
        assert_eq!(config["process"]["user"]["uid"], 1000);
        assert_eq!(config["process"]["noNewPrivileges"], true);
        assert_eq!(config["root"]["path"], "/images/x");
        let annotations = &config["annotations"];
        assert_eq!(annotations["io.kubernetes.cri.container-name"], "app");
        assert_eq!(annotations["io.kubernetes.cri.sandbox-id"], "s1");
        let held = &config["process"]["capabilities"];
        assert_eq!(held["bounding"].as_array().unwrap().len(), 12);
        assert_eq!(
            held["effective"],
            serde_json::json!([]),
            "its user is not root"
        );
    }

    #[test]
    fn whatever_a_template_says_nothing_of_the_host_is_in_there() {
        let mut spec = spec();
        let usual = security::capabilities(None);
        let root = &mut spec.containers[0];
        (root.uid, root.read_only_rootfs) = (0, true);
        let mut dropped = spec.containers[0].clone();
        dropped.capabilities = [Capability::Kill].into();
        let other = Container {
            name: "other".into(),
            uid: 1,
            cwd: "/proc/1/root".into(),
            args: vec!["/../../bin/sh".into()],
            env: vec![("LD_PRELOAD".into(), "/host".into())],
            ..dropped.clone()
        };
        let all = [spec.containers[0].clone(), dropped, other];
        for container in &all {
            let member = Role::Member { sandbox: "s1" };
            for role in [Role::Alone, Role::PauseRoot, member] {
                let config = config(&spec, container, &role).unwrap();
                let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
                for mount in config["mounts"].as_array().unwrap() {
                    let options = mount["options"].as_array().unwrap();
                    match mount["type"].as_str().unwrap() {
                        "bind" => {
                            let source = mount["source"].as_str().unwrap();
                            assert!(source.starts_with("/state/"), "{mount}");
                            assert!(options.contains(&"ro".into()), "{mount}");
                        }
                        typ => assert!(["proc", "tmpfs", "devpts", "sysfs"].contains(&typ)),
                    }
                }
                let process = &config["process"];
                assert_eq!(process["noNewPrivileges"], true);
                for (set, held) in process["capabilities"].as_object().unwrap() {
                    for one in held.as_array().unwrap() {
                        let name = one.as_str().unwrap().trim_start_matches("CAP_");
                        assert!(usual.contains(&name.parse().unwrap()), "{set}: {one}");
                    }
                }
                let linux = config["linux"].as_object().unwrap();
                let keys: Vec<_> = linux.keys().collect();
                let known = ["maskedPaths", "namespaces", "readonlyPaths"];
                assert_eq!(keys, known, "no devices");
                let namespaces = linux["namespaces"].as_array().unwrap();
                for of in ["pid", "ipc", "uts", "mount", "network"] {
                    let own = |n: &&serde_json::Value| n["type"] == of;
                    let path = &namespaces.iter().find(own).unwrap()["path"];
                    let slots = of == "network" && path == "/run/netns/x";
                    assert!(slots || path.is_null(), "{of}: {path}");
                }
                let keys: Vec<_> = config.as_object().unwrap().keys().collect();
                let known = [
                    "annotations",
                    "hostname",
                    "linux",
                    "mounts",
                    "ociVersion",
                    "process",
                    "root",
                ];
                assert_eq!(keys, known, "no hooks");
            }
        }
    }
}
