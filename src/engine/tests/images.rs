//! Nodes that do not have the images of what they shall restore.

use super::kit::{Kit, One, call};
use crate::api::Reason;
use crate::api::template::PullSecret;
use crate::engine::DriveError;

fn kit(secret: &str) -> Kit {
    Kit::with(One {
        pull: vec![PullSecret {
            name: secret.into(),
        }],
        ..One::of(1)
    })
}

#[tokio::test(start_paused = true)]
async fn pull_secrets_follow_to_a_node_that_needs_them() {
    let kit = kit("registry");
    kit.report().await;
    let key = kit.actor("ns", "a").await;
    for (no_images, sent) in [(false, &[0][..]), (true, &[0, 1])] {
        kit.engine.resume(&key, call()).await.unwrap();
        kit.engine.suspend(&key, call()).await.unwrap();
        kit.world.lock().no_images = no_images;
        kit.world.lock().pull_secrets.clear();
        let awake = kit.engine.resume(&key, call()).await.unwrap();
        assert!(kit.visit(&awake).is_some());
        assert_eq!(kit.world.lock().pull_secrets, sent);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_secret_that_is_gone_is_the_reason() {
    let kit = kit("gone");
    kit.report().await;
    let key = kit.actor("ns", "a").await;
    let Err(DriveError::Failed { reason, message }) = kit.engine.resume(&key, call()).await else {
        panic!("it started");
    };
    assert_eq!(reason, Reason::SecretUnavailable);
    assert!(
        message.contains("imagePullSecrets: there is no Secret ns/gone"),
        "{message}"
    );
}
