//! Conditions, by Kubernetes' conventions.

use super::time::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// True, False or Unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is so.
    True,
    /// It is not so.
    False,
    /// Not known yet.
    Unknown,
}

impl Status {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Status::True } else { Status::False }
    }
}

/// A condition; `since` is when its status last changed.
pub fn condition(
    kind: &str,
    status: impl Into<Status>,
    reason: impl ToString,
    message: impl Into<String>,
    generation: i64,
    since: Timestamp,
) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: status.into().as_str().to_owned(),
        reason: reason.to_string(),
        message: message.into(),
        observed_generation: Some(generation),
        last_transition_time: since.to_time(),
    }
}

/// Puts a condition among others: its transition time stays when its status did not change.
pub fn set(conditions: &mut Vec<Condition>, mut new: Condition) {
    match conditions.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_moves_only_with_the_status() {
        let mut all = vec![];
        set(
            &mut all,
            condition("Ready", false, "A", "", 1, Timestamp(1_000)),
        );
        set(
            &mut all,
            condition("Ready", false, "B", "", 2, Timestamp(9_000)),
        );
        assert_eq!(
            (all[0].last_transition_time.clone(), all[0].reason.as_str()),
            (Timestamp(1_000).to_time(), "B")
        );
        set(
            &mut all,
            condition("Ready", true, "C", "", 2, Timestamp(9_000)),
        );
        assert_eq!(all[0].last_transition_time, Timestamp(9_000).to_time());
        assert_eq!(all.len(), 1);
    }
}
