//! Actors and their templates: who may use one, and what an actor looks like before its template is ready.

use super::watch::Events;
use super::*;

fn of_other(name: &str) -> Value {
    let mut object = actor(name);
    object["spec"]["templateRef"] = json!({"name": "shared", "namespace": "other"});
    object
}

fn ready(object: &Value) -> (Value, Value) {
    let all = object["status"]["conditions"].as_array().unwrap();
    let found = all.iter().find(|c| c["type"] == "Ready").unwrap();
    (found["status"].clone(), found["reason"].clone())
}

#[tokio::test]
async fn a_template_of_another_namespace_must_let_the_actor_in() {
    let h = Harness::new().await;
    let says = |allowed: &[&str]| {
        let mut template = ready_template("other", "shared");
        template.spec.allowed_namespaces = allowed.iter().map(|a| (*a).to_owned()).collect();
        let known = vec![template, ready_template("ns", "counter")];
        *h.catalog.0.lock().unwrap() = Some(known);
    };
    says(&["team"]);
    h.post(ACTORS, &of_other("a"))
        .await
        .fails(403, "Forbidden", "spec.allowedNamespaces");
    h.make(ACTORS, &actor("b")).await;
    let moved = json!({"spec": {"templateRef": {"name": "shared", "namespace": "other"}}});
    h.merge(&format!("{ACTORS}/b"), &moved)
        .await
        .fails(403, "Forbidden", "spec.allowedNamespaces");

    says(&["team", "ns"]);
    let made = h.make(ACTORS, &of_other("a")).await;
    assert_eq!(ready(&made), (json!("True"), json!("Asleep")));
    h.merge(&format!("{ACTORS}/b"), &moved).await.ok();

    // Taken back: it is said, and anything else can still be written and deleted.
    says(&[]);
    let uri = format!("{ACTORS}/a");
    let shown = h.get(&uri).await.ok().clone();
    assert_eq!(
        ready(&shown),
        (json!("False"), json!("NamespaceNotAllowed"))
    );
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    h.merge(&uri, &label).await.ok();
    h.delete(&uri, None).await.ok();
}

/// A watch that goes on where an object was made.
async fn watch_after(h: &Harness, made: &Value) -> Events {
    let uri = format!("{ACTORS}?watch=true&resourceVersion={}", version(made));
    Events::open(h, &uri, "application/json").await
}

#[tokio::test]
async fn an_actor_is_ready_when_its_template_is() {
    let h = Harness::new().await;
    let says = |known: Vec<ActorTemplate>| *h.catalog.0.lock().unwrap() = Some(known);
    says(vec![]);
    let made = h.make(ACTORS, &actor("a")).await;
    assert_eq!(ready(&made), (json!("False"), json!("TemplateNotFound")));
    let mut watch = watch_after(&h, &made).await;

    let mut golden = ready_template("ns", "counter");
    golden.spec.golden.policy = GoldenPolicy::Required;
    says(vec![golden]);
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "MODIFIED");
    assert_eq!(
        ready(&event["object"]),
        (json!("False"), json!("TemplateNotReady"))
    );
    says(vec![ready_template("ns", "counter")]);
    let event = watch.next().await.unwrap();
    assert_eq!(
        ready(&event["object"]),
        (json!("True"), json!("Asleep")),
        "those who wait learn it although nobody wrote the actor"
    );
    assert_eq!(version(&event["object"]), version(&made));
}

/// Between a list and the watch that goes on from its version nobody tells a client anything.
#[tokio::test]
async fn a_template_that_came_between_list_and_watch_is_told() {
    let h = Harness::new().await;
    let says = |known: Vec<ActorTemplate>| *h.catalog.0.lock().unwrap() = Some(known);
    says(vec![]);
    let made = h.make(ACTORS, &actor("a")).await;
    assert_eq!(ready(&made), (json!("False"), json!("TemplateNotFound")));
    let mut template = ready_template("ns", "counter");
    template.spec.golden.policy = GoldenPolicy::Disabled;
    template.status = None;
    template.metadata.creation_timestamp = Some(crate::api::time::Timestamp::now().to_time());
    says(vec![template]);
    let event = watch_after(&h, &made).await.next().await.unwrap();
    assert_eq!(event["type"], "MODIFIED");
    assert_eq!(ready(&event["object"]), (json!("True"), json!("Asleep")));
}
