//! A suspend that has nothing left to save.

use super::kit::{Kit, call};
use super::world::Content;
use crate::api::record::Phase;
use crate::engine::DriveError;
use crate::store::Store;

#[tokio::test(start_paused = true)]
async fn a_suspend_that_loses_what_it_was_to_save_fails_for_all_who_wait() {
    let kit = Kit::new(1);
    let key = kit.actor("ns", "a").await;
    kit.report().await;
    for count in 1..=2 {
        let running = kit.engine.resume(&key, call()).await.unwrap();
        assert_eq!(kit.visit(&running), Some(count));
        if count == 1 {
            kit.engine.suspend(&key, call()).await.unwrap();
        }
    }
    {
        let mut state = kit.world.lock();
        let slot = state.slots.iter().position(|s| s.actor.is_some());
        state.set(slot.unwrap(), Content::Free, None);
    }
    let another = kit.another();
    let (first, second) = tokio::join!(
        kit.engine.suspend(&key, call()),
        another.suspend(&key, call())
    );
    for lost in [first, second] {
        assert!(matches!(lost, Err(DriveError::Failed { .. })), "{lost:?}");
    }
    let record = kit.store.get_actor(&key).await.unwrap();
    assert_eq!(record.header.phase, Phase::Suspended);
    assert!(!record.status.rolled_back.unwrap().message.is_empty());

    let asleep = kit.engine.suspend(&key, call()).await;
    assert!(asleep.is_ok(), "there is nothing more to lose: {asleep:?}");
    let running = kit.engine.resume(&key, call()).await.unwrap();
    assert_eq!(kit.visit(&running), Some(2), "from its snapshot");
    kit.engine.suspend(&key, call()).await.unwrap();
}
