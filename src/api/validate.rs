//! The rules that every edge applies: REST, gRPC, admission webhook and `ate dev` alike.
//!
//! Shape (lengths, ranges, patterns) is in the schemas of the types; here is what crosses fields, and what the
//! schema cannot say. A violation names the field by its path and says what to do.

use super::actor::ActorSpec;
use super::names::is_dns_label;
use super::pool::{OnLeaseLoss, SandboxClass, WorkerPoolSpec};
use super::record::OperatingMode;
use super::selector::Selector;
use super::template::{ActorTemplateSpec, Container, SnapshotScope};
use std::fmt;
use std::str::FromStr;

/// Why a value is refused; the words of Kubernetes' causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The value does not fit.
    Invalid,
    /// The field is missing.
    Required,
    /// Another value is needed, or it is not supported yet.
    NotSupported,
}

impl Cause {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Invalid => "FieldValueInvalid",
            Cause::Required => "FieldValueRequired",
            Cause::NotSupported => "FieldValueNotSupported",
        }
    }
}

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field.
    pub field: String,
    /// In one word.
    pub cause: Cause,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Collects violations.
#[derive(Default)]
struct Check(Vec<Violation>);

impl Check {
    fn when(
        &mut self,
        wrong: bool,
        field: impl Into<String>,
        cause: Cause,
        message: impl Into<String>,
    ) {
        if wrong {
            self.0.push(Violation {
                field: field.into(),
                cause,
                message: message.into(),
            });
        }
    }

    fn unsupported(&mut self, set: bool, field: impl Into<String>) {
        self.when(
            set,
            field,
            Cause::NotSupported,
            "is not supported by this version; remove it",
        );
    }

    fn label(&mut self, field: impl Into<String>, value: &str) {
        self.when(!is_dns_label(value), field, Cause::Invalid, format!(
            "{value:?} is not a DNS label: use at most 63 lower-case letters, digits and '-', starting and ending with a letter or digit"
        ));
    }

    fn duration(&mut self, field: &str, value: Option<&String>) {
        if let Some(Err(why)) = value.map(|v| v.parse::<Duration>()) {
            self.when(true, field, Cause::Invalid, why.to_string());
        }
    }
}

/// What is wrong with an actor's name and spec; empty when nothing is.
pub fn actor(name: &str, namespace: &str, spec: &ActorSpec) -> Vec<Violation> {
    let mut check = Check::default();
    check.label("metadata.name", name);
    check.label("metadata.namespace", namespace);
    let template = &spec.template_ref;
    check.when(
        template.name.is_empty(),
        "spec.templateRef.name",
        Cause::Required,
        "name the ActorTemplate",
    );
    check.when(
        template.name.len() > 253,
        "spec.templateRef.name",
        Cause::Invalid,
        "must be at most 253 characters",
    );
    if let Some(namespace) = &template.namespace {
        check.label("spec.templateRef.namespace", namespace);
    }
    let kept_awake = spec.operating_mode == OperatingMode::Running;
    check.unsupported(kept_awake, "spec.operatingMode");
    check.unsupported(spec.from.is_some(), "spec.from");
    let idle = spec.idle.clone().unwrap_or_default();
    check.unsupported(idle.suspend_after.is_some(), "spec.idle.suspendAfter");
    check.unsupported(idle.pause_after.is_some(), "spec.idle.pauseAfter");
    if let Some(Err(e)) = spec.worker_selector.as_ref().map(Selector::try_from) {
        check.when(true, "spec.workerSelector", Cause::Invalid, e.to_string());
    }
    check.0
}

/// What is wrong with a pool's spec; empty when nothing is.
pub fn pool(name: &str, spec: &WorkerPoolSpec) -> Vec<Violation> {
    let mut check = Check::default();
    check.label("metadata.name", name);
    check.when(
        spec.replicas < 0,
        "spec.replicas",
        Cause::Invalid,
        "must be 0 or more",
    );
    check.unsupported(spec.free_workers != 0, "spec.freeWorkers");
    check.unsupported(
        spec.on_lease_loss != OnLeaseLoss::default(),
        "spec.onLeaseLoss",
    );
    check.unsupported(
        spec.sandbox_class != SandboxClass::Gvisor,
        "spec.sandboxClass",
    );
    check.0
}

/// What is wrong with a template's spec; empty when nothing is.
pub fn template(name: &str, spec: &ActorTemplateSpec) -> Vec<Violation> {
    let mut check = Check::default();
    check.label("metadata.name", name);
    let containers = spec.containers.len();
    check.when(
        containers == 0,
        "spec.containers",
        Cause::Required,
        "name at least one container",
    );
    check.when(
        containers > 16,
        "spec.containers",
        Cause::Invalid,
        "at most 16 containers are possible",
    );
    for (i, container) in spec.containers.iter().enumerate() {
        self::container(&mut check, &format!("spec.containers[{i}]"), container);
        let twice = spec
            .containers
            .iter()
            .take(i)
            .any(|c| c.name == container.name);
        check.when(
            twice,
            format!("spec.containers[{i}].name"),
            Cause::Invalid,
            format!("{:?} is there twice", container.name),
        );
    }
    if let Some(e) = spec
        .worker_selector
        .as_ref()
        .and_then(|s| Selector::try_from(s).err())
    {
        check.when(true, "spec.workerSelector", Cause::Invalid, e.to_string());
    }
    let both = spec.worker_selector.is_some() && spec.worker_pool_ref.is_some();
    check.when(
        both,
        "spec.workerPoolRef",
        Cause::Invalid,
        "give either workerPoolRef or workerSelector",
    );
    let config = spec.snapshots_config.clone().unwrap_or_default();
    if let Some(location) = &config.location {
        let known = ["s3://", "gs://", "file://"]
            .iter()
            .any(|scheme| location.starts_with(scheme));
        check.when(
            !known,
            "spec.snapshotsConfig.location",
            Cause::Invalid,
            "must begin with s3://, gs:// or file://",
        );
    }
    check.unsupported(
        config.on_pause != SnapshotScope::Full,
        "spec.snapshotsConfig.onPause",
    );
    check.unsupported(
        config.on_commit != SnapshotScope::Full,
        "spec.snapshotsConfig.onCommit",
    );
    check.unsupported(
        spec.sandbox_class != SandboxClass::Gvisor,
        "spec.sandboxClass",
    );
    check.unsupported(!spec.volumes.is_empty(), "spec.volumes");
    check.unsupported(spec.post_restore.is_some(), "spec.postRestore");
    check.unsupported(spec.retention.snapshots != 1, "spec.retention.snapshots");
    check.unsupported(spec.on_exit != Default::default(), "spec.onExit");
    idle(&mut check, spec);
    let settle = spec.golden.settle_seconds.unwrap_or(0);
    check.when(
        !(0..=3600).contains(&settle),
        "spec.golden.settleSeconds",
        Cause::Invalid,
        "must be 0 to 3600",
    );
    runsc(&mut check, spec);
    check.0
}

fn idle(check: &mut Check, spec: &ActorTemplateSpec) {
    check.unsupported(spec.idle.suspend_after.is_some(), "spec.idle.suspendAfter");
    check.unsupported(spec.idle.pause_after.is_some(), "spec.idle.pauseAfter");
    check.unsupported(spec.idle.cpu_below.is_some(), "spec.idle.cpuBelow");
    check.duration("spec.idle.drainTimeout", spec.idle.drain_timeout.as_ref());
    check.unsupported(spec.idle.drain_timeout.is_some(), "spec.idle.drainTimeout");
}

fn runsc(check: &mut Check, spec: &ActorTemplateSpec) {
    let Some(runsc) = &spec.runsc else { return };
    for (arch, build) in [("amd64", &runsc.amd64), ("arm64", &runsc.arm64)] {
        let Some(build) = build else { continue };
        let known = ["https://", "gs://", "s3://", "file://"]
            .iter()
            .any(|scheme| build.url.starts_with(scheme));
        check.when(
            !known,
            format!("spec.runsc.{arch}.url"),
            Cause::Invalid,
            "must begin with https://, gs://, s3:// or file://",
        );
        let hash = &build.sha256_hash;
        let hex = hash.len() == 64
            && hash
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        check.when(
            !hex,
            format!("spec.runsc.{arch}.sha256Hash"),
            Cause::Invalid,
            "must be 64 lower-case hex digits: sha256sum runsc",
        );
    }
}

fn container(check: &mut Check, path: &str, container: &Container) {
    check.label(format!("{path}.name"), &container.name);
    let pinned = container
        .image
        .rsplit_once("@sha256:")
        .is_some_and(|(name, digest)| {
            !name.is_empty()
                && digest.len() == 64
                && digest
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
    check.when(
        !pinned,
        format!("{path}.image"),
        Cause::Invalid,
        format!(
            "{:?} is not pinned by digest: write it as NAME@sha256:DIGEST",
            container.image
        ),
    );
    for (i, env) in container.env.iter().enumerate() {
        let field = format!("{path}.env[{i}]");
        let bad = env.name.is_empty() || env.name.contains(['=', '\0']);
        check.when(
            bad,
            format!("{field}.name"),
            Cause::Invalid,
            "must not be empty or contain '='",
        );
        let both = env.value.is_some() && env.value_from.is_some();
        check.when(
            both,
            &field,
            Cause::Invalid,
            "give either value or valueFrom",
        );
    }
    for (i, port) in container.ports.iter().enumerate() {
        let wrong = !(1..=65535).contains(&port.container_port);
        check.when(
            wrong,
            format!("{path}.ports[{i}].containerPort"),
            Cause::Invalid,
            "must be 1 to 65535",
        );
    }
    if let Some(readyz) = &container.readyz {
        let (get, field) = (&readyz.http_get, format!("{path}.readyz.httpGet"));
        check.when(
            !(1..=65535).contains(&get.port),
            format!("{field}.port"),
            Cause::Invalid,
            "must be 1 to 65535",
        );
        check.when(
            !get.path.starts_with('/'),
            format!("{field}.path"),
            Cause::Invalid,
            "must begin with '/'",
        );
        let wrong = !(1..=600).contains(&readyz.timeout_seconds);
        check.when(
            wrong,
            format!("{path}.readyz.timeoutSeconds"),
            Cause::Invalid,
            "must be 1 to 600",
        );
    }
    if let Some(dir) = &container.working_dir {
        check.when(
            !dir.starts_with('/'),
            format!("{path}.workingDir"),
            Cause::Invalid,
            "must be an absolute path",
        );
    }
    check.unsupported(container.resources.is_some(), format!("{path}.resources"));
    check.unsupported(
        !container.volume_mounts.is_empty(),
        format!("{path}.volumeMounts"),
    );
}

/// A duration as Kubernetes writes it: whole or fractional numbers with units `ms`, `s`, `m`, `h`, one after another
/// (Go's `time.ParseDuration`, without signs and the units below a millisecond).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration(pub std::time::Duration);

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write it like 90s, 15m or 1h30m")]
pub struct DurationError(pub String);

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let fail = || DurationError(text.chars().take(40).collect());
        let (mut rest, mut total) = (text, 0.0f64);
        if text.is_empty() {
            return Err(fail());
        }
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(fail)?;
            let (number, tail) = rest.split_at(digits);
            let unit = tail
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let seconds = match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(fail()),
            };
            total += number.parse::<f64>().map_err(|_| fail())? * seconds;
            rest = tail;
        }
        std::time::Duration::try_from_secs_f64(total)
            .map(Duration)
            .map_err(|_| fail())
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
        let rest = millis % 60_000;
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        match (rest / 1000, rest % 1000) {
            (0, 0) if millis > 0 => Ok(()),
            (0, ms) if ms > 0 => write!(f, "{ms}ms"),
            (s, 0) => write!(f, "{s}s"),
            (s, ms) => write!(f, "{}s", format!("{s}.{ms:03}").trim_end_matches('0')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::actor::TemplateRef;
    use proptest::prelude::*;

    #[test]
    fn durations_read_and_print() {
        for (text, millis) in [
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("1.5s", 1500),
            ("0s", 0),
        ] {
            assert_eq!(
                text.parse::<Duration>().unwrap().0.as_millis(),
                millis,
                "{text}"
            );
        }
        for bad in ["", "5", "s", "-1s", "1d", "1s ", "1..5s"] {
            assert!(bad.parse::<Duration>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn durations_round_trip(millis in 0u64..1 << 40) {
            let d = Duration(std::time::Duration::from_millis(millis));
            let back = d.to_string().parse::<Duration>().unwrap().0.as_millis();
            prop_assert!(back.abs_diff(u128::from(millis)) <= 1, "{} {}", d, back);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Duration>();
        }
    }

    #[test]
    fn violations_name_the_field_and_the_fix() {
        let bad = ActorSpec {
            template_ref: TemplateRef::default(),
            ..ActorSpec::default()
        };
        let all: Vec<_> = actor("A", "ns", &bad)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[0].starts_with("metadata.name: \"A\" is not a DNS label"));
        assert_eq!(all[1], "spec.templateRef.name: name the ActorTemplate");
    }

    #[test]
    fn an_image_must_be_pinned() {
        let spec = ActorTemplateSpec {
            containers: vec![Container {
                name: "app".into(),
                image: "python:3".into(),
                ..Container::default()
            }],
            ..ActorTemplateSpec::default()
        };
        let all = template("t", &spec);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(all[0].field, "spec.containers[0].image");
    }
}
