//! Placeholder for the routing table, being written on its own branch.

use thiserror::Error;

/// A routing table.
#[derive(Debug, Default)]
pub struct Routes {}

/// One route, as a worker announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// Its number.
    pub id: u32,
    /// Its path template.
    pub path: String,
    /// Its methods.
    pub methods: Vec<String>,
}

/// Why there is no table.
#[derive(Debug, Error)]
#[error("route {0}: the path does not start with `/`")]
pub struct RouteError(String);

impl Routes {
    /// Placeholder.
    pub fn new(routes: Vec<RouteSpec>, _redirect_slashes: bool) -> Result<Self, RouteError> {
        match routes.into_iter().find(|route| !route.path.starts_with('/')) {
            Some(route) => Err(RouteError(route.path)),
            None => Ok(Self {}),
        }
    }
}
