//! Events: what changed about an object that a person would ask about, as its conditions say it.

use crate::controller::MANAGER;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::core::Status;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use std::time::Duration;

/// How long the telling of one event may take: nothing waits for it that matters.
const TELL_LIMIT: Duration = Duration::from_secs(5);
/// Why Kubernetes creates nothing in a namespace that is being deleted (`NamespaceTerminatingCause`).
const LEAVING: &str = "NamespaceTerminating";
/// Longest note that Kubernetes takes, in characters of at most four bytes.
const MAX_NOTE: usize = 256;

/// Tells events where Kubernetes keeps them; elsewhere it is silent.
pub(super) struct Events(Option<Recorder>);

impl Events {
    pub(super) fn silent() -> Self {
        Self(None)
    }

    pub(super) fn to(client: Client) -> Self {
        let reporter = Reporter::from(MANAGER);
        Self(Some(Recorder::new(client, reporter)))
    }

    /// Tells what is new in the conditions of an object.
    pub(super) async fn tell(
        &self,
        about: &ObjectReference,
        before: &[Condition],
        after: &[Condition],
    ) {
        let Some(recorder) = &self.0 else { return };
        for (type_, condition) in news(before, after) {
            let event = Event {
                type_,
                reason: condition.reason.clone(),
                note: Some(condition.message.chars().take(MAX_NOTE).collect()),
                action: condition.type_.clone(),
                secondary: None,
            };
            match tokio::time::timeout(TELL_LIMIT, recorder.publish(&event, about)).await {
                Ok(Ok(())) => {}
                // Its namespace is being deleted, and every event with it.
                Ok(Err(kube::Error::Api(status))) if is_leaving(&status) => {}
                Ok(Err(e)) => tracing::warn!(error = %e, reason = event.reason, "event is lost"),
                Err(_) => tracing::warn!(reason = event.reason, "event is lost: no answer"),
            }
        }
    }
}

fn is_leaving(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|d| &d.causes);
    causes.into_iter().any(|c| c.reason == LEAVING)
}

/// Conditions that became otherwise: *Ready* either way, those that say what is wrong when they become so.
fn news<'a>(before: &[Condition], after: &'a [Condition]) -> Vec<(EventType, &'a Condition)> {
    let told = |c: &&Condition| c.type_ == "Ready" || is_bad(c);
    let old = |new: &Condition| before.iter().find(|c| c.type_ == new.type_);
    let changed = |c: &&Condition| {
        old(c).is_none_or(|old| (&old.status, &old.reason) != (&c.status, &c.reason))
    };
    // What is not ready yet when it is first looked at is no bad news.
    let short = |c: &Condition| c.type_ == "Ready" && c.status == "False" && old(c).is_some();
    let all = after.iter().filter(told).filter(changed);
    all.map(|c| match is_bad(c) || short(c) {
        true => (EventType::Warning, c),
        false => (EventType::Normal, c),
    })
    .collect()
}

fn is_bad(condition: &Condition) -> bool {
    let kinds = ["Stalled", "DeletionBlocked", "ImageReplaced"];
    kinds.contains(&condition.type_.as_str()) && condition.status == "True"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Timestamp;
    use crate::api::condition::condition;

    fn conditions(all: &[(&str, bool, &str)]) -> Vec<Condition> {
        let of = |&(kind, holds, reason): &(&str, bool, &str)| {
            condition(kind, holds, reason, "", 1, Timestamp(0))
        };
        all.iter().map(of).collect()
    }

    fn told(
        before: &[(&str, bool, &str)],
        after: &[(&str, bool, &str)],
    ) -> Vec<(EventType, String)> {
        let (before, after) = (conditions(before), conditions(after));
        let all = news(&before, &after).into_iter();
        all.map(|(kind, c)| (kind, c.reason.clone())).collect()
    }

    #[test]
    fn only_news_is_told() {
        use EventType::{Normal, Warning};
        let short = ("Ready", false, "WorkersMissing");
        let full = ("Ready", true, "WorkersReady");
        let (well, stalled) = (
            ("Stalled", false, "AsDesired"),
            ("Stalled", true, "Refused"),
        );
        assert_eq!(
            told(&[], &[short, well]),
            [(Normal, "WorkersMissing".into())]
        );
        assert_eq!(
            told(&[short, well], &[full, well]),
            [(Normal, "WorkersReady".into())]
        );
        assert_eq!(told(&[full, well], &[full, well]), []);
        let both = [
            (Warning, "WorkersMissing".into()),
            (Warning, "Refused".into()),
        ];
        assert_eq!(told(&[full, well], &[short, stalled]), both);
        assert_eq!(told(&[full, stalled], &[full, well]), []);
    }
}
