//! Kubernetes' REST machinery: a kind is a registration, and everything that kubectl and client libraries expect of one
//! (discovery, OpenAPI, tables, lists, watches, patches, subresources) follows from it.
//!
//! [`kinds`] registers ours, [`storage`] keeps their objects, [`driver`] is what the API asks of whoever moves actors.
//! A request goes `server` -> `authn` -> `app` (-> `admission`) -> `list | watch | write | patch | delete | scale | connect`;
//! [`apply`] decides who owns which field of what is written, [`fanout`] shares a kind's changes among its watches, `stream` sends long lists,
//! `patience` and `memory` keep what clients do not read from piling up. What an actor does next is decided elsewhere; here
//! wishes are stored and records shown. Called by cli and dev, which put the parts together.

mod admission;
pub mod app;
pub mod apply;
pub mod authn;
pub mod body;
pub mod connect;
mod delete;
mod discovery;
pub mod driver;
mod duplicates;
pub mod fanout;
mod fields;
pub mod history;
mod jsonpath;
pub mod kinds;
mod list;
mod memory;
mod meta;
mod metrics;
pub mod negotiate;
mod openapi;
mod options;
mod patch;
mod patience;
pub mod registration;
pub mod request;
mod scale;
pub mod schema;
pub mod selector;
pub mod server;
pub mod status;
pub mod storage;
mod stream;
pub mod table;
#[cfg(test)]
mod tests;
mod violation;
mod watch;
mod write;

pub use app::{App, Context};
pub use driver::{ActorDriver, DriveError, LogOptions};
pub use registration::Registration;
pub use server::serve;
pub use status::ApiError;
