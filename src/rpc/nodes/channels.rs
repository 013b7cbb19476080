//! One channel per node address, the least recently used given up when there are too many.

use crate::rpc::tls::Pems;
use crate::rpc::{ATELET, Error, Tls, control};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::transport::Channel;

/// Nodes that a process keeps connections to. A call to one more closes the connection that was used longest ago.
const MAX_CHANNELS: usize = 1024;

pub(super) struct Channels {
    tls: Tls,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Counts uses: a larger number is a later use.
    uses: u64,
    by_address: HashMap<String, (Channel, u64)>,
    /// What all of them show.
    shown: Option<Arc<Pems>>,
}

impl Channels {
    pub(super) fn new(tls: Tls) -> Self {
        Self {
            tls,
            known: Mutex::default(),
        }
    }

    /// The channel to `address`. Does not wait: it connects when used.
    pub(super) fn get(&self, address: &str) -> Result<Channel, Error> {
        let pems = self.tls.now()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.show(&pems);
        known.uses += 1;
        let now = known.uses;
        if let Some((channel, used)) = known.by_address.get_mut(address) {
            *used = now;
            return Ok(channel.clone());
        }
        let channel = control::channel_to(address, ATELET, &pems)?;
        known.make_room();
        known
            .by_address
            .insert(address.to_owned(), (channel.clone(), now));
        Ok(channel)
    }
}

impl Known {
    /// Channels that show something else are given up; calls under way end on them.
    fn show(&mut self, pems: &Arc<Pems>) {
        if !self.shown.as_ref().is_some_and(|s| Arc::ptr_eq(s, pems)) {
            self.by_address.clear();
            self.shown = Some(pems.clone());
        }
    }

    fn make_room(&mut self) {
        if self.by_address.len() < MAX_CHANNELS {
            return;
        }
        let oldest = self.by_address.iter().min_by_key(|(_, (_, used))| *used);
        if let Some(address) = oldest.map(|(address, _)| address.clone()) {
            self.by_address.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::testing::Authority;

    #[tokio::test]
    async fn the_least_recently_used_goes() {
        let channels = Channels::new(Authority::new().issue("apiserver").load().unwrap());
        let address = |n: usize| format!("127.0.0.1:{}", n + 1);
        for n in 0..MAX_CHANNELS {
            channels.get(&address(n)).unwrap();
        }
        channels.get(&address(0)).unwrap();
        channels.get(&address(MAX_CHANNELS)).unwrap();
        let known = channels.known.lock().unwrap();
        assert_eq!(known.by_address.len(), MAX_CHANNELS);
        assert!(known.by_address.contains_key(&address(0)));
        assert!(!known.by_address.contains_key(&address(1)));
    }
}
