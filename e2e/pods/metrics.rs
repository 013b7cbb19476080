//! What Prometheus gets.

use super::world::{World, world};
use crate::aggregated::eventually;

/// What all our processes say; none of them may be on its way out.
fn scrape(w: &World) -> Option<String> {
    let pods = w.kubectl_system(&[
        "get",
        "pods",
        "-l",
        "app in (ate-apiserver, ate-controller, atenet-router, atelet)",
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ]);
    let said = pods.split_whitespace().map(|pod| {
        let path = format!("/api/v1/namespaces/ate-system/pods/{pod}:8081/proxy/metrics");
        let said = w.try_kubectl_system(&["get", "--raw", &path]).ok()?;
        said.ends_with("# EOF\n").then_some(said)
    });
    said.collect()
}

#[test]
fn every_process_counts_what_it_does() {
    let w = world();
    let actor = w.actor("counted");
    assert_eq!(actor.visit(), (1, 1));
    actor.sleep();
    eventually("it was counted", || {
        let said = scrape(&w)?;
        let all = [
            r#"ate_actor_transition_seconds_count{to="Running",reason=""}"#,
            r#"ate_actor_transition_seconds_count{to="Suspended",reason=""}"#,
            r#"ate_actor_wake_step_seconds_count{step="claim"}"#,
            r#"ate_router_response_seconds_count{code="200"}"#,
            r#"ate_apiserver_response_seconds_count{verb="create",code="201"}"#,
            "ate_node_snapshot_bytes",
            "ate_node_slots{phase=\"free\"} 2\n",
            "ate_node_slots{phase=\"running\"} 0\n",
            "ate_pool_workers{namespace=\"team\",pool=\"pool\",state=\"ready\"} 2\n",
            r#"ate_template_actors{namespace="team",template="counter",state="all"}"#,
        ];
        let missing: Vec<_> = all.iter().filter(|line| !said.contains(**line)).collect();
        missing.is_empty().then_some(())
    });
}
