//! The machine's side of slots that have no pod: a veth pair per slot, whose far end is the slot's `eth0`, and
//! masquerading for what leaves the machine. Every slot has four addresses of the given network: the second is the machine's, the third the slot's.

use super::route::Links;
use super::{Cidr, Error, netns, nft};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Prefix of the network between machine and slot.
const LINK_PREFIX: u8 = 30;
const ADDRESSES_PER_SLOT: u32 = 4;
/// Names of links are at most 15 bytes; five are for the index.
const MAX_NAME: usize = 10;

/// The network of all slots of one installation on this machine.
#[derive(Debug, Clone)]
pub struct HostNetwork {
    name: String,
    cidr: Cidr,
}

/// Addresses of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotAddresses {
    /// The machine's end: the slot's gateway.
    pub host: Ipv4Addr,
    /// The slot's `eth0`.
    pub slot: Ipv4Addr,
}

impl HostNetwork {
    /// A network with the addresses of `cidr`. `name` begins the names of its links; the nftables table is named by the addresses, so
    /// that the rules of whoever had them before are replaced.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is not 1 to 10 lower-case letters, digits and dashes, beginning with a letter.
    pub fn new(name: &str, cidr: Cidr) -> Result<HostNetwork, Error> {
        let fine = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let letter = name.bytes().next().is_some_and(|c| c.is_ascii_lowercase());
        if !letter || name.len() > MAX_NAME || !name.bytes().all(fine) {
            return Err(Error::Invalid(format!(
                "{name:?} is no name for a network: use 1 to {MAX_NAME} letters, digits or dashes"
            )));
        }
        Ok(HostNetwork {
            name: name.to_owned(),
            cidr,
        })
    }

    /// The addresses of slot number `index`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the network is too small.
    pub fn addresses(&self, index: u16) -> Result<SlotAddresses, Error> {
        let first = u32::from(index) * ADDRESSES_PER_SLOT;
        let address = |offset| self.cidr.address(first + offset);
        match (address(1), address(2), address(3)) {
            (Some(host), Some(slot), Some(_)) => Ok(SlotAddresses { host, slot }),
            _ => Err(Error::Invalid(format!(
                "{} has no addresses for slot {index}",
                self.cidr
            ))),
        }
    }

    /// Sets forwarding on, masquerades what slots send elsewhere, and refuses what this machine would send to a slot that is
    /// gone: it must not leave by another link. Repeating it changes nothing.
    ///
    /// # Errors
    /// As [`HostNetwork::check_free`]; [`Error::Nft`], [`Error::NoNft`], [`Error::Io`].
    pub async fn setup(&self) -> Result<(), Error> {
        self.check_free().await?;
        let HostNetwork { name, cidr } = self;
        let table = self.table();
        let forward = Path::new("/proc/sys/net/ipv4/ip_forward");
        std::fs::write(forward, "1").map_err(Error::io("set net.ipv4.ip_forward"))?;
        // First made, then deleted: the deletion must not fail. All of it is one transaction.
        nft::apply(&format!(
            "table ip {table}\n\
             delete table ip {table}\n\
             table ip {table} {{\n\
               chain postrouting {{\n\
                 type nat hook postrouting priority srcnat; policy accept;\n\
                 ip saddr {cidr} ip daddr != {cidr} masquerade\n\
               }}\n\
               chain output {{\n\
                 type filter hook output priority filter; policy accept;\n\
                 ip daddr {cidr} oifname != {{ \"{name}*\", \"lo\" }} reject\n\
               }}\n\
             }}\n"
        ))
        .await
    }

    /// Gives the network namespace of process `pid` an `eth0` that is connected to this machine. One that the slot has already is replaced.
    ///
    /// # Errors
    /// [`Error::Namespace`] when there is no such process; [`Error::Netlink`].
    pub async fn attach(&self, index: u16, pid: u32) -> Result<SlotAddresses, Error> {
        let addresses = self.addresses(index)?;
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let theirs = File::open(&path).map_err(|source| Error::Namespace {
            path: path.clone(),
            source,
        })?;
        let links = Links::connect()?;
        let name = self.link(index);
        links.delete(&name).await?;
        let ours = (name.as_str(), mac(1, index));
        links
            .add_veth(ours, (theirs.as_fd(), mac(2, index)))
            .await?;
        links.address(&name, addresses.host, LINK_PREFIX).await?;
        links.up(&name).await?;
        netns::within(&path, move || async move {
            let links = Links::connect()?;
            links.up("lo").await?;
            links.address("eth0", addresses.slot, LINK_PREFIX).await?;
            links.up("eth0").await?;
            links.default_route(addresses.host).await
        })
        .await?;
        Ok(addresses)
    }

    /// Removes the link of slot number `index`, at both ends. None is fine.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub async fn detach(&self, index: u16) -> Result<(), Error> {
        Links::connect()?.delete(&self.link(index)).await
    }

    /// Removes all links and the rules of this network. Forwarding stays on: others may need it by now.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Nft`], [`Error::NoNft`].
    pub async fn remove(&self) -> Result<(), Error> {
        let links = Links::connect()?;
        for (_, link) in links.names().await? {
            if self.slot_of(&link).is_some() {
                links.delete(&link).await?;
            }
        }
        let table = self.table();
        nft::apply(&format!("table ip {table}\ndelete table ip {table}\n")).await
    }

    /// Whether the addresses are ours alone.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a link of somebody else has one of them; [`Error::Netlink`].
    pub async fn check_free(&self) -> Result<(), Error> {
        let links = Links::connect()?;
        let taken: Vec<u32> = links
            .addresses()
            .await?
            .into_iter()
            .filter_map(|(index, address, _)| match address {
                IpAddr::V4(address) if self.cidr.contains(address) => Some(index),
                IpAddr::V4(_) | IpAddr::V6(_) => None,
            })
            .collect();
        let names = links.names().await?;
        let other = names
            .iter()
            .find(|(index, name)| taken.contains(index) && self.slot_of(name).is_none());
        match other {
            None => Ok(()),
            Some((_, link)) => Err(Error::Invalid(format!(
                "{} is in use by link {link} of this machine; choose another network",
                self.cidr
            ))),
        }
    }

    fn slot_of(&self, link: &str) -> Option<u16> {
        link.strip_prefix(&self.name)?.parse().ok()
    }

    fn table(&self) -> String {
        format!("ate-{}", self.cidr).replace('/', "-")
    }

    fn link(&self, index: u16) -> String {
        format!("{}{index}", self.name)
    }
}

/// Locally administered; the same again for the same slot.
fn mac(end: u8, index: u16) -> [u8; 6] {
    let [high, low] = index.to_be_bytes();
    [0x02, 0xa7, 0xe0, end, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_share_no_address_and_the_network_has_an_end() {
        let net = HostNetwork::new("ate-dev", "10.231.0.0/16".parse().unwrap()).unwrap();
        let first = net.addresses(0).unwrap();
        assert_eq!(first.host, Ipv4Addr::new(10, 231, 0, 1));
        assert_eq!(first.slot, Ipv4Addr::new(10, 231, 0, 2));
        assert_eq!(
            net.addresses(16383).unwrap().slot,
            Ipv4Addr::new(10, 231, 255, 254)
        );
        assert!(net.addresses(16384).is_err());
        for bad in ["", "-a", "A", "a b", "{", "elevenchars"] {
            assert!(HostNetwork::new(bad, net.cidr).is_err(), "{bad}");
        }
    }
}
