//! Decisions about everything that moves: pure functions, no I/O, no clock, no async.
//!
//! [`actor`] decides the next step of an actor, [`edges`] which operation may begin in which phase, [`template`] the
//! next step of a golden snapshot, [`placement`] which pools and which snapshot a resume uses, [`runtimes`] which builds of the
//! runtime, [`slot`] what a slot does about its assignment, [`settle`] what a worker's claim is worth against the actor's record. `engine`, `node`
//! and `controller` carry out what is decided here; times and ids are arguments.

pub mod actor;
pub mod edges;
pub mod placement;
pub mod runtimes;
pub mod settle;
pub mod slot;
pub mod template;

/// What is known of something that has to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed<T> {
    /// It is not there.
    Absent,
    /// It could not be asked, or was not yet.
    Unknown,
    /// It is so.
    Known(T),
}

impl<T> Observed<T> {
    /// What is known, if anything.
    pub fn known(&self) -> Option<&T> {
        match self {
            Observed::Known(value) => Some(value),
            Observed::Absent | Observed::Unknown => None,
        }
    }
}
