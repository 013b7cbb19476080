//! Connection tracking entries and elements of packet filter maps, by NETLINK_NETFILTER: what `conntrack -D`, `nft add element`
//! and `nft list map` would do, without their processes.
//!
//! Formats: netlink(7); `linux/netfilter/nfnetlink.h`, `nfnetlink_conntrack.h`, `nf_tables.h`.

use super::Error;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

/// The kernel answers from memory; longer means that an answer was lost.
const TIMEOUT_SECONDS: i64 = 5;
/// Larger than any datagram of a dump.
const BUFFER: usize = 64 << 10;

const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;
const CT_GET_STATS: u16 = 1 << 8 | 5;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const NFTABLES: u8 = 10;
const NFT_ADD_ELEMENTS: u16 = (NFTABLES as u16) << 8 | 12;
const NFT_GET_ELEMENTS: u16 = (NFTABLES as u16) << 8 | 13;
const NFT_DELETE_ELEMENTS: u16 = (NFTABLES as u16) << 8 | 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER: usize = 16;
const NFGEN_HEADER: usize = 4;
const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const NESTED: u16 = 0x8000;
const NFTA_LIST_TABLE: u16 = 1;
const NFTA_LIST_SET: u16 = 2;
const NFTA_LIST_ELEMENTS: u16 = 3 | NESTED;
const NFTA_LIST_ELEM: u16 = 1 | NESTED;
const NFTA_ELEM_KEY: u16 = 1 | NESTED;
const NFTA_ELEM_DATA: u16 = 2 | NESTED;
const NFTA_DATA_VALUE: u16 = 1;

/// Drops all IPv4 connection tracking entries of the calling thread's network namespace.
pub(super) fn flush_connections() -> Result<(), Error> {
    exchange(CT_DELETE, REQUEST | ACK, FAMILY_IPV4, &[])
        .map(drop)
        .map_err(Error::io("drop connection tracking entries"))
}

/// Counts the IPv4 connection tracking entries that have `address` in them.
pub(super) fn connections_of(address: Ipv4Addr) -> Result<usize, Error> {
    // A dump walks the table of the whole machine, which all its namespaces share.
    if tracked()? == 0 {
        return Ok(0);
    }
    let entries = exchange(CT_GET, REQUEST | DUMP, FAMILY_IPV4, &[])
        .map_err(Error::io("list connection tracking entries"))?;
    let address = address.octets();
    // Attributes are aligned to four bytes, and so is every address.
    let names = |entry: &&Vec<u8>| entry.chunks(4).any(|word| word == address);
    Ok(entries.iter().filter(names).count())
}

/// How many connection tracking entries the calling thread's network namespace has.
fn tracked() -> Result<u32, Error> {
    let what = "count connection tracking entries";
    let answers =
        exchange(CT_GET_STATS, REQUEST | ACK, FAMILY_IPV4, &[]).map_err(Error::io(what))?;
    let mut stats = answers
        .iter()
        .filter_map(|a| a.get(NFGEN_HEADER..))
        .flat_map(attributes);
    let count = stats.find(|(kind, _)| *kind == CTA_STATS_GLOBAL_ENTRIES);
    let count = count.and_then(|(_, value)| value.first_chunk().copied());
    count
        .map(u32::from_be_bytes)
        .ok_or_else(|| Error::io(what)(std::io::Error::other("the kernel's answer has no count")))
}

/// A map of a table of family inet, from ports to addresses with ports (`type inet_service : ipv4_addr . inet_service`).
pub(super) struct PortMap {
    pub table: &'static str,
    pub name: &'static str,
}

impl PortMap {
    /// Replaces all that is in it, at once: by an element, or nothing.
    pub fn set(&self, element: Option<(u16, Ipv4Addr, u16)>) -> Result<(), Error> {
        let batch = |kind| message(kind, REQUEST, [0, 0, 0, NFTABLES], &[]);
        let inet = [FAMILY_INET, 0, 0, 0];
        let mut request = batch(BATCH_BEGIN);
        let ack = if element.is_none() { ACK } else { 0 };
        request.extend(message(
            NFT_DELETE_ELEMENTS,
            REQUEST | ack,
            inet,
            &self.path(),
        ));
        if let Some((port, address, to)) = element {
            let value = |bytes: &[u8]| attribute(NFTA_DATA_VALUE, bytes);
            let to = [&address.octets()[..], &to.to_be_bytes(), &[0, 0]].concat();
            let key = attribute(NFTA_ELEM_KEY, &value(&port.to_be_bytes()));
            let data = attribute(NFTA_ELEM_DATA, &value(&to));
            let element = attribute(NFTA_LIST_ELEM, &[key, data].concat());
            let elements = attribute(NFTA_LIST_ELEMENTS, &element);
            let attributes = [self.path(), elements].concat();
            let flags = REQUEST | CREATE | ACK;
            request.extend(message(NFT_ADD_ELEMENTS, flags, inet, &attributes));
        }
        request.extend(batch(BATCH_END));
        let what = format!("set the packet filter's map {}", self.name);
        send(&request).map(drop).map_err(Error::io(what))
    }

    /// How many elements are in it.
    pub fn len(&self) -> Result<usize, Error> {
        let lists = exchange(NFT_GET_ELEMENTS, REQUEST | DUMP, FAMILY_INET, &self.path()).map_err(
            Error::io(format!("list the packet filter's map {}", self.name)),
        )?;
        let lists = lists.iter().filter_map(|list| list.get(NFGEN_HEADER..));
        let lists = lists
            .flat_map(attributes)
            .filter(|(kind, _)| *kind == NFTA_LIST_ELEMENTS & !NESTED);
        Ok(lists.map(|(_, list)| attributes(list).count()).sum())
    }

    fn path(&self) -> Vec<u8> {
        let text = |text: &str| [text.as_bytes(), b"\0"].concat();
        let table = attribute(NFTA_LIST_TABLE, &text(self.table));
        [table, attribute(NFTA_LIST_SET, &text(self.name))].concat()
    }
}

/// An attribute: length, type, value, padding to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = (length as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// Types, without their flags, and values of attributes.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind & !NESTED, value))
    })
}

/// A message: length, type, flags, sequence and port (not used: one exchange, one socket), what netfilter begins with, attributes.
fn message(kind: u16, flags: u16, netfilter: [u8; 4], attributes: &[u8]) -> Vec<u8> {
    let length = NLMSG_HEADER + NFGEN_HEADER + attributes.len();
    let mut bytes = (length as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(netfilter);
    bytes.extend(attributes);
    bytes
}

/// Sends one request; returns the payloads of the answers.
fn exchange(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> std::io::Result<Vec<Vec<u8>>> {
    send(&message(kind, flags, [family, 0, 0, 0], attributes))
}

fn send(request: &[u8]) -> std::io::Result<Vec<Vec<u8>>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(TIMEOUT_SECONDS))?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), request, &kernel, MsgFlags::empty())?;
    receive(&socket)
}

fn receive(socket: &OwnedFd) -> std::io::Result<Vec<Vec<u8>>> {
    let mut buffer = vec![0; BUFFER];
    let mut answers = Vec::new();
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, payload) in messages(&buffer[..length]) {
            match kind {
                NLMSG_DONE => return Ok(answers),
                NLMSG_ERROR => {
                    let errno = payload.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                    return match errno {
                        0 => Ok(answers),
                        _ => Err(std::io::Error::from_raw_os_error(-errno)),
                    };
                }
                _ => answers.push(payload.to_vec()),
            }
        }
    }
}

/// Types and payloads of the messages in a datagram.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes([*datagram.get(4)?, *datagram.get(5)?]);
        let payload = datagram.get(NLMSG_HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, payload))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_that_are_cut_or_lie_about_lengths_end_the_reading() {
        let mut message = 20u32.to_ne_bytes().to_vec();
        message.extend(7u16.to_ne_bytes());
        message.extend([0; 14]);
        let two = [message.clone(), message.clone()].concat();
        assert_eq!(messages(&two).count(), 2);
        for end in 0..two.len() {
            assert!(messages(&two[..end]).count() < 2);
        }
        for length in [0u32, 3, 15, u32::MAX] {
            message[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(messages(&message).count(), 0, "{length}");
        }
        let two = [attribute(1, b"a"), attribute(2 | NESTED, b"b")].concat();
        assert_eq!(
            attributes(&two).map(|(kind, _)| kind).collect::<Vec<_>>(),
            [1, 2]
        );
        assert_eq!(
            (0..two.len() - 3)
                .map(|end| attributes(&two[..end]).count())
                .max(),
            Some(1)
        );
        for length in [0u16, 3, u16::MAX] {
            assert_eq!(
                attributes(&length.to_ne_bytes().repeat(2)).count(),
                0,
                "{length}"
            );
        }
    }
}
