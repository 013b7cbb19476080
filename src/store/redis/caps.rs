//! The cap on a namespace's actors.
//!
//! Each shard counts its own. This process sums them up, adds what it creates meanwhile, and sums again when the sum is
//! a second old, and before each create when close to the cap. So one process is exact; several
//! overshoot at most by what the others have under way at that moment.

use super::client::{Call, Client};
use super::reply;
use super::scripts;
use crate::store::StoreError;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, OwnedRwLockReadGuard, RwLock};

/// A sum is used for so long.
const FRESH: Duration = Duration::from_secs(1);
/// Close to the cap is within a tenth of it, and within so many.
const CLOSE: u64 = 1000;
/// Namespaces remembered.
const NAMESPACES: usize = 4096;

#[derive(Default)]
struct Sum {
    total: u64,
    since: Option<Instant>,
}

#[derive(Default)]
struct Namespace {
    sum: Mutex<Sum>,
    under_way: AtomicU64,
    /// Creates hold it shared; who must know for sure waits for them.
    gate: Arc<RwLock<()>>,
}

/// What this process knows of the namespaces' sizes.
#[derive(Default)]
pub struct Caps {
    namespaces: Mutex<HashMap<String, Arc<Namespace>>>,
}

/// A place in a namespace, until the create is done.
pub struct Place {
    namespace: Arc<Namespace>,
    _gate: OwnedRwLockReadGuard<()>,
}

impl Place {
    fn new(namespace: &Arc<Namespace>, gate: OwnedRwLockReadGuard<()>) -> Self {
        namespace.under_way.fetch_add(1, Ordering::AcqRel);
        Place {
            namespace: namespace.clone(),
            _gate: gate,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.namespace.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Caps {
    async fn namespace(&self, name: &str) -> Arc<Namespace> {
        let mut all = self.namespaces.lock().await;
        if let Some(namespace) = all.get(name) {
            return namespace.clone();
        }
        if all.len() >= NAMESPACES {
            all.clear();
        }
        all.entry(name.to_owned()).or_default().clone()
    }

    /// A place, or `CapReached`.
    pub async fn reserve(
        &self,
        client: &Client,
        name: &str,
        cap: u64,
    ) -> Result<Place, StoreError> {
        let namespace = self.namespace(name).await;
        let gate = namespace.gate.clone().read_owned().await;
        let mut sum = namespace.sum.lock().await;
        let close = cap.saturating_sub((cap / 10).max(CLOSE));
        let stale = sum.since.is_none_or(|t| t.elapsed() >= FRESH);
        if stale || sum.total >= close {
            // Those under way may or may not be among those counted.
            let under_way = namespace.under_way.load(Ordering::Acquire);
            let counted = total(client, name).await?;
            sum.total = counted + under_way;
            sum.since = Some(Instant::now());
            if counted < cap && sum.total >= cap {
                drop((sum, gate));
                return last_places(client, &namespace, name, cap).await;
            }
        }
        if sum.total >= cap {
            return Err(full(name, cap));
        }
        sum.total += 1;
        Ok(Place::new(&namespace, gate))
    }
}

/// Waits until nothing is under way, then counts.
async fn last_places(
    client: &Client,
    namespace: &Arc<Namespace>,
    name: &str,
    cap: u64,
) -> Result<Place, StoreError> {
    let gate = namespace.gate.clone().write_owned().await;
    if total(client, name).await? >= cap {
        return Err(full(name, cap));
    }
    Ok(Place::new(namespace, gate.downgrade()))
}

fn full(namespace: &str, cap: u64) -> StoreError {
    StoreError::CapReached {
        namespace: namespace.to_owned(),
        cap,
    }
}

async fn total(client: &Client, namespace: &str) -> Result<u64, StoreError> {
    let replies = client
        .call_all(|shard| {
            Call::new(client, &scripts::COUNT, shard)
                .key(client.keys.of(shard, "count"))
                .arg(namespace)
                .repeatable()
        })
        .await?;
    let mut total = 0;
    for mut reply in replies {
        total += reply::number(reply.next()?)?;
    }
    Ok(total)
}
