//! Where actors were when last asked, for a few seconds, and one question at a time per actor.

use super::{Binding, ResolveError, Resolver, Target};
use nix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long an answer holds. Nothing tells a router that an actor moved, so this is how long it may send to a port
/// that nobody serves any more (a port is not reused that soon).
const TTL: Duration = Duration::from_secs(5);
/// Actors that are remembered; beyond it any one is forgotten for a new one.
const MAX_BINDINGS: usize = 65_536;
/// Actors that are asked about at the same time.
const MAX_FLIGHTS: usize = 16_384;

type Outcome = Result<Binding, ResolveError>;
/// The one question under way for an actor; `None` until it is answered.
type Flight = watch::Receiver<Option<Outcome>>;

pub(super) struct Bindings {
    resolver: Arc<dyn Resolver>,
    /// Longest wait for an actor.
    timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<Target, Known>,
    flights: HashMap<Target, Flight>,
}

struct Known {
    binding: Binding,
    /// By the boot-time clock.
    since: Duration,
}

impl Bindings {
    pub(super) fn new(resolver: Arc<dyn Resolver>, timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            resolver,
            timeout,
            state: Mutex::default(),
        })
    }

    /// The remembered binding of `target`, if it still holds.
    pub(super) fn known(&self, target: &Target) -> Option<Binding> {
        self.state().fresh(target, boot_time())
    }

    /// Asks for `target`, together with whoever else does, and remembers the answer.
    pub(super) async fn resolve(self: &Arc<Self>, target: &Target) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        loop {
            let (mut flight, joined) = self.board(target)?;
            let landed = tokio::time::timeout_at(deadline, flight.wait_for(Option::is_some)).await;
            let outcome = match landed {
                Err(_) => Err(late(target)),
                Ok(Err(_)) => Err(ResolveError::Internal(format!(
                    "asking for {target} failed"
                ))),
                Ok(Ok(outcome)) => outcome.clone().unwrap_or_else(|| Err(late(target))),
            };
            // Whoever joined late has time left when the one who asked first has none.
            let again = matches!(outcome, Err(ResolveError::DeadlineExceeded(_)))
                && joined
                && Instant::now() < deadline;
            if !again {
                return outcome;
            }
        }
    }

    /// What holds now that `stale` was seen not to: what somebody else has found out meanwhile, or a new answer.
    pub(super) async fn renew(self: &Arc<Self>, target: &Target, stale: &Binding) -> Outcome {
        {
            let mut state = self.state();
            match state.fresh(target, boot_time()) {
                Some(binding) if binding != *stale => return Ok(binding),
                _ => state.known.remove(target),
            };
        }
        self.resolve(target).await
    }

    /// Forgets what no longer holds.
    pub(super) fn sweep(&self) {
        let now = boot_time();
        self.state().known.retain(|_, known| known.holds(now));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flight for `target`, and whether it was under way already.
    fn board(self: &Arc<Self>, target: &Target) -> Result<(Flight, bool), ResolveError> {
        let mut state = self.state();
        if let Some(flight) = state.flights.get(target) {
            return Ok((flight.clone(), true));
        }
        if state.flights.len() >= MAX_FLIGHTS {
            let why = "the router waits for too many actors; try again";
            return Err(ResolveError::Unavailable(why.into()));
        }
        let (landed, flight) = watch::channel(None);
        state.flights.insert(target.clone(), flight.clone());
        drop(state);
        let landing = Landing {
            bindings: self.clone(),
            target: target.clone(),
        };
        // A task of its own: the wake goes on for the others when the first who asked goes away.
        tokio::spawn(async move {
            let Landing { bindings, target } = &landing;
            let asked = bindings.resolver.resolve(target, bindings.timeout);
            let outcome = tokio::time::timeout(bindings.timeout, asked)
                .await
                .unwrap_or_else(|_| Err(late(target)));
            if let Ok(binding) = &outcome {
                bindings.state().remember(target, binding, boot_time());
            }
            drop(landing);
            // Nobody left to tell is fine.
            let _ = landed.send(Some(outcome));
        });
        Ok((flight, false))
    }
}

/// Ends a flight, also when the resolver panics: the next request asks anew.
struct Landing {
    bindings: Arc<Bindings>,
    target: Target,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.bindings.state().flights.remove(&self.target);
    }
}

impl State {
    fn fresh(&self, target: &Target, now: Duration) -> Option<Binding> {
        let known = self.known.get(target)?;
        known.holds(now).then(|| known.binding.clone())
    }

    fn remember(&mut self, target: &Target, binding: &Binding, now: Duration) {
        if self.known.len() >= MAX_BINDINGS && !self.known.contains_key(target) {
            let any = self.known.keys().next().cloned();
            any.map(|any| self.known.remove(&any));
        }
        let known = Known {
            binding: binding.clone(),
            since: now,
        };
        self.known.insert(target.clone(), known);
    }
}

impl Known {
    fn holds(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) < TTL
    }
}

fn late(target: &Target) -> ResolveError {
    ResolveError::DeadlineExceeded(format!("{target} did not wake in time"))
}

/// Monotonic, and goes on while the machine sleeps: a router that was suspended must not trust what it knew before.
fn boot_time() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::names::Epoch;

    fn target(n: usize) -> Target {
        Target::Flat(format!("a{n}"))
    }

    fn binding() -> Binding {
        Binding {
            steps: vec![],
            address: "127.0.0.1:1".into(),
            epoch: Epoch(1),
        }
    }

    #[test]
    fn an_answer_holds_for_its_time() {
        let mut state = State::default();
        let start = Duration::from_secs(100);
        state.remember(&target(1), &binding(), start);
        let almost = start + TTL - Duration::from_millis(1);
        assert_eq!(state.fresh(&target(1), almost), Some(binding()));
        assert_eq!(state.fresh(&target(1), start + TTL), None);
        assert_eq!(state.fresh(&target(2), start), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut state = State::default();
        for n in 0..MAX_BINDINGS + 10 {
            state.remember(&target(n), &binding(), Duration::ZERO);
        }
        assert_eq!(state.known.len(), MAX_BINDINGS);
        let last = target(MAX_BINDINGS + 9);
        assert!(state.fresh(&last, Duration::ZERO).is_some());
    }

    #[test]
    fn the_clock_goes() {
        assert!(boot_time() > Duration::ZERO && boot_time() < Duration::MAX);
    }
}
