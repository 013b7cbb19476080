//! The gRPC door as existing clients use it: grpcurl, by server reflection.

use super::harness::Dev;
use serde_json::{Value, json};

fn call(dev: &Dev, method: &str, request: Value) -> Result<Value, String> {
    let said = dev.try_grpcurl(
        &["-d", &request.to_string()],
        &format!("ateapi.Control/{method}"),
    )?;
    serde_json::from_str(&said).map_err(|e| format!("{e}: {said}"))
}

#[test]
fn grpcurl_creates_wakes_suspends_and_deletes() {
    let dev = Dev::start(&[]);
    dev.with_counter(1);
    let listed = dev.try_grpcurl(&[], "list").unwrap();
    assert!(
        listed.contains("ateapi.Control") && listed.contains("ateapi.SessionIdentity"),
        "{listed}"
    );

    let create = json!({"actor_id": "flat", "actor_template_namespace": "default", "actor_template_name": "counter"});
    let made = call(&dev, "CreateActor", create.clone()).unwrap();
    assert_eq!(made["actor"]["actorId"], "flat");
    assert_eq!(made["actor"]["status"], "STATUS_SUSPENDED");
    let again = call(&dev, "CreateActor", create).unwrap_err();
    assert!(again.contains("AlreadyExists"), "{again}");

    let id = json!({"actor_id": "flat"});
    let resumed = call(&dev, "ResumeActor", id.clone()).unwrap();
    assert_eq!(resumed["actor"]["status"], "STATUS_RUNNING");
    assert_eq!(resumed["actor"]["workerPoolName"], "pool");
    assert_eq!(resumed["actor"]["ateomPodName"], "pool-0");

    dev.actor("other", "counter");
    let full = call(&dev, "ResumeActor", json!({"actor_id": "other.default"})).unwrap_err();
    assert!(
        full.contains("FailedPrecondition") && full.contains("no free workers available"),
        "{full}"
    );
    let workers = call(&dev, "ListWorkers", json!({})).unwrap();
    assert_eq!(workers["workers"][0]["actorId"], "flat");

    let refused = call(&dev, "DeleteActor", id.clone()).unwrap_err();
    assert!(
        refused.contains("Actor flat is not suspended (status: STATUS_RUNNING)"),
        "{refused}"
    );
    let suspended = call(&dev, "SuspendActor", id.clone()).unwrap();
    assert_eq!(suspended["actor"]["status"], "STATUS_SUSPENDED");
    assert_eq!(
        suspended["actor"]["latestSnapshotInfo"]["type"],
        "SNAPSHOT_TYPE_EXTERNAL"
    );
    call(&dev, "DeleteActor", id.clone()).unwrap();
    let gone = call(&dev, "GetActor", id).unwrap_err();
    assert!(
        gone.contains("NotFound") && gone.contains("Actor flat not found"),
        "{gone}"
    );

    let page = call(&dev, "ListActors", json!({"page_size": 1})).unwrap();
    assert_eq!(page["actors"].as_array().unwrap().len(), 1);
    let next = call(
        &dev,
        "ListActors",
        json!({"page_token": page["nextPageToken"]}),
    )
    .unwrap();
    assert_eq!(next["actors"].as_array().unwrap().len(), 1, "{next}");

    let template = json!({"actor_id": "x", "actor_template_namespace": "default", "actor_template_name": "nowhere"});
    let missing = call(&dev, "CreateActor", template).unwrap_err();
    assert!(
        missing.contains("ActorTemplate default/nowhere not found"),
        "{missing}"
    );
    let bad = call(&dev, "GetActor", json!({"actor_id": "No_Label"})).unwrap_err();
    assert!(bad.contains("InvalidArgument"), "{bad}");
}
