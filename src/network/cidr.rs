//! IPv4 networks in the notation of RFC 4632.

use super::Error;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network, such as `10.231.0.0/16`: no bits set beyond its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    /// The network of `prefix` bits that begins at `base`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the prefix is longer than 32, or `base` has bits beyond it.
    pub fn new(base: Ipv4Addr, prefix: u8) -> Result<Cidr, Error> {
        let hosts = match prefix {
            0 => u32::MAX,
            1..=32 => u32::MAX.checked_shr(prefix.into()).unwrap_or(0),
            _ => return Err(Error::Invalid(format!("/{prefix} is longer than /32"))),
        };
        if base.to_bits() & hosts != 0 {
            return Err(Error::Invalid(format!(
                "{base}/{prefix} has bits set beyond its prefix"
            )));
        }
        Ok(Cidr { base, prefix })
    }

    /// The network of one address.
    pub fn host(address: Ipv4Addr) -> Cidr {
        Cidr {
            base: address,
            prefix: 32,
        }
    }

    /// The address `offset` after the first, if the network is that large.
    pub fn address(&self, offset: u32) -> Option<Ipv4Addr> {
        let size = 1u64 << (32 - u32::from(self.prefix));
        (u64::from(offset) < size).then(|| Ipv4Addr::from_bits(self.base.to_bits() + offset))
    }

    /// Whether `address` is one of its addresses.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let size = 1u64 << (32 - u32::from(self.prefix));
        let offset = address.to_bits().checked_sub(self.base.to_bits());
        offset.is_some_and(|offset| u64::from(offset) < size)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Cidr, Error> {
        let invalid =
            || Error::Invalid(format!("{text:?} is no IPv4 network such as 10.231.0.0/16"));
        let (base, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let base = base.parse().map_err(|_| invalid())?;
        let prefix = prefix.parse().map_err(|_| invalid())?;
        Cidr::new(base, prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        for good in ["10.231.0.0/16", "0.0.0.0/0", "1.2.3.4/32"] {
            assert_eq!(good.parse::<Cidr>().unwrap().to_string(), good);
        }
        for bad in [
            "10.231.0.1/16",
            "1.2.3.4",
            "1.2.3/8",
            "1.2.3.4/33",
            "::/0",
            "/",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn has_as_many_addresses_as_its_prefix_says() {
        let cidr: Cidr = "10.0.0.4/30".parse().unwrap();
        assert_eq!(cidr.address(3), Some([10, 0, 0, 7].into()));
        assert_eq!(cidr.address(4), None);
    }
}
