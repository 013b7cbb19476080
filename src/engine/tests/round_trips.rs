//! How often an operation asks the store: each time is a round trip that somebody waits for.

use super::calls::Calls;
use super::schedule::{Fixed, options};
use super::store::{Life, Mortal};
use super::world::{Guards, World};
use crate::api::record::{ActorRecord, SpecRecord, StatusRecord};
use crate::api::{ActorKey, TemplateKey};
use crate::engine::{Call, Engine};
use crate::proto::atenode::ReportRequest;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

#[tokio::test(start_paused = true)]
async fn wakes_and_sleeps_take_three_each() {
    let world = World::new(1, Guards::All);
    world.lock().calm = true;
    let life = Life::new("r".into(), world.clone());
    let inner = Arc::new(MemoryStore::by(world.clock()));
    let key = ActorKey::new("ns", "a");
    let record = ActorRecord {
        key: key.clone(),
        spec: SpecRecord {
            template: TemplateKey::new("ns", "t"),
            ..SpecRecord::default()
        },
        status: StatusRecord {
            uid: Uuid::from_u128(1),
            ..StatusRecord::default()
        },
        ..ActorRecord::default()
    };
    inner.create_actor(record, 1).await.unwrap();
    let (store, nodes) = (
        Mortal {
            inner,
            life: life.clone(),
        },
        Calls {
            world: world.clone(),
            life: life.clone(),
        },
    );
    let engine = Engine::new(Arc::new(store), Arc::new(nodes), Arc::new(Fixed), options());
    let report = {
        let mut state = world.lock();
        let until = state.now() + Duration::from_secs(60);
        state.renewed(0, until, &[], &[]);
        ReportRequest {
            node: "n0".into(),
            address: "n0:1".into(),
            slots: state.slots_of(0),
            ..ReportRequest::default()
        }
    };
    engine.report(&report).await.unwrap();
    let calls = || std::mem::take(&mut *life.calls.lock().unwrap());
    calls();
    let call = || Call::within(Duration::from_secs(10));
    for _ in 0..2 {
        engine.resume(&key, call()).await.unwrap();
        assert_eq!(calls(), ["begin", "claim", "commit"]);
        engine.suspend(&key, call()).await.unwrap();
        assert_eq!(calls(), ["begin", "commit", "release"]);
    }
}
