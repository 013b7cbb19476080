//! Reconcilers of WorkerPool and ActorTemplate.
