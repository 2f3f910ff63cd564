//! Placeholder for the HTTP/1.1 engine, being written on its own branch.
/// Limits.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Largest body.
    pub body_size_max: u64,
}
