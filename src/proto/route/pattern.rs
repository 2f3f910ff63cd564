//! One route pattern in Starlette's syntax, and whether a path matches it.
//!
//! Invariant: a pattern matches what Starlette's `compile_path` makes match, byte for byte of the decoded path,
//! with two corners cut: `$` is the end of the path and not also the place before a last newline, and a path that
//! is not UTF-8 is matched as it is. Deliberately absent: what a parameter means; types only narrow a match.

use std::fmt::Write as _;

use memchr::memchr;
use regex::bytes::Regex;

use super::RouteErrorKind;
use crate::{limits::ROUTE_PARAMS_MAX, span::Span};

/// Starlette's convertors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Str,
    Path,
    Int,
    Float,
    Uuid,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        match name {
            "str" => Some(Self::Str),
            "path" => Some(Self::Path),
            "int" => Some(Self::Int),
            "float" => Some(Self::Float),
            "uuid" => Some(Self::Uuid),
            _ => None,
        }
    }

    /// Starlette's regular expressions; classes and the dot are over bytes.
    pub(super) const fn regex(self) -> &'static str {
        match self {
            Self::Str => "[^/]+",
            Self::Path => ".*",
            Self::Int => "[0-9]+",
            Self::Float => r"[0-9]+(?:\.[0-9]+)?",
            Self::Uuid => {
                "[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}"
            }
        }
    }

    /// True when the whole of `value`, a segment or (for a path) the rest of the path, is such a parameter.
    fn accepts(self, value: &[u8]) -> bool {
        let is_number = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        match self {
            Self::Str => !value.is_empty(),
            // The dot of `.*` stops at a newline.
            Self::Path => memchr(b'\n', value).is_none(),
            Self::Int => is_number(value),
            Self::Float => match memchr(b'.', value).and_then(|at| value.split_at_checked(at)) {
                Some((whole, fraction)) => is_number(whole) && is_number(&fraction[1..]),
                None => is_number(value),
            },
            Self::Uuid => is_uuid(value),
        }
    }
}

/// Thirty-two hexadecimal digits in groups, a dash between two groups or not.
fn is_uuid(value: &[u8]) -> bool {
    let mut rest = value;
    for (index, group) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix(b"-").unwrap_or(rest);
        }
        match rest.split_at_checked(group) {
            Some((digits, tail)) if digits.iter().all(u8::is_ascii_hexdigit) => rest = tail,
            _ => return false,
        }
    }
    rest.is_empty()
}

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Literal(String),
    Param(Kind),
}

/// A pattern that can be matched.
#[derive(Debug)]
pub(super) struct Pattern {
    parts: Vec<Part>,
    /// Only for a pattern in which a parameter is not a whole segment (or, for a path, the whole rest).
    regex: Option<Regex>,
}

impl Pattern {
    /// The first segment where it is a literal: every path that matches begins with it. `None` where a parameter is
    /// part of it.
    pub(super) fn first_segment(&self) -> Option<&str> {
        let Some(Part::Literal(text)) = self.parts.first() else { return None };
        let rest = text.strip_prefix('/')?;
        match rest.split_once('/') {
            Some((segment, _)) => Some(segment),
            None => (self.parts.len() == 1).then_some(rest),
        }
    }

    pub(super) fn parse(path: &str) -> Result<Self, RouteErrorKind> {
        if !path.starts_with('/') {
            return Err(RouteErrorKind::NotAbsolute);
        }
        let parts = parse_parts(path)?;
        let regex = if is_regular(&parts) {
            None
        } else {
            Some(Regex::new(&to_regex(&parts)).map_err(|_| RouteErrorKind::TooComplex)?)
        };
        Ok(Self { parts, regex })
    }

    /// The parts, if every parameter is a whole segment or the whole rest: what a radix tree can hold.
    pub(super) fn regular_parts(&self) -> Option<&[Part]> {
        self.regex.is_none().then_some(&self.parts)
    }

    /// True if the pattern matches every path that matches a pattern of the same shape.
    pub(super) fn is_unconditional(&self) -> bool {
        self.regex.is_none()
            && self.parts.iter().all(|p| matches!(p, Part::Literal(_) | Part::Param(Kind::Str)))
    }

    /// Matches the whole path; leaves the parameters' places in `params`.
    pub(super) fn matches(&self, path: &[u8], params: &mut Vec<Span>) -> bool {
        params.clear();
        let matched = match &self.regex {
            None => self.match_parts(path, params),
            Some(regex) => match_regex(regex, path, params),
        };
        matched.is_some()
    }

    fn match_parts(&self, path: &[u8], params: &mut Vec<Span>) -> Option<()> {
        let mut rest = path;
        for part in &self.parts {
            match part {
                Part::Literal(text) => rest = rest.strip_prefix(text.as_bytes())?,
                Part::Param(kind) => {
                    let end = match kind {
                        Kind::Path => rest.len(),
                        _ => memchr(b'/', rest).unwrap_or(rest.len()),
                    };
                    let (value, tail) = rest.split_at_checked(end)?;
                    if !kind.accepts(value) {
                        return None;
                    }
                    params.push(Span::new(path.len() - rest.len(), end)?);
                    rest = tail;
                }
            }
        }
        rest.is_empty().then_some(())
    }

    /// False only if no path matches both this pattern and the *shape* of the other, in which every parameter
    /// takes any segment.
    pub(super) fn may_match_shape_of(&self, other: &Self) -> bool {
        // Most pairs part here, which keeps building a large table cheap.
        if let (Some(Part::Literal(a)), Some(Part::Literal(b))) =
            (self.parts.first(), other.parts.first())
        {
            let common = a.len().min(b.len());
            if a.as_bytes().get(..common) != b.as_bytes().get(..common) {
                return false;
            }
        }
        let mut ours = segments(&self.parts);
        let mut theirs = segments(&other.parts).map(|segment| match segment {
            Segment::Param(_) => Segment::Param(Kind::Str),
            as_it_is => as_it_is,
        });
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(Segment::Tail), _) | (_, Some(Segment::Tail)) => return true,
                (Some(a), Some(b)) if a.may_overlap(b) => {}
                _ => return false,
            }
        }
    }
}

fn match_regex(regex: &Regex, path: &[u8], params: &mut Vec<Span>) -> Option<()> {
    let captures = regex.captures(path)?;
    for group in captures.iter().skip(1) {
        let group = group?;
        params.push(Span::new(group.start(), group.len())?);
    }
    Some(())
}

/// One segment of a pattern, as far as overlaps are concerned.
#[derive(Clone, Copy)]
enum Segment<'a> {
    Literal(&'a str),
    Param(Kind),
    /// Literals and parameters mixed.
    Any,
    /// Holds a path parameter: from here on anything may come.
    Tail,
}

impl Segment<'_> {
    fn may_overlap(self, other: Self) -> bool {
        match (self, other) {
            (Self::Literal(a), Self::Literal(b)) => a == b,
            (Self::Literal(text), Self::Param(kind)) | (Self::Param(kind), Self::Literal(text)) => {
                kind.accepts(text.as_bytes())
            }
            _ => true,
        }
    }
}

/// The segments between slashes. A literal may hold several; a parameter belongs to the one it stands in.
fn segments(parts: &[Part]) -> impl Iterator<Item = Segment<'_>> {
    let mut parts = parts.iter();
    let mut literal: Option<&str> = None;
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut segment: Option<Segment<'_>> = None;
        loop {
            let Some(text) = literal.take() else {
                match parts.next() {
                    Some(Part::Literal(text)) => literal = Some(text),
                    Some(Part::Param(kind)) => {
                        segment = Some(match (segment, kind) {
                            (_, Kind::Path) => Segment::Tail,
                            (None, kind) => Segment::Param(*kind),
                            (Some(Segment::Tail), _) => Segment::Tail,
                            (Some(_), _) => Segment::Any,
                        });
                    }
                    None => {
                        ended = true;
                        return Some(segment.unwrap_or(Segment::Literal("")));
                    }
                }
                continue;
            };
            let (head, tail) = match text.split_once('/') {
                Some((head, tail)) => (head, Some(tail)),
                None => (text, None),
            };
            segment = match (segment, head) {
                (segment, "") => segment,
                (None, head) => Some(Segment::Literal(head)),
                (Some(Segment::Tail), _) => Some(Segment::Tail),
                (Some(_), _) => Some(Segment::Any),
            };
            if let Some(tail) = tail {
                literal = Some(tail);
                return Some(segment.unwrap_or(Segment::Literal("")));
            }
        }
    })
}

/// Starlette's grammar of a parameter: `{name}` or `{name:convertor}`, both identifiers. Braces that do not
/// fit it are literal.
fn parse_parts(path: &str) -> Result<Vec<Part>, RouteErrorKind> {
    let mut parts = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    let mut literal = String::new();
    let mut rest = path;
    while let Some(open) = rest.find('{') {
        let (before, from_brace) = rest.split_at(open);
        literal.push_str(before);
        let Some((name, kind, after)) = parse_param(from_brace) else {
            literal.push('{');
            rest = from_brace.strip_prefix('{').unwrap_or_default();
            continue;
        };
        if names.contains(&name) {
            return Err(RouteErrorKind::RepeatedParam);
        }
        names.push(name);
        if names.len() > ROUTE_PARAMS_MAX {
            return Err(RouteErrorKind::TooManyParams);
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal)));
        }
        parts.push(Part::Param(Kind::named(kind).ok_or(RouteErrorKind::UnknownConvertor)?));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

fn parse_param(from_brace: &str) -> Option<(&str, &str, &str)> {
    let (inner, after) = from_brace.strip_prefix('{')?.split_once('}')?;
    let (name, kind) = inner.split_once(':').unwrap_or((inner, "str"));
    let is_identifier = |s: &str| {
        let mut bytes = s.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    (is_identifier(name) && is_identifier(kind)).then_some((name, kind, after))
}

fn is_regular(parts: &[Part]) -> bool {
    parts.iter().enumerate().all(|(at, part)| match part {
        Part::Literal(_) => true,
        Part::Param(kind) => {
            let before = at.checked_sub(1).and_then(|at| parts.get(at));
            let after = parts.get(at + 1);
            let begins = matches!(before, Some(Part::Literal(text)) if text.ends_with('/'));
            let ends = match after {
                None => true,
                Some(Part::Literal(text)) => *kind != Kind::Path && text.starts_with('/'),
                Some(Part::Param(_)) => false,
            };
            begins && ends
        }
    })
}

/// The expression that Starlette compiles.
pub(super) fn to_regex(parts: &[Part]) -> String {
    let mut pattern = String::from("(?-u)^");
    for part in parts {
        match part {
            Part::Literal(text) => {
                for byte in text.bytes() {
                    // Infallible: the target is a String.
                    let _ = write!(pattern, r"\x{byte:02x}");
                }
            }
            Part::Param(kind) => {
                let _ = write!(pattern, "({})", kind.regex());
            }
        }
    }
    pattern.push('$');
    pattern
}

#[cfg(test)]
impl Pattern {
    /// The same pattern, matched by nothing but the expression that Starlette compiles.
    pub(super) fn reference(path: &str) -> Option<Self> {
        let parts = parse_parts(path).ok()?;
        let regex = Regex::new(&to_regex(&parts)).ok()?;
        Some(Self { parts, regex: Some(regex) })
    }
}
