//! Header fields that the edge adds to responses, whoever makes those: the operator's, and what there is to say about TLS and
//! HTTP/3.
//!
//! Invariant: a field that the application has given itself stays as it is and stays alone. Names are in lower case, as HTTP/2
//! wants them. Deliberately absent: `date` and `server`, which the engines add.

use super::TlsOptions;
use crate::{
    proto::head::ResponseHead,
    span::{Field, Span},
};

const HSTS: &str = "strict-transport-security";
const ALT_SVC: &str = "alt-svc";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OwnFields {
    /// Of every response.
    always: Vec<(String, String)>,
    /// The value of Strict-Transport-Security.
    hsts: Option<Vec<u8>>,
    /// The value of Alt-Svc.
    alt_svc: Option<Vec<u8>>,
}

impl OwnFields {
    pub(super) fn new(always: Vec<(String, String)>, tls: Option<&TlsOptions>) -> Self {
        let age = tls.and_then(|tls| tls.hsts_max_age);
        Self {
            always,
            hsts: age.map(|age| format!("max-age={age}").into_bytes()),
            alt_svc: tls.and_then(|tls| tls.alt_svc.clone()).map(String::into_bytes),
        }
    }

    /// Those for a response on a connection that is secure or not (RFC 6797 §7.1), over HTTP/3 or to somebody who may not
    /// have found it (RFC 7838).
    pub(super) fn of(&self, secure: bool, http3: bool) -> impl Iterator<Item = (&str, &[u8])> {
        let always = self.always.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let hsts = self.hsts.as_deref().filter(|_| secure).map(|value| (HSTS, value));
        let alt_svc = self.alt_svc.as_deref().filter(|_| secure && !http3);
        always.chain(hsts).chain(alt_svc.map(|value| (ALT_SVC, value)))
    }
}

/// True when the application has given this field itself (RFC 6797 §7.1: at most one).
fn gives(head: &ResponseHead<'_>, name: &str) -> bool {
    let mut names = head.fields.iter().filter_map(|field| field.name.of(head.blob));
    names.any(|given| given.eq_ignore_ascii_case(name.as_bytes()))
}

/// Adds a field of ours to a head that was just encoded as HTTP/1.1.
pub(super) fn add_field(head: &ResponseHead<'_>, (name, value): (&str, &[u8]), out: &mut Vec<u8>) {
    if gives(head, name) {
        return;
    }
    // In front of the empty line.
    out.truncate(out.len().saturating_sub(2));
    for part in [name.as_bytes(), b": ", value, b"\r\n\r\n"] {
        out.extend_from_slice(part);
    }
}

/// A head with more fields; `None` if there are none.
pub(super) fn with_fields<'a>(
    head: &ResponseHead<'_>,
    ours: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Option<(Vec<u8>, Vec<Field>)> {
    let mut more = None;
    for (name, value) in ours.filter(|(name, _)| !gives(head, name)) {
        let (blob, fields) = more.get_or_insert_with(|| (head.blob.to_vec(), head.fields.to_vec()));
        let at = blob.len();
        blob.extend_from_slice(name.as_bytes());
        blob.extend_from_slice(value);
        let name_span = Span::new(at, name.len())?;
        fields.push(Field { name: name_span, value: Span::new(at + name.len(), value.len())? });
    }
    more
}
