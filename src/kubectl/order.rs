//! Gives an order to actors and waits until each has carried it out, or will not.

use std::fmt;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, sleep, timeout_at};

use super::args::Orders;
use super::client::Actors;
use super::error::Error;
use super::outcome::{Actor, Order, Verdict, judge, seconds};
use super::progress::{Progress, Watched};
use super::{RESOURCE, explain, say};

/// How many actors are worked on at a time; further names wait their turn, and so does their time.
const AT_ONCE: usize = 32;

/// Between two looks at an actor: at first, and at most. Each is half as long again as the one before.
const FIRST_LOOK_AFTER: Duration = Duration::from_millis(100);
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);

/// How long a problem that the actor had before the order is still hoped to vanish by it.
const HOPE: Duration = Duration::from_secs(3);

/// The last look may begin when the time is up; it may take this long.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// What happened to one actor.
#[derive(Debug, PartialEq)]
enum Outcome {
    Requested,
    Already,
    Done(Duration),
}

/// Gives `order` to all of `what` at once and prints each result as it comes; whether all succeeded.
pub(super) async fn all(actors: &Actors, order: Order, what: &Orders) -> bool {
    let progress = Progress::new();
    let mut names = what.names.clone();
    names.sort();
    names.dedup();
    let mut results = futures::stream::iter(names)
        .map(|name| {
            let progress = &progress;
            async move {
                let result = one(actors, order, &name, what, progress).await;
                (name, result)
            }
        })
        .buffer_unordered(AT_ONCE);
    let mut all_well = true;
    while let Some((name, result)) = results.next().await {
        all_well &= result.is_ok();
        progress.aside(|| match &result {
            Ok(outcome) => say(Told {
                order,
                name: &name,
                outcome,
            }),
            Err(error) => explain(error),
        });
    }
    all_well
}

async fn one(
    actors: &Actors,
    order: Order,
    name: &str,
    what: &Orders,
    progress: &Progress,
) -> Result<Outcome, Error> {
    if what.no_wait {
        actors.order(order, name).await?;
        return Ok(Outcome::Requested);
    }
    let began = Instant::now();
    let deadline = began + what.timeout;
    let asked = timeout_at(deadline, async {
        let before = actors.get(name).await?;
        Ok((before, actors.order(order, name).await?))
    });
    let (before, now) = asked
        .await
        .unwrap_or_else(|_| Err(actors.silent(what.timeout)))?;
    let look = Look {
        order,
        name,
        before,
        began,
        deadline,
    };
    look.until_settled(actors, now, progress.watch(name)).await
}

/// One actor under an order.
struct Look<'a> {
    order: Order,
    name: &'a str,
    before: Actor,
    began: Instant,
    deadline: Instant,
}

impl Look<'_> {
    async fn until_settled(
        &self,
        actors: &Actors,
        mut now: Actor,
        mut watched: Watched,
    ) -> Result<Outcome, Error> {
        let mut pause = FIRST_LOOK_AFTER;
        let mut moved = false;
        loop {
            if let Some(settled) = self.settled(&now, moved) {
                return settled;
            }
            moved = true;
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.timed_out(&now));
            }
            watched.state(&now.state());
            sleep(pause.min(left)).await;
            pause = (pause * 3 / 2).min(LOOK_AT_LEAST_EVERY);
            let give_up = self.deadline.max(Instant::now() + LAST_LOOK);
            match timeout_at(give_up, actors.get(self.name)).await {
                Ok(Ok(actor)) => now = actor,
                Ok(Err(error)) if error.is_transient() => {
                    watched.state(&format!("not known: {}", error.explained()))
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(self.timed_out(&now)),
            }
        }
    }

    /// The result, if there is one. An actor that `moved` since the order did not stay where it was.
    fn settled(&self, now: &Actor, moved: bool) -> Option<Result<Outcome, Error>> {
        let failed = |why| {
            Some(Err(Error::Failed {
                name: self.name.to_owned(),
                done: self.order.done(),
                why,
            }))
        };
        match judge(self.order, &self.before, now) {
            Verdict::Already if moved => Some(Ok(Outcome::Done(self.began.elapsed()))),
            Verdict::Already => Some(Ok(Outcome::Already)),
            Verdict::Done(took) => Some(Ok(Outcome::Done(
                took.unwrap_or_else(|| self.began.elapsed()),
            ))),
            Verdict::Failed(why) => failed(why),
            Verdict::Doubtful(why) if self.began.elapsed() >= HOPE => failed(why),
            Verdict::Doubtful(_) | Verdict::Pending => None,
        }
    }

    fn timed_out(&self, now: &Actor) -> Error {
        let after = self.deadline.duration_since(self.began);
        Error::TimedOut {
            name: self.name.to_owned(),
            done: self.order.done(),
            after,
            state: now.state(),
        }
    }
}

/// The line of result.
struct Told<'a> {
    order: Order,
    name: &'a str,
    outcome: &'a Outcome,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{RESOURCE}/{} ", self.name)?;
        match self.outcome {
            Outcome::Requested => write!(f, "{} requested", self.order.asked()),
            Outcome::Already => write!(f, "already {}", self.order.done()),
            Outcome::Done(took) => write!(f, "{} in {}", self.order.done(), seconds(*took)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::stub::Stub;
    use super::*;

    fn actor(phase: &str) -> Value {
        json!({"metadata": {"name": "alice", "uid": "u1"}, "status": {"phase": phase}})
    }

    fn orders(names: &[&str], timeout: Duration) -> Orders {
        Orders {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            timeout,
            no_wait: false,
        }
    }

    async fn give(stub: &Stub, order: Order, what: &Orders) -> Result<Outcome, Error> {
        one(
            &stub.actors(),
            order,
            &what.names[0],
            what,
            &Progress::new(),
        )
        .await
    }

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn waits_through_the_phases_and_tells_the_servers_time() {
        let mut running = actor("Running");
        running["status"]["lastTransition"] =
            json!({"to": "Running", "start": "t", "duration": "83ms"});
        let stub = Stub::start(vec![
            actor("Suspended"),
            actor("Resuming"),
            actor("Resuming"),
            running,
        ])
        .await;
        let outcome = give(&stub, Order::Resume, &orders(&["alice"], SOON))
            .await
            .unwrap();
        assert_eq!(outcome, Outcome::Done(Duration::from_millis(83)));
        let path = "/apis/runtime.ate.dev/v1alpha1/namespaces/team-a/actors/alice";
        let asked = stub.asked();
        assert_eq!(asked[0], format!("GET {path}"));
        assert_eq!(asked[1], format!("POST {path}/resume"));
        assert_eq!(asked[2..], [format!("GET {path}"), format!("GET {path}")]);
        let line = Told {
            order: Order::Resume,
            name: "alice",
            outcome: &outcome,
        }
        .to_string();
        assert_eq!(line, "actor.runtime.ate.dev/alice resumed in 0.083s");
    }

    #[tokio::test]
    async fn what_is_so_already_is_said() {
        let stub = Stub::start(vec![actor("Paused"), actor("Paused")]).await;
        let outcome = give(&stub, Order::Pause, &orders(&["alice"], SOON))
            .await
            .unwrap();
        assert_eq!(outcome, Outcome::Already);
        let line = Told {
            order: Order::Pause,
            name: "alice",
            outcome: &outcome,
        }
        .to_string();
        assert_eq!(line, "actor.runtime.ate.dev/alice already paused");
    }

    #[tokio::test]
    async fn what_moved_and_came_back_was_not_so_already() {
        let script = vec![actor("Running"), actor("Resuming"), actor("Running")];
        let stub = Stub::start(script).await;
        let outcome = give(&stub, Order::Resume, &orders(&["alice"], SOON)).await;
        assert!(matches!(outcome, Ok(Outcome::Done(_))), "{outcome:?}");
    }

    #[tokio::test]
    async fn no_wait_only_asks() {
        let stub = Stub::start(vec![actor("Running")]).await;
        let what = Orders {
            no_wait: true,
            ..orders(&["alice"], SOON)
        };
        assert_eq!(
            give(&stub, Order::Suspend, &what).await.unwrap(),
            Outcome::Requested
        );
        assert_eq!(stub.asked().len(), 1);
        assert!(stub.asked()[0].starts_with("POST "));
    }

    #[tokio::test]
    async fn a_refusal_is_the_servers_words() {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409, "reason": "Conflict",
            "message": "another operation is in progress for this actor"});
        let stub = Stub::start(vec![actor("Running"), status]).await;
        let error = give(&stub, Order::Suspend, &orders(&["alice"], SOON))
            .await
            .unwrap_err();
        let line = "Error from server (Conflict): another operation is in progress for this actor";
        assert_eq!(error.explained(), line);
    }

    #[tokio::test]
    async fn a_server_in_trouble_is_asked_again() {
        let trouble =
            json!({"kind": "Status", "status": "Failure", "code": 503, "message": "busy"});
        let stub = Stub::start(vec![
            actor("Running"),
            actor("Suspending"),
            trouble,
            actor("Suspended"),
        ])
        .await;
        let outcome = give(&stub, Order::Suspend, &orders(&["alice"], SOON))
            .await
            .unwrap();
        assert!(
            matches!(outcome, Outcome::Done(took) if took < SOON),
            "{outcome:?}"
        );
    }

    #[tokio::test]
    async fn a_crash_loop_that_comes_of_it_fails() {
        let mut looping = actor("Suspended");
        looping["status"]["conditions"] = json!([{"type": "CrashLoop", "status": "True", "reason": "RestoreFailed",
            "message": "3 restores failed"}]);
        let stub = Stub::start(vec![actor("Suspended"), actor("Resuming"), looping]).await;
        let error = give(&stub, Order::Resume, &orders(&["alice"], SOON))
            .await
            .unwrap_err();
        let line =
            "error: actor.runtime.ate.dev/alice was not resumed: RestoreFailed: 3 restores failed";
        assert_eq!(error.explained(), line);
    }

    #[tokio::test]
    async fn time_runs_out_with_the_state() {
        let mut waiting = actor("Resuming");
        waiting["status"]["conditions"] = json!([{"type": "Ready", "status": "False", "reason": "NoFreeWorkers",
            "message": "no free workers available"}]);
        let stub = Stub::start(vec![actor("Suspended"), waiting]).await;
        let short = Duration::from_millis(300);
        let error = give(&stub, Order::Resume, &orders(&["alice"], short))
            .await
            .unwrap_err();
        let state = "it is Resuming (NoFreeWorkers: no free workers available)";
        assert!(matches!(&error, Error::TimedOut { after, .. } if *after == short));
        assert!(error.explained().ends_with(state), "{}", error.explained());
    }

    #[tokio::test]
    async fn several_names_are_worked_on_together_and_one_failure_counts() {
        let gone = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "gone"});
        let fine = Stub::start(vec![actor("Running")]).await;
        assert!(
            all(
                &fine.actors(),
                Order::Resume,
                &orders(&["alice", "bob", "alice"], SOON)
            )
            .await
        );
        assert_eq!(
            fine.asked()
                .iter()
                .filter(|line| line.starts_with("POST "))
                .count(),
            2
        );
        let broken = Stub::start(vec![gone]).await;
        assert!(
            !all(
                &broken.actors(),
                Order::Resume,
                &orders(&["alice", "bob"], SOON)
            )
            .await
        );
    }
}
