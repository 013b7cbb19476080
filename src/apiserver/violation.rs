//! Violations in Kubernetes' own words (apimachinery/pkg/util/validation/field/errors.go), so that what the machinery says of
//! our kinds reads like what kube-apiserver says of its own. Rules of kinds have words of their own.

use crate::api::validate::{Cause, Violation};
use std::fmt::{Debug, Display};

fn of(field: &str, cause: Cause, message: String) -> Violation {
    Violation {
        field: field.to_owned(),
        cause,
        message,
    }
}

fn followed(head: String, why: &str) -> String {
    match why {
        "" => head,
        why => format!("{head}: {why}"),
    }
}

/// A value does not do, in words of the rule's own.
pub fn in_words(field: &str, message: impl Into<String>) -> Violation {
    of(field, Cause::Invalid, message.into())
}

/// Something must be there.
pub fn required(field: &str, why: &str) -> Violation {
    let message = followed("Required value".to_owned(), why);
    of(field, Cause::Required, message)
}

/// A value does not do. Texts are quoted by `{:?}`.
pub fn invalid(field: &str, value: &(impl Debug + ?Sized), why: &str) -> Violation {
    let message = followed(format!("Invalid value: {value:?}"), why);
    of(field, Cause::Invalid, message)
}

/// A list has such an item already.
pub fn duplicate(field: &str, value: impl Display) -> Violation {
    of(field, Cause::Duplicate, format!("Duplicate value: {value}"))
}

/// Something must not be there.
pub fn forbidden(field: &str, why: &str) -> Violation {
    let message = followed("Forbidden".to_owned(), why);
    of(field, Cause::Forbidden, message)
}

/// More bytes than there may be.
pub fn too_long(field: &str, max: usize) -> Violation {
    let message = format!("Too long: may not be more than {max} bytes");
    of(field, Cause::TooLong, message)
}

/// A value of another type than the schema's.
pub fn wrong_type(field: &str, is: &str, must: &str) -> Violation {
    let why = format!("{field} in body must be of type {must}: {is:?}");
    let message = format!("Invalid value: {is:?}: {why}");
    of(field, Cause::TypeInvalid, message)
}

/// None of the values that there are; `value` as it is to be shown.
pub fn not_supported(field: &str, value: impl Display, all: &[String]) -> Violation {
    let message = format!(
        "Unsupported value: {value}: supported values: {}",
        all.join(", ")
    );
    of(field, Cause::NotSupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_words() {
        for (violation, text) in [
            (required("a", ""), "a: Required value"),
            (required("a", "name it"), "a: Required value: name it"),
            (
                invalid("a", "b\n", "no line"),
                "a: Invalid value: \"b\\n\": no line",
            ),
            (forbidden("a", "not here"), "a: Forbidden: not here"),
            (
                too_long("a", 3),
                "a: Too long: may not be more than 3 bytes",
            ),
            (
                wrong_type("a.b", "integer", "string"),
                "a.b: Invalid value: \"integer\": a.b in body must be of type string: \"integer\"",
            ),
            (
                not_supported("a", 5, &["\"x\"".into(), "\"y\"".into()]),
                "a: Unsupported value: 5: supported values: \"x\", \"y\"",
            ),
        ] {
            assert_eq!(violation.to_string(), text);
        }
    }
}
