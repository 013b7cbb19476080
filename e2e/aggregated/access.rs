//! Who calls, and may they.

use super::direct::{Answer, Direct, client_of, cluster_ca};
use super::faults::{assert_followed, beside_writers, stopping, through_kubernetes};
use super::harness::{ACTORS, Cluster, alone, eventually, shared};
use http::Method;
use std::time::{Duration, Instant};
use substrate::identity::{Authority, LeafRequest, Usage};

/// Cluster roles and bindings of tests are named so.
fn bind(cluster: &Cluster, name: &str, verbs: &str, resources: &str, subject: &str) {
    let (role, resources) = (
        format!("--clusterrole={name}"),
        format!("--resource={resources}"),
    );
    cluster.kubectl(&[
        "create",
        "clusterrole",
        name,
        &format!("--verb={verbs}"),
        &resources,
    ]);
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        name,
        &role,
        &format!("--user={subject}"),
    ]);
}

fn unbind(cluster: &Cluster, name: &str) {
    cluster.kubectl(&["delete", "clusterrolebinding,clusterrole", name]);
}

fn name(prefix: &str) -> String {
    format!("{prefix}-{:08x}", rand::random::<u32>())
}

#[track_caller]
fn status(answer: &Answer, code: u16, reason: &str, message: &str) {
    assert_eq!(answer.code, code, "{}", answer.text);
    assert_eq!(answer.body["kind"], "Status", "{}", answer.text);
    assert_eq!(answer.body["reason"], reason, "{}", answer.text);
    let said = answer.body["message"].as_str().unwrap();
    assert!(said.contains(message), "{said}");
}

#[test]
fn check_01_headers_count_from_the_front_proxy_only() {
    let c = shared();
    let url = format!("{}{ACTORS}/default/actors", c.replica(0));
    let admin = |direct: Direct| direct.by_admin().get(&url);

    assert_eq!(admin(Direct::proxy(&c)).code, 200);
    let dir = tempfile::tempdir().unwrap();
    let stranger = Authority::load_or_create(dir.path()).unwrap();
    let wrong_ca = stranger
        .leaf(&LeafRequest::new("front-proxy-client", Usage::Client))
        .unwrap();
    status(
        &admin(Direct::with(&c, &wrong_ca)),
        401,
        "Unauthorized",
        "Unauthorized",
    );
    let wrong_name = client_of(cluster_ca(&c, "front-proxy-ca"), "somebody");
    status(
        &admin(Direct::with(&c, &wrong_name)),
        401,
        "Unauthorized",
        "Unauthorized",
    );
    let anonymous = r#"actors.runtime.ate.dev is forbidden: User "system:anonymous" cannot list resource "actors" in API group "runtime.ate.dev" in the namespace "default""#;
    status(&admin(Direct::stranger(&c)), 403, "Forbidden", anonymous);

    // A user of the cluster is known without any header, and with a forged one is still who they are.
    let berta = client_of(cluster_ca(&c, "ca"), "berta");
    let answer = admin(Direct::with(&c, &berta));
    status(&answer, 403, "Forbidden", r#"User "berta" cannot list"#);
    let token = c.token("ate-system", "ate-apiserver", None);
    let bearer = Direct::stranger(&c).header("authorization", &format!("Bearer {token}"));
    status(
        &bearer.get(&url),
        403,
        "Forbidden",
        r#"User "system:serviceaccount:ate-system:ate-apiserver" cannot"#,
    );
    let bad = Direct::stranger(&c).header("authorization", "Bearer nonsense");
    status(&bad.get(&url), 401, "Unauthorized", "");
    for path in ["/readyz", "/livez", "/healthz"] {
        assert_eq!(
            Direct::stranger(&c)
                .get(&format!("{}{path}", c.replica(0)))
                .code,
            200
        );
    }
}

#[test]
fn the_proxys_users_are_who_it_says() {
    let c = shared();
    let root = c.replica(0);
    // Discovery asks without groups: everybody who was authenticated may.
    let aggregator = Direct::proxy(&c).header("x-remote-user", "system:kube-aggregator");
    assert_eq!(aggregator.get(&format!("{root}/apis")).code, 200);
    let anonymous = Direct::proxy(&c)
        .header("x-remote-user", "system:anonymous")
        .header("x-remote-group", "system:unauthenticated");
    let refused = anonymous.get(&format!("{root}/apis"));
    status(
        &refused,
        403,
        "Forbidden",
        r#"User "system:anonymous" cannot get path "/apis""#,
    );
    assert!(
        anonymous
            .get(&format!("{root}/apis"))
            .headers
            .contains_key("audit-id")
    );
}

#[test]
fn check_02_rights_are_asked_of_kubernetes() {
    let c = alone();
    let (user, role) = (name("anna"), name("reads"));
    let url = format!("{}{ACTORS}/default/actors", c.replica(0));
    let asks = || Direct::proxy(&c).header("x-remote-user", &user).get(&url);

    let said = format!(r#"User "{user}" cannot list resource "actors""#);
    status(&asks(), 403, "Forbidden", &said);
    bind(&c, &role, "list", "actors.runtime.ate.dev", &user);
    eventually("the new right holds", || (asks().code == 200).then_some(()));
    unbind(&c, &role);
    let revoked = Instant::now();
    eventually("the right is gone", || (asks().code == 403).then_some(()));
    assert!(
        revoked.elapsed() < Duration::from_secs(60),
        "{:?}",
        revoked.elapsed()
    );

    // We may not ask: that is nobody's refusal.
    let binding = "clusterrolebinding/ate-apiserver:auth-delegator";
    let kept = c.kubectl(&["get", binding, "-o", "json"]);
    c.kubectl(&["delete", binding]);
    let answer = eventually("reviews fail", || {
        let other = name("other");
        let answer = Direct::proxy(&c).header("x-remote-user", &other).get(&url);
        (answer.code != 403).then_some(answer)
    });
    c.apply(&kept);
    status(
        &answer,
        500,
        "InternalError",
        "the Kubernetes API did not answer",
    );
    eventually("reviews work", || {
        let other = name("other");
        let answer = Direct::proxy(&c).header("x-remote-user", &other).get(&url);
        (answer.code == 403).then_some(())
    });
}

#[test]
fn check_35_nothing_new_in_a_namespace_that_is_going_or_gone() {
    let c = shared();
    let admin = Direct::proxy(&c).by_admin();
    let create = |namespace: &str| {
        let url = format!("{}{ACTORS}/{namespace}/actors", c.replica(0));
        admin.send(
            Method::POST,
            &url,
            "application/json",
            super::harness::actor("late"),
        )
    };
    let missing = create("nowhere");
    status(
        &missing,
        404,
        "NotFound",
        r#"namespaces "nowhere" not found"#,
    );
    assert_eq!(missing.body["details"]["kind"], "namespaces");

    let ns = c.0.namespace("going");
    assert_eq!(create(&ns.1).code, 201);
    let held = r#"{"metadata": {"finalizers": ["test.ate.dev/hold"]}}"#;
    ns.kubectl(&["patch", "actor", "late", "--type=merge", "-p", held]);
    c.kubectl(&["delete", "namespace", &ns.1, "--wait=false"]);
    let answer = eventually("the namespace is known to be going", || {
        Some(create(&ns.1)).filter(|a| a.code == 403)
    });
    let said = format!(
        "unable to create new content in namespace {} because it is being terminated",
        ns.1
    );
    status(&answer, 403, "Forbidden", &said);
    let cause = &answer.body["details"]["causes"][0];
    assert_eq!(cause["reason"], "NamespaceTerminating");
    assert_eq!(cause["field"], "metadata.namespace");
    let free = r#"{"metadata": {"finalizers": null}}"#;
    ns.kubectl(&["patch", "actor", "late", "--type=merge", "-p", free]);
    c.kubectl(&[
        "wait",
        "--for=delete",
        &format!("namespace/{}", ns.1),
        "--timeout=90s",
    ]);
}

#[test]
fn check_39_resume_is_a_right_of_its_own() {
    let c = shared();
    let ns = c.0.namespace("resume");
    ns.actor("a");
    let (user, role) = (name("anna"), name("wakes"));
    let path = format!("{}/a/resume", ns.actors());
    let wake = || {
        let body = r#"{"apiVersion": "runtime.ate.dev/v1alpha1", "kind": "Actor"}"#;
        let args = ["--as", &user, "create", "--raw", &path, "-f", "-"];
        c.try_pipe(&args, body)
    };
    bind(
        &c,
        &role,
        "get,create,update",
        "actors.runtime.ate.dev",
        &user,
    );
    eventually("the user may read", || {
        ns.try_kubectl(&["--as", &user, "get", "actor", "a"]).ok()
    });
    let refused = wake().unwrap_err();
    let said = format!(r#"User "{user}" cannot create resource "actors/resume""#);
    assert!(refused.contains(&said), "{refused}");
    unbind(&c, &role);
    bind(&c, &role, "create", "actors.runtime.ate.dev/resume", &user);
    // No worker is there: what counts is who says no.
    eventually("the user may wake", || match wake() {
        Ok(said) => Some(said),
        Err(error) => (!error.contains("forbidden")).then_some(error),
    });
    let deleted = ns.try_kubectl(&["--as", &user, "delete", "actor", "a"]);
    assert!(deleted.unwrap_err().contains("forbidden"));
    unbind(&c, &role);
}

#[test]
fn to_create_by_applying_is_to_create() {
    let c = shared();
    let ns = c.0.namespace("applies");
    let (user, role) = (name("anna"), name("applies"));
    let apply = || {
        let args = ["--as", &user, "apply", "--server-side", "-f", "-"];
        ns.try_pipe(&args, &super::harness::actor("a"))
    };
    bind(&c, &role, "get,patch", "actors.runtime.ate.dev", &user);
    eventually("the user may read", || {
        let absent = ns.try_kubectl(&["--as", &user, "get", "actors/none"]);
        absent.err().filter(|e| e.contains("NotFound"))
    });
    let refused = apply().unwrap_err();
    let said = format!(r#"User "{user}" cannot create resource "actors""#);
    assert!(refused.contains(&said), "{refused}");
    ns.actor("a");
    apply().unwrap();
    unbind(&c, &role);
}

#[test]
fn writes_leave_a_line_and_no_bodies() {
    let c = shared();
    let ns = c.0.namespace("audit");
    let secret = "kept-out-of-the-log";
    let object = format!(
        r#"{{"apiVersion": "runtime.ate.dev/v1alpha1", "kind": "Actor", "metadata": {{"name": "a", "annotations": {{"x": "{secret}"}}}}, "spec": {{"templateRef": {{"name": "t"}}}}}}"#
    );
    ns.pipe(&["create", "-f", "-"], &object);
    let lines = eventually("the line is there", || {
        let log = c.log(0) + &c.log(1);
        let about = format!("{}/actors", ns.1);
        let lines: Vec<_> = log
            .lines()
            .filter(|l| l.contains(&about))
            .map(str::to_owned)
            .collect();
        (!lines.is_empty()).then_some(lines)
    });
    let line = &lines[0];
    for part in ["audit", "create", "admin", "201", "request"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!(c.log(0) + &c.log(1)).contains(secret));
}

/// Renewed while clients read, write and watch: the serving certificate, then the front proxy's CA, then its certificate.
#[test]
fn check_38_certificates_are_renewed_and_nobody_notices() {
    let c = alone();
    let ns = c.0.namespace("renewed");
    let (direct, url, followers) = through_kubernetes(&c, &ns, 4);
    let written = beside_writers(&direct, std::slice::from_ref(&url), 4, || {
        renew_beside_readers(&c)
    });
    for written in &written {
        assert_eq!(written.refused, [], "a write failed");
    }
    assert_followed(&direct, &url, &followers, &written);
    assert!(followers.iter().all(|f| f.seen().lists == 1));
}

fn renew_beside_readers(c: &Cluster) {
    let stop = std::sync::atomic::AtomicBool::new(false);
    let failures = std::sync::Mutex::new(vec![]);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                if let Err(error) = c.try_kubectl(&["get", "actors", "-A"]) {
                    failures.lock().unwrap().push(error);
                }
            }
        });
        stopping(&stop, || renew(c));
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{failures:?}");
}

fn renew(c: &Cluster) {
    let before = c.log(0).matches("new certificates are in use").count();
    c.new_certificate();
    eventually("the new certificate is served", || {
        let now = c.log(0).matches("new certificates are in use").count();
        (now > before).then_some(())
    });

    // Both CAs are trusted before the proxy shows a certificate of the new one.
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::load_or_create(dir.path()).unwrap();
    let leaf = ca
        .leaf(&LeafRequest::new("front-proxy-client", Usage::Client))
        .unwrap();
    let url = format!("{}{ACTORS}/default/actors", c.replica(0));
    let by_new = || Direct::with(c, &leaf).by_admin().get(&url).code;
    assert_eq!(by_new(), 401);
    let bundle = c.path("pki/front-proxy-ca.crt");
    let old = std::fs::read_to_string(&bundle).unwrap();
    std::fs::write(&bundle, format!("{old}\n{}", ca.certificate())).unwrap();
    for n in 0..super::harness::REPLICAS {
        let url = format!("{}{ACTORS}/default/actors", c.replica(n));
        eventually("the new CA is trusted", || {
            (Direct::with(c, &leaf).by_admin().get(&url).code == 200).then_some(())
        });
    }
    assert_eq!(
        Direct::proxy(c).by_admin().get(&url).code,
        200,
        "the old one still is"
    );
    let former = Direct::proxy(c).by_admin();
    // At this verbosity kube-apiserver says when it has read its certificate again.
    c.pipe(&["replace", "--raw", "/debug/flags/v", "-f", "-"], "2");
    std::fs::write(c.path("pki/front-proxy-client.key"), &leaf.key).unwrap();
    std::fs::write(c.path("pki/front-proxy-client.crt"), &leaf.chain).unwrap();
    let log = c.path("log/kube-apiserver.log");
    eventually("kube-apiserver took its new certificate", || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let line = log
            .lines()
            .find(|l| l.contains("Loaded a new cert/key pair"));
        line.filter(|l| l.contains("aggregator-proxy-cert"))
            .map(|_| ())
    });
    c.pipe(&["replace", "--raw", "/debug/flags/v", "-f", "-"], "0");
    // The old CA goes. kube-apiserver itself keeps in the map what another replica of it may still need.
    std::fs::write(&bundle, ca.certificate()).unwrap();
    std::fs::copy(dir.path().join("ca.key"), c.path("pki/front-proxy-ca.key")).unwrap();
    let map = serde_json::json!({"data": {"requestheader-client-ca-file": ca.certificate()}});
    eventually("the old CA is trusted no more", || {
        let map = map.to_string();
        let name = "extension-apiserver-authentication";
        c.kubectl(&["-n", "kube-system", "patch", "configmap", name, "-p", &map]);
        (former.get(&url).code == 401).then_some(())
    });
    assert_eq!(by_new(), 200);
}
