//! Connection tracking entries and rules, by NETLINK_NETFILTER: what `conntrack -D` and `nft list` would say, without their processes.
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
const NFT_GET_RULE: u16 = 10 << 8 | 7;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER: usize = 16;
const NFGEN_HEADER: usize = 4;
const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;

/// Drops all IPv4 connection tracking entries of the calling thread's network namespace.
pub(super) fn flush_connections() -> Result<(), Error> {
    exchange(CT_DELETE, REQUEST | ACK, FAMILY_IPV4, &[])
        .map(drop)
        .map_err(Error::io("drop connection tracking entries"))
}

/// Counts the IPv4 connection tracking entries that have `address` in them.
pub(super) fn connections_of(address: Ipv4Addr) -> Result<usize, Error> {
    let entries = exchange(CT_GET, REQUEST | DUMP, FAMILY_IPV4, &[])
        .map_err(Error::io("list connection tracking entries"))?;
    let address = address.octets();
    // Attributes are aligned to four bytes, and so is every address.
    let names = |entry: &&Vec<u8>| entry.chunks(4).any(|word| word == address);
    Ok(entries.iter().filter(names).count())
}

/// Counts the rules in a chain of a table of family inet.
pub(super) fn rules_in(table: &str, chain: &str) -> Result<usize, Error> {
    let mut attributes = attribute(NFTA_RULE_TABLE, table);
    attributes.extend(attribute(NFTA_RULE_CHAIN, chain));
    exchange(NFT_GET_RULE, REQUEST | DUMP, FAMILY_INET, &attributes)
        .map(|rules| rules.len())
        .map_err(Error::io("list packet filter rules"))
}

/// A string attribute: length, type, text with its zero, padding to four bytes.
fn attribute(kind: u16, text: &str) -> Vec<u8> {
    let length = 4 + text.len() + 1;
    let mut bytes = (length as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(text.as_bytes());
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// Sends one request; returns the payloads of the answers.
fn exchange(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> std::io::Result<Vec<Vec<u8>>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(TIMEOUT_SECONDS))?;
    let length = NLMSG_HEADER + NFGEN_HEADER + attributes.len();
    let mut request = (length as u32).to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]); // sequence and port: one request, one socket
    request.extend([family, 0, 0, 0]);
    request.extend(attributes);
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &request, &kernel, MsgFlags::empty())?;
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
    }
}
