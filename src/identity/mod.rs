//! Keys and certificates: our own CA and the leaves it signs.
