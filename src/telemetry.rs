//! Logs of our processes: where they go, in which form, and how loud. Every binary calls [`init`] once, first thing.
//!
//! [`chain`] puts an error into a line, [`metrics`] keeps numbers.
//!
//! Traces and metrics of a service live with that service; here is only what all of them share.

pub mod metrics;

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

/// The environment variable that says what is logged, in the syntax of
/// [`EnvFilter`]: `debug`, `warn,substrate::engine=trace`.
pub const FILTER_VARIABLE: &str = "ATE_LOG";

/// What a log line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line a person reads: time, level, component, where, message, fields.
    #[default]
    Text,
    /// One JSON object a line, for what collects logs.
    Json,
}

/// An error and what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}

/// Sends this process's log to stderr; `component` (`atelet`, `router`, ...) stands on each line.
///
/// What is logged is said by `ATE_LOG` (default `info`); a filter that cannot be read is reported on the log itself
/// and counts as the default. A second call changes nothing, so that tests and `ate dev` may call it freely.
pub fn init(component: &str, format: Format) {
    let (filter, complaint) = filter(std::env::var(FILTER_VARIABLE).ok().as_deref());
    let subscriber = subscriber(
        component,
        format,
        filter,
        io::stderr().is_terminal(),
        io::stderr,
    );
    if tracing::subscriber::set_global_default(subscriber).is_ok()
        && let Some(complaint) = complaint
    {
        tracing::warn!("{complaint}");
    }
}

/// The filter that `directives` asks for, and what is wrong with them if they cannot be read.
fn filter(directives: Option<&str>) -> (EnvFilter, Option<String>) {
    let info = || EnvFilter::new(LevelFilter::INFO.to_string());
    match directives {
        None | Some("") => (info(), None),
        Some(text) => match EnvFilter::try_new(text) {
            Ok(filter) => (filter, None),
            Err(error) => {
                let complaint = format!(
                    "{FILTER_VARIABLE}={text:?} is not a log filter ({error}); logging at info"
                );
                (info(), Some(complaint))
            }
        },
    }
}

fn subscriber<W>(
    component: &str,
    format: Format,
    filter: EnvFilter,
    ansi: bool,
    writer: W,
) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (text, json) = match format {
        Format::Text => {
            let inner = Named {
                component: component.to_owned(),
                inner: format::format(),
            };
            (
                Some(
                    tracing_subscriber::fmt::layer()
                        .event_format(inner)
                        .with_ansi(ansi)
                        .with_writer(writer),
                ),
                None,
            )
        }
        Format::Json => {
            let inner = Named {
                component: component.to_owned(),
                inner: format::format().json().flatten_event(true),
            };
            let layer = tracing_subscriber::fmt::layer()
                .json()
                .event_format(inner)
                .with_ansi(false);
            (None, Some(layer.with_writer(writer)))
        }
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(text)
        .with(json)
}

/// A format that also names the component: a span would have to be entered by every task, a field given at every event.
struct Named<F> {
    component: String,
    inner: F,
}

impl<S, N, T> FormatEvent<S, N> for Named<format::Format<format::Full, T>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    format::Format<format::Full, T>: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "{:<8} ", self.component)?;
        self.inner.format_event(context, writer, event)
    }
}

impl<S, N, T> FormatEvent<S, N> for Named<format::Format<format::Json, T>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    format::Format<format::Json, T>: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut object = String::new();
        self.inner
            .format_event(context, Writer::new(&mut object), event)?;
        let component = serde_json::Value::from(self.component.as_str());
        match object.strip_prefix('{') {
            Some(rest) => write!(writer, "{{\"component\":{component},{rest}"),
            None => writer.write_str(&object),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(component: &str, format: Format, directives: Option<&str>) -> Vec<String> {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = subscriber(component, format, filter(directives).0, false, move || {
            writer.clone()
        });
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(actor = "default/a", "woke \"up\"");
            tracing::debug!("detail");
        });
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn a_text_line_names_the_component_and_the_fields() {
        let lines = logged("router", Format::Text, None);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("router   "), "{lines:?}");
        assert!(
            lines[0].contains("INFO") && lines[0].ends_with("woke \"up\" actor=\"default/a\""),
            "{lines:?}"
        );
    }

    #[test]
    fn a_json_line_is_an_object_with_the_component() {
        let lines = logged("we\"ird", Format::Json, Some("debug"));
        assert_eq!(lines.len(), 2, "{lines:?}");
        let object: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(object["component"], "we\"ird");
        assert_eq!(object["message"], "woke \"up\"");
        assert_eq!(object["actor"], "default/a");
        assert_eq!(object["level"], "INFO");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_reported_and_counts_as_info() {
        let (filter, complaint) = filter(Some("substrate=loud"));
        assert_eq!(filter.to_string(), "info");
        assert!(complaint.unwrap().contains("substrate=loud"));
    }

    #[test]
    fn a_second_call_changes_nothing() {
        init("one", Format::Text);
        init("two", Format::Json);
    }
}
