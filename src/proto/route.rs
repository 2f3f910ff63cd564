//! Placeholder for the routing table, being written on its own branch.
/// A routing table.
#[derive(Debug, Default)]
pub struct Routes {}
