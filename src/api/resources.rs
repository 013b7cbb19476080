//! What containers may take: the rule for `resources`, and what those of a template come to together.

use super::quantity::{Bytes, Cpus, Quantity};
use super::template::{ActorTemplateSpec, Container};
use super::validate::{Cause, rules};
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use std::collections::BTreeMap;
use std::fmt;

/// Memory that a sandbox takes beside its containers': measured 17 MiB for an idle one with gVisor, and what grows with what is in it.
pub const SANDBOX_OVERHEAD: u64 = 64 << 20;
/// Memory that the executor of a slot takes beside its sandbox, and one that is on its way out: measured 22 MiB and 28 MiB.
pub const EXECUTOR_OVERHEAD: u64 = 64 << 20;
/// With less a sandbox does not start.
const LEAST_MEMORY: &str = "4Mi";
/// What the kernel can keep to (`cpu.cfs_quota_us` of cgroups).
const LEAST_CPU: &str = "10m";

const MEMORY: &str = "memory";
const CPU: &str = "cpu";

/// What a sandbox may take; absent is as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that its containers may take together.
    pub memory: Option<u64>,
    /// Thousandths of a processor that they may take.
    pub cpu: Option<u64>,
    /// Thousandths of a processor that they ask for: their share where there are too few.
    pub share: Option<u64>,
}

/// What a worker must have for a template, or has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes; absent: nothing is said of it.
    pub memory: Option<u64>,
    /// Thousandths of a processor; absent: nothing is said of it.
    pub cpu: Option<u64>,
}

impl Room {
    /// Whether something that needs `needs` fits in here, as far as is known.
    pub fn fits(&self, needs: &Room) -> bool {
        let fits = |has: Option<u64>, needs: Option<u64>| match (has, needs) {
            (Some(has), Some(needs)) => needs <= has,
            (None, _) | (_, None) => true,
        };
        fits(self.memory, needs.memory) && fits(self.cpu, needs.cpu)
    }

    /// This one; what it does not say, as `other` says.
    pub fn or(self, other: Room) -> Room {
        Room {
            memory: self.memory.or(other.memory),
            cpu: self.cpu.or(other.cpu),
        }
    }

    /// What `resources` leave to a container: its limits.
    pub fn of(resources: &ResourceRequirements) -> Room {
        let limit = |name| amount(resources.limits.as_ref(), name);
        Room {
            memory: limit(MEMORY).map(Quantity::whole),
            cpu: limit(CPU).map(Quantity::millis),
        }
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.memory, self.cpu) {
            (Some(memory), Some(cpu)) => write!(f, "memory {}, cpu {}", Bytes(memory), Cpus(cpu)),
            (Some(memory), None) => write!(f, "memory {}", Bytes(memory)),
            (None, Some(cpu)) => write!(f, "cpu {}", Cpus(cpu)),
            (None, None) => write!(f, "nothing"),
        }
    }
}

/// What the sandboxes of a template may take. As in a pod one container without a limit leaves all of them without.
pub fn limits(spec: &ActorTemplateSpec) -> Limits {
    let limit = |name| {
        let of = |c: &Container| amount(c.resources.as_ref()?.limits.as_ref(), name);
        let each: Option<Vec<_>> = spec.containers.iter().map(of).collect();
        each.filter(|each| !each.is_empty())
    };
    let share: u64 = asked(spec, CPU).map(Quantity::millis).sum();
    Limits {
        memory: limit(MEMORY).map(|each| each.into_iter().map(Quantity::whole).sum()),
        cpu: limit(CPU).map(|each| each.into_iter().map(Quantity::millis).sum()),
        share: Some(share).filter(|share| *share > 0),
    }
}

/// What a worker must have for a template: memory that may be taken, for who takes more than there is ends; processors that are asked
/// for.
pub fn needs(spec: &ActorTemplateSpec) -> Room {
    let most = |c: &Container| {
        let resources = c.resources.as_ref()?;
        let limit = amount(resources.limits.as_ref(), MEMORY);
        limit.or(amount(resources.requests.as_ref(), MEMORY))
    };
    let memory: u64 = spec
        .containers
        .iter()
        .filter_map(most)
        .map(Quantity::whole)
        .sum();
    let cpu: u64 = asked(spec, CPU).map(Quantity::millis).sum();
    Room {
        memory: Some(memory + SANDBOX_OVERHEAD + EXECUTOR_OVERHEAD).filter(|_| memory > 0),
        cpu: Some(cpu).filter(|cpu| *cpu > 0),
    }
}

/// What each container asks for: what it requests, else its limit.
fn asked<'a>(
    spec: &'a ActorTemplateSpec,
    name: &'static str,
) -> impl Iterator<Item = Quantity> + 'a {
    spec.containers.iter().filter_map(move |c| {
        let resources = c.resources.as_ref()?;
        let requested = amount(resources.requests.as_ref(), name);
        requested.or(amount(resources.limits.as_ref(), name))
    })
}

fn amount(of: Option<&BTreeMap<String, Text>>, name: &str) -> Option<Quantity> {
    of?.get(name)?.0.parse().ok()
}

/// The rule for `resources`: processors and memory, in amounts that can be kept.
pub fn rule<C>(resources: &ResourceRequirements, _: &C) -> garde::Result {
    rules::ensure(resources.claims.is_none(), Cause::NotSupported, || {
        "claims is not supported by this version; remove it".to_owned()
    })?;
    let kinds = [
        ("limits", &resources.limits),
        ("requests", &resources.requests),
    ];
    for (kind, amounts) in kinds {
        for (name, text) in amounts.iter().flatten() {
            named(kind, name, text)?;
        }
    }
    for name in [MEMORY, CPU] {
        let requested = amount(resources.requests.as_ref(), name);
        let limit = amount(resources.limits.as_ref(), name);
        rules::ensure(
            limit.is_none() || requested <= limit,
            Cause::Invalid,
            || format!("requests.{name} must not be more than limits.{name}"),
        )?;
    }
    Ok(())
}

fn named(kind: &str, name: &str, text: &Text) -> garde::Result {
    let of = |why: &dyn fmt::Display| format!("{kind}.{} {why}", shown(name));
    rules::ensure([MEMORY, CPU].contains(&name), Cause::NotSupported, || {
        of(&"is not supported: name cpu and memory only")
    })?;
    let amount: Quantity = text
        .0
        .parse()
        .map_err(|why| Cause::Invalid.error(of(&format!("{} {why}", rules::quoted(&text.0)))))?;
    let least = match (kind, name) {
        ("limits", MEMORY) => LEAST_MEMORY,
        ("limits", _) => LEAST_CPU,
        _ => "0",
    };
    let enough = least.parse().is_ok_and(|least: Quantity| least <= amount);
    rules::ensure(enough, Cause::Invalid, || {
        of(&format!("must be at least {least}"))
    })
}

/// A key as messages repeat it.
fn shown(name: &str) -> String {
    match [MEMORY, CPU].contains(&name) {
        true => name.to_owned(),
        false => rules::quoted(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn template(resources: &[Value]) -> ActorTemplateSpec {
        let container = |r: &Value| json!({"name": "c", "image": "i", "resources": r});
        let containers: Vec<_> = resources.iter().map(container).collect();
        serde_json::from_value(json!({"containers": containers})).unwrap()
    }

    #[test]
    fn the_limits_of_containers_add_up() {
        let of = |each: &[Value]| (limits(&template(each)), needs(&template(each)));
        let (limits, needs) = of(&[
            json!({"limits": {"memory": "256Mi", "cpu": "1500m"}, "requests": {"cpu": "250m"}}),
            json!({"limits": {"memory": "64Mi", "cpu": 1}}),
        ]);
        let both = 320 << 20;
        assert_eq!(
            (limits.memory, limits.cpu, limits.share),
            (Some(both), Some(2500), Some(1250))
        );
        let beside = SANDBOX_OVERHEAD + EXECUTOR_OVERHEAD;
        assert_eq!((needs.memory, needs.cpu), (Some(both + beside), Some(1250)));
        // One without a limit leaves all without; but what the others take has to be there.
        let (limits, needs) = of(&[json!({"limits": {"memory": "1Gi"}}), json!({})]);
        assert_eq!(limits, Limits::default());
        assert_eq!(needs.memory, Some((1 << 30) + beside));
        let (limits, needs) = of(&[json!({"requests": {"memory": "1Gi"}})]);
        assert_eq!(limits.memory, None);
        assert_eq!(needs.to_string(), "memory 1152Mi");
        assert_eq!(of(&[json!({})]), (Limits::default(), Room::default()));
    }

    #[test]
    fn what_is_not_said_fits() {
        let room = |memory, cpu| Room { memory, cpu };
        for (has, needs, fits) in [
            (room(None, None), room(Some(9), Some(9)), true),
            (room(Some(8), Some(9)), room(Some(8), Some(9)), true),
            (room(Some(8), None), room(Some(9), None), false),
            (room(None, Some(8)), room(None, Some(9)), false),
            (room(Some(8), Some(8)), room(None, None), true),
        ] {
            assert_eq!(has.fits(&needs), fits, "{has:?} {needs:?}");
        }
        assert_eq!(
            room(Some(1), None).or(room(Some(2), Some(3))),
            room(Some(1), Some(3))
        );
    }

    #[test]
    fn amounts_that_cannot_be_kept_are_refused_by_name() {
        let check = |resources: Value| rule(&serde_json::from_value(resources).unwrap(), &());
        for good in [
            json!({}),
            json!({"limits": {"memory": "4Mi", "cpu": "10m"}, "requests": {"memory": 0, "cpu": "0"}}),
        ] {
            assert!(check(good.clone()).is_ok(), "{good}");
        }
        for (bad, said) in [
            (
                json!({"claims": [{"name": "gpu"}]}),
                "claims is not supported",
            ),
            (
                json!({"limits": {"nvidia.com/gpu": 1}}),
                "limits.\"nvidia.com/gpu\" is not supported",
            ),
            (
                json!({"requests": {"ephemeral-storage": "1Gi"}}),
                "requests.\"ephemeral-storage\"",
            ),
            (
                json!({"limits": {"memory": "much"}}),
                "limits.memory \"much\" is not a quantity",
            ),
            (
                json!({"limits": {"memory": "100m"}}),
                "limits.memory must be at least 4Mi",
            ),
            (
                json!({"limits": {"cpu": 0}}),
                "limits.cpu must be at least 10m",
            ),
            (
                json!({"limits": {"cpu": 1}, "requests": {"cpu": 2}}),
                "requests.cpu must not be more than limits.cpu",
            ),
        ] {
            let error = check(bad.clone()).unwrap_err();
            let message = error.message();
            assert!(message.contains(said), "{bad}: {message}");
        }
    }
}
