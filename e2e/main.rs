//! The suites against real parts, in one binary. Unit tests are beside the code in `src`.

mod aggregated;
mod charts;
mod dev;
mod layers;
mod parts;
mod pods;
