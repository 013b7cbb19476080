//! What can go wrong for a user of the plugin.

use std::error::Error as _;
use std::time::Duration;

use kube::core::Status;

use super::RESOURCE;
use super::outcome::seconds;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The user's input: no kubeconfig, an unknown context, a certificate that cannot be read.
    #[error("cannot use the kubeconfig; name one with --kubeconfig or KUBECONFIG")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    /// The user's input: what the kubeconfig says makes no connection.
    #[error("cannot connect as the kubeconfig says")]
    Connection(#[source] kube::Error),
    /// The server said no; its code and reason tell whether retrying can help.
    #[error("{}", .0.message)]
    Refused(Box<Status>),
    /// Worth a retry: no answer, or none that arrived whole.
    #[error("cannot reach the server at {server}")]
    Unreachable {
        server: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Worth a retry: the server took the connection but did not answer in time.
    #[error("the server at {server} did not answer within {}", seconds(*.after))]
    Silent { server: String, after: Duration },
    /// A bug, or a server that is not ours.
    #[error("the server at {server} answered what is neither an actor nor a table")]
    Answer {
        server: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The actor will not get there; says why.
    #[error("{RESOURCE}/{name} was not {done}: {why}")]
    Failed {
        name: String,
        done: &'static str,
        why: String,
    },
    /// The actor may still get there; says where it is.
    #[error("timed out after {} waiting for {RESOURCE}/{name} to be {done}: it is {state}", seconds(*.after))]
    TimedOut {
        name: String,
        done: &'static str,
        after: Duration,
        state: String,
    },
    /// The log ended before its end.
    #[error("the log of {RESOURCE}/{name} broke off")]
    BrokeOff {
        name: String,
        #[source]
        source: std::io::Error,
    },
    /// Where the log goes takes no more.
    #[error("cannot write the log")]
    Output(#[source] std::io::Error),
}

impl Error {
    /// Sorts what the client library reports into what a caller can do about it.
    pub(super) fn from_kube(server: &str, error: kube::Error) -> Error {
        let server = server.to_owned();
        match error {
            kube::Error::Api(status) => Error::Refused(status),
            kube::Error::SerdeError(source) => Error::Answer {
                server,
                source: source.into(),
            },
            kube::Error::FromUtf8(source) => Error::Answer {
                server,
                source: source.into(),
            },
            kube::Error::Service(source) => Error::Unreachable { server, source },
            kube::Error::HyperError(source) => Error::Unreachable {
                server,
                source: source.into(),
            },
            other => Error::Connection(other),
        }
    }

    /// Whether the same question may well be answered a moment later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::Silent { .. } => true,
            Error::Refused(status) => status.code == 429 || status.code >= 500,
            Error::Kubeconfig(_)
            | Error::Connection(_)
            | Error::Answer { .. }
            | Error::Failed { .. } => false,
            Error::TimedOut { .. } | Error::BrokeOff { .. } | Error::Output(_) => false,
        }
    }

    /// The line for the user: what happened, then each cause that adds something.
    pub(super) fn explained(&self) -> String {
        let mut line = match self {
            Error::Refused(status) => match status.reason.as_str() {
                "" => format!("Error from server: {}", refusal(status)),
                reason => format!("Error from server ({reason}): {}", refusal(status)),
            },
            other => format!("error: {other}"),
        };
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !line.ends_with(&text) {
                line = format!("{line}: {text}");
            }
            cause = error.source();
        }
        line
    }
}

/// A Status's message, or what stands in for one.
fn refusal(status: &Status) -> String {
    if status.message.is_empty() {
        format!("HTTP status {}", status.code)
    } else {
        status.message.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_kubectls_do() {
        let status =
            Status::failure("actors.runtime.ate.dev \"a\" not found", "NotFound").with_code(404);
        let error = Error::from_kube("https://x", kube::Error::Api(status.boxed()));
        assert_eq!(
            error.explained(),
            "Error from server (NotFound): actors.runtime.ate.dev \"a\" not found"
        );
        assert!(!error.is_transient());
        let busy = Error::Refused(Status::failure("", "").with_code(503).boxed());
        assert_eq!(busy.explained(), "Error from server: HTTP status 503");
        assert!(busy.is_transient());
    }

    #[test]
    fn causes_are_told_once_each() {
        let refused = std::io::Error::other("connection refused");
        let error = Error::Unreachable {
            server: "https://x".into(),
            source: refused.into(),
        };
        assert_eq!(
            error.explained(),
            "error: cannot reach the server at https://x: connection refused"
        );
    }

    #[test]
    fn a_timeout_says_where_the_actor_is() {
        let after = Duration::from_secs(60);
        let state = "Resuming (no free workers)".to_owned();
        let error = Error::TimedOut {
            name: "a".into(),
            done: "resumed",
            after,
            state,
        };
        let line = "error: timed out after 60s waiting for actor.runtime.ate.dev/a to be resumed: \
                    it is Resuming (no free workers)";
        assert_eq!(error.explained(), line);
    }
}
