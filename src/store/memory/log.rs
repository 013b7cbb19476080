//! The change log and the documents in memory.

use super::State;
use crate::api::names::ResourceVersion;
use crate::api::record::{ActorRecord, WorkerRecord};
use crate::store::{Change, Changes, Document, DocumentChange, Gone, Image, Kind, StoreError};
use std::collections::BTreeMap;
use std::sync::Arc;

impl State {
    fn stamped(&self) -> ResourceVersion {
        ResourceVersion::from_tick(self.last, 0)
    }

    pub(super) fn log_actor(&mut self, before: Option<ActorRecord>, after: Option<ActorRecord>) {
        let image = |record| Image::Actor(Box::new(record));
        let change = Change {
            version: self.stamped(),
            before: before.map(image),
            after: after.map(image),
        };
        self.log.push((Kind::Actor, change));
    }

    pub(super) fn log_worker(&mut self, before: Option<WorkerRecord>, after: Option<WorkerRecord>) {
        let image = |record| Image::Worker(Box::new(record));
        let change = Change {
            version: self.stamped(),
            before: before.map(image),
            after: after.map(image),
        };
        self.log.push((Kind::Worker, change));
    }

    /// The version of a list that is asked for at `at`.
    pub(super) fn version_of(
        &self,
        at: Option<ResourceVersion>,
    ) -> Result<ResourceVersion, StoreError> {
        let Some(at) = at else {
            return Ok(self.version());
        };
        self.check(at)?;
        Ok(at)
    }

    /// What changed after a version, the newest first: what it was before, and after.
    pub(super) fn undone(
        &self,
        kind: Kind,
        at: ResourceVersion,
    ) -> impl Iterator<Item = (Option<Image>, Option<Image>)> {
        let newer = self
            .log
            .iter()
            .rev()
            .take_while(move |(_, c)| c.version > at);
        newer
            .filter(move |(k, _)| *k == kind)
            .map(|(_, c)| (c.before.clone(), c.after.clone()))
    }

    pub(super) fn documents_at(
        &self,
        kind: &str,
        at: Option<ResourceVersion>,
    ) -> Result<(Vec<Document>, ResourceVersion), StoreError> {
        let at = self.version_of(at)?;
        // The log does not say a document's version: the one before is that of the change before.
        let mut found: BTreeMap<String, Document> = BTreeMap::new();
        let older = |(k, c): &&(String, DocumentChange)| k == kind && c.version <= at;
        for (_, change) in self.document_log.iter().filter(older) {
            match change.after.clone() {
                Some(body) => {
                    let (key, version) = (change.key.clone(), change.version);
                    found.insert(key.clone(), Document { key, version, body });
                }
                None => drop(found.remove(&change.key)),
            }
        }
        Ok((found.into_values().collect(), at))
    }

    fn check(&self, after: ResourceVersion) -> Result<(), StoreError> {
        if after.tick() < self.lost {
            return Err(Gone::Lost.at(after));
        }
        if after.tick() > self.last {
            return Err(Gone::Never.at(after));
        }
        Ok(())
    }

    pub(super) fn changes(
        &self,
        kind: Kind,
        after: ResourceVersion,
        limit: usize,
    ) -> Result<Changes<Change>, StoreError> {
        self.check(after)?;
        let start = self.log.partition_point(|(_, c)| c.version <= after);
        let of_kind = self.log[start..].iter().filter(|(k, _)| *k == kind);
        let items = of_kind.map(|(_, c)| Arc::new(c.clone()));
        Ok(self.piece(items, |c| c.version, limit))
    }

    pub(super) fn document_changes(
        &self,
        kind: &str,
        after: ResourceVersion,
        limit: usize,
    ) -> Result<Changes<DocumentChange>, StoreError> {
        self.check(after)?;
        let later = |(k, c): &&(String, DocumentChange)| k == kind && c.version > after;
        let items = self.document_log.iter().filter(later);
        let items = items.map(|(_, c)| Arc::new(c.clone()));
        Ok(self.piece(items, |c| c.version, limit))
    }

    fn piece<T>(
        &self,
        items: impl Iterator<Item = Arc<T>>,
        version: impl Fn(&T) -> ResourceVersion,
        limit: usize,
    ) -> Changes<T> {
        let items: Vec<_> = items.take(limit).collect();
        let cut = items.last().filter(|_| items.len() == limit);
        Changes {
            upto: cut.map_or(self.version(), |last| version(last)),
            items,
        }
    }

    pub(super) fn put_document(
        &mut self,
        kind: &str,
        key: &str,
        expected: Option<ResourceVersion>,
        body: Option<&str>,
    ) -> Result<ResourceVersion, StoreError> {
        let place = (kind.to_owned(), key.to_owned());
        let stored = self.documents.get(&place).cloned();
        match (&stored, expected) {
            (Some(_), None) => return Err(StoreError::Exists(key.to_owned())),
            (None, Some(_)) => return Err(StoreError::NotFound(key.to_owned())),
            (None, None) if body.is_none() => return Err(StoreError::NotFound(key.to_owned())),
            (Some(d), Some(v)) if d.version != v => {
                return Err(StoreError::Conflict(key.to_owned()));
            }
            (Some(d), _) if body == Some(d.body.as_str()) => return Ok(d.version),
            _ => {}
        }
        let version = self.tick();
        match body {
            None => self.documents.remove(&place),
            Some(body) => self.documents.insert(
                place,
                Document {
                    key: key.to_owned(),
                    version,
                    body: body.to_owned(),
                },
            ),
        };
        let change = DocumentChange {
            version,
            key: key.to_owned(),
            before: stored.map(|d| d.body),
            after: body.map(str::to_owned),
        };
        self.document_log.push((kind.to_owned(), change));
        Ok(version)
    }
}
