//! Links, addresses and routes of the calling thread's network namespace, by rtnetlink.

use super::Error;
use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::RouteAttribute;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// A connection to the kernel; ends when dropped.
pub(super) struct Links {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Links {
    pub fn connect() -> Result<Links, Error> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(Error::io("open a netlink socket"))?;
        let task = tokio::spawn(connection);
        Ok(Links { handle, task })
    }

    /// The index of a link.
    pub async fn index(&self, name: &str) -> Result<u32, Error> {
        self.find(name).await?.ok_or_else(|| Error::NoLink {
            name: name.to_owned(),
        })
    }

    /// The index of a link, if it is there.
    pub async fn find(&self, name: &str) -> Result<Option<u32>, Error> {
        let links = self.names().await?;
        Ok(links.into_iter().find(|(_, n)| n == name).map(|(i, _)| i))
    }

    /// All links, with their indexes.
    pub async fn names(&self) -> Result<Vec<(u32, String)>, Error> {
        let links = self.handle.link().get().execute();
        let links: Vec<_> = links
            .try_collect()
            .await
            .map_err(Error::netlink("list links"))?;
        Ok(links
            .into_iter()
            .filter_map(|link| {
                let index = link.header.index;
                link.attributes.into_iter().find_map(|a| match a {
                    LinkAttribute::IfName(name) => Some((index, name)),
                    _ => None,
                })
            })
            .collect())
    }

    /// Makes a pair of links: `name` here, `eth0` with `peer_mac` in the namespace `peer`.
    pub async fn add_veth(
        &self,
        (name, mac): (&str, [u8; 6]),
        (peer, peer_mac): (BorrowedFd<'_>, [u8; 6]),
    ) -> Result<(), Error> {
        let peer = LinkUnspec::new_with_name("eth0")
            .address(peer_mac.to_vec())
            .setns_by_fd(peer.as_raw_fd())
            .build();
        let link = LinkVeth::new(name, "eth0")
            .address(mac.to_vec())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.handle
            .link()
            .add(link)
            .execute()
            .await
            .map_err(Error::netlink(format!("make the link {name}")))
    }

    pub async fn up(&self, name: &str) -> Result<(), Error> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(Error::netlink(format!("set the link {name} up")))
    }

    /// Removes a link if it is there.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let Some(index) = self.find(name).await? else {
            return Ok(());
        };
        self.handle
            .link()
            .del(index)
            .execute()
            .await
            .map_err(Error::netlink(format!("remove the link {name}")))
    }

    /// Adds an address if it is not there.
    pub async fn address(&self, name: &str, address: Ipv4Addr, prefix: u8) -> Result<(), Error> {
        let index = self.index(name).await?;
        self.handle
            .address()
            .add(index, address.into(), prefix)
            .replace()
            .execute()
            .await
            .map_err(Error::netlink(format!("give {name} the address {address}")))
    }

    /// Adds the default route if it is not there.
    pub async fn default_route(&self, gateway: Ipv4Addr) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .build();
        self.handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .map_err(Error::netlink(format!(
                "set the default route by {gateway}"
            )))
    }

    /// All addresses: index of the link, address, prefix.
    pub async fn addresses(&self) -> Result<Vec<(u32, IpAddr, u8)>, Error> {
        let addresses = self.handle.address().get().execute();
        let addresses: Vec<_> = addresses
            .try_collect()
            .await
            .map_err(Error::netlink("list addresses"))?;
        Ok(addresses
            .into_iter()
            .filter_map(|message| {
                let (index, prefix) = (message.header.index, message.header.prefix_len);
                message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Address(ip) => Some((index, *ip, prefix)),
                    _ => None,
                })
            })
            .collect())
    }

    /// The gateways of all IPv4 routes that have one.
    pub async fn gateways(&self) -> Result<Vec<Ipv4Addr>, Error> {
        use rtnetlink::packet_route::route::RouteAddress;
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes = self.handle.route().get(all).execute();
        let routes: Vec<_> = routes
            .try_collect()
            .await
            .map_err(Error::netlink("list routes"))?;
        let gateways = routes.iter().flat_map(|route| &route.attributes);
        Ok(gateways
            .filter_map(|a| match a {
                RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(*ip),
                _ => None,
            })
            .collect())
    }
}
