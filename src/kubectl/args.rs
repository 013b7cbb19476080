//! The command line, and what it says about itself.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// `--timeout` is refused beyond this.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// A DNS label is at most this long (RFC 1123).
const LONGEST_LABEL: usize = 63;

/// What may stand before an actor's name and a slash.
const RESOURCE_NAMES: [&str; 6] = [
    "actor",
    "actors",
    "act",
    "actor.runtime.ate.dev",
    "actors.runtime.ate.dev",
    "act.runtime.ate.dev",
];

/// Wake actors, put them to sleep, read what they log, and see where they run.
///
/// An actor is one stateful session in a sandbox. While it sleeps it occupies no
/// worker; its memory and files lie in a snapshot, and it goes on from there when
/// it is resumed, by a request or by hand.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-ate",
    bin_name = "kubectl ate",
    version,
    verbatim_doc_comment,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  # Wake an actor and wait until it runs
  kubectl ate resume alice

  # Put three to sleep at once; their snapshots go to object storage
  kubectl ate suspend alice bob carol -n team-a

  # Follow what an actor writes to stdout and stderr
  kubectl ate logs alice -f

Everything else is plain kubectl: get, describe, create, delete, wait, get --watch.
Use \"kubectl ate <command> --help\" for more about a command."
)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) connection: Connection,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Which server, and which namespace on it.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connection {
    /// Namespace of the actors (default: the context's)
    #[arg(short, long, global = true, value_parser = label)]
    pub(super) namespace: Option<String>,
    /// Kubeconfig file to use (default: $KUBECONFIG, then ~/.kube/config)
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use (default: its current one)
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) context: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Wake actors: each goes on where it left off, on any free worker
    ///
    /// The newest state is what a resume starts from: memory and files of the last
    /// suspend or pause, or the template's golden snapshot for an actor that never
    /// ran. Requests wake an actor by themselves; resume is for doing it ahead.
    #[command(
        verbatim_doc_comment,
        after_help = "\
Examples:
  # Wake one actor and wait until it runs
  kubectl ate resume alice

  # Wake several at once, waiting up to two minutes for workers to become free
  kubectl ate resume alice bob carol --timeout 2m

  # Only ask for it; see what comes of it with kubectl
  kubectl ate resume alice --no-wait
  kubectl wait actor/alice --for=condition=Awake"
    )]
    Resume(Orders),
    /// Wake actors from their image, without what they had in memory and in files
    ///
    /// For one whose snapshot cannot be restored. A snapshot that it has is not used;
    /// its next suspend or pause replaces it.
    #[command(
        verbatim_doc_comment,
        after_help = "\
Examples:
  # Start one actor anew
  kubectl ate boot alice"
    )]
    Boot(Orders),
    /// Put actors to sleep: memory and files go to object storage, workers become free
    ///
    /// Done means durable: the snapshot is published, and losing the node no longer
    /// loses anything. Requests in flight are finished first, for as long as the
    /// template's drain timeout allows. A suspended actor wakes with the next
    /// request to it.
    #[command(
        verbatim_doc_comment,
        after_help = "\
Examples:
  # Suspend one actor and wait until its snapshot is safe
  kubectl ate suspend alice

  # Suspend every actor of a namespace
  kubectl get actors -n team-a -o name | xargs kubectl ate suspend -n team-a"
    )]
    Suspend(Orders),
    /// Put actors to sleep on their node: quicker to wake, but not durable
    ///
    /// The snapshot stays on the node that took it. A paused actor frees its worker
    /// as a suspended one does and wakes faster, but losing the node rolls it back
    /// to its last suspend.
    #[command(
        verbatim_doc_comment,
        after_help = "\
Examples:
  # Pause an actor that will be needed again soon
  kubectl ate pause alice

  # Make a paused actor durable after all
  kubectl ate suspend alice"
    )]
    Pause(Orders),
    /// Print what an actor writes to stdout and stderr
    ///
    /// The log of a sleeping actor can be read as long as the node that ran it last
    /// keeps it.
    #[command(
        verbatim_doc_comment,
        after_help = "\
Examples:
  # The whole log that is kept
  kubectl ate logs alice

  # The last 20 lines, then whatever comes, until Ctrl-C
  kubectl ate logs alice -f --tail 20

  # One container of several
  kubectl ate logs alice -c browser"
    )]
    Logs(Logs),
    /// Show nodes with what they hold, and their slots with who is on them
    ///
    /// CACHE is what copies of snapshots take of a node's disk, SPOOL those of
    /// them that are nowhere else: being published, or paused. Each may take
    /// CAPACITY. A slot is a worker.
    #[command(
        verbatim_doc_comment,
        after_help = "\
Examples:
  # The nodes, and the slots of this namespace's pools
  kubectl ate top

  # The slots of all namespaces
  kubectl ate top -A"
    )]
    Top(Top),
}

/// Whose slots.
#[derive(Debug, clap::Args)]
pub(super) struct Top {
    /// Slots of the pools of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(super) all_namespaces: bool,
}

/// Some actors, and how long to wait for them.
#[derive(Debug, clap::Args)]
pub(super) struct Orders {
    /// Actors to act on, all at once; actor/NAME is understood too
    #[arg(required = true, value_name = "NAME", value_parser = actor_name)]
    pub(super) names: Vec<String>,
    /// How long to wait for each, as in 90s, 2m, 1m30s
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = timeout)]
    pub(super) timeout: Duration,
    /// Ask for it and return at once
    #[arg(long, conflicts_with = "timeout")]
    pub(super) no_wait: bool,
}

/// Which log, and how much of it.
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// Actor whose log to print; actor/NAME is understood too
    #[arg(value_parser = actor_name)]
    pub(super) name: String,
    /// Go on printing what comes, until Ctrl-C
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Container to read (default: the only one, or all)
    #[arg(short, long, value_parser = label)]
    pub(super) container: Option<String>,
    /// Begin with the last LINES lines (default: all that is kept)
    #[arg(long, value_name = "LINES")]
    pub(super) tail: Option<u32>,
}

/// An actor's name, with or without the resource before it (what `kubectl get -o name` prints).
fn actor_name(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        None => label(text),
        Some((resource, name)) if RESOURCE_NAMES.contains(&resource) => label(name),
        Some((resource, _)) => Err(format!(
            "{resource:?} is not an actor; write NAME or actor/NAME"
        )),
    }
}

/// A DNS label: what names of actors, namespaces and containers are, and safe within a URL's path.
fn label(text: &str) -> Result<String, String> {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty()
        || text.len() > LONGEST_LABEL
        || !text.chars().all(inside)
        || text.starts_with('-')
        || text.ends_with('-')
    {
        return Err(format!(
            "a name is 1 to {LONGEST_LABEL} lower-case letters, digits and inner hyphens"
        ));
    }
    Ok(text.to_owned())
}

/// A duration such as `90s` or `1m30s`; a bare number counts seconds.
fn timeout(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "write a duration like 90s, 2m or 1m30s, above 0 and at most {}h",
            LONGEST_TIMEOUT.as_secs() / 3600
        )
    };
    let duration = match text.parse::<u64>() {
        Ok(number) => Duration::from_secs(number),
        Err(_) => {
            let parsed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
            Duration::try_from(parsed).map_err(|_| wrong())?
        }
    };
    if duration.is_zero() || duration > LONGEST_TIMEOUT {
        Err(wrong())
    } else {
        Ok(duration)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn names_flags_and_defaults() {
        let args = parse("kubectl-ate resume alice actor/bob actors.runtime.ate.dev/carol -n team-a --context dev").unwrap();
        assert_eq!(args.connection.namespace.as_deref(), Some("team-a"));
        assert_eq!(args.connection.context.as_deref(), Some("dev"));
        let Command::Resume(orders) = args.command else {
            panic!("{args:?}")
        };
        assert_eq!(orders.names, ["alice", "bob", "carol"]);
        assert_eq!(orders.timeout, Duration::from_secs(60));
        assert!(!orders.no_wait);
    }

    #[test]
    fn logs_take_what_kubectl_logs_takes() {
        let args = parse("kubectl-ate logs alice -f -c browser --tail 20").unwrap();
        let Command::Logs(logs) = args.command else {
            panic!("{args:?}")
        };
        assert_eq!(
            (
                logs.name.as_str(),
                logs.follow,
                logs.container.as_deref(),
                logs.tail
            ),
            ("alice", true, Some("browser"), Some(20))
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in [
            "",
            "Alice",
            "a/b",
            "pod/a",
            "../x",
            "a?wait=1",
            "-a",
            "a-",
            "a.b",
            &"a".repeat(64),
        ] {
            assert!(actor_name(name).is_err(), "{name:?}");
        }
        assert!(actor_name(&"a".repeat(63)).is_ok());
        assert!(parse("kubectl-ate resume").is_err());
        assert!(parse("kubectl-ate suspend a --no-wait --timeout 3s").is_err());
    }

    #[test]
    fn timeouts() {
        for (text, millis) in [
            ("60s", 60_000),
            ("90", 90_000),
            ("2m", 120_000),
            ("1m30s", 90_000),
            ("500ms", 500),
        ] {
            assert_eq!(timeout(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "0s", "-3s", "soon", "25h", "99999999999999999999"] {
            assert!(timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_command_shows_examples() {
        let mut command = Args::command();
        for sub in command.get_subcommands_mut() {
            let help = sub.render_long_help().to_string();
            assert!(help.contains("Examples:\n  # "), "{help}");
        }
        assert!(
            command
                .render_long_help()
                .to_string()
                .contains("kubectl ate resume alice")
        );
    }
}
