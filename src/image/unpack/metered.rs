//! A reader with an allowance.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Fails once more is read than was allowed. The tar reader keeps names and attributes in memory whole, of whatever length
/// a header claims; this bounds it.
pub(super) struct Metered<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Metered<R> {
    /// The reader, and its allowance in bytes, which begins with 0.
    pub(super) fn new(inner: R) -> (Self, Rc<Cell<u64>>) {
        let left = Rc::new(Cell::new(0));
        let allowance = left.clone();
        (Self { inner, left }, allowance)
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::other("an entry's headers are too long"));
        }
        let most = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = self.inner.read(&mut buffer[..most])?;
        self.left.set(left - n as u64);
        Ok(n)
    }
}
