//! Files of memory pages, of which only those are stored that are new.
//!
//! Such a file is a [`Map`]: runs of pages, each of zeros, of this snapshot's own data object, or of a data object of an earlier
//! snapshot (a *base*), which is named with the snapshot that it belongs to. Maps are flat: they name objects, never other maps, so
//! that a snapshot needs its own manifest and map and the objects that those name, and nothing else.
//!
//! [`diff`] makes a map, with the one earlier snapshot that a publication is given; [`assemble`] makes the file again. What may be
//! deleted when is [`super::delete`]'s concern.

pub(super) mod assemble;
pub(super) mod diff;
mod map;
#[cfg(test)]
mod tests;

pub(super) use map::{BASES, Base, MAX_MAP_BYTES, Map, OWN, Run, ZERO};

/// Bytes of a page, which is what is looked up and stored.
pub(super) const PAGE: usize = 4096;

/// Shorter files are stored whole: a map would not be worth an object of its own.
const MIN_BYTES: u64 = 256 << 10;

/// Most data objects of earlier snapshots of its own actor that a snapshot is made of.
pub(super) const MAX_BASES: usize = 8;

/// Whether a file of this length gets a map.
pub(super) fn is_mapped(bytes: u64) -> bool {
    bytes >= MIN_BYTES && bytes.is_multiple_of(PAGE as u64)
}
