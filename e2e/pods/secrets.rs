//! Variables from Secrets.

use super::world::{NAMESPACE, counter, world};
use crate::aggregated::eventually;
use serde_json::json;

/// Nobody may say it.
const VALUE: &str = "open-sesame";

#[test]
fn variables_come_from_secrets_and_stay_through_sleep() {
    let w = world();
    let from = |name: &str, key: &str, optional: bool| json!({"secretKeyRef": {"name": name, "key": key, "optional": optional}});
    let template = json!({
        "apiVersion": "ate.dev/v1alpha1", "kind": "ActorTemplate",
        "metadata": {"name": "secretive", "namespace": NAMESPACE},
        "spec": {"containers": [{
            "name": "app", "image": counter(),
            "env": [
                {"name": "WORD", "valueFrom": from("words", "word", false)},
                {"name": "OTHER", "valueFrom": from("words", "other", true)},
                {"name": "ABSENT", "valueFrom": from("absent", "word", true)},
            ],
            "ports": [{"name": "http", "containerPort": 8080}],
            "readyz": {"httpGet": {"path": "/healthz", "port": 8080}},
        }]},
    });
    w.apply(&template);
    let missing = format!("there is no Secret {NAMESPACE}/words");
    eventually("it is said", || {
        let said = w.kubectl(&["describe", "actortemplate/secretive"]);
        (said.contains("SecretUnavailable") && said.contains(&missing)).then_some(())
    });
    w.settled();
    let word = format!("--from-literal=word={VALUE}");
    w.kubectl(&["create", "secret", "generic", "words", &word]);
    w.wait("actortemplate/secretive", "condition=Ready");

    let actor = w.actor_of("secretive", "knowing");
    let knows = || {
        let env = actor.get("/env").unwrap();
        assert!(env.contains(&format!("WORD={VALUE}")), "{env}");
        assert!(!env.contains("OTHER") && !env.contains("ABSENT"), "{env}");
    };
    knows();
    w.kubectl(&["delete", "secret", "words"]);
    actor.sleep();
    knows();
    assert!(!w.tell().contains(VALUE), "it is told");
    drop(actor);
    w.kubectl(&["delete", "actortemplate/secretive"]);
}
