//! Telling the API server what the slots are: on every change and every few seconds, which renews the node's lease.
//!
//! An answer first ends what is not wanted here, then renews the lease: nothing thaws that has been given away.

use super::metrics;
use super::pools::Slots;
use super::slot::Node;
use crate::api::Incarnation;
use crate::lifecycle::slot::Lease;
use crate::node::deadline::boottime;
use crate::proto::atenode::nodes_client::NodesClient;
use crate::proto::atenode::{ReportRequest, ReportResponse};
use crate::rpc::Link;
use crate::telemetry::chain;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};

/// How often the lease is renewed when nothing changes, at the longest.
const PERIOD: Duration = Duration::from_secs(2);
/// A lease is renewed so often while it holds, at the least.
const RENEWALS: u32 = 4;
/// Changes within this time go in one report.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// How long the API server may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Pause after a report that did not arrive: first, and at most.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Reports for one node.
pub(super) struct Reporter {
    pub node: Arc<Node>,
    pub slots: Arc<Slots>,
    /// The node's name.
    pub name: String,
    /// `host:port` of its server.
    pub address: String,
    /// To the API server.
    pub link: Link,
    /// Holds a token that says on which node we are; read for each report, since it is renewed.
    pub token_file: Option<PathBuf>,
}

impl Reporter {
    /// Reports until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut changed = self.node.changed.subscribe();
        let mut last: Option<ReportRequest> = None;
        let mut due = Instant::now();
        let mut pause = RETRY_PAUSE.0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(due) => last = None,
                Ok(()) = changed.changed() => sleep(DEBOUNCE).await,
            }
            let request = self.request(&mut changed).await;
            let sent = boottime();
            if last.as_ref() == Some(&request) {
                continue;
            }
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = self.report(request.clone()) => answer,
            };
            match answer {
                Ok(answer) => {
                    due = Instant::now() + self.take_in(&answer, &request, sent).await;
                    last = Some(request);
                    pause = RETRY_PAUSE.0;
                }
                Err(error) => {
                    tracing::warn!(error, "the API server does not take our report");
                    last = None;
                    due = Instant::now() + pause;
                    pause = (pause * 2).min(RETRY_PAUSE.1);
                }
            }
        }
    }

    async fn request(&self, changed: &mut watch::Receiver<()>) -> ReportRequest {
        let runtime = self.node.runtimes.usual().await;
        // Whatever changes from here on is not in it for certain.
        changed.mark_unchanged();
        let slots = self.slots.views();
        let usage = self.node.snapshots.usage();
        metrics::tell(&slots, &usage);
        ReportRequest {
            node: self.name.clone(),
            address: self.address.clone(),
            incarnation: self.node.fences.witness(Incarnation(0)).0,
            slots,
            local_snapshots: self.node.snapshots.local(),
            lapsed: self.node.lease.state() == Lease::Lapsed,
            runtime: runtime.unwrap_or_default(),
            usage: Some(usage),
        }
    }

    async fn report(&self, report: ReportRequest) -> Result<ReportResponse, String> {
        let mut request = tonic::Request::new(report);
        if let Some(file) = &self.token_file {
            let authorization = authorization(file)?;
            request
                .metadata_mut()
                .insert("authorization", authorization);
        }
        let mut client = NodesClient::new(self.link.channel());
        match timeout(ANSWER_LIMIT, client.report(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(chain(&status)),
            Err(_) => Err(format!("no answer within {} s", ANSWER_LIMIT.as_secs())),
        }
    }

    /// Acts on the answer to what was sent at `sent`; returns when to report next.
    async fn take_in(
        &self,
        answer: &ReportResponse,
        request: &ReportRequest,
        sent: Duration,
    ) -> Duration {
        self.end_unwanted(answer, request);
        self.node.images.keep_golden(answer.golden_images.clone());
        self.drop_unneeded(answer).await;
        let length = Duration::from_millis(answer.lease_ms);
        self.node.lease.answered(sent, length, request.lapsed);
        let slots = self.slots.clone();
        tokio::spawn(async move { slots.renew_lease().await });
        match self.node.lease.state() {
            Lease::Held | Lease::Unknown => PERIOD.min(length / RENEWALS),
            // It lapsed after this report was made, which has to be told.
            Lease::Lapsed => RETRY_PAUSE.0,
        }
    }

    /// Removes what no record will need again, whatever orders come.
    async fn drop_unneeded(&self, answer: &ReportResponse) {
        for id in &answer.drop_snapshots {
            tracing::info!(id, "no actor needs this snapshot any more");
            if let Err(error) = self.node.snapshots.discard(id).await {
                tracing::warn!(id, error = chain(&error), "cannot remove a snapshot");
            }
        }
    }

    /// Ends what is not wanted, if the slot still runs what was reported: an order may have come meanwhile.
    fn end_unwanted(&self, answer: &ReportResponse, request: &ReportRequest) {
        self.node.fences.witness(Incarnation(answer.incarnation));
        for uid in &answer.stop_slots {
            let told = request.slots.iter().find(|s| s.uid == *uid);
            let now = self.slots.views().into_iter().find(|s| s.uid == *uid);
            let same = told
                .zip(now)
                .is_some_and(|(told, now)| told.actor == now.actor && told.epoch == now.epoch);
            if let Some(slot) = self.slots.find(uid).filter(|_| same) {
                tracing::info!(uid, "the API server wants this slot stopped");
                slot.end_unwanted();
            }
        }
    }
}

fn authorization(file: &Path) -> Result<MetadataValue<Ascii>, String> {
    let said = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let token = std::fs::read_to_string(file).map_err(|e| said(&e))?;
    let value = format!("Bearer {}", token.trim());
    let mut value: MetadataValue<Ascii> = value.parse().map_err(|_| said(&"is no token"))?;
    value.set_sensitive(true);
    Ok(value)
}
