//! The network of one slot, in the network namespace of its worker.
//!
//! ```text
//! outside -- eth0 [ nftables: PORT -> 169.254.17.2:APP ] ate0 169.254.17.1 -- eth0 169.254.17.2 (interior) -- sandbox
//! ```
//! The inner address, its gateway and their link addresses are the same on every worker, so that a restored sandbox finds the
//! network it knew. An assignment is reachable at its own port only while its gate is open.

use super::netfilter::{self, PortMap};
use super::route::Links;
use super::{Cidr, Error, netns, nft};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Address of every sandbox.
pub const INNER: Ipv4Addr = Ipv4Addr::new(169, 254, 17, 2);
/// Its gateway: the worker's side.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 17, 1);
const PREFIX: u8 = 30;
const INNER_MAC: [u8; 6] = [0x02, 0xa7, 0xe0, 0x11, 0x00, 0x02];
const GATEWAY_MAC: [u8; 6] = [0x02, 0xa7, 0xe0, 0x11, 0x00, 0x01];
/// The worker's end of the link to the interior.
const LINK: &str = "ate0";
const TABLE: &str = "ate-slot";
/// Where the port of the present assignment leads.
const GATE: PortMap = PortMap {
    table: TABLE,
    name: "gate",
};
/// Always refused: link-local addresses, which are the metadata services of clouds among others.
const LINK_LOCAL: &str = "169.254.0.0/16";
/// Entries that are made while others are dropped: how often to try again.
const CUT_ATTEMPTS: usize = 5;

/// The network of the slot whose worker's namespace the calling process is in.
#[derive(Clone, Debug)]
pub struct SlotNetwork {
    netns: PathBuf,
}

impl SlotNetwork {
    /// Makes the interior network namespace at `netns` (a file that must not exist) and the rules around it. `refused` are networks that
    /// the sandbox must not reach, beside link-local ones: nodes, control plane.
    ///
    /// # Errors
    /// [`Error::Namespace`], [`Error::Netlink`], [`Error::Nft`], [`Error::NoNft`], [`Error::Io`] (sysctls).
    pub async fn create(netns: &Path, refused: &[Cidr]) -> Result<SlotNetwork, Error> {
        netns::create(netns)?;
        let slot = SlotNetwork {
            netns: netns.to_owned(),
        };
        sysctl("net/ipv4/ip_forward", "1")?;
        nft::apply(&base_rules(refused)).await?;
        netns::within(netns, || async { without_ipv6() }).await?;
        let links = Links::connect()?;
        links.delete(LINK).await?;
        let interior = File::open(netns).map_err(Error::io("open the interior namespace"))?;
        links
            .add_veth((LINK, GATEWAY_MAC), (interior.as_fd(), INNER_MAC))
            .await?;
        links.address(LINK, GATEWAY, PREFIX).await?;
        links.up(LINK).await?;
        slot.refresh().await?;
        // A pod's namespace outlives its containers.
        slot.cut()?;
        Ok(slot)
    }

    /// The interior namespace, for the sandbox.
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// Gives the interior its address and route again, which a sandbox takes away when it starts. To be called before each.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Namespace`].
    pub async fn refresh(&self) -> Result<(), Error> {
        netns::within(&self.netns, || async {
            let links = Links::connect()?;
            links.up("lo").await?;
            links.address("eth0", INNER, PREFIX).await?;
            links.up("eth0").await?;
            links.default_route(GATEWAY).await
        })
        .await
    }

    /// Makes the sandbox's `app_port` reachable at `port` of the worker's address, and at no other.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Io`]; the gate is as it was.
    pub fn open(&self, port: u16, app_port: u16) -> Result<(), Error> {
        if port == 0 || app_port == 0 {
            return Err(Error::Invalid("ports are numbers from 1 to 65535".into()));
        }
        GATE.set(Some((port, INNER, app_port)))
    }

    /// Refuses new connections; those that exist go on.
    ///
    /// # Errors
    /// [`Error::Io`]; the gate is as it was.
    pub fn close(&self) -> Result<(), Error> {
        GATE.set(None)
    }

    /// Cuts all connections of the sandbox, in both directions. Close the gate first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn cut(&self) -> Result<(), Error> {
        for _ in 0..CUT_ATTEMPTS {
            netfilter::flush_connections()?;
            if netfilter::connections_of(INNER)? == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// How many connections of the sandbox are tracked, in both directions, those that ended lately included.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn connections(&self) -> Result<usize, Error> {
        netfilter::connections_of(INNER)
    }

    /// What is left of an assignment, after [`SlotNetwork::close`], [`SlotNetwork::cut`] and [`SlotNetwork::refresh`]: one line per thing. Empty is clean.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Namespace`], [`Error::Io`]: it could not be asked.
    pub async fn proof(&self) -> Result<Vec<String>, Error> {
        let mut left = netns::within(&self.netns, interior_residue).await?;
        match GATE.len()? {
            0 => {}
            n => left.push(format!("{n} ports in the gate")),
        }
        match netfilter::connections_of(INNER)? {
            0 => {}
            n => left.push(format!("{n} tracked connections")),
        }
        Ok(left)
    }

    /// Removes all of it.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Namespace`], [`Error::Nft`], [`Error::NoNft`].
    pub async fn remove(self) -> Result<(), Error> {
        nft::apply(&format!("table inet {TABLE}\ndelete table inet {TABLE}\n")).await?;
        // The link first: a namespace that goes drops its links late.
        Links::connect()?.delete(LINK).await?;
        netns::remove(&self.netns)
    }
}

/// In the interior: what is not as [`SlotNetwork::refresh`] makes it.
async fn interior_residue() -> Result<Vec<String>, Error> {
    let links = Links::connect()?;
    let mut left = Vec::new();
    let names = links.names().await?;
    for (_, name) in names.iter().filter(|(_, n)| n != "lo" && n != "eth0") {
        left.push(format!("link {name}"));
    }
    let eth0 = links.index("eth0").await?;
    let mut own = false;
    for (index, address, prefix) in links.addresses().await? {
        match address {
            IpAddr::V4(INNER) if index == eth0 && prefix == PREFIX => own = true,
            _ if address.is_loopback() => {}
            _ => left.push(format!("address {address}/{prefix}")),
        }
    }
    if !own {
        left.push(format!("eth0 without {INNER}"));
    }
    if links.gateways().await? != [GATEWAY] {
        left.push("routes".into());
    }
    Ok(left)
}

/// Everything but what is in the gate. `fwd` would be a reserved word.
fn base_rules(refused: &[Cidr]) -> String {
    let gate = GATE.name;
    let refused: String = refused.iter().map(|cidr| format!(", {cidr}")).collect();
    // First made, then deleted: the deletion must not fail. All of it is one transaction.
    format!(
        r#"table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  set refused {{
    type ipv4_addr
    flags interval
    auto-merge
    elements = {{ {LINK_LOCAL}{refused} }}
  }}
  map {gate} {{
    type inet_service : ipv4_addr . inet_service
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "eth0" dnat ip to tcp dport map @{gate}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {INNER} oifname "eth0" masquerade
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname "eth0" oifname "{LINK}" ct status dnat accept
    iifname "{LINK}" ip daddr @refused reject with icmp type admin-prohibited
    iifname "{LINK}" oifname "eth0" ip saddr {INNER} accept
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{LINK}" ct state established,related accept
    iifname "{LINK}" reject
  }}
}}
"#
    )
}

/// The slot is an IPv4 network; link-local addresses would come and go by themselves.
fn without_ipv6() -> Result<(), Error> {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return Ok(());
    }
    sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
    sysctl("net/ipv6/conf/default/disable_ipv6", "1")
}

fn sysctl(name: &str, value: &str) -> Result<(), Error> {
    std::fs::write(Path::new("/proc/sys").join(name), value)
        .map_err(Error::io(format!("set {}", name.replace('/', "."))))
}

#[cfg(test)]
mod tests;
