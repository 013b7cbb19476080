//! Bytes of records: a version byte, what scripts read and write at fixed places, then postcard. The scripts in
//! `lua/actor.lua` and `lua/worker.lua` know the same layouts.

mod actor;
mod worker;

pub use actor::{decode_actor, encode_actor, encode_spec, encode_status};
pub use worker::{decode_worker, encode_rest, phase_number};

use crate::store::StoreError;
use uuid::Uuid;

/// The latest time that a record can hold, in milliseconds.
pub const LATEST: u64 = (1 << 48) - 1;

fn corrupt(what: &impl std::fmt::Display, why: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt {
        what: what.to_string(),
        why: why.to_string(),
    }
}

/// Reads fixed fields off the front, big-endian.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], &'static str> {
        let (head, tail) = self.0.split_at_checked(n).ok_or("it is too short")?;
        self.0 = tail;
        Ok(head)
    }

    fn number(&mut self, n: usize) -> Result<u64, &'static str> {
        Ok(self
            .bytes(n)?
            .iter()
            .fold(0, |value, b| value << 8 | u64::from(*b)))
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        Ok(self.bytes(1)?[0])
    }

    fn uid(&mut self) -> Result<Uuid, &'static str> {
        let bytes = self.bytes(16)?.try_into();
        bytes
            .map(Uuid::from_bytes)
            .map_err(|_| "a uid is too short")
    }

    /// Two bytes of length, then so many.
    fn counted(&mut self) -> Result<&'a [u8], &'static str> {
        let n = self.number(2)?;
        self.bytes(usize::try_from(n).map_err(|_| "a length is out of range")?)
    }
}

/// Appends the low `n` bytes of a number, big-endian; refuses what does not fit.
fn push(out: &mut Vec<u8>, value: u64, n: usize) -> Result<(), &'static str> {
    let bytes = value.to_be_bytes();
    let (high, low) = bytes.split_at(bytes.len() - n);
    if high.iter().any(|b| *b != 0) {
        return Err("a number is out of range");
    }
    out.extend_from_slice(low);
    Ok(())
}

/// All of postcard's bytes, nothing left over.
fn exactly<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err("bytes are left over".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}
