//! Real servers that several suites need; those in `src` include a file by its path.

pub mod https;
pub mod versitygw;
