//! Where nodes are reached, and whether their leases hold: a cache of the store's node records.

use crate::api::Timestamp;
use crate::api::names::Build;
use crate::api::record::NodeRecord;
use crate::lifecycle::runtimes;
use crate::lifecycle::settle::SKEW;
use crate::store::{Store, StoreError};
use rand::seq::SliceRandom;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A node that has not renewed its lease for this part of it is silent.
const SILENT_PART: u32 = 2;

/// Whether a node is silent: it may run what it ran, but gets nothing new. `lease`: how long one holds.
pub(super) fn is_silent(node: &NodeRecord, lease: Duration, now: Timestamp) -> bool {
    node.lease + lease / SILENT_PART < now + lease
}

/// Nodes by name. Nodes are few; all are kept.
#[derive(Default)]
pub(super) struct Directory(Mutex<HashMap<String, NodeRecord>>);

impl Directory {
    /// Reads all nodes; returns them with the store's clock.
    pub(super) async fn refresh(
        &self,
        store: &dyn Store,
    ) -> Result<(Vec<NodeRecord>, Timestamp), StoreError> {
        let (nodes, now) = store.list_nodes().await?;
        let map = nodes.iter().map(|n| (n.name.clone(), n.clone())).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = map;
        Ok((nodes, now))
    }

    /// Takes over what a node just said.
    pub(super) fn learn(&self, node: NodeRecord) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node.name.clone(), node);
    }

    /// Where a node is reached; asks the store when it is not known.
    pub(super) async fn address(
        &self,
        store: &dyn Store,
        node: &str,
    ) -> Result<Option<String>, StoreError> {
        if let Some(address) = self.known(node) {
            return Ok(Some(address));
        }
        self.refresh(store).await?;
        Ok(self.known(node))
    }

    fn known(&self, node: &str) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(node).map(|n| n.address.clone())
    }

    /// The build of the runtime that a node has, where that is known.
    pub(super) fn runtime(&self, node: &str) -> Option<Build> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(node).and_then(|n| n.runtime)
    }

    /// The nodes whose workers may do, in the order in which they are to be asked; `None`: all of them, whose leases did not end
    /// before `since`. The store is asked only when not all that are known do.
    pub(super) async fn with_runtime(
        &self,
        store: &dyn Store,
        wanted: &BTreeSet<Build>,
        since: Timestamp,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let known: Vec<_> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.values().cloned().collect()
        };
        if runtimes::nodes(&known, wanted, since).is_none() {
            return Ok(None);
        }
        let (mut nodes, _) = self.refresh(store).await?;
        // So that not all ask the same one first.
        nodes.shuffle(&mut rand::rng());
        Ok(runtimes::nodes(&nodes, wanted, since))
    }

    /// Some node whose lease holds; `prefer` if that is one.
    pub(super) async fn any(
        &self,
        store: &dyn Store,
        prefer: &str,
    ) -> Result<Option<String>, StoreError> {
        let (nodes, now) = self.refresh(store).await?;
        let alive = || nodes.iter().filter(|n| n.lease > now);
        let node = alive()
            .find(|n| n.name == prefer)
            .or_else(|| alive().next());
        Ok(node.map(|n| n.address.clone()))
    }

    /// Whether a node's lease has lapsed for certain: what it ran is fenced off. A node that nobody knows is lost.
    pub(super) async fn is_lost(&self, store: &dyn Store, node: &str) -> Result<bool, StoreError> {
        let (nodes, now) = self.refresh(store).await?;
        Ok(nodes
            .iter()
            .find(|n| n.name == node)
            .is_none_or(|n| n.lease + SKEW < now))
    }
}
