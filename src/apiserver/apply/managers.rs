//! Who owns what: `metadata.managedFields`, read and written (apimachinery/pkg/util/managedfields/internal).

use super::set::FieldSet;
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Entries of managers that update; older ones are put together.
const MAX_UPDATERS: usize = 10;
/// Who owns what older updaters owned.
const ANCIENT: &str = "ancient-changes";

/// How a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By apply.
    Apply,
    /// By anything else.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Tells managers apart. One that applies is the same in every version. Their order is that of Kubernetes' messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerId {
    /// Its name.
    pub manager: String,
    /// How it writes.
    pub operation: Operation,
    /// Its version, if it updates.
    pub version: String,
    /// Where it writes; empty for the object itself.
    pub subresource: String,
}

impl ManagerId {
    /// A manager that applies.
    pub fn applier(manager: &str, subresource: &str) -> Self {
        Self {
            manager: manager.to_owned(),
            operation: Operation::Apply,
            version: String::new(),
            subresource: subresource.to_owned(),
        }
    }

    /// A manager that updates.
    pub fn updater(manager: &str, version: &str, subresource: &str) -> Self {
        let unknown = if manager.is_empty() {
            "unknown"
        } else {
            manager
        };
        Self {
            manager: unknown.to_owned(),
            operation: Operation::Update,
            version: version.to_owned(),
            subresource: subresource.to_owned(),
        }
    }
}

impl Ord for ManagerId {
    fn cmp(&self, other: &Self) -> Ordering {
        let is_object = |id: &Self| id.subresource.is_empty();
        self.manager
            .cmp(&other.manager)
            .then_with(|| self.operation.cmp(&other.operation))
            .then_with(|| self.version.cmp(&other.version))
            .then_with(|| is_object(self).cmp(&is_object(other)))
            .then_with(|| self.subresource.cmp(&other.subresource))
    }
}

impl PartialOrd for ManagerId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its fields.
    pub set: FieldSet,
    /// The version that they are named in.
    pub version: String,
    /// When it last wrote.
    pub time: Option<String>,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managers(pub BTreeMap<ManagerId, Entry>);

impl Managers {
    /// Reads `metadata.managedFields`.
    pub fn decode(value: Option<&Value>) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for (i, entry) in entries(value).iter().enumerate() {
            let text = |name: &str| entry[name].as_str().unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".into()),
            };
            let version = text("apiVersion");
            if version.is_empty() {
                return Err("apiVersion must not be empty".into());
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
                other => {
                    return Err(format!(
                        "invalid fieldsType {other:?} in managed fields entry {i}"
                    ));
                }
            }
            let (manager, subresource) = (text("manager"), text("subresource"));
            let id = match operation {
                Operation::Apply => ManagerId::applier(manager, subresource),
                Operation::Update => ManagerId {
                    manager: manager.to_owned(),
                    ..ManagerId::updater(manager, version, subresource)
                },
            };
            let entry = Entry {
                set: FieldSet::from_json(&entry["fieldsV1"])?,
                version: version.to_owned(),
                time: entry["time"].as_str().map(str::to_owned),
            };
            all.insert(id, entry);
        }
        Ok(Self(all))
    }

    /// As `metadata.managedFields`; `None` if nobody owns anything.
    pub fn encode(&self) -> Option<Value> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by(|(a, x), (b, y)| {
            (a.operation, &x.time, &a.manager, &x.version, &a.subresource).cmp(&(
                b.operation,
                &y.time,
                &b.manager,
                &y.version,
                &b.subresource,
            ))
        });
        let entries: Vec<_> = all.into_iter().map(|(id, e)| encode(id, e)).collect();
        (!entries.is_empty()).then_some(Value::Array(entries))
    }

    /// Puts the oldest updaters of one version together where there are too many.
    pub fn cap(&mut self) {
        let updaters = self.0.iter();
        let mut updaters: Vec<_> = updaters
            .filter(|(id, _)| id.operation == Operation::Update)
            .map(|(id, e)| (e.time.clone(), id.clone()))
            .collect();
        updaters.sort();
        let mut count = updaters.len();
        let mut first: BTreeMap<String, ManagerId> = BTreeMap::new();
        for (time, id) in updaters {
            if count <= MAX_UPDATERS {
                return;
            }
            let bucket = ManagerId::updater(ANCIENT, &id.version, "");
            let Some(oldest) = first.get(&id.version) else {
                first.insert(id.version.clone(), id);
                continue;
            };
            let before = self.0.len();
            let mut all = self.0.remove(&bucket);
            for source in [oldest, &id] {
                let Some(entry) = self.0.remove(source) else {
                    continue;
                };
                all = Some(match all {
                    Some(all) => Entry {
                        set: all.set.union(&entry.set),
                        ..all
                    },
                    None => entry,
                });
            }
            if let Some(all) = all {
                self.0.insert(bucket, Entry { time, ..all });
            }
            count -= before - self.0.len();
        }
    }
}

fn entries(value: Option<&Value>) -> &[Value] {
    value
        .and_then(Value::as_array)
        .map_or(&[], |all| all.as_slice())
}

fn encode(id: &ManagerId, entry: &Entry) -> Value {
    let mut value = json!({
        "manager": id.manager, "operation": id.operation.as_str(), "apiVersion": entry.version,
        "fieldsType": "FieldsV1", "fieldsV1": entry.set.to_json(),
    });
    if let Some(time) = &entry.time {
        value["time"] = time.as_str().into();
    }
    if !id.subresource.is_empty() {
        value["subresource"] = id.subresource.as_str().into();
    }
    value
}

/// Whether a client asks to forget who owns what: an empty list, or one with an empty entry.
pub fn is_reset(value: Option<&Value>) -> bool {
    match value.and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => one.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    }
}
