//! `resume`, `suspend`, `pause`, `log`, `scale`.

use super::*;

#[tokio::test]
async fn actors_move() {
    let h = Harness::new().await;
    h.make(ACTORS, &actor("a")).await;
    let to = async |what: &str| h.post(&format!("{ACTORS}/a/{what}"), &json!({})).await;
    assert_eq!(to("resume?wait=5").await.ok()["status"]["phase"], "Running");
    assert_eq!(to("pause?wait=5").await.ok()["status"]["phase"], "Paused");
    assert_eq!(
        to("suspend?wait=5").await.ok()["status"]["phase"],
        "Suspended"
    );
    assert_eq!(to("resume").await.ok()["status"]["phase"], "Resuming");
    to("suspend")
        .await
        .fails(409, "Conflict", "another operation is in progress");
    to("resume?wait=56")
        .await
        .fails(400, "BadRequest", "at most 55 seconds");
    to("resume?wait=soon")
        .await
        .fails(400, "BadRequest", "invalid syntax");
    let full = to("resume?boot=true").await;
    full.fails(503, "ServiceUnavailable", "no free workers available");
    assert_eq!(full.headers[header::RETRY_AFTER], "1");
    h.post(&format!("{ACTORS}/none/resume"), &json!({}))
        .await
        .fails(404, "NotFound", "not found");
    h.get(&format!("{ACTORS}/a/resume"))
        .await
        .fails(405, "MethodNotAllowed", "");
}

#[tokio::test]
async fn logs_are_streamed_as_text() {
    let h = Harness::new().await;
    h.make(ACTORS, &actor("a")).await;
    let uri = format!("{ACTORS}/a/log?container=app&follow=true&tailLines=7");
    let answer = h.get_as(&uri, "text/plain").await;
    assert_eq!(answer.code, StatusCode::OK);
    assert_eq!(
        answer.text,
        "one\nLogOptions { container: Some(\"app\"), follow: true, tail: Some(7) }\n"
    );
    h.get(&format!("{ACTORS}/a/log?tailLines=-1"))
        .await
        .fails(400, "BadRequest", "invalid syntax");
}

#[tokio::test]
async fn scale_shows_and_sets_replicas() {
    let h = Harness::new().await;
    h.make(POOLS, &pool("p")).await;
    h.merge(
        &format!("{POOLS}/p/status"),
        &json!({"status": {"replicas": 1, "selector": "a=b"}}),
    )
    .await
    .ok();
    let uri = format!("{POOLS}/p/scale");
    let scale = h.get(&uri).await.ok().clone();
    assert_eq!(
        (&scale["kind"], &scale["apiVersion"]),
        (&json!("Scale"), &json!("autoscaling/v1"))
    );
    assert_eq!(scale["spec"], json!({"replicas": 2}));
    assert_eq!(scale["status"], json!({"replicas": 1, "selector": "a=b"}));
    assert_eq!(
        h.merge(&uri, &json!({"spec": {"replicas": 5}})).await.ok()["spec"]["replicas"],
        5
    );
    h.put(&uri, &scale)
        .await
        .fails(409, "Conflict", "has been modified");
    let mut scale = h.get(&uri).await.body;
    scale["spec"]["replicas"] = json!(7);
    h.put(&uri, &scale).await.ok();
    let stored = h.get(&format!("{POOLS}/p")).await.body;
    assert_eq!(
        (
            &stored["spec"]["replicas"],
            &stored["metadata"]["generation"]
        ),
        (&json!(7), &json!(3))
    );
    h.merge(&uri, &json!({"spec": {"replicas": -1}}))
        .await
        .fails(422, "Invalid", "spec.replicas");
}
