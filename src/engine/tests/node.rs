//! What a node agent does when an order arrives. This is also the contract that the real one has to keep:
//! - an order of an older epoch than one seen for the actor, of an assignment that ended, or too late, is refused;
//! - a stop marks the assignment of its epoch as ended, also when nothing runs;
//! - nothing starts, is saved or published while the node's lease has lapsed.

use super::world::{Content, Guards, Saved, State, Who, World};
use crate::api::names::{Build, SnapshotId};
use crate::api::{ActorKey, Epoch, Reason, Timestamp};
use crate::lifecycle::settle::SKEW;
use crate::proto::atenode as wire;
use crate::rpc::nodes::NodeError;
use rand::Rng;
use tokio::time::sleep;
use uuid::Uuid;

type Answer<T> = Result<T, NodeError>;

fn refused<T>(message: impl Into<String>) -> Answer<T> {
    Err(NodeError::Refused {
        message: message.into(),
    })
}

fn failed<T>(reason: Reason) -> Answer<T> {
    Err(NodeError::Failed {
        reason,
        message: "bad luck".into(),
    })
}

pub fn who(actor: &Option<wire::ActorIdentity>) -> Who {
    let actor = actor.clone().unwrap_or_default();
    Who {
        key: ActorKey::new(actor.namespace, actor.name),
        uid: Uuid::try_parse(&actor.uid).unwrap_or_default(),
    }
}

/// An order to a slot.
#[derive(Clone, Debug)]
pub struct Order {
    pub node: usize,
    pub uid: String,
    pub who: Who,
    pub fence: wire::Fence,
}

impl Order {
    fn epoch(&self) -> Epoch {
        Epoch(self.fence.epoch)
    }
}

impl State {
    fn slot(&self, order: &Order) -> Answer<usize> {
        let found = self
            .slots
            .iter()
            .position(|s| s.node == order.node && s.uid == order.uid);
        found.ok_or_else(|| NodeError::NotFound {
            message: format!("slot {}", order.uid),
        })
    }

    fn admit(&mut self, order: &Order, starts: bool) -> Answer<()> {
        let now = self.clock_of(order.node);
        let not_after = order.fence.not_after_ms;
        if not_after != 0 && now > Timestamp(not_after) + SKEW {
            return refused("too late");
        }
        if self.guards == Guards::NoEpochs {
            return Ok(());
        }
        let seen = self.nodes[order.node]
            .seen
            .entry(order.who.uid)
            .or_default();
        if order.epoch() < seen.0 || (starts && order.epoch() <= seen.1) {
            return refused(format!("epoch {} after {seen:?}", order.epoch()));
        }
        seen.0 = order.epoch();
        Ok(())
    }

    fn ended(&mut self, order: &Order) {
        let seen = self.nodes[order.node]
            .seen
            .entry(order.who.uid)
            .or_default();
        seen.1 = seen.1.max(order.epoch());
    }

    fn may_act(&self, node: usize) -> Answer<()> {
        if self.has_lease(node) {
            Ok(())
        } else {
            refused("the node's lease has lapsed")
        }
    }
}

/// How many are remembered.
const MAX_LIKES: usize = 16;

enum Begun {
    Now(usize, u64),
    Already(String),
    Wait,
}

/// Starts an actor from a snapshot, or from nothing.
pub async fn start(world: World, order: Order, from: Option<wire::SnapshotRef>) -> Answer<String> {
    let (slot, turn) = loop {
        match begin_start(&mut world.lock(), &order)? {
            Begun::Already(address) => return Ok(address),
            Begun::Now(slot, turn) => break (slot, turn),
            Begun::Wait => {}
        }
        sleep(world.moment(50)).await;
    };
    sleep(world.moment(120)).await;
    let mut state = world.lock();
    if state.slots[slot].turn != turn {
        return refused("overtaken");
    }
    let runtime = state.nodes[order.node].runtime;
    let value = match &from {
        None => Some(0),
        Some(snapshot) => {
            let saved = state.find(order.node, snapshot);
            state.misfits += u64::from(saved.is_some_and(|s| s.runtime != runtime));
            saved
                .filter(|s| s.complete && s.runtime == runtime)
                .map(|s| s.value)
        }
    };
    let unlucky = !state.calm && {
        let p = state.storm / 2.0;
        state.chance(p)
    };
    let reason = match value {
        _ if state.may_act(order.node).is_err() => Some(Reason::RestoreFailed),
        None => Some(Reason::SnapshotUnreadable),
        Some(_) if unlucky => Some(Reason::RestoreFailed),
        Some(_) => None,
    };
    if let Some(reason) = reason {
        state.set(slot, Content::Free, None);
        return failed(reason);
    }
    let port = 1000 + state.fresh();
    let address = format!("{}:{port}", state.nodes[order.node].name);
    let content = Content::Running {
        value: value.unwrap_or_default(),
        address: address.clone(),
        runtime,
    };
    state.set(slot, content, Some((order.who.clone(), order.epoch())));
    Ok(address)
}

fn begin_start(state: &mut State, order: &Order) -> Answer<Begun> {
    let slot = state.slot(order)?;
    state.may_act(order.node)?;
    state.admit(order, true)?;
    let mine = state.slots[slot].actor == Some((order.who.clone(), order.epoch()));
    match state.slots[slot].content.clone() {
        Content::Free => {
            state.set(
                slot,
                Content::Starting,
                Some((order.who.clone(), order.epoch())),
            );
            Ok(Begun::Now(slot, state.slots[slot].turn))
        }
        Content::Running { address, .. } if mine => Ok(Begun::Already(address)),
        Content::Starting if mine => Ok(Begun::Wait),
        Content::Starting
        | Content::Running { .. }
        | Content::Saving
        | Content::Ending
        | Content::Exited => refused("the slot is taken"),
    }
}

/// Saves an actor on the node and ends its sandbox. Returns the build of the
/// runtime that made it.
pub async fn checkpoint(
    world: World,
    order: Order,
    snapshot: wire::SnapshotRef,
) -> Answer<Option<Build>> {
    let id: SnapshotId = snapshot.id.parse().expect("a snapshot id");
    let (slot, mut turn, running, value, runtime) = loop {
        let answer = begin_checkpoint(&mut world.lock(), &order, &snapshot)?;
        match answer {
            Saving::Now(slot, turn, running, value, runtime) => {
                break (slot, turn, running, value, runtime);
            }
            Saving::Wait => {}
            Saving::Already(saved) => return Ok(saved.runtime),
        }
        sleep(world.moment(50)).await;
    };
    sleep(world.moment(150)).await;
    {
        let mut state = world.lock();
        if state.slots[slot].turn != turn {
            return failed(Reason::CheckpointFailed);
        }
        let unlucky = !state.calm && {
            let p = state.storm / 2.0;
            state.chance(p)
        };
        let actor = state.slots[slot].actor.clone();
        if unlucky || state.may_act(order.node).is_err() {
            state.set(slot, running, actor);
            return failed(Reason::CheckpointFailed);
        }
        state.names.insert(id.actor, order.who.key.clone());
        state.nodes[order.node].local.insert(
            id,
            Saved {
                value,
                complete: true,
                runtime,
            },
        );
        state.ended(&order);
        state.set(slot, Content::Ending, actor);
        turn = state.slots[slot].turn;
    }
    sleep(world.moment(40)).await;
    let mut state = world.lock();
    if state.slots[slot].turn == turn {
        state.set(slot, Content::Free, None);
    }
    Ok(runtime)
}

enum Saving {
    /// Slot, its turn, what it ran, and what of that is saved.
    Now(usize, u64, Content, u64, Option<Build>),
    Already(Saved),
    /// Somebody is at it.
    Wait,
}

fn begin_checkpoint(
    state: &mut State,
    order: &Order,
    snapshot: &wire::SnapshotRef,
) -> Answer<Saving> {
    let slot = state.slot(order)?;
    state.may_act(order.node)?;
    state.admit(order, false)?;
    let mine = state.slots[slot]
        .actor
        .as_ref()
        .is_some_and(|(who, _)| *who == order.who);
    let saved = state.find(order.node, snapshot);
    let content = state.slots[slot].content.clone();
    match (&content, saved) {
        (Content::Running { value, runtime, .. }, _) if mine => {
            let (value, runtime) = (*value, *runtime);
            let actor = state.slots[slot].actor.clone();
            state.set(slot, Content::Saving, actor);
            let turn = state.slots[slot].turn;
            Ok(Saving::Now(slot, turn, content, value, runtime))
        }
        (Content::Saving | Content::Ending, _) if mine => Ok(Saving::Wait),
        (Content::Free, Some(saved)) => Ok(Saving::Already(saved)),
        (
            Content::Free
            | Content::Starting
            | Content::Running { .. }
            | Content::Saving
            | Content::Ending
            | Content::Exited,
            _,
        ) => failed(Reason::SandboxLost),
    }
}

fn put(state: &mut State, node: usize, id: SnapshotId, base: Option<SnapshotId>) -> Answer<()> {
    state.may_act(node)?;
    let Some(saved) = state.nodes[node].local.get(&id).copied() else {
        return if state.durable.contains_key(&id) {
            Ok(())
        } else {
            failed(Reason::SnapshotUnreadable)
        };
    };
    state.note(|| format!("published {id} = {}", saved.value));
    // What it is made of may have gone meanwhile.
    let complete = base.is_none_or(|base| state.durable.contains_key(&base));
    state.durable.insert(id, Saved { complete, ..saved });
    state.nodes[node].local.remove(&id);
    Ok(())
}

/// Ends what runs for an actor, with this epoch or an older one.
pub async fn stop(world: World, order: Order) -> Answer<()> {
    let begun = {
        let mut state = world.lock();
        let slot = state.slot(&order)?;
        state.admit(&order, false)?;
        if state.guards == Guards::NoStop {
            return Ok(());
        }
        state.ended(&order);
        let s = &state.slots[slot];
        let ends = s
            .actor
            .as_ref()
            .is_some_and(|(who, e)| *who == order.who && *e <= order.epoch());
        ends.then(|| {
            let actor = state.slots[slot].actor.clone();
            state.set(slot, Content::Ending, actor);
            (slot, state.slots[slot].turn)
        })
    };
    let Some((slot, turn)) = begun else {
        return Ok(());
    };
    sleep(world.moment(40)).await;
    let mut state = world.lock();
    if state.slots[slot].turn == turn {
        state.set(slot, Content::Free, None);
    }
    Ok(())
}

/// Publishes a snapshot that is on this node, on top of the first of `like` that is there.
pub async fn publish(
    world: World,
    order: Order,
    id: SnapshotId,
    like: Vec<SnapshotId>,
) -> Answer<u64> {
    let base = {
        let mut state = world.lock();
        state.may_act(order.node)?;
        state.admit(&order, false)?;
        if !state.likes.contains(&like) && state.likes.len() < MAX_LIKES {
            state.likes.push(like.clone());
        }
        // Others' stay for as long as somebody needs them.
        let own = |base: &SnapshotId| base.actor == id.actor && state.durable.contains_key(base);
        like.into_iter().find(own)
    };
    let early = world.lock().guards == Guards::EarlyAnswer;
    let published = async move {
        sleep(world.moment(300)).await;
        while world.lock().publications_stall {
            sleep(world.moment(50)).await;
        }
        put(&mut world.lock(), order.node, id, base).map(|()| 1)
    };
    match early {
        true => {
            tokio::spawn(published);
            Ok(1)
        }
        false => published.await,
    }
}

/// A snapshot, if its manifest is there.
pub fn describe(world: &World, node: usize, snapshot: &wire::SnapshotRef) -> Option<Saved> {
    world.lock().find(node, snapshot)
}

/// Removes an actor's snapshots, in the object store and on this node.
pub fn delete_snapshots(world: &World, node: usize, request: &wire::DeleteSnapshotsRequest) {
    let actor = who(&request.actor).uid;
    let mut state = world.lock();
    let stays = |id: &SnapshotId| {
        id.actor != actor
            || id.epoch.0 >= request.before_epoch
            || request.keep.contains(&id.to_string())
    };
    state.durable.retain(|id, _| stays(id));
    state.nodes[node].local.retain(|id, _| stays(id));
    state.note(|| {
        format!(
            "delete snapshots before {} but {:?}",
            request.before_epoch, request.keep
        )
    });
}

impl State {
    fn find(&self, node: usize, snapshot: &wire::SnapshotRef) -> Option<Saved> {
        let id: SnapshotId = snapshot.id.parse().ok()?;
        let local = self.nodes[node].local.get(&id);
        let durable = self.durable.get(&id);
        if snapshot.local {
            local.or(durable).copied()
        } else {
            durable.copied()
        }
    }

    /// What a node says of its slots.
    pub fn slots_of(&self, node: usize) -> Vec<wire::Slot> {
        use wire::slot::Phase as P;
        let of_node = self.slots.iter().filter(|s| s.node == node);
        let slot = of_node.map(|s| {
            let (phase, address) = match &s.content {
                Content::Free => (P::Free, ""),
                Content::Starting | Content::Saving | Content::Ending => (P::Busy, ""),
                Content::Running { address, .. } => (P::Running, address.as_str()),
                Content::Exited => (P::Exited, ""),
            };
            wire::Slot {
                uid: s.uid.clone(),
                name: s.name.clone(),
                namespace: "ns".into(),
                pool: "p".into(),
                phase: phase.into(),
                actor: s.actor.as_ref().map(|(who, _)| wire::ActorIdentity {
                    namespace: who.key.namespace.clone(),
                    name: who.key.name.clone(),
                    uid: who.uid.to_string(),
                    ..wire::ActorIdentity::default()
                }),
                epoch: s.actor.as_ref().map_or(0, |(_, e)| e.0),
                address: address.to_owned(),
                draining: self.nodes[node].draining,
                ..wire::Slot::default()
            }
        });
        slot.collect()
    }

    /// What a node says of the snapshots that only it has.
    pub fn local_of(&self, node: usize) -> Vec<wire::LocalSnapshot> {
        let owner = |id: &SnapshotId| {
            let known = self.names.get(&id.actor).cloned();
            known.unwrap_or_default()
        };
        let local = self.nodes[node].local.keys().map(|id| wire::LocalSnapshot {
            id: id.to_string(),
            namespace: owner(id).namespace,
            name: owner(id).name,
        });
        local.collect()
    }

    /// Nobody needs these any more.
    pub fn forget_local(&mut self, node: usize, ids: &[String]) {
        if self.guards != Guards::NoDropping {
            let local = &mut self.nodes[node].local;
            local.retain(|id, _| !ids.contains(&id.to_string()));
        }
    }

    /// The node's lease is renewed. What is to be stopped is, before anything thaws.
    pub fn renewed(&mut self, node: usize, until: Timestamp, sent: &[wire::Slot], stop: &[String]) {
        if self.guards != Guards::NoStopSlots {
            for slot in 0..self.slots.len() {
                let s = &self.slots[slot];
                let told = stop.contains(&s.uid);
                let same = sent.iter().any(|r| {
                    r.uid == s.uid && s.actor.as_ref().is_some_and(|(_, e)| e.0 == r.epoch)
                });
                if told && same && s.node == node {
                    if let Some((who, epoch)) = s.actor.clone() {
                        let seen = self.nodes[node].seen.entry(who.uid).or_default();
                        seen.1 = seen.1.max(epoch);
                    }
                    self.set(slot, Content::Free, None);
                }
            }
        }
        let n = &mut self.nodes[node];
        n.lease = n.lease.max(until);
        self.one_sandbox_each();
    }

    /// The process of a slot dies, and with it the sandbox.
    pub fn kill_slot(&mut self, slot: usize) {
        let n = self.fresh();
        self.slots[slot].uid = format!("u{n}");
        if self.rng.random_bool(0.5) {
            self.slots[slot].name = format!("w{n}");
        }
        self.note(|| "a slot's process dies".to_owned());
        self.set(slot, Content::Free, None);
    }
}
