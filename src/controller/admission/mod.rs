//! Says of a template or a pool what is wrong with it when it is written, not only in its status: a webhook of kube-apiserver's.
//!
//! [`judge`] decides, [`server`] listens. Nothing depends on it: kube-apiserver goes on without it (`failurePolicy: Ignore`), and the
//! reconcilers look again. Defaults come from the definitions. Every controller serves, whoever leads.

mod judge;
mod server;

use crate::api::{ActorTemplate, WorkerPool};
use crate::rpc::{Error, Tls};
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use axum::{Json, Router};
use http::StatusCode;
use judge::{Judge, Verdict};
use kube::Resource;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Largest question: kube-apiserver takes objects of 3 MiB, and sends the old one, too.
const MAX_BODY: usize = 8 << 20;

/// Answers until `stop`, as whom `tls` says.
pub(super) async fn serve(
    listener: TcpListener,
    tls: &Tls,
    context: &super::Context,
    stop: CancellationToken,
) -> Result<(), Error> {
    let judge = Judge {
        catalog: context.engine.catalog().clone(),
        secrets: context.engine.secrets().clone(),
        images: context.workers.clone(),
    };
    server::serve(listener, tls.open_server()?, app(judge), stop).await;
    Ok(())
}

/// Paths as kubebuilder calls them.
fn app(judge: Judge) -> Router {
    Router::new()
        .route("/validate-ate-dev-v1alpha1-actortemplate", post(template))
        .route("/validate-ate-dev-v1alpha1-workerpool", post(pool))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(judge))
}

type Answer = Json<AdmissionReview<DynamicObject>>;

async fn template(
    State(judge): State<Arc<Judge>>,
    Json(review): Json<AdmissionReview<ActorTemplate>>,
) -> Answer {
    answer(review, async |template| judge.template(template).await).await
}

async fn pool(
    State(judge): State<Arc<Judge>>,
    Json(review): Json<AdmissionReview<WorkerPool>>,
) -> Answer {
    answer(review, async |pool| judge.pool(pool)).await
}

async fn answer<K>(review: AdmissionReview<K>, judge: impl AsyncFnOnce(&K) -> Verdict) -> Answer
where
    K: Resource<DynamicType = ()>,
{
    let request: AdmissionRequest<K> = match review.try_into() {
        Ok(request) => request,
        Err(error) => return Json(AdmissionResponse::invalid(error).into_review()),
    };
    let mut response = AdmissionResponse::from(&request);
    if let Some(object) = &request.object {
        let Verdict { refusals, warnings } = judge(object).await;
        if !refusals.is_empty() {
            response = response.deny(refusals.join("; "));
            response.result.code = StatusCode::UNPROCESSABLE_ENTITY.as_u16();
            "Invalid".clone_into(&mut response.result.reason);
        }
        response.warnings = Some(warnings).filter(|w| !w.is_empty());
    }
    Json(response.into_review())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    async fn said(verdict: Verdict) -> Value {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u", "operation": "CREATE", "userInfo": {}, "name": "p", "namespace": "n",
                "kind": {"group": "ate.dev", "version": "v1alpha1", "kind": "WorkerPool"},
                "resource": {"group": "ate.dev", "version": "v1alpha1", "resource": "workerpools"},
                "object": {"apiVersion": "ate.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "p"}, "spec": {"replicas": 1}},
            },
        });
        let review = serde_json::from_value(review).unwrap();
        let Json(answer) = answer::<WorkerPool>(review, async |_| verdict).await;
        serde_json::to_value(answer).unwrap()
    }

    #[tokio::test]
    async fn an_answer_is_as_kubernetes_wants_it() {
        let no = said(Verdict {
            refusals: vec!["a".into(), "b".into()],
            warnings: vec![],
        })
        .await;
        assert_eq!(no["kind"], "AdmissionReview");
        assert_eq!(no["apiVersion"], "admission.k8s.io/v1");
        let response = &no["response"];
        assert_eq!(response["uid"], "u");
        assert_eq!(response["allowed"], false);
        assert_eq!(response["status"]["message"], "a; b");
        assert_eq!(response["status"]["code"], 422);
        let yes = said(Verdict {
            refusals: vec![],
            warnings: vec!["c".into()],
        })
        .await;
        assert_eq!(yes["response"]["allowed"], true);
        assert_eq!(yes["response"]["warnings"], json!(["c"]));
    }
}
