//! The state at an older version: what is stored now, with the newer entries of the log undone.
//!
//! Of each name the first entry after the version has the image that was there at the version. It does no harm to look
//! at more of the log than was written when the current state was read: the first entry decides.

use super::client::{Call, Client};
use super::log::first_tick;
use super::reply::{self, Past, Reply};
use super::scripts;
use crate::api::names::ResourceVersion;
use crate::store::{Gone, StoreError};
use ::redis::Value;
use std::collections::BTreeMap;

/// Pieces of one shard's log that are read at most: more than it holds.
pub const PIECES: usize = 64;

/// The first image of a name.
pub struct First {
    /// None: it did not exist.
    pub record: Vec<u8>,
    /// Its metadata, where it has any.
    pub meta: Vec<u8>,
}

/// What of a log is undone.
pub struct Scope<'a> {
    /// Kind of the entries.
    pub kind: &'static str,
    /// Only after this version.
    pub at: ResourceVersion,
    /// Of this shard.
    pub shard: u16,
    /// Another log than the shard's, and the field of its trim mark.
    pub log: Option<(String, String)>,
    /// Names that begin like this.
    pub prefix: &'a [u8],
    /// Names after this one; empty: all.
    pub after: &'a [u8],
}

impl Scope<'_> {
    /// The first stamp that is undone.
    pub fn first(&self) -> u64 {
        first_tick(self.at, self.shard)
    }
}

/// What a log knows of the state before it.
#[derive(Default)]
pub struct Undo {
    /// The first image of each name that changed.
    pub first: BTreeMap<Vec<u8>, First>,
    /// Names of the scope that existed at the version, and those that exist now, of those that changed.
    pub existed: u64,
    /// See `existed`.
    pub exist: u64,
}

impl Undo {
    /// Takes over what a script found; returns the first stamp that is not looked at yet.
    fn take(
        &mut self,
        value: Value,
        scope: &Scope<'_>,
        from: u64,
    ) -> Result<Option<u64>, StoreError> {
        let [gone, more, existed, exist, images] = <[Value; 5]>::try_from(reply::array(value)?)
            .map_err(|_| StoreError::Corrupt {
                what: "the store's reply".to_owned(),
                why: "what the log knows has another form".to_owned(),
            })?;
        Past::of(gone)?.reaches(from, scope.at)?;
        self.existed += reply::number(existed)?;
        self.exist += reply::number(exist)?;
        let mut images = reply::array(images)?.into_iter().map(reply::bytes);
        while let (Some(name), Some(record), Some(meta)) =
            (images.next(), images.next(), images.next())
        {
            let first = First {
                record: record?,
                meta: meta?,
            };
            self.first.entry(name?).or_insert(first);
        }
        Ok(Some(reply::number(more)?).filter(|more| *more > 0))
    }

    /// What the server's log says of a scope up to a stamp, of names up to `upto` (empty: no end).
    pub async fn read(
        client: &Client,
        scope: &Scope<'_>,
        last: u64,
        upto: &[u8],
    ) -> Result<Self, StoreError> {
        let mut undo = Self::default();
        let mut more = Some(scope.first());
        undo.go_on(client, scope, &mut more, last, upto).await?;
        Ok(undo)
    }

    /// Everything of a scope up to the newest stamp.
    pub async fn all(client: &Client, scope: &Scope<'_>) -> Result<Self, StoreError> {
        Self::read(client, scope, u64::MAX >> 1, &[]).await
    }

    async fn go_on(
        &mut self,
        client: &Client,
        scope: &Scope<'_>,
        more: &mut Option<u64>,
        last: u64,
        upto: &[u8],
    ) -> Result<(), StoreError> {
        for _ in 0..PIECES {
            let Some(from) = *more else { return Ok(()) };
            let mut reply = before(client, scope, from, last, upto).await?;
            *more = self.take(reply.next()?, scope, from)?;
        }
        Err(Gone::Outrun.at(scope.at))
    }
}

async fn before(
    client: &Client,
    scope: &Scope<'_>,
    from: u64,
    last: u64,
    upto: &[u8],
) -> Result<Reply, StoreError> {
    let mut call = Call::new(client, &scripts::LOG_BEFORE, scope.shard);
    let mut trimmed = super::log::TRIMMED;
    if let Some((log, field)) = &scope.log {
        call = call.log(log.clone());
        trimmed = field;
    }
    let call = call
        .number(last)
        .number(from)
        .arg(scope.kind)
        .arg(trimmed)
        .arg(scope.prefix)
        .arg(scope.after)
        .arg(upto)
        .repeatable();
    client.call(call).await?.ok(&"the change log")
}
