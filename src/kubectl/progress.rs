//! What a person sees while an order is carried out: a spinner for each actor on a terminal, else a line for each phase.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{RESOURCE, complain};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(80);

/// Everything that is shown on stderr at once.
pub(super) struct Progress {
    spinners: Option<MultiProgress>,
}

/// What is shown of one actor; its spinner goes with it.
pub(super) struct Watched {
    name: String,
    shown: String,
    spinner: Option<ProgressBar>,
}

impl Progress {
    /// Spinners if stderr is a terminal.
    pub(super) fn new() -> Progress {
        Progress {
            spinners: std::io::stderr().is_terminal().then(MultiProgress::new),
        }
    }

    /// Begins to show an actor.
    pub(super) fn watch(&self, name: &str) -> Watched {
        let spinner = self.spinners.as_ref().map(|all| {
            let style = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}");
            let bar = ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            let bar = all.add(bar);
            bar.enable_steady_tick(TICK);
            bar
        });
        Watched {
            name: name.to_owned(),
            shown: String::new(),
            spinner,
        }
    }

    /// Prints without tearing the spinners.
    pub(super) fn aside(&self, print: impl FnOnce()) {
        match &self.spinners {
            Some(all) => all.suspend(print),
            None => print(),
        }
    }
}

impl Watched {
    /// Shows where the actor is, if that is news.
    pub(super) fn state(&mut self, state: &str) {
        if self.shown == state {
            return;
        }
        self.shown = state.to_owned();
        match &self.spinner {
            Some(bar) => bar.set_message(format!("{RESOURCE}/{} {state}", self.name)),
            None => complain(format_args!("{RESOURCE}/{} is {state}", self.name)),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(bar) = &self.spinner {
            bar.finish_and_clear();
        }
    }
}
