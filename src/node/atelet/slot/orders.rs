//! Taking orders: what they desire is written down, then the loop is woken.
//!
//! Orders are fenced before they come here. The same order again joins the one under way, or is answered with what is already so.

use super::super::error::Error;
use super::super::files::{Assignment, Identity, Phase, Target};
use super::super::outcome::{Answer, Failure, Outcome};
use super::op::{Kind, Op, StartOrder};
use super::{Slot, State, address};
use crate::api::{Epoch, Reason};
use std::sync::Arc;

/// What an order finds.
enum Taken {
    /// Nothing is to be done.
    Already(Answer),
    /// This one is under way.
    Wait(Arc<Op>),
}

impl Slot {
    /// Starts an assignment.
    pub async fn start(&self, actor: Identity, epoch: Epoch, order: StartOrder) -> Outcome {
        self.take(|state| self.take_start(state, actor, epoch, order))
            .await
    }

    /// Saves the actor's sandbox, ends it and frees the slot.
    pub async fn save(&self, actor: &Identity, epoch: Epoch, target: Target) -> Outcome {
        self.take(|state| self.take_save(state, actor, epoch, target))
            .await
    }

    /// Ends the actor's sandbox and frees the slot.
    pub async fn end(&self, actor: &Identity, epoch: Epoch) -> Outcome {
        self.take(|state| self.take_end(state, actor, epoch)).await
    }

    /// Ends whatever it is assigned: the API server knows better.
    pub fn end_unwanted(&self) {
        let mut state = self.state();
        let Some(Assignment { actor, epoch, .. }) = state.desired.assignment.clone() else {
            return;
        };
        if let Err(failure) = self.take_end(&mut state, &actor, epoch) {
            tracing::warn!(
                slot = self.place.name(),
                ?failure,
                "cannot end an assignment that nobody wants"
            );
        }
        drop(state);
        self.changed();
    }

    async fn take(&self, admit: impl FnOnce(&mut State) -> Result<Taken, Failure>) -> Outcome {
        let taken = admit(&mut self.state())?;
        match taken {
            Taken::Already(answer) => Ok(answer),
            Taken::Wait(op) => {
                self.changed();
                op.ended().await
            }
        }
    }

    fn take_start(
        &self,
        state: &mut State,
        actor: Identity,
        epoch: Epoch,
        order: StartOrder,
    ) -> Result<Taken, Failure> {
        if state.retiring {
            return Err(refused("the slot leaves"));
        }
        let Some(executor) = &state.executor else {
            return Err(refused("the slot has no executor"));
        };
        if let Some(assignment) = &state.desired.assignment {
            let same = assignment.actor.is(&actor) && assignment.epoch == epoch;
            let op = state.op_of(Kind::Start).filter(|op| op.epoch == epoch);
            return match (same, &assignment.phase, op) {
                (true, Phase::Starting, Some(op)) => Ok(Taken::Wait(op)),
                (true, Phase::Serving, _) => Ok(Taken::Already(Answer::Started {
                    address: address(executor, assignment.host_port),
                    steps: vec![],
                })),
                (_, Phase::Starting | Phase::Serving | Phase::Saving(_) | Phase::Ending, _) => {
                    let Assignment { actor, epoch, .. } = assignment;
                    Err(Failure::Refused(format!(
                        "the slot has {}/{} with epoch {}; stop it first",
                        actor.namespace, actor.name, epoch.0
                    )))
                }
            };
        }
        if state.op.is_some() {
            return Err(refused("the slot is about to be freed"));
        }
        let op = Arc::new(Op::new(Kind::Start, epoch, Some(order)));
        state.desired.assignment = Some(Assignment {
            actor,
            epoch,
            phase: Phase::Starting,
            host_port: 0,
            generation: uuid::Uuid::new_v4().to_string(),
            runtime_build: String::new(),
            images: vec![],
        });
        if let Err(error) = self.persist(state) {
            state.desired.assignment = None;
            return Err(Failure::because(Reason::BootFailed, &error));
        }
        state.op = Some(op.clone());
        Ok(Taken::Wait(op))
    }

    fn take_save(
        &self,
        state: &mut State,
        actor: &Identity,
        epoch: Epoch,
        target: Target,
    ) -> Result<Taken, Failure> {
        let held = state.desired.assignment.as_ref();
        let Some(assignment) = held.filter(|a| a.actor.is(actor)) else {
            return match self.node.snapshots.saved(&target.id) {
                Some((bytes, runtime)) => Ok(Taken::Already(Answer::Saved {
                    bytes,
                    runtime,
                    steps: vec![],
                })),
                None => Err(Failure::Failed(
                    Reason::SandboxLost,
                    format!(
                        "{}/{} does not run on this slot",
                        actor.namespace, actor.name
                    ),
                )),
            };
        };
        match &assignment.phase {
            Phase::Saving(under_way) if *under_way == target => {
                let op = state.op_of(Kind::Save).unwrap_or_else(|| {
                    let op = Arc::new(Op::new(Kind::Save, epoch, None));
                    state.op = Some(op.clone());
                    op
                });
                Ok(Taken::Wait(op))
            }
            Phase::Serving if state.op.is_none() => {
                let failed = |e: Error| Failure::because(Reason::CheckpointFailed, &e);
                let op = Arc::new(Op::new(Kind::Save, epoch, None));
                self.set_phase(state, Phase::Saving(target))
                    .map_err(failed)?;
                state.op = Some(op.clone());
                Ok(Taken::Wait(op))
            }
            Phase::Starting | Phase::Serving | Phase::Saving(_) | Phase::Ending => {
                Err(refused("another order for this actor is under way"))
            }
        }
    }

    fn take_end(
        &self,
        state: &mut State,
        actor: &Identity,
        epoch: Epoch,
    ) -> Result<Taken, Failure> {
        let held = state.desired.assignment.as_ref();
        let Some(assignment) = held.filter(|a| a.actor.is(actor)) else {
            return Ok(Taken::Already(Answer::Ended { steps: vec![] }));
        };
        if epoch < assignment.epoch {
            return Err(Failure::Refused(format!(
                "epoch {} is older than {}, which the slot runs",
                epoch.0, assignment.epoch.0
            )));
        }
        if let Some(op) = state.op_of(Kind::End) {
            return Ok(Taken::Wait(op));
        }
        let failed = |e: Error| Failure::because(Reason::SandboxLost, &e);
        self.set_phase(state, Phase::Ending).map_err(failed)?;
        let op = Arc::new(Op::new(Kind::End, epoch, None));
        if let Some(superseded) = state.op.replace(op.clone()) {
            superseded.cancel.cancel();
            superseded.finish(Err(refused("a newer order ends the sandbox")));
        }
        Ok(Taken::Wait(op))
    }

    /// Moves the assignment, on disk first.
    pub(super) fn set_phase(&self, state: &mut State, phase: Phase) -> Result<(), Error> {
        let Some(assignment) = &mut state.desired.assignment else {
            return Ok(());
        };
        let before = std::mem::replace(&mut assignment.phase, phase);
        let written = self.persist(state);
        if written.is_err()
            && let Some(assignment) = &mut state.desired.assignment
        {
            assignment.phase = before;
        }
        written
    }
}

fn refused(message: &str) -> Failure {
    Failure::Refused(message.to_owned())
}
