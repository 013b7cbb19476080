//! Nodes and their leases.

use super::client::{Call, Client};
use super::keys::HOME;
use super::reply;
use super::scripts::{self, Lua};
use crate::api::names::Build;
use crate::api::node::NodeUsage;
use crate::api::record::NodeRecord;
use crate::api::time::Timestamp;
use crate::store::StoreError;
use std::time::Duration;

fn call(client: &Client, script: &'static Lua) -> Call {
    Call::new(client, script, HOME)
        .key(client.keys.of(HOME, "nodes"))
        .repeatable()
}

pub async fn renew(
    client: &Client,
    node: &str,
    address: &str,
    runtime: Option<Build>,
    usage: NodeUsage,
    lease: Duration,
) -> Result<NodeRecord, StoreError> {
    let call = call(client, &scripts::RENEW_NODE)
        .arg(node)
        .arg(address)
        .number(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX))
        .arg(runtime.map(|r| r.to_string()).unwrap_or_default())
        .number(usage.cache_bytes)
        .number(usage.spool_bytes)
        .number(usage.capacity_bytes);
    let mut reply = client.call(call).await?.ok(&node)?;
    Ok(NodeRecord {
        name: node.to_owned(),
        address: address.to_owned(),
        lease: Timestamp(reply::number(reply.next()?)?),
        runtime,
        usage,
    })
}

pub async fn list(client: &Client) -> Result<(Vec<NodeRecord>, Timestamp), StoreError> {
    let mut reply = client
        .call(call(client, &scripts::NODES))
        .await?
        .ok(&"nodes")?;
    let mut nodes = reply::pairs(reply.next()?)?
        .into_iter()
        .map(|(name, value)| decode(&name, &value))
        .collect::<Result<Vec<_>, _>>()?;
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((nodes, reply.now))
}

/// `lease address runtime cache spool capacity`; the runtime is empty where it is not known.
fn decode(name: &[u8], value: &[u8]) -> Result<NodeRecord, StoreError> {
    let name = String::from_utf8_lossy(name).into_owned();
    let value = String::from_utf8_lossy(value);
    let mut parts = value.split(' ');
    let mut parse = || {
        let (lease, address) = (parts.next()?.parse().ok()?, parts.next()?);
        let runtime = parts.next().filter(|r| !r.is_empty());
        let runtime = runtime.map(str::parse).transpose().ok()?;
        let mut bytes = || parts.next()?.parse().ok();
        let usage = NodeUsage {
            cache_bytes: bytes()?,
            spool_bytes: bytes()?,
            capacity_bytes: bytes()?,
        };
        Some((lease, address, runtime, usage))
    };
    let (lease, address, runtime, usage) = parse().ok_or_else(|| StoreError::Corrupt {
        what: format!("node {name}"),
        why: format!("{value:?} is not a lease, an address, a runtime and three numbers"),
    })?;
    Ok(NodeRecord {
        name,
        address: address.to_owned(),
        lease: Timestamp(lease),
        runtime,
        usage,
    })
}

pub async fn remove(client: &Client, node: &str) -> Result<(), StoreError> {
    let call = call(client, &scripts::REMOVE_NODE).arg(node);
    client.call(call).await?.ok(&node)?;
    Ok(())
}
