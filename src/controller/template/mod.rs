//! ActorTemplate: takes a golden snapshot for each build of the runtime that its workers have; [`removal`] takes back those
//! that nobody needs, [`deletion`] all of them; [`counts`] says how many actors it has.

mod counts;
mod deletion;
mod removal;

use super::workers::{self, Workers};
use super::{Context, Error, MANAGER};
use crate::api::condition::{Status, condition, set};
use crate::api::names::Build;
use crate::api::record::{ActorRecord, MetaRecord, SpecRecord, StatusRecord};
use crate::api::template::{
    GOLDEN_LABEL, GoldenPolicy, GoldenSnapshot, RUNTIME_LABEL, TemplatePhase,
};
use crate::api::{
    ActorKey, ActorTemplate, ActorTemplateStatus, Reason, TemplateKey, Timestamp, validate,
};
use crate::engine::{Call, DriveError};
use crate::lifecycle::Observed;
use crate::lifecycle::template::{Aim, Builds, Progress, Step, aim, failed, plan, serves};
use crate::store::{Store, StoreError};
use futures::StreamExt;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use serde_json::{Value, json};
use std::iter;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Pause after a failure of the reconciler itself.
const RETRY: Duration = Duration::from_secs(5);
/// Pause before a free worker is looked for again, and a deletion.
const WORKER_AGAIN: Duration = Duration::from_millis(500);
/// A boot may have to fetch images.
const RESUME_LIMIT: Duration = Duration::from_secs(600);
/// A suspend writes and publishes a snapshot.
const SUSPEND_LIMIT: Duration = Duration::from_secs(180);
/// Pause before what was just written, or read elsewhere, is seen here.
const SOON: Duration = Duration::from_millis(50);
/// Actors read at once.
const PAGE: usize = 1000;
/// What a template with a golden snapshot says.
const READY: &str = "every new actor starts from the golden snapshot";
/// What the message of a condition may hold, in bytes.
const MAX_MESSAGE: usize = 1024;

pub(super) async fn run(
    context: Arc<Context>,
    workers: watch::Receiver<Workers>,
    stop: CancellationToken,
) {
    let api: Api<ActorTemplate> = Api::all(context.client.clone());
    let counting = counts::run(context.clone(), stop.clone());
    let changes = workers::changed_builds(workers.clone());
    let scene = Arc::new(Scene { context, workers });
    let reconciling = Controller::new(api, watcher::Config::default())
        .reconcile_all_on(changes)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, on_error, scene)
        .for_each(|_| std::future::ready(()));
    tokio::join!(reconciling, counting);
}

/// What a reconciliation of a template needs.
struct Scene {
    context: Arc<Context>,
    workers: watch::Receiver<Workers>,
}

/// Shows all actors, of a namespace where one is named, page by page.
async fn each_actor(
    store: &dyn Store,
    namespace: Option<&str>,
    mut show: impl FnMut(ActorRecord),
) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = store.list_actors(namespace, after.as_ref(), PAGE).await?;
        page.items.into_iter().for_each(&mut show);
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

fn on_error(template: Arc<ActorTemplate>, error: &Error, _: Arc<Scene>) -> Action {
    tracing::warn!(template = template.metadata.name, error = %error, source = ?std::error::Error::source(error), "template");
    Action::requeue(RETRY)
}

/// A template on its way.
struct Golden<'a> {
    template: &'a ActorTemplate,
    key: TemplateKey,
    context: &'a Context,
    now: Timestamp,
    /// The builds of the workers that may run its actors.
    workers: Builds,
    aim: Aim,
}

async fn reconcile(template: Arc<ActorTemplate>, scene: Arc<Scene>) -> Result<Action, Error> {
    let name = template
        .metadata
        .name
        .as_deref()
        .ok_or(Error::Nameless("name"))?;
    let namespace = template
        .metadata
        .namespace
        .as_deref()
        .ok_or(Error::Nameless("namespace"))?;
    let key = TemplateKey::new(namespace, name);
    let context = &*scene.context;
    let pools = context.engine.catalog().pools();
    let workers = scene.workers.borrow().of(&template, &pools);
    let has = template.status.as_ref().map(|s| &*s.golden_snapshots);
    let golden = Golden {
        template: &template,
        key,
        context,
        now: Timestamp::now(),
        aim: aim(&template.spec, has.unwrap_or_default(), &workers),
        workers,
    };
    if template.metadata.deletion_timestamp.is_some() {
        return golden.leave().await;
    }
    if !deletion::waits(&template) {
        return golden.guard().await;
    }
    let wrong = validate::object(name, namespace, &template.spec);
    if let Some(violation) = wrong.first() {
        let mut status = golden.status();
        status.phase = TemplatePhase::Failed;
        golden.conditions(&mut status, "Invalid", &violation.to_string(), true);
        golden.write(status).await?;
        return Ok(Action::await_change());
    }
    // The engine reads templates from a cache of its own.
    if context.engine.catalog().template(&golden.key).is_none() {
        return Ok(Action::requeue(SOON));
    }
    golden.step().await
}

impl Golden<'_> {
    fn status(&self) -> ActorTemplateStatus {
        let mut status = self.template.status.clone().unwrap_or_default();
        status.observed_generation = self.template.metadata.generation;
        status
    }

    fn progress(&self) -> Progress {
        let status = self.status();
        Progress {
            take_at: status.take_golden_snapshot_at.as_ref().map(Timestamp::from),
            attempts: u32::try_from(status.attempts).unwrap_or(0),
            retry_at: status.retry_at.as_ref().map(Timestamp::from),
        }
    }

    /// The build of the golden snapshot that is worked on, where it is to be a certain one.
    fn build(&self) -> Option<Build> {
        match self.aim {
            Aim::Take(build) => build,
            Aim::Drop(_) | Aim::Rest => None,
        }
    }

    /// The name of a golden actor begins so, less what shortens it.
    fn stem(&self, most: usize) -> String {
        let uid = self.template.metadata.uid.clone().unwrap_or_default();
        let suffix: String = uid
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(8)
            .collect();
        let stem: String = self.key.name.chars().take(most).collect();
        format!("{stem}-golden-{suffix}")
    }

    /// The golden actor of a build, or of whatever worker was free first.
    fn actor_of(&self, build: Option<Build>) -> ActorKey {
        let name = match build {
            None => self.stem(46),
            Some(build) => format!("{}-{build}", self.stem(33)),
        };
        ActorKey::new(&self.key.namespace, name)
    }

    /// Whether an actor is a golden one of this template.
    fn is_golden(&self, actor: &ActorKey) -> bool {
        let of_build = |name: &str| {
            name.strip_prefix(&self.stem(33))
                .is_some_and(|rest| rest.starts_with('-'))
        };
        *actor == self.actor_of(None)
            || (actor.namespace == self.key.namespace && of_build(&actor.name))
    }

    /// The golden actor that is worked on.
    fn actor_key(&self) -> ActorKey {
        self.actor_of(self.build())
    }

    async fn observed(&self) -> Observed<ActorRecord> {
        match self
            .context
            .engine
            .store()
            .get_actor(&self.actor_key())
            .await
        {
            Ok(actor) => Observed::Known(actor),
            Err(StoreError::NotFound(_)) => Observed::Absent,
            Err(_) => Observed::Unknown,
        }
    }

    async fn step(&self) -> Result<Action, Error> {
        match &self.aim {
            Aim::Rest => self.rest().await,
            Aim::Drop(unused) => self.remove(unused).await,
            Aim::Take(build) => self.take(*build).await,
        }
    }

    /// All golden snapshots are there, or none is wanted.
    async fn rest(&self) -> Result<Action, Error> {
        let (reason, message) = match self.template.spec.golden.policy {
            GoldenPolicy::Disabled => ("NoGoldenWanted", "actors boot from the image"),
            GoldenPolicy::Required | GoldenPolicy::Optional => ("GoldenReady", READY),
        };
        let mut status = self.status();
        status.phase = TemplatePhase::Ready;
        (status.take_golden_snapshot_at, status.retry_at) = (None, None);
        status.attempts = 0;
        self.conditions(&mut status, reason, message, false);
        self.write(status).await?;
        Ok(Action::await_change())
    }

    async fn take(&self, build: Option<Build>) -> Result<Action, Error> {
        let (progress, actor) = (self.progress(), self.observed().await);
        let step = plan(&self.template.spec, build, &progress, &actor, self.now);
        tracing::debug!(template = %self.key, ?build, ?step, "step");
        match step {
            Step::Wait { until } => Ok(Action::requeue(
                until.since(self.now).max(Duration::from_millis(50)),
            )),
            Step::CreateActor => self.create().await,
            Step::ResumeActor => self.resume().await,
            Step::SuspendActor => self.suspend().await,
            Step::RemoveActor => self.start_over().await,
            Step::Settle { until } => {
                let mut status = self.at(
                    TemplatePhase::WaitGoldenActor,
                    "GoldenSettling",
                    "the golden actor runs and settles",
                );
                status.take_golden_snapshot_at = Some(until.to_time());
                self.write(status).await?;
                Ok(Action::requeue(Duration::from_millis(10)))
            }
            Step::Ready => self.ready(&actor).await,
        }
    }

    /// The status while a golden snapshot is in a phase: the template's own, unless it serves without that.
    fn at(&self, phase: TemplatePhase, reason: &str, message: &str) -> ActorTemplateStatus {
        let mut status = self.status();
        self.enter(&mut status, phase);
        status.golden_actor_id = Some(format!(
            "{}.{}",
            self.actor_key().name,
            self.actor_key().namespace
        ));
        self.conditions(&mut status, reason, &self.about(message), false);
        status
    }

    fn enter(&self, status: &mut ActorTemplateStatus, phase: TemplatePhase) {
        let serves = serves(&self.template.spec, &status.golden_snapshots, &self.workers);
        status.phase = if serves { TemplatePhase::Ready } else { phase };
    }

    /// Of which golden snapshot, where there are several.
    fn about(&self, message: &str) -> String {
        match self.build() {
            None => message.to_owned(),
            Some(build) => format!("for workers with runtime {build}: {message}"),
        }
    }

    async fn create(&self) -> Result<Action, Error> {
        let actor = ActorRecord {
            key: self.actor_key(),
            spec: SpecRecord {
                template: self.key.clone(),
                generation: 1,
                ..SpecRecord::default()
            },
            status: StatusRecord {
                uid: Uuid::new_v4(),
                created: self.now,
                ..StatusRecord::default()
            },
            meta: MetaRecord {
                labels: iter::once((GOLDEN_LABEL, "true".to_owned()))
                    .chain(self.build().map(|b| (RUNTIME_LABEL, b.to_string())))
                    .map(|(label, value)| (label.to_owned(), value))
                    .collect(),
                ..MetaRecord::default()
            },
            ..ActorRecord::default()
        };
        match self
            .context
            .engine
            .store()
            .create_actor(actor, u64::MAX)
            .await
        {
            Ok(_) | Err(StoreError::Exists(_)) => {}
            Err(e) => return Err(e.into()),
        }
        let message = "the golden actor is being started";
        self.write(self.at(TemplatePhase::ResumeGoldenActor, "GoldenStarting", message))
            .await?;
        Ok(Action::requeue(Duration::from_millis(10)))
    }

    async fn resume(&self) -> Result<Action, Error> {
        let call = Call::within(RESUME_LIMIT).booting();
        let key = self.actor_key();
        let resumed = tokio::select! {
            resumed = self.context.engine.resume(&key, call) => resumed,
            () = self.marked_deleted() => return Ok(Action::requeue(SOON)),
        };
        match resumed {
            Ok(_) => {
                let message = "the golden actor runs";
                let mut status =
                    self.at(TemplatePhase::ResumeGoldenActor, "GoldenStarting", message);
                status.take_golden_snapshot_at = None;
                self.write(status).await?;
                Ok(Action::requeue(Duration::from_millis(10)))
            }
            Err(e) => self.failed(&e).await,
        }
    }

    /// Returns when the template is being deleted. A boot that nobody wants any more is not waited for.
    async fn marked_deleted(&self) {
        let catalog = self.context.engine.catalog();
        let marked = |t: Arc<ActorTemplate>| t.metadata.deletion_timestamp.is_some();
        while !catalog.template(&self.key).is_some_and(marked) {
            tokio::time::sleep(WORKER_AGAIN).await;
        }
    }

    async fn suspend(&self) -> Result<Action, Error> {
        match self
            .context
            .engine
            .suspend(&self.actor_key(), Call::within(SUSPEND_LIMIT))
            .await
        {
            Ok(_) => Ok(Action::requeue(Duration::from_millis(10))),
            Err(e) => self.failed(&e).await,
        }
    }

    async fn ready(&self, actor: &Observed<ActorRecord>) -> Result<Action, Error> {
        let Some((actor, durable)) = actor
            .known()
            .and_then(|a| Some((a, a.status.durable.clone()?)))
        else {
            return Ok(Action::requeue(RETRY));
        };
        let mut status = self.at(TemplatePhase::Ready, "GoldenReady", READY);
        let uri = self.context.engine.snapshots_of(actor);
        let runtime = durable.runtime.or(self.build());
        let taken = GoldenSnapshot {
            id: actor.snapshot_id(&durable).to_string(),
            uri: uri.clone(),
            runtime: runtime.map(|r| r.to_string()).unwrap_or_default(),
            arch: std::env::consts::ARCH
                .replace("x86_64", "amd64")
                .replace("aarch64", "arm64"),
            bytes: i64::try_from(durable.bytes).unwrap_or(i64::MAX),
            time: Some(durable.time.to_time()),
            ..GoldenSnapshot::default()
        };
        status.golden_snapshot = Some(uri);
        status.golden_snapshots.push(taken);
        status.take_golden_snapshot_at = None;
        status.attempts = 0;
        status.retry_at = None;
        self.enter(&mut status, TemplatePhase::ResumeGoldenActor);
        self.conditions(&mut status, "GoldenReady", READY, false);
        self.write(status).await?;
        tracing::info!(template = %self.key, ?runtime, bytes = durable.bytes, "golden snapshot is ready");
        // What was written is seen as any other change, and says whether another one is wanted.
        Ok(Action::await_change())
    }

    /// The worker had another build by then.
    async fn start_over(&self) -> Result<Action, Error> {
        let call = Call::within(SUSPEND_LIMIT);
        let removed = self.context.engine.delete(&self.actor_key(), call).await;
        if let Err(error) = removed {
            tracing::warn!(template = %self.key, %error, "golden actor is not removed yet");
            return Ok(Action::requeue(RETRY));
        }
        let message = "the worker of the golden actor has another runtime by now".to_owned();
        self.failed(&DriveError::Failed {
            reason: Reason::RuntimeMismatch,
            message,
        })
        .await
    }

    async fn failed(&self, error: &DriveError) -> Result<Action, Error> {
        let reason = match error {
            DriveError::Failed { reason, .. } => *reason,
            DriveError::DeadlineExceeded => Reason::DeadlineExceeded,
            DriveError::InProgress
            | DriveError::Store(_)
            | DriveError::NotFound(_)
            | DriveError::WrongPhase { .. } => {
                tracing::warn!(template = %self.key, error = %error, "golden actor");
                return Ok(Action::requeue(RETRY));
            }
        };
        if reason == Reason::NoFreeWorkers {
            let message = "the golden actor waits for a free worker";
            self.write(self.at(TemplatePhase::ResumeGoldenActor, "NoFreeWorkers", message))
                .await?;
            return Ok(Action::requeue(WORKER_AGAIN));
        }
        let progress = failed(&self.progress(), Timestamp::now());
        let mut status = self.status();
        self.enter(&mut status, TemplatePhase::Failed);
        status.take_golden_snapshot_at = None;
        status.attempts = i32::try_from(progress.attempts).unwrap_or(i32::MAX);
        status.retry_at = progress.retry_at.map(Timestamp::to_time);
        let message: String = error.to_string().chars().take(MAX_MESSAGE).collect();
        self.conditions(
            &mut status,
            &reason.to_string(),
            &self.about(&message),
            false,
        );
        self.write(status).await?;
        tracing::warn!(template = %self.key, %reason, message, "golden snapshot failed");
        let pause = progress
            .retry_at
            .map_or(RETRY, |at| at.since(Timestamp::now()));
        Ok(Action::requeue(pause))
    }

    fn conditions(
        &self,
        status: &mut ActorTemplateStatus,
        reason: &str,
        message: &str,
        stalled: bool,
    ) {
        let generation = self.template.metadata.generation.unwrap_or_default();
        let ready = match status.phase {
            TemplatePhase::Ready => Status::True,
            TemplatePhase::Failed => Status::False,
            TemplatePhase::New
            | TemplatePhase::ResumeGoldenActor
            | TemplatePhase::WaitGoldenActor => Status::Unknown,
        };
        // While another one is taken, those that are there serve.
        let golden = Status::from(reason == "GoldenReady");
        let serves = ready == Status::True && golden == Status::False && self.build().is_some();
        let (ready_reason, ready_message) = match serves {
            true => ("GoldenReady", READY),
            false => (reason, message),
        };
        let mut put = |kind, value, reason: &str, message: &str| {
            set(
                &mut status.conditions,
                condition(kind, value, reason, message, generation, self.now),
            )
        };
        put("Ready", ready, ready_reason, ready_message);
        put("GoldenReady", golden, reason, message);
        put("Stalled", Status::from(stalled), reason, message);
    }

    async fn write(&self, status: ActorTemplateStatus) -> Result<(), Error> {
        if self.template.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api: Api<ActorTemplate> =
            Api::namespaced(self.context.client.clone(), &self.key.namespace);
        let params = PatchParams::apply(MANAGER);
        // Somebody else counts them.
        let uncounted = ActorTemplateStatus {
            actors: None,
            ..status.clone()
        };
        let mut patch = json!({ "status": uncounted });
        // What is left out of a merge patch stays as it was.
        for gone in ["takeGoldenSnapshotAt", "retryAt"] {
            if patch["status"].get(gone).is_none() {
                patch["status"][gone] = Value::Null;
            }
        }
        let patch = Patch::Merge(patch);
        api.patch_status(&self.key.name, &params, &patch).await?;
        let before = self.template.status.clone().unwrap_or_default().conditions;
        let about = self.template.object_ref(&());
        let events = &self.context.events;
        events.tell(&about, &before, &status.conditions).await;
        Ok(())
    }
}
