//! The router as its clients and the actors see it, over real connections.

mod control;
mod kit;
mod limits;
mod moving;
mod plain;
mod streams;
