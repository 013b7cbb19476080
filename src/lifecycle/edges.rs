//! Which operation may begin in which phase.

use crate::api::record::{Desired, Phase};

/// What beginning an operation does to a record, by the phase that is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// Leave the record as it is.
    Refuse,
    /// A transition starts: the phase becomes this.
    Start(Phase),
    /// A transition whose lease expired is taken over: the phase stays.
    TakeOver,
    /// A transition that yields ends and this one starts, whoever owns it; any other is taken over when its lease expired.
    Preempt(Phase),
}

/// Why an operation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Somebody wants it so.
    Want(Desired),
    /// A lease expired: finish what was begun.
    Recover,
    /// It runs, but its sandbox is gone: roll back.
    Lost,
}

impl Intent {
    /// What is wanted from now on; `None` leaves it.
    pub fn desired(self) -> Option<Desired> {
        match self {
            Intent::Want(desired) => Some(desired),
            Intent::Recover => None,
            Intent::Lost => Some(Desired::Suspended),
        }
    }

    /// Whether somebody waits for a snapshot.
    pub fn saves(self) -> bool {
        match self {
            Intent::Want(Desired::Suspended | Desired::Paused) => true,
            Intent::Want(Desired::Running | Desired::Deleted) | Intent::Recover | Intent::Lost => {
                false
            }
        }
    }

    /// What beginning does in `phase`.
    pub fn edge(self, phase: Phase) -> Edge {
        use Desired as D;
        use Phase as P;
        match (self, phase) {
            (Intent::Want(D::Running), P::Suspending) => Edge::Preempt(P::Resuming),
            (_, P::Resuming | P::Suspending | P::Pausing) => Edge::TakeOver,
            (Intent::Recover, P::Suspended | P::Running | P::Paused) => Edge::Refuse,
            (Intent::Lost, P::Running) => Edge::Start(P::Suspending),
            (Intent::Lost, P::Suspended | P::Paused) => Edge::Refuse,
            (Intent::Want(D::Running), P::Suspended | P::Paused) => Edge::Start(P::Resuming),
            (Intent::Want(D::Running), P::Running) => Edge::Refuse,
            (Intent::Want(D::Suspended), P::Running | P::Paused) => Edge::Start(P::Suspending),
            (Intent::Want(D::Suspended), P::Suspended) => Edge::Refuse,
            (Intent::Want(D::Paused), P::Running) => Edge::Start(P::Pausing),
            (Intent::Want(D::Paused), P::Suspended | P::Paused) => Edge::Refuse,
            (Intent::Want(D::Deleted), P::Suspended | P::Running | P::Paused) => {
                Edge::Start(P::Suspending)
            }
        }
    }

    /// The edges of all phases, in the order of [`Phase::ALL`].
    pub fn edges(self) -> [Edge; 6] {
        Phase::ALL.map(|phase| self.edge(phase))
    }

    /// Whether a running transition leads where this intent wants to go, so that a caller joins it.
    pub fn joins(self, phase: Phase, desired: Desired) -> bool {
        match self {
            Intent::Want(want) => {
                want == desired
                    || match phase {
                        Phase::Resuming => want == Desired::Running,
                        Phase::Suspending => matches!(want, Desired::Suspended | Desired::Deleted),
                        Phase::Pausing => want == Desired::Paused,
                        Phase::Suspended | Phase::Running | Phase::Paused => false,
                    }
            }
            Intent::Recover | Intent::Lost => true,
        }
    }

    /// Whether an actor that rests in `phase` is where this intent wants it.
    pub fn is_met(self, phase: Phase) -> bool {
        match self {
            Intent::Want(Desired::Running) => phase == Phase::Running,
            Intent::Want(Desired::Suspended) => phase == Phase::Suspended,
            Intent::Want(Desired::Paused) => phase == Phase::Paused,
            Intent::Want(Desired::Deleted) => false,
            Intent::Recover => !phase.is_transitional(),
            Intent::Lost => phase != Phase::Running,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge() {
        use Edge::{Preempt, Refuse as R, Start, TakeOver as T};
        let cut_short = Preempt(Phase::Resuming);
        let (resume, suspend, pause) = (
            Start(Phase::Resuming),
            Start(Phase::Suspending),
            Start(Phase::Pausing),
        );
        // in the order Suspended, Resuming, Running, Suspending, Pausing, Paused
        for (intent, edges) in [
            (
                Intent::Want(Desired::Running),
                [resume, T, R, cut_short, T, resume],
            ),
            (
                Intent::Want(Desired::Suspended),
                [R, T, suspend, T, T, suspend],
            ),
            (Intent::Want(Desired::Paused), [R, T, pause, T, T, R]),
            (
                Intent::Want(Desired::Deleted),
                [suspend, T, suspend, T, T, suspend],
            ),
            (Intent::Recover, [R, T, R, T, T, R]),
            (Intent::Lost, [R, T, suspend, T, T, R]),
        ] {
            assert_eq!(intent.edges(), edges, "{intent:?}");
        }
    }

    #[test]
    fn only_the_same_direction_joins() {
        let want = Intent::Want;
        assert!(want(Desired::Running).joins(Phase::Resuming, Desired::Running));
        assert!(!want(Desired::Suspended).joins(Phase::Resuming, Desired::Running));
        assert!(!want(Desired::Running).joins(Phase::Suspending, Desired::Suspended));
        assert!(want(Desired::Deleted).joins(Phase::Suspending, Desired::Suspended));
    }
}
