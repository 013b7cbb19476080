//! The client library that our controllers use: typed objects, merge patches of the status, a watcher.

use super::tls::Https;
use super::*;
use crate::access::COMPONENTS;
use crate::api::{Actor, WorkerPool, WorkerPoolStatus};
use crate::identity::kubeconfig;
use futures::TryStreamExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::runtime::watcher::Event;
use kube::{Api, Client, Config, ResourceExt};

async fn client(https: &Https) -> Client {
    let leaf = https.client_leaf(COMPONENTS);
    let text = kubeconfig(&https.url(""), https.authority.certificate(), &leaf);
    let parsed: Kubeconfig = serde_yaml_ng::from_str(&text).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(parsed, &options).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// What the watcher says next, in short.
async fn next(
    events: &mut (impl futures::Stream<Item = watcher::Result<Event<WorkerPool>>> + Unpin),
) -> String {
    let event = tokio::time::timeout(PATIENCE, events.try_next())
        .await
        .unwrap();
    match event.unwrap().unwrap() {
        Event::Init => "init".into(),
        Event::InitApply(p) => format!("init {}", p.name_any()),
        Event::InitDone => "done".into(),
        Event::Apply(p) => {
            let ready = p.status.as_ref().map_or(0, |s| s.ready);
            format!("apply {} {} {ready}", p.name_any(), p.spec.replicas)
        }
        Event::Delete(p) => format!("delete {}", p.name_any()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_sees_and_says() {
    let https = Https::new().await;
    let client = client(&https).await;
    let pools: Api<WorkerPool> = Api::namespaced(client.clone(), "ns");
    let mut pool = WorkerPool::new("p", Default::default());
    pool.spec.replicas = 2;
    pools.create(&PostParams::default(), &pool).await.unwrap();
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let mut events = std::pin::pin!(watcher(Api::<WorkerPool>::all(client.clone()), config));
        assert_eq!(next(&mut events).await, "init");
        assert_eq!(next(&mut events).await, "init p");
        assert_eq!(next(&mut events).await, "done");
        let status = WorkerPoolStatus {
            ready: 2,
            observed_generation: Some(1),
            ..Default::default()
        };
        let patch = Patch::Merge(json!({"status": status}));
        let patched = pools
            .patch_status("p", &PatchParams::default(), &patch)
            .await
            .unwrap();
        assert_eq!(patched.status, Some(status));
        assert_eq!(next(&mut events).await, "apply p 2 2");
        let reset = Patch::Merge(json!({"status": null}));
        pools
            .patch_status("p", &PatchParams::default(), &reset)
            .await
            .unwrap();
        assert_eq!(next(&mut events).await, "apply p 2 0");
    }
    let mut events = std::pin::pin!(watcher(
        Api::<WorkerPool>::all(client.clone()),
        watcher::Config::default()
    ));
    for _ in 0..3 {
        next(&mut events).await;
    }
    pools.delete("p", &DeleteParams::default()).await.unwrap();
    assert_eq!(next(&mut events).await, "delete p");
    let error = pools.get("p").await.unwrap_err();
    assert!(
        matches!(error, kube::Error::Api(ref s) if s.code == 404),
        "{error}"
    );

    let actors: Api<Actor> = Api::namespaced(client, "ns");
    let made: Actor = serde_json::from_value(actor("a")).unwrap();
    actors.create(&PostParams::default(), &made).await.unwrap();
    let list = actors
        .list(&ListParams::default().labels("none"))
        .await
        .unwrap();
    assert_eq!(list.items.len(), 0);
    assert_eq!(
        actors
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        1
    );
}
