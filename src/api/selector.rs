//! Label selectors as the records keep them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// One of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How to compare.
    pub operator: Operator,
    /// What with; empty for `Exists` and `DoesNotExist`.
    pub values: Vec<String>,
}

/// A label selector; the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// All must be there.
    pub labels: BTreeMap<String, String>,
    /// All must hold.
    pub expressions: Vec<Requirement>,
}

/// A selector that has an operator or values that do not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("matchExpressions[{index}]: {why}")]
pub struct SelectorError {
    /// Which requirement.
    pub index: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Selector {
    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.expressions.is_empty()
    }

    /// Whether labels are selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.expressions.iter().all(|r| {
                let value = labels.get(&r.key);
                match r.operator {
                    Operator::In => value.is_some_and(|v| r.values.contains(v)),
                    Operator::NotIn => value.is_none_or(|v| !r.values.contains(v)),
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }

    /// Kubernetes' form; `None` for the empty selector.
    pub fn to_kubernetes(&self) -> Option<LabelSelector> {
        let requirement = |r: &Requirement| LabelSelectorRequirement {
            key: r.key.clone(),
            operator: format!("{:?}", r.operator),
            values: (!r.values.is_empty()).then(|| r.values.clone()),
        };
        (!self.is_empty()).then(|| LabelSelector {
            match_labels: (!self.labels.is_empty()).then(|| self.labels.clone()),
            match_expressions: (!self.expressions.is_empty())
                .then(|| self.expressions.iter().map(requirement).collect()),
        })
    }
}

impl TryFrom<&LabelSelector> for Selector {
    type Error = SelectorError;

    fn try_from(from: &LabelSelector) -> Result<Self, SelectorError> {
        let expressions = from.match_expressions.iter().flatten().enumerate();
        Ok(Selector {
            labels: from.match_labels.clone().unwrap_or_default(),
            expressions: expressions
                .map(|(i, r)| requirement(i, r))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn requirement(index: usize, r: &LabelSelectorRequirement) -> Result<Requirement, SelectorError> {
    let fail = |why| Err(SelectorError { index, why });
    let operator = match r.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        _ => return fail("operator must be In, NotIn, Exists or DoesNotExist"),
    };
    let values = r.values.clone().unwrap_or_default();
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            fail("values must not be empty for In and NotIn")
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            fail("values must be empty for Exists and DoesNotExist")
        }
        _ => Ok(Requirement {
            key: r.key.clone(),
            operator,
            values,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn every_operator() {
        let of = |operator, values: &[&str]| Selector {
            labels: BTreeMap::new(),
            expressions: vec![Requirement {
                key: "tier".into(),
                operator,
                values: values.iter().map(|v| (*v).to_owned()).collect(),
            }],
        };
        let (gold, none) = (labels(&[("tier", "gold")]), labels(&[]));
        for (selector, with, without) in [
            (of(Operator::In, &["gold"]), true, false),
            (of(Operator::In, &["iron"]), false, false),
            (of(Operator::NotIn, &["gold"]), false, true),
            (of(Operator::Exists, &[]), true, false),
            (of(Operator::DoesNotExist, &[]), false, true),
        ] {
            assert_eq!(
                (selector.matches(&gold), selector.matches(&none)),
                (with, without),
                "{selector:?}"
            );
            let kubernetes = selector.to_kubernetes().unwrap();
            assert_eq!(Selector::try_from(&kubernetes).unwrap(), selector);
        }
    }

    #[test]
    fn a_bad_expression_is_named() {
        let bad = LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "a".into(),
                operator: "Gt".into(),
                values: None,
            }]),
            match_labels: None,
        };
        let e = Selector::try_from(&bad).unwrap_err().to_string();
        assert_eq!(
            e,
            "matchExpressions[0]: operator must be In, NotIn, Exists or DoesNotExist"
        );
    }
}
