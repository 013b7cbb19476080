//! The vocabulary: the kinds that users write, the records that the store keeps, and the rules both obey.
