//! The network of a slot: an interior namespace behind a veth, translated by nftables.
