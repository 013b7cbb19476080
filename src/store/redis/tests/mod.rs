//! What only the real store can show: round trips, indexes, crashes between calls, lost writes, memory.

mod crash;
mod fsck;
mod loss;
mod numbers;
mod server;
