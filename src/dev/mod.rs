//! `ate dev`: every component on one machine, supervised.
