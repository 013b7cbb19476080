//! How often an operation asks the store: each time is a round trip that somebody waits for.

use super::kit::{Kit, call};

#[tokio::test(start_paused = true)]
async fn wakes_take_three_and_sleeps_four() {
    let kit = Kit::new(1);
    let key = kit.actor("ns", "a").await;
    kit.report().await;
    kit.calls();
    for _ in 0..2 {
        kit.engine.resume(&key, call()).await.unwrap();
        assert_eq!(kit.calls(), ["begin", "claim", "commit"]);
        kit.engine.suspend(&key, call()).await.unwrap();
        // The worker is free after three; the fourth follows the publication.
        assert_eq!(kit.calls(), ["begin", "commit", "release", "commit"]);
    }
}
