//! What a schema says about merging: which maps and lists are merged by their fields and items, and which are replaced
//! as a whole (kube-openapi/pkg/schemaconv).

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// What kind of scalar is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Integer or not.
    Number,
    /// Text.
    Text,
    /// True or false.
    Boolean,
    /// Any of them.
    Any,
}

/// A list.
#[derive(Clone, Debug, PartialEq)]
pub struct ListType {
    /// Replaced as a whole.
    pub atomic: bool,
    /// The fields that make an item's key; none: a set of scalars.
    pub keys: Vec<String>,
    /// Its items.
    pub element: Type,
}

/// A declared field.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its type.
    pub of: Type,
    /// Its default, for fields that make keys.
    pub default: Option<Value>,
}

/// A map, or a structure: a map whose fields are declared.
#[derive(Clone, Debug, PartialEq)]
pub struct MapType {
    /// Replaced as a whole.
    pub atomic: bool,
    /// Declared fields.
    pub fields: BTreeMap<String, Field>,
    /// Any other; `None`: there may be no other.
    pub other: Option<Type>,
}

impl MapType {
    /// The type of a field; `None`: there may be no such field.
    pub fn of(&self, name: &str) -> Option<&Type> {
        self.fields.get(name).map(|f| &f.of).or(self.other.as_ref())
    }
}

/// What a value may be: one of these, or any of several.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Atom {
    /// A scalar.
    pub scalar: Option<Scalar>,
    /// A list.
    pub list: Option<ListType>,
    /// A map.
    pub map: Option<MapType>,
}

/// A type.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// As a schema says.
    Known(Box<Atom>),
    /// Without schema: maps are merged by field, lists replaced as a whole.
    Deduced,
    /// Without schema and replaced as a whole.
    Opaque,
}

/// One of an [`Atom`]'s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape<'a> {
    /// A map.
    Map(&'a MapType),
    /// A scalar.
    Scalar(Scalar),
    /// A list.
    List(&'a ListType),
    /// Nothing fits; only in a broken schema.
    Nothing,
}

fn any(of: &Type, map_atomic: bool) -> Atom {
    Atom {
        scalar: Some(Scalar::Any),
        list: Some(ListType {
            atomic: true,
            keys: vec![],
            element: Type::Opaque,
        }),
        map: Some(MapType {
            atomic: map_atomic,
            fields: BTreeMap::new(),
            other: Some(of.clone()),
        }),
    }
}

static DEDUCED: LazyLock<Atom> = LazyLock::new(|| any(&Type::Deduced, false));
static OPAQUE: LazyLock<Atom> = LazyLock::new(|| any(&Type::Opaque, true));

impl Atom {
    /// What a value is to be read as. Null, and what does not fit, is a map where it can be one.
    pub fn shape(&self, value: Option<&Value>) -> Shape<'_> {
        let map = self.map.as_ref().map(Shape::Map);
        let scalar = self.scalar.map(Shape::Scalar);
        let list = self.list.as_ref().map(Shape::List);
        let fits = match value {
            None | Some(Value::Null) => None,
            Some(Value::Bool(_) | Value::Number(_) | Value::String(_)) => scalar,
            Some(Value::Array(_)) => list,
            Some(Value::Object(_)) => map,
        };
        fits.or(map).or(scalar).or(list).unwrap_or(Shape::Nothing)
    }
}

impl Type {
    /// What a value of the type may be.
    pub fn atom(&self) -> &Atom {
        match self {
            Self::Known(atom) => atom,
            Self::Deduced => &DEDUCED,
            Self::Opaque => &OPAQUE,
        }
    }

    /// The type of a whole object: the kind's published schema, with the machinery's own three fields.
    pub fn of_kind(published: &Value) -> Self {
        let mut root = object(published, false);
        for (name, schema) in [
            ("apiVersion", json!({"type": "string"})),
            ("kind", json!({"type": "string"})),
            ("metadata", object_meta()),
        ] {
            let field = Field {
                of: Self::of_schema(&schema, false),
                default: None,
            };
            root.fields.insert(name.into(), field);
        }
        Self::Known(Box::new(Atom {
            map: Some(root),
            ..Atom::default()
        }))
    }

    /// The type of what a schema describes. `preserve`: unknown fields are kept from here on down.
    pub fn of_schema(schema: &Value, preserve: bool) -> Self {
        let preserve = preserve || schema["x-kubernetes-preserve-unknown-fields"] == true;
        let scalar = |scalar| Atom {
            scalar: Some(scalar),
            ..Atom::default()
        };
        let atom = match schema["type"].as_str() {
            Some("object") => Atom {
                map: Some(object(schema, preserve)),
                ..Atom::default()
            },
            Some("array") => Atom {
                list: Some(list(schema, preserve)),
                ..Atom::default()
            },
            Some("integer" | "number") => scalar(Scalar::Number),
            Some("boolean") => scalar(Scalar::Boolean),
            Some("string") => match schema["format"].as_str() {
                None | Some("" | "byte") => scalar(Scalar::Text),
                Some(_) => scalar(Scalar::Any),
            },
            _ => Atom {
                scalar: Some(Scalar::Any),
                list: Some(list(schema, preserve)),
                map: Some(object(schema, preserve)),
            },
        };
        Self::Known(Box::new(atom))
    }
}

fn object(schema: &Value, preserve: bool) -> MapType {
    let preserve = preserve || schema["x-kubernetes-preserve-unknown-fields"] == true;
    let properties = schema["properties"].as_object();
    let fields: BTreeMap<_, _> = properties
        .into_iter()
        .flatten()
        .map(|(name, schema)| {
            let of = Type::of_schema(schema, preserve);
            let default = schema.get("default").cloned();
            (name.clone(), Field { of, default })
        })
        .collect();
    let other = match &schema["additionalProperties"] {
        Value::Bool(true) => Some(Type::Deduced),
        Value::Bool(false) => None,
        Value::Null => (preserve || fields.is_empty()).then_some(Type::Deduced),
        schema => Some(Type::of_schema(schema, preserve)),
    };
    MapType {
        atomic: schema["x-kubernetes-map-type"] == "atomic",
        fields,
        other,
    }
}

fn list(schema: &Value, preserve: bool) -> ListType {
    let element = match &schema["items"] {
        Value::Null => Type::Opaque,
        items => Type::of_schema(items, preserve),
    };
    let keys = match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => Some(vec![]),
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array();
            let keys = keys.into_iter().flatten().filter_map(Value::as_str);
            Some(keys.map(str::to_owned).collect())
        }
        _ => None,
    };
    ListType {
        atomic: keys.is_none(),
        keys: keys.unwrap_or_default(),
        element,
    }
}

/// How `metadata` merges (apimachinery/pkg/apis/meta/v1/types.go, the markers of ObjectMeta).
pub fn object_meta() -> Value {
    let text = json!({"type": "string"});
    let time = json!({"type": "string", "format": "date-time"});
    let texts = json!({"type": "object", "additionalProperties": text});
    let number = json!({"type": "integer"});
    json!({"type": "object", "properties": {
        "name": text, "generateName": text, "namespace": text, "selfLink": text, "uid": text,
        "resourceVersion": text, "generation": number, "creationTimestamp": time,
        "deletionTimestamp": time, "deletionGracePeriodSeconds": number,
        "labels": texts, "annotations": texts,
        "finalizers": {"type": "array", "x-kubernetes-list-type": "set", "items": text},
        "ownerReferences": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"],
            "items": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {
                "apiVersion": text, "kind": text, "name": text, "uid": text,
                "controller": {"type": "boolean"}, "blockOwnerDeletion": {"type": "boolean"}}}},
        "managedFields": {"type": "array", "x-kubernetes-list-type": "atomic", "items": {"type": "object", "properties": {
            "manager": text, "operation": text, "apiVersion": text, "subresource": text, "time": time,
            "fieldsType": text, "fieldsV1": {"type": "object"}}}},
    }})
}
