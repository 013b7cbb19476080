//! Real servers, and ways of looking, that several suites need; those in `src` include a file by its path.

pub mod https;
pub mod look;
pub mod proxy;
pub mod registry;
pub mod server;
pub mod versitygw;
pub mod weed;
