//! From a request to open a WebSocket to what its 101 says, RFC 6455 §4.2 and RFC 7692 §7.1.
//!
//! Invariant: an [`Upgrade`] exists only for a request that may be answered with 101, and never answers with a
//! subprotocol or an extension that was not offered. Deliberately absent: Origin, which is the application's to judge.

#![forbid(unsafe_code)]

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

use super::{
    BadUpgrade,
    deflate::{Deflate, WINDOW_BITS_MAX},
};
use crate::proto::{
    error::BadResponse,
    field::{is_token, list, parse_length, trim},
    head::{BodyLength, Method, RequestHead, ResponseHead, Version},
};

/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// RFC 6455 §4.2.1: what a key decodes to.
const KEY_SIZE: usize = 16;
/// zlib cannot use the window of 256 bytes that RFC 7692 §7.1.2.1 allows to ask for.
const WINDOW_BITS_MIN: u8 = 9;

/// What the server wants of permessage-deflate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeflatePolicy {
    /// Messages may refer to earlier ones, either way, unless the client forbids it. Compresses similar small messages far
    /// better, and costs each open WebSocket some 420 KiB.
    pub context_takeover: bool,
}

/// A request that may be answered with 101.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The answer to the key; `None` for extended CONNECT, which has neither.
    accept: Option<String>,
    /// Offered by the client, in its order.
    subprotocols: Vec<Vec<u8>>,
    deflate: Option<Deflate>,
}

/// What a request says of WebSockets: `None` if it does not ask for one, or asks in a way that HTTP has a server ignore
/// (RFC 9110 §7.8). `policy` is `None` where no message is to be compressed.
///
/// # Errors
/// A [`BadUpgrade`] is answered by the edge.
pub fn handshake(
    head: &RequestHead,
    policy: Option<DeflatePolicy>,
) -> Result<Option<Upgrade>, BadUpgrade> {
    let asks = |field: &[u8], option: &[u8]| {
        values(head, field).flat_map(list).any(|element| element.eq_ignore_ascii_case(option))
    };
    if head.version != Version::Http11
        || !asks(b"connection", b"upgrade")
        || !asks(b"upgrade", b"websocket")
    {
        return Ok(None);
    }
    if head.method != Method::Get {
        return Err(BadUpgrade::Method);
    }
    if head.body != BodyLength::Empty {
        return Err(BadUpgrade::Body);
    }
    if only(head, b"sec-websocket-version") != Some(b"13") {
        return Err(BadUpgrade::Version);
    }
    let key = only(head, b"sec-websocket-key").ok_or(BadUpgrade::Key)?;
    let mut decoded = [0; KEY_SIZE + 2];
    if STANDARD.decode_slice(key, &mut decoded) != Ok(KEY_SIZE) {
        return Err(BadUpgrade::Key);
    }
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    Ok(Some(Upgrade {
        accept: Some(STANDARD.encode(digest)),
        subprotocols: subprotocols(head)?,
        deflate: deflate(head, policy)?,
    }))
}

/// As [`handshake`], for extended CONNECT (RFC 8441 §5, RFC 9220 §3), read as the GET that it stands for: there are no key, no
/// Upgrade and no Connection.
///
/// # Errors
/// A [`BadUpgrade`] is answered by the edge.
pub fn extended_handshake(
    head: &RequestHead,
    policy: Option<DeflatePolicy>,
) -> Result<Upgrade, BadUpgrade> {
    if only(head, b"sec-websocket-version") != Some(b"13") {
        return Err(BadUpgrade::Version);
    }
    Ok(Upgrade { accept: None, subprotocols: subprotocols(head)?, deflate: deflate(head, policy)? })
}

impl Upgrade {
    /// permessage-deflate as the 101 confirms it.
    pub const fn deflate(&self) -> Option<Deflate> {
        self.deflate
    }

    /// The fields of the 101 that are not the application's to write.
    ///
    /// # Errors
    /// The application's own fields name more than one subprotocol, or one that was not offered (RFC 6455 §4.2.2).
    pub fn accept(
        &self,
        head: &ResponseHead<'_>,
    ) -> Result<Vec<(&'static str, String)>, BadResponse> {
        let mut chosen = head.fields.iter().filter(|field| {
            let name = field.name.of(head.blob).unwrap_or_default();
            name.eq_ignore_ascii_case(b"sec-websocket-protocol")
        });
        if let Some(field) = chosen.next() {
            let subprotocol = field.value.of(head.blob).unwrap_or_default();
            if !self.subprotocols.iter().any(|offered| offered == subprotocol) {
                return Err(BadResponse::Subprotocol);
            }
        }
        if chosen.next().is_some() {
            return Err(BadResponse::Subprotocol);
        }
        let mut fields = Vec::new();
        if let Some(accept) = &self.accept {
            fields.push(("connection", "Upgrade".to_owned()));
            fields.push(("upgrade", "websocket".to_owned()));
            fields.push(("sec-websocket-accept", accept.clone()));
        }
        if let Some(deflate) = self.deflate {
            fields.push(("sec-websocket-extensions", confirmation(deflate)));
        }
        Ok(fields)
    }
}

fn values<'a>(head: &'a RequestHead, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let named = head.fields.iter().filter(move |field| head.bytes(field.name) == name);
    named.map(|field| head.bytes(field.value))
}

/// The value of a field that is there once.
fn only<'a>(head: &'a RequestHead, name: &[u8]) -> Option<&'a [u8]> {
    let mut values = values(head, name);
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

fn subprotocols(head: &RequestHead) -> Result<Vec<Vec<u8>>, BadUpgrade> {
    let mut offered: Vec<Vec<u8>> = Vec::new();
    for value in values(head, b"sec-websocket-protocol") {
        for name in list(value).filter(|name| !name.is_empty()) {
            if !is_token(name) || offered.iter().any(|other| other == name) {
                return Err(BadUpgrade::Subprotocol);
            }
            offered.push(name.to_vec());
        }
    }
    Ok(offered)
}

/// The first offer that can be met. All are read: one that is malformed fails the handshake.
fn deflate(
    head: &RequestHead,
    policy: Option<DeflatePolicy>,
) -> Result<Option<Deflate>, BadUpgrade> {
    let mut met = None;
    for value in values(head, b"sec-websocket-extensions") {
        for extension in list(value).filter(|extension| !extension.is_empty()) {
            let mut parts = extension.split(|&byte| byte == b';').map(trim);
            let name = parts.next().filter(|name| is_token(name)).ok_or(BadUpgrade::Extension)?;
            let mut offer = (name == b"permessage-deflate").then(Offer::default);
            for part in parts {
                let param = param(part).ok_or(BadUpgrade::Extension)?;
                offer = offer.and_then(|offer| offer.with(param));
            }
            met = met.or_else(|| Some(offer?.meet(policy?)));
        }
    }
    Ok(met)
}

/// RFC 6455 §9.1: `token [ "=" ( token / quoted-string ) ]`, where what is quoted is a token as well.
fn param(part: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let Some(at) = part.iter().position(|&byte| byte == b'=') else {
        return is_token(part).then_some((part, None));
    };
    let (name, value) = (trim(part.get(..at)?), trim(part.get(at + 1..)?));
    let value = match value {
        [b'"', quoted @ .., b'"'] => quoted,
        bare => bare,
    };
    (is_token(name) && is_token(value)).then_some((name, Some(value)))
}

/// One offer of permessage-deflate; each parameter at most once.
#[derive(Clone, Copy, Default)]
struct Offer {
    server_no_takeover: bool,
    client_no_takeover: bool,
    server_window_bits: Option<u8>,
    client_window_bits: Option<u8>,
}

impl Offer {
    /// RFC 7692 §7.1: `None` declines an offer with a parameter that is unknown, repeated, or has a wrong value.
    fn with(mut self, (name, value): (&[u8], Option<&[u8]>)) -> Option<Self> {
        let is_new = match (name, value) {
            (b"server_no_context_takeover", None) => {
                !std::mem::replace(&mut self.server_no_takeover, true)
            }
            (b"client_no_context_takeover", None) => {
                !std::mem::replace(&mut self.client_no_takeover, true)
            }
            (b"server_max_window_bits", Some(value)) => {
                let bits = window_bits(value).filter(|bits| *bits >= WINDOW_BITS_MIN)?;
                self.server_window_bits.replace(bits).is_none()
            }
            // A smaller window than ours inflates just as well, so the answer says nothing of it.
            (b"client_max_window_bits", value) => {
                let bits = value.map_or(Some(WINDOW_BITS_MAX), window_bits)?;
                self.client_window_bits.replace(bits).is_none()
            }
            _ => false,
        };
        is_new.then_some(self)
    }

    fn meet(self, policy: DeflatePolicy) -> Deflate {
        Deflate {
            server_takeover: policy.context_takeover && !self.server_no_takeover,
            client_takeover: policy.context_takeover && !self.client_no_takeover,
            server_window_bits: self.server_window_bits.unwrap_or(WINDOW_BITS_MAX),
        }
    }
}

/// RFC 7692 §7.1.2: 8-15, without leading zeros.
fn window_bits(value: &[u8]) -> Option<u8> {
    let bits = parse_length(value).filter(|_| !value.starts_with(b"0"))?;
    u8::try_from(bits).ok().filter(|bits| (8..=WINDOW_BITS_MAX).contains(bits))
}

/// RFC 7692 §7.1.1: a server may forbid context takeover to either side unasked; §7.1.2.1: a window only if asked.
fn confirmation(deflate: Deflate) -> String {
    let mut answer = String::from("permessage-deflate");
    if !deflate.server_takeover {
        answer.push_str("; server_no_context_takeover");
    }
    if !deflate.client_takeover {
        answer.push_str("; client_no_context_takeover");
    }
    if deflate.server_window_bits < WINDOW_BITS_MAX {
        answer.push_str("; server_max_window_bits=");
        answer.push_str(&deflate.server_window_bits.to_string());
    }
    answer
}
