//! Leader election by a Lease: of several controllers the one that holds it works, as client-go's `leaderelection` has it.
//!
//! Clocks of different machines are never compared: a lease has lapsed when nobody renewed it for its duration as measured here. Who holds
//! it gives up well before that when it cannot renew. Every write is of the version that was read.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// Name of the Lease.
const NAME: &str = "ate-controller";
/// How long giving the lease back may take.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// Which lease, and who we are.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// Where the Lease is.
    pub namespace: String,
    /// What no other process is called.
    pub identity: String,
    /// How long a lease holds that is not renewed. It is renewed every 2/15 of it, and given up after 2/3 without success.
    pub duration: Duration,
}

impl LeaseOptions {
    fn renew_deadline(&self) -> Duration {
        self.duration * 2 / 3
    }

    fn retry(&self) -> Duration {
        self.duration * 2 / 15
    }

    /// In whole seconds, as it is written.
    fn seconds(&self) -> i32 {
        i32::try_from(self.duration.as_secs().max(1)).unwrap_or(i32::MAX)
    }
}

/// Works while it holds the lease, again and again, until told to stop. `work` ends soon when its token is cancelled; when the
/// lease is lost it is dropped.
pub async fn lead<F: Future<Output = ()>>(
    client: Client,
    options: LeaseOptions,
    stop: CancellationToken,
    work: impl Fn(CancellationToken) -> F,
) {
    let mut elector = Elector {
        api: Api::namespaced(client, &options.namespace),
        options,
        seen: None,
    };
    loop {
        tokio::select! {
            () = elector.acquire() => {}
            () = stop.cancelled() => return,
        }
        tracing::info!(lease = NAME, identity = elector.options.identity, "leading");
        tokio::select! {
            () = work(stop.clone()) => {}
            () = elector.keep() => tracing::warn!(lease = NAME, "the lease is lost; waiting for it"),
        }
        if stop.is_cancelled() {
            let released = timeout(RELEASE_LIMIT, elector.release()).await;
            tracing::debug!(?released, "lease");
            return;
        }
    }
}

/// A lease as it was read, and when it was first seen so.
struct Seen {
    lease: Lease,
    at: Instant,
}

struct Elector {
    api: Api<Lease>,
    options: LeaseOptions,
    seen: Option<Seen>,
}

impl Elector {
    /// Returns when we hold the lease.
    async fn acquire(&mut self) {
        let mut told = None;
        loop {
            match timeout(self.options.renew_deadline(), self.try_hold()).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {
                    let holder = self.seen.as_ref().and_then(|s| holder(&s.lease));
                    if holder.is_some() && told.as_deref() != holder {
                        tracing::info!(lease = NAME, holder, "waiting");
                        told = holder.map(str::to_owned);
                    }
                }
                Ok(Err(e)) => tracing::warn!(lease = NAME, error = %e, "cannot be taken"),
                Err(_) => tracing::warn!(lease = NAME, "no answer"),
            }
            sleep(self.options.retry()).await;
        }
    }

    /// Returns when we do not hold it any more.
    async fn keep(&mut self) {
        let mut until = Instant::now() + self.options.renew_deadline();
        loop {
            if timeout_at(until, sleep(self.options.retry()))
                .await
                .is_err()
            {
                return;
            }
            let began = Instant::now();
            match timeout_at(until, self.try_hold()).await {
                Ok(Ok(true)) => until = began + self.options.renew_deadline(),
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(e)) => tracing::warn!(lease = NAME, error = %e, "not renewed; trying again"),
            }
        }
    }

    /// Takes or renews the lease if that may be. Whether we hold it.
    async fn try_hold(&mut self) -> Result<bool, kube::Error> {
        let found = self.api.get_opt(NAME).await?;
        let (unchanged, lease) = self.look(found);
        let now = MicroTime(jiff::Timestamp::now());
        let Some(spec) = next(lease.spec.as_ref(), unchanged, &self.options, now) else {
            return Ok(false);
        };
        let write = Lease {
            spec: Some(spec),
            ..lease
        };
        let params = PostParams {
            field_manager: Some(super::MANAGER.to_owned()),
            ..PostParams::default()
        };
        let written = match write.metadata.resource_version {
            Some(_) => self.api.replace(NAME, &params, &write).await,
            None => self.api.create(&params, &write).await,
        };
        match written {
            Ok(lease) => {
                self.look(Some(lease));
                Ok(true)
            }
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// How long the lease is as it is now, and the lease; an empty one where there is none.
    fn look(&mut self, found: Option<Lease>) -> (Duration, Lease) {
        let now = Instant::now();
        let lease = found.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let since = match &self.seen {
            Some(seen) if seen.lease.spec == lease.spec => seen.at,
            _ => now,
        };
        self.seen = Some(Seen {
            lease: lease.clone(),
            at: since,
        });
        (now - since, lease)
    }

    /// Lets somebody else take it at once.
    async fn release(&mut self) -> Result<(), kube::Error> {
        let Some(lease) = self.seen.take().map(|s| s.lease) else {
            return Ok(());
        };
        if holder(&lease) != Some(&self.options.identity) {
            return Ok(());
        }
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            ..lease.spec.unwrap_or_default()
        };
        let free = Lease {
            spec: Some(spec),
            metadata: lease.metadata,
        };
        self.api
            .replace(NAME, &PostParams::default(), &free)
            .await?;
        Ok(())
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    Some(holder).filter(|holder| !holder.is_empty())
}

/// What we may write over a lease that has been as it is for so long; `None` while it is somebody else's.
fn next(
    lease: Option<&LeaseSpec>,
    unchanged: Duration,
    me: &LeaseOptions,
    now: MicroTime,
) -> Option<LeaseSpec> {
    let old = lease.cloned().unwrap_or_default();
    let held_by = old.holder_identity.as_deref().unwrap_or_default();
    let mine = held_by == me.identity;
    let seconds = old
        .lease_duration_seconds
        .and_then(|s| u64::try_from(s).ok());
    let holds = unchanged <= Duration::from_secs(seconds.unwrap_or(0));
    if !mine && !held_by.is_empty() && holds {
        return None;
    }
    let acquired = old.acquire_time.filter(|_| mine);
    let transitions = match lease {
        None => 0,
        Some(_) => old.lease_transitions.unwrap_or(0) + i32::from(!mine),
    };
    Some(LeaseSpec {
        holder_identity: Some(me.identity.clone()),
        lease_duration_seconds: Some(me.seconds()),
        acquire_time: acquired.or_else(|| Some(now.clone())),
        renew_time: Some(now),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(identity: &str) -> LeaseOptions {
        LeaseOptions {
            namespace: "n".into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
        }
    }

    fn at(second: i64) -> MicroTime {
        MicroTime(jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn times_are_those_of_client_go() {
        let options = options("a");
        let seconds = [options.renew_deadline(), options.retry()].map(|d| d.as_secs());
        assert_eq!(seconds, [10, 2]);
    }

    #[test]
    fn a_lease_is_taken_once_it_lapsed_and_no_sooner() {
        let (a, b) = (options("a"), options("b"));
        let mine = next(None, Duration::ZERO, &a, at(1)).unwrap();
        assert_eq!(mine.lease_transitions, Some(0));
        let renewed = next(Some(&mine), Duration::from_secs(99), &a, at(3)).unwrap();
        assert_eq!(
            (&renewed.acquire_time, &renewed.renew_time),
            (&Some(at(1)), &Some(at(3)))
        );
        let second = Duration::from_secs(1);
        assert_eq!(next(Some(&renewed), 15 * second, &b, at(18)), None);
        let taken = next(Some(&renewed), 15 * second + second / 10, &b, at(19)).unwrap();
        assert_eq!(taken.holder_identity.as_deref(), Some("b"));
        assert_eq!(
            (taken.acquire_time, taken.lease_transitions),
            (Some(at(19)), Some(1))
        );
    }

    #[test]
    fn a_lease_that_was_given_back_is_free_at_once() {
        let free = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        };
        let taken = next(Some(&free), Duration::ZERO, &options("b"), at(1)).unwrap();
        assert_eq!(taken.lease_transitions, Some(5));
    }
}
