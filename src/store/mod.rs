//! The store: actors, workers, claims and the change log on Redis or Valkey.
