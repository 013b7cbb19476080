//! ActorTemplate: what an actor is made of.

use super::dns::{self, DnsConfig, DnsPolicy};
use super::pool::SandboxClass;
use super::resources;
use super::runsc::Runsc;
use super::security::SecurityContext;
use super::validate::{Cause, rules};
use garde::Validate;
use k8s_openapi::api::core::v1::{ObjectReference, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Label of the actors of which golden snapshots are taken: `true`.
pub const GOLDEN_LABEL: &str = "ate.dev/golden";
/// Label of those of them that are to run in one build of the runtime: the build.
pub const RUNTIME_LABEL: &str = "ate.dev/runtime";

/// What an actor is made of. Immutable: a changed image means a new template.
#[derive(
    CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize, Validate,
)]
#[kube(
    group = "ate.dev",
    version = "v1alpha1",
    kind = "ActorTemplate",
    namespaced,
    status = "ActorTemplateStatus",
    shortname = "at",
    category = "ate",
    derive = "PartialEq",
    derive = "Default",
    doc = "ActorTemplate says what an actor is made of. One golden snapshot is taken of it, from which every new actor starts.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Actors", type_ = "integer", json_path = ".status.actors.total"),
    printcolumn(name = "Awake", type_ = "integer", json_path = ".status.actors.awake"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec == oldSelf.spec").message("spec is immutable: make a new template, for example with a content hash in its name")
)]
#[serde(rename_all = "camelCase")]
pub struct ActorTemplateSpec {
    /// Image of the pause container; accepted and unused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub pause_image: Option<String>,
    /// The containers; one runs as the sandbox's root.
    #[schemars(length(min = 1, max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[garde(
        custom(rules::given("name at least one container")),
        length(max = 16),
        dive(Twice::among(&self.containers))
    )]
    pub containers: Vec<Container>,
    /// Secrets in the template's namespace, of type `kubernetes.io/dockerconfigjson`, with which nodes pull the images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[garde(length(max = 8), dive)]
    pub image_pull_secrets: Vec<PullSecret>,
    /// Where the configuration of names begins.
    #[serde(default)]
    #[garde(skip)]
    pub dns_policy: DnsPolicy,
    /// What is added to it, or all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(custom(dns::rule(self.dns_policy)), dive)]
    pub dns_config: Option<DnsConfig>,
    /// Directories that survive where memory does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[garde(custom(rules::unsupported))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub volumes: Vec<Volume>,
    /// Where snapshots are kept. The installation has a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(dive)]
    pub snapshots_config: Option<SnapshotsConfig>,
    /// Shorthand for one pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(if(
        cond = self.worker_selector.is_some(),
        custom(rules::absent("give either workerPoolRef or workerSelector"))
    ))]
    pub worker_pool_ref: Option<ObjectReference>,
    /// Labels of WorkerPools. Neither this nor `workerPoolRef`: pools of the class in the template's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(custom(rules::selector)))]
    pub worker_selector: Option<LabelSelector>,
    /// The runtime's build, per architecture. The installation has a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(dive)]
    pub runsc: Option<Runsc>,
    /// What kind of sandbox runs the actors.
    #[serde(default)]
    #[garde(custom(rules::unsupported))]
    pub sandbox_class: SandboxClass,
    /// How the golden snapshot is taken.
    #[serde(default)]
    #[garde(dive)]
    pub golden: Golden,
    /// When actors go to sleep.
    #[serde(default)]
    #[garde(dive)]
    pub idle: Idle,
    /// What a sandbox that exits by itself leads to.
    #[serde(default)]
    #[garde(custom(rules::unsupported))]
    pub on_exit: OnExit,
    /// Runs in the sandbox after a restore or fork, before traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(custom(rules::unsupported))]
    pub post_restore: Option<Hook>,
    /// How many durable snapshots are kept per actor.
    #[serde(default)]
    #[garde(dive)]
    pub retention: Retention,
    /// Namespaces whose actors may use this template; empty: its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[garde(length(max = 256), inner(custom(rules::dns_label)))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub allowed_namespaces: Vec<String>,
}

/// A Secret with credentials of registries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct PullSecret {
    /// The Secret.
    #[garde(custom(rules::given("name the Secret")))]
    pub name: String,
}

/// Names that more than one container has.
#[derive(Debug)]
pub struct Twice(BTreeSet<String>);

impl Twice {
    fn among(containers: &[Container]) -> Self {
        let mut seen = BTreeSet::new();
        let again = containers.iter().filter(|c| !seen.insert(&c.name));
        Twice(again.map(|c| c.name.clone()).collect())
    }
}

fn once(name: &str, twice: &Twice) -> garde::Result {
    rules::ensure(!twice.0.contains(name), Cause::Invalid, || {
        format!(
            "{} is there twice: give each container a name of its own",
            rules::quoted(name)
        )
    })
}

/// A container of an actor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
#[garde(context(Twice))]
pub struct Container {
    /// DNS label.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    #[garde(custom(rules::dns_label), custom(once))]
    pub name: String,
    /// Pinned by digest: `name@sha256:...` or `oci-layout:/path@sha256:...`.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"@sha256:[0-9a-f]{64}$"))]
    #[garde(custom(rules::image))]
    pub image: String,
    /// Overrides the image's entrypoint and command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[garde(skip)]
    pub command: Vec<String>,
    /// Arguments to the command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[garde(skip)]
    pub args: Vec<String>,
    /// Environment, as it is when the golden snapshot is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[garde(dive(()))]
    pub env: Vec<EnvVar>,
    /// Overrides the image's working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(prefix("/"))]
    pub working_dir: Option<String>,
    /// Ports; requests go to the one named `http`, else the first, else 80.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["containerPort"]))]
    #[garde(dive(()))]
    pub ports: Vec<ContainerPort>,
    /// What it may take (`limits`) and asks for (`requests`): `cpu` and `memory`. The limits of all containers together are those of the
    /// sandbox; one that takes more memory is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(custom(resources::rule)))]
    pub resources: Option<ResourceRequirements>,
    /// Who its process is, and what it may do within its sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(dive(()))]
    pub security_context: Option<SecurityContext>,
    /// When the container can take requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(dive(()))]
    pub readyz: Option<Readyz>,
    /// Where volumes appear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[garde(custom(rules::unsupported))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["mountPath"]))]
    pub volume_mounts: Vec<VolumeMount>,
}

/// An environment variable: a value or where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
#[garde(custom(one_source))]
pub struct EnvVar {
    /// Its name.
    #[schemars(length(min = 1))]
    #[garde(custom(env_name))]
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub value: Option<String>,
    /// Where its value comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(dive)]
    pub value_from: Option<EnvVarSource>,
}

fn env_name(name: &str, _: &()) -> garde::Result {
    let fits = !name.is_empty() && !name.contains(['=', '\0']);
    rules::ensure(fits, Cause::Invalid, || {
        "must not be empty or contain '='".to_owned()
    })
}

fn one_source(env: &EnvVar, _: &()) -> garde::Result {
    let both = env.value.is_some() && env.value_from.is_some();
    rules::ensure(!both, Cause::Invalid, || {
        "give either value or valueFrom".to_owned()
    })
}

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct EnvVarSource {
    /// A key of a Secret in the template's namespace.
    #[garde(dive)]
    pub secret_key_ref: SecretKeyRef,
}

/// A key of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The Secret.
    #[garde(custom(rules::given("name the Secret")))]
    pub name: String,
    /// Its key.
    #[garde(custom(rules::given("name a key of the Secret")))]
    pub key: String,
    /// Whether it may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub optional: Option<bool>,
}

/// A port that a container listens on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// `http` is the one that requests go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub name: Option<String>,
    /// The port.
    #[garde(range(min = 1, max = 65535))]
    pub container_port: i32,
}

/// When a container can take requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct Readyz {
    /// Answers with 2xx or 3xx.
    #[garde(dive)]
    pub http_get: HttpGet,
    /// How long to wait for it.
    #[serde(default = "thirty")]
    #[garde(range(min = 1, max = 600))]
    pub timeout_seconds: i32,
}

fn thirty() -> i32 {
    30
}

/// An HTTP GET in the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct HttpGet {
    /// The path, with its leading slash.
    #[serde(default = "slash")]
    #[garde(prefix("/"))]
    pub path: String,
    /// The port.
    #[garde(range(min = 1, max = 65535))]
    pub port: i32,
}

fn slash() -> String {
    "/".into()
}

/// Where a volume appears in a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// The volume.
    pub name: String,
    /// Absolute path.
    pub mount_path: String,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// A directory that survives where memory does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable_dir: Option<DurableDir>,
}

/// A directory that survives where memory does not: a boot from files only finds it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DurableDir {}

/// Where snapshots are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotsConfig {
    /// `s3://`, `gs://` or `file://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(custom(rules::url(&["s3://", "gs://", "file://"]))))]
    pub location: Option<String>,
    /// What a pause keeps.
    #[serde(default)]
    #[garde(custom(rules::unsupported))]
    pub on_pause: SnapshotScope,
    /// What a suspend keeps.
    #[serde(default)]
    #[garde(custom(rules::unsupported))]
    pub on_commit: SnapshotScope,
}

/// What a snapshot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SnapshotScope {
    /// Memory and files.
    #[default]
    Full,
    /// Durable directories only.
    Data,
}

/// Whether a golden snapshot is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GoldenPolicy {
    /// Actors wait for it.
    #[default]
    Required,
    /// Actors boot from the image until it is there.
    Optional,
    /// Actors always boot from the image.
    Disabled,
}

/// How the golden snapshot is taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct Golden {
    /// Whether it is needed.
    #[serde(default)]
    #[garde(skip)]
    pub policy: GoldenPolicy,
    /// How long to wait after start; default 20 where there is no readyz, else 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(range(min = 0, max = 3600))]
    pub settle_seconds: Option<i32>,
}

/// When actors go to sleep by themselves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct Idle {
    /// Suspend after this long without activity; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(custom(rules::unsupported), inner(custom(rules::duration)))]
    pub suspend_after: Option<String>,
    /// Pause after this long without activity; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(custom(rules::unsupported), inner(custom(rules::duration)))]
    pub pause_after: Option<String>,
    /// How long requests in flight may take to finish before a suspend; default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(custom(rules::unsupported), inner(custom(rules::duration)))]
    pub drain_timeout: Option<String>,
    /// Busy while it uses more CPU than this, as a quantity of cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(custom(rules::unsupported))]
    pub cpu_below: Option<String>,
}

/// What a sandbox that exits by itself leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnExit {
    /// The next request resumes it from its last snapshot.
    #[default]
    Suspend,
    /// It is resumed at once.
    Resume,
}

/// Something that runs in the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// A command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecHook>,
    /// A request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGet>,
}

/// A command in the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExecHook {
    /// The command and its arguments; not run in a shell.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub command: Vec<String>,
}

/// How many snapshots are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
pub struct Retention {
    /// Durable snapshots kept per actor.
    #[serde(default = "one")]
    #[garde(range(min = 1, max = 100), custom(newest_only))]
    pub snapshots: i32,
}

fn newest_only(snapshots: &i32, _: &()) -> garde::Result {
    rules::ensure(*snapshots <= one(), Cause::NotSupported, || {
        "more than 1 is not supported by this version; remove it".to_owned()
    })
}

fn one() -> i32 {
    1
}

impl Default for Retention {
    fn default() -> Self {
        Retention { snapshots: 1 }
    }
}

/// Where the golden snapshot of a template is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TemplatePhase {
    /// Not begun.
    #[default]
    #[serde(rename = "")]
    New,
    /// The golden actor is being started.
    ResumeGoldenActor,
    /// The golden actor settles.
    WaitGoldenActor,
    /// Actors can be made.
    Ready,
    /// It failed; the conditions say why and when it is tried again.
    Failed,
}

/// What is known of a template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActorTemplateStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the golden snapshot is on its way.
    #[serde(default)]
    pub phase: TemplatePhase,
    /// The actor that the golden snapshot is taken of.
    #[serde(
        default,
        rename = "goldenActorID",
        skip_serializing_if = "Option::is_none"
    )]
    pub golden_actor_id: Option<String>,
    /// When the golden snapshot is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take_golden_snapshot_at: Option<Time>,
    /// URI of the newest golden snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden_snapshot: Option<String>,
    /// Golden snapshots, one per runtime build.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub golden_snapshots: Vec<GoldenSnapshot>,
    /// Failed attempts in a row.
    #[serde(default)]
    pub attempts: i32,
    /// No attempt is made before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// Ready, GoldenReady, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many actors there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actors: Option<ActorCounts>,
}

/// A golden snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GoldenSnapshot {
    /// Its id.
    pub id: String,
    /// Prefix under which it lies.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// Build of the runtime that made it: how its executable's SHA-256 begins.
    pub runtime: String,
    /// Architecture of the machine that made it.
    pub arch: String,
    /// CPU features that it needs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cpu_baseline: String,
    /// Bytes as stored.
    pub bytes: i64,
    /// When it was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
}

/// How many actors there are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActorCounts {
    /// All.
    pub total: i64,
    /// Those that run.
    pub awake: i64,
}
