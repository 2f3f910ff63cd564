//! The routing table: from a method and a decoded path to the route that Starlette would choose.
//!
//! Invariant: the winner is the first *declared* route whose pattern matches the path and whose methods allow
//! the request. A radix tree (matchit) finds one shape that fits the path, and with it the short list of routes,
//! in order of declaration, that can match any path of that shape; each is then asked itself. So the tree's own
//! idea of priority decides nothing. Deliberately absent: hosts, mounts, root paths, the meaning of parameters.

#![forbid(unsafe_code)]

mod pattern;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
};

use thiserror::Error;

use super::{head::Method, target::percent_encode};
use crate::{limits::ROUTES_MAX, span::Span};
use pattern::{Kind, Part, Pattern};

/// A route as the application declared it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// What the application calls it.
    pub id: u32,
    /// A pattern in Starlette's syntax.
    pub path: String,
    /// The methods it allows; none means all, as in Starlette.
    pub methods: Vec<String>,
}

/// Why a table cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("route {path:?}: {kind}")]
pub struct RouteError {
    /// The pattern at fault.
    pub path: String,
    /// What is wrong with it.
    pub kind: RouteErrorKind,
}

/// What is wrong with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RouteErrorKind {
    /// Starlette asserts the same.
    #[error("does not begin with '/'")]
    NotAbsolute,
    /// Not one of `str`, `path`, `int`, `float`, `uuid`.
    #[error("unknown convertor")]
    UnknownConvertor,
    /// Two parameters of one name.
    #[error("repeated parameter name")]
    RepeatedParam,
    /// More parameters than the limit.
    #[error("too many parameters")]
    TooManyParams,
    /// Too long to be compiled.
    #[error("too complex")]
    TooComplex,
    /// More routes than the limit.
    #[error("too many routes")]
    TooManyRoutes,
}

/// What a request is routed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A route; its parameters are in `params`, in the order of the pattern.
    Route {
        /// As declared.
        id: u32,
    },
    /// Patterns match, but none of their routes takes the method. 405 (RFC 9110 §15.5.6).
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: String,
    },
    /// OPTIONS on a path whose routes do not declare it. 200 without a body (RFC 9110 §9.3.7).
    Options {
        /// The value of `Allow`.
        allow: String,
    },
    /// Nothing matches, but the path with its last slash toggled would. 307 to [`redirect_location`].
    Redirect,
    /// 404.
    NotFound,
}

/// An immutable routing table, shared by all shards.
#[derive(Debug)]
pub struct Routes {
    routes: Vec<Route>,
    /// By `Method as usize`; `Other` is looked up by name.
    known: [Table; KNOWN_METHODS],
    other: HashMap<Vec<u8>, Table>,
    /// Routes that allow every method: for names that no route mentions.
    every: Table,
    /// All routes: what matches, whatever the method.
    any: Table,
    redirect_slashes: bool,
    /// The id for whatever no route takes.
    catch_all: Option<u32>,
}

#[derive(Debug)]
struct Route {
    id: u32,
    pattern: Pattern,
    /// Upper case, HEAD included where GET is; empty for all.
    methods: Vec<String>,
}

const KNOWN: [(Method, &str); KNOWN_METHODS] = [
    (Method::Get, "GET"),
    (Method::Head, "HEAD"),
    (Method::Post, "POST"),
    (Method::Put, "PUT"),
    (Method::Delete, "DELETE"),
    (Method::Connect, "CONNECT"),
    (Method::Options, "OPTIONS"),
    (Method::Trace, "TRACE"),
    (Method::Patch, "PATCH"),
];
const KNOWN_METHODS: usize = Method::Other as usize;
// The table of a known method stands at the method's own number.
const _: () = {
    let mut at = 0;
    while at < KNOWN.len() {
        assert!(KNOWN[at].0 as usize == at);
        at += 1;
    }
};

impl Routes {
    /// Builds the table. The order of `specs` is the order of declaration.
    ///
    /// # Errors
    /// The first pattern that Starlette would not take, or that exceeds a limit.
    pub fn new(specs: Vec<RouteSpec>, redirect_slashes: bool) -> Result<Self, RouteError> {
        let mut routes = Vec::with_capacity(specs.len().min(ROUTES_MAX));
        for spec in specs {
            let pattern = if routes.len() < ROUTES_MAX {
                Pattern::parse(&spec.path)
            } else {
                Err(RouteErrorKind::TooManyRoutes)
            };
            match pattern {
                Ok(pattern) => routes.push(Route::new(spec.id, pattern, spec.methods)),
                Err(kind) => return Err(RouteError { path: spec.path, kind }),
            }
        }
        let known_to_us = |name: &str| KNOWN.iter().any(|(_, known)| *known == name);
        let names: BTreeSet<_> =
            routes.iter().flat_map(|r| r.methods.iter().map(String::as_str)).collect();
        let table_of =
            |name: &str| Table::new(&routes, Cut::AfterSureMatch, |route| route.allows(name));
        let known = KNOWN.map(|(_, name)| table_of(name));
        let other = names
            .into_iter()
            .filter(|name| !known_to_us(name))
            .map(|name| (name.as_bytes().to_vec(), table_of(name)))
            .collect();
        let every = Table::new(&routes, Cut::AfterSureMatch, |route| route.methods.is_empty());
        let any = Table::new(&routes, Cut::Nowhere, |_| true);
        Ok(Self { routes, known, other, every, any, redirect_slashes, catch_all: None })
    }

    /// Sends what no route takes to this id: any method, any path, `*` too.
    #[must_use]
    pub fn catching_all(self, id: u32) -> Self {
        Self { catch_all: Some(id), ..self }
    }

    /// Routes a request by its percent-decoded path. `params` is cleared, and filled for [`Found::Route`]: spans
    /// relative to the start of `path`.
    pub fn find(
        &self,
        method: Method,
        method_name: &[u8],
        path: &[u8],
        params: &mut Vec<Span>,
    ) -> Found {
        let table = match self.known.get(method as usize) {
            Some(table) => table,
            None => self.other.get(method_name).unwrap_or(&self.every),
        };
        for route in self.candidates(table, path) {
            if route.pattern.matches(path, params) {
                return Found::Route { id: route.id };
            }
        }
        params.clear();
        match self.catch_all {
            Some(id) => Found::Route { id },
            None => self.explain(method, path),
        }
    }

    /// Why no route took the request.
    #[cold]
    fn explain(&self, method: Method, path: &[u8]) -> Found {
        let mut allowed = BTreeSet::new();
        let is_server_wide = method == Method::Options && path == b"*";
        if is_server_wide {
            allowed.extend(self.routes.iter().flat_map(|route| &route.methods));
        } else {
            let mut params = Vec::new();
            for route in self.candidates(&self.any, path) {
                if route.pattern.matches(path, &mut params) {
                    allowed.extend(&route.methods);
                }
            }
        }
        if !allowed.is_empty() || is_server_wide {
            let mut allow: BTreeSet<_> = allowed.into_iter().map(String::as_str).collect();
            allow.insert("OPTIONS");
            let allow = allow.into_iter().collect::<Vec<_>>().join(", ");
            return if method == Method::Options {
                Found::Options { allow }
            } else {
                Found::MethodNotAllowed { allow }
            };
        }
        if self.redirect_slashes && path != b"/" && self.matches_any(&toggle_slash(path)) {
            return Found::Redirect;
        }
        Found::NotFound
    }

    fn matches_any(&self, path: &[u8]) -> bool {
        let mut params = Vec::new();
        self.candidates(&self.any, path).any(|route| route.pattern.matches(path, &mut params))
    }

    /// The routes of a table that can match the path, in order of declaration.
    #[inline]
    fn candidates<'a>(&'a self, table: &'a Table, path: &[u8]) -> impl Iterator<Item = &'a Route> {
        table.candidates(path).iter().filter_map(|&at| self.routes.get(at as usize))
    }
}

impl Route {
    fn new(id: u32, pattern: Pattern, methods: Vec<String>) -> Self {
        let mut methods: Vec<_> = methods.into_iter().map(|m| m.to_uppercase()).collect();
        if methods.iter().any(|m| m == "GET") {
            methods.push("HEAD".to_owned());
        }
        Self { id, pattern, methods }
    }

    fn allows(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|m| m == method)
    }
}

/// Where a list of candidates may end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Behind the first route that matches every path of the shape: what follows can never win.
    AfterSureMatch,
    Nowhere,
}

/// The routes that share a method.
#[derive(Debug)]
struct Table {
    /// From a shape to the routes that overlap with it, in order of declaration.
    tree: matchit::Router<Box<[u32]>>,
    /// Routes that the tree cannot hold: the only candidates for a path that fits no shape.
    irregular: Box<[u32]>,
}

impl Table {
    fn new(routes: &[Route], cut: Cut, belongs: impl Fn(&Route) -> bool) -> Self {
        // Indices are below ROUTES_MAX.
        let members: Vec<(u32, &Route)> =
            (0_u32..).zip(routes).filter(|(_, route)| belongs(route)).collect();
        let neighbours = Neighbours::new(&members);
        let mut tree = matchit::Router::new();
        let mut irregular = Vec::new();
        // Whether the tree holds the shape.
        let mut shapes: HashMap<String, bool> = HashMap::new();
        for &(index, route) in &members {
            let Some(parts) = route.pattern.regular_parts() else {
                irregular.push(index);
                continue;
            };
            for shape in shapes_of(parts) {
                let is_held = shapes.entry(shape).or_insert_with_key(|shape| {
                    let list = neighbours.candidates(index, &route.pattern, cut);
                    tree.insert(shape, list).is_ok()
                });
                // A route of a shape that the tree has no room for is asked like an irregular one.
                if !*is_held {
                    irregular.push(index);
                }
            }
        }
        irregular.dedup();
        Self { tree, irregular: irregular.into() }
    }

    #[inline]
    fn candidates(&self, path: &[u8]) -> &[u32] {
        // A path that is not UTF-8 has the shape that it has with its odd bytes replaced.
        let text = match str::from_utf8(path) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(path),
        };
        self.tree.at(&text).map_or(&*self.irregular, |found| found.value)
    }
}

/// The members of a table by their first segment: comparing each with each took a minute for 10,000 routes.
struct Neighbours<'a> {
    all: &'a [(u32, &'a Route)],
    by_segment: HashMap<&'a str, Vec<(u32, &'a Route)>>,
    /// Those whose first segment holds a parameter: neighbours of everybody.
    open: Vec<(u32, &'a Route)>,
}

impl<'a> Neighbours<'a> {
    fn new(all: &'a [(u32, &'a Route)]) -> Self {
        let (mut by_segment, mut open) = (HashMap::<_, Vec<_>>::new(), Vec::new());
        for &(index, route) in all {
            match route.pattern.first_segment() {
                Some(segment) => by_segment.entry(segment).or_default().push((index, route)),
                None => open.push((index, route)),
            }
        }
        Self { all, by_segment, open }
    }

    /// The routes that can match a path of this pattern's shape, in order of declaration.
    fn candidates(&self, own: u32, pattern: &Pattern, cut: Cut) -> Box<[u32]> {
        let near: Cow<'_, [(u32, &Route)]> = match pattern.first_segment() {
            None => self.all.into(),
            Some(segment) => {
                let same = self.by_segment.get(segment).map_or(&[][..], Vec::as_slice);
                let mut near = [same, &self.open].concat();
                near.sort_unstable_by_key(|(index, _)| *index);
                near.into()
            }
        };
        let mut list = Vec::new();
        for &(index, route) in near.iter() {
            if !route.pattern.may_match_shape_of(pattern) {
                continue;
            }
            list.push(index);
            if cut == Cut::AfterSureMatch && index == own && pattern.is_unconditional() {
                break;
            }
        }
        list.into()
    }
}

/// A regular pattern in matchit's syntax, types forgotten. A path parameter may be empty for Starlette but not
/// for matchit, so it takes two.
fn shapes_of(parts: &[Part]) -> Vec<String> {
    let mut shape = String::new();
    for part in parts {
        match part {
            Part::Literal(text) => shape.push_str(&text.replace('{', "{{").replace('}', "}}")),
            Part::Param(Kind::Path) => return vec![format!("{shape}{{*p}}"), shape],
            Part::Param(_) => shape.push_str("{p}"),
        }
    }
    vec![shape]
}

/// The path as Starlette's `redirect_slashes` would have it: without its trailing slashes, or with one.
fn toggle_slash(path: &[u8]) -> Vec<u8> {
    if path.ends_with(b"/") {
        let kept = path.iter().rposition(|&b| b != b'/').map_or(0, |last| last + 1);
        path.get(..kept).unwrap_or_default().to_vec()
    } else {
        [path, b"/"].concat()
    }
}

/// Appends the `Location` of a [`Found::Redirect`]: the raw path with its last slash toggled, and the query.
///
/// It is a path of this origin whatever the client sent: `//host/` and `/\host/` would lead to another one.
pub fn redirect_location(raw_path: &[u8], query: &[u8], out: &mut Vec<u8>) {
    let mut path = raw_path;
    let mut had_slash = false;
    while let Some(rest) = path
        .strip_suffix(b"/")
        .or_else(|| path.strip_suffix(b"%2F"))
        .or_else(|| path.strip_suffix(b"%2f"))
    {
        path = rest;
        had_slash = true;
    }
    if path.starts_with(b"//") {
        // RFC 3986 §5.2.4 takes the dot away again, after the reference was found to have no authority.
        out.extend_from_slice(b"/.");
    }
    for &byte in path {
        // RFC 3986 has no place for these; browsers read the backslash as a slash.
        if br#""<>\^`{|}"#.contains(&byte) {
            percent_encode(byte, out);
        } else {
            out.push(byte);
        }
    }
    if !had_slash {
        out.push(b'/');
    }
    if !query.is_empty() {
        out.push(b'?');
        out.extend_from_slice(query);
    }
}
