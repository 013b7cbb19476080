//! The rules that every edge applies: REST, gRPC, the controllers and `ate dev` alike.
//!
//! A rule stands at the field that it is about, as a `#[garde(...)]` attribute of the types in [`api`](super). Here
//! is what calls them, [`object`], and what makes Kubernetes' words of what they say: where a field is, and why its
//! value is refused. [`rules`] holds the rules that garde does not have. What compares an object with the one that it
//! replaces is not here; the API server does that.

pub mod rules;
mod words;

use garde::Validate;
use garde::i18n::with_i18n;
use std::collections::BTreeSet;
use std::fmt;

/// Violations that are reported of one object.
pub const MAX_VIOLATIONS: usize = 50;

/// Stands between cause and message in an error of garde, which holds one text only. Values are quoted in messages
/// with control characters escaped, so that no user can write it.
const CAUSE_END: char = '\u{1f}';

/// Why a value is refused; the words of Kubernetes' causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The value does not fit.
    Invalid,
    /// The field is missing.
    Required,
    /// Another value is needed, or it is not supported yet.
    NotSupported,
    /// The field must not be set here.
    Forbidden,
    /// The list has such an item already.
    Duplicate,
    /// There is too much of it.
    TooLong,
    /// It is of another type.
    TypeInvalid,
}

impl Cause {
    const ALL: [Cause; 7] = [
        Cause::Invalid,
        Cause::Required,
        Cause::NotSupported,
        Cause::Forbidden,
        Cause::Duplicate,
        Cause::TooLong,
        Cause::TypeInvalid,
    ];

    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Invalid => "FieldValueInvalid",
            Cause::Required => "FieldValueRequired",
            Cause::NotSupported => "FieldValueNotSupported",
            Cause::Forbidden => "FieldValueForbidden",
            Cause::Duplicate => "FieldValueDuplicate",
            Cause::TooLong => "FieldValueTooLong",
            Cause::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    /// What a rule returns that finds something wrong.
    pub fn error(self, message: impl fmt::Display) -> garde::Error {
        garde::Error::new(format!("{}{CAUSE_END}{message}", self.as_str()))
    }

    /// The two parts of an error's text. garde's own rules name no cause: their values do not fit.
    fn split(text: &str) -> (Cause, String) {
        let marked = text.split_once(CAUSE_END).and_then(|(word, message)| {
            let cause = Cause::ALL.into_iter().find(|c| c.as_str() == word)?;
            Some((cause, message))
        });
        let (cause, message) = marked.unwrap_or((Cause::Invalid, text));
        (cause, message.to_owned())
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

/// What every kind is checked as, so that paths begin at the object.
#[derive(Validate)]
struct Object<'a, S: Validate<Context = ()>> {
    #[garde(dive)]
    metadata: Metadata<'a>,
    #[garde(dive)]
    spec: &'a S,
}

#[derive(Validate)]
struct Metadata<'a> {
    #[garde(custom(rules::dns_label))]
    name: &'a str,
    #[garde(custom(rules::dns_label))]
    namespace: &'a str,
}

/// What is wrong with an object's names and spec; empty when nothing is. At most [`MAX_VIOLATIONS`].
pub fn object<S>(name: &str, namespace: &str, spec: &S) -> Vec<Violation>
where
    S: Validate<Context = ()>,
{
    let metadata = Metadata { name, namespace };
    let object = Object { metadata, spec };
    match with_i18n(words::Words, || object.validate()) {
        Ok(()) => vec![],
        Err(report) => violations(&report),
    }
}

fn violations(report: &garde::Report) -> Vec<Violation> {
    let of = |(path, error): &(garde::Path, garde::Error)| {
        let (cause, message) = Cause::split(error.message());
        Violation {
            field: camel_case(&path.to_string()),
            cause,
            message,
        }
    };
    let mut all: Vec<_> = report.iter().map(of).collect();
    // Whoever has to remove a field need not read what else is wrong with its value.
    let removed: BTreeSet<_> = all
        .iter()
        .filter(|v| v.cause == Cause::NotSupported)
        .map(|v| v.field.clone())
        .collect();
    all.retain(|v| v.cause == Cause::NotSupported || !removed.contains(&v.field));
    all.truncate(MAX_VIOLATIONS);
    all
}

/// A path as users write it. garde knows the names in Rust only (0.23 reads `rename` and does nothing with it); all
/// our specs are renamed by serde's `camelCase`, and this is the same.
fn camel_case(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut upper = false;
    for c in path.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
