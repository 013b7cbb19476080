//! Carries out, across store and node, the steps that `lifecycle` decides for an actor.
