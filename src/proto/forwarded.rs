//! Who sent a request that came through proxies: X-Forwarded-For and X-Forwarded-Proto, as far as those who wrote them are
//! trusted.
//!
//! Invariant: what a client writes itself is never believed: the list of addresses is read from its end, where our own
//! neighbour stands, and no further than the first address that the operator does not vouch for. Deliberately absent:
//! RFC 7239's Forwarded, which common proxies do not write unless told to, and would pass on from a client.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use super::head::RequestHead;

const FOR: &[u8] = b"x-forwarded-for";
const PROTO: &[u8] = b"x-forwarded-proto";

/// The proxies that are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    /// Addresses, and how many leading bits of them count.
    pub networks: Vec<(IpAddr, u8)>,
    /// Whoever can reach a Unix socket was let in by its permissions.
    pub unix: bool,
}

/// The other side of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client; port 0 where only its address is known; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// It speaks TLS.
    pub secure: bool,
}

impl Trusted {
    /// What to take for the origin of a request that `direct` sent.
    #[inline]
    pub fn origin(&self, head: &RequestHead, direct: Origin) -> Origin {
        if !self.trusts_peer(direct.peer) || !is_forwarded(head) {
            return direct;
        }
        Origin {
            peer: self.client(head).or(direct.peer),
            secure: is_secure(head).unwrap_or(direct.secure),
        }
    }

    fn trusts_peer(&self, peer: Option<SocketAddr>) -> bool {
        peer.map_or(self.unix, |peer| self.trusts(peer.ip()))
    }

    fn trusts(&self, address: IpAddr) -> bool {
        // `::ffff:127.0.0.1` is 127.0.0.1 on a socket for both families.
        let address = address.to_canonical();
        self.networks.iter().any(|(network, bits)| contains(*network, *bits, address))
    }

    /// The last address that no trusted proxy has, else the first of all.
    fn client(&self, head: &RequestHead) -> Option<SocketAddr> {
        let mut farthest = None;
        for value in values(head, FOR).rev() {
            for element in value.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                // Of what is behind `unknown`, or anything else that is no address, nobody knows who wrote it.
                let Some(address) = address(element) else { return farthest };
                farthest = Some(address);
                if !self.trusts(address.ip()) {
                    return farthest;
                }
            }
        }
        farthest
    }
}

fn is_forwarded(head: &RequestHead) -> bool {
    head.fields.iter().any(|field| {
        let name = head.bytes(field.name);
        name == FOR || name == PROTO
    })
}

fn values<'a>(
    head: &'a RequestHead,
    name: &'static [u8],
) -> impl DoubleEndedIterator<Item = &'a [u8]> {
    let named = head.fields.iter().filter(move |field| head.bytes(field.name) == name);
    named.map(|field| head.bytes(field.value))
}

/// One word says it; a list, or two fields, would leave open whose word counts.
fn is_secure(head: &RequestHead) -> Option<bool> {
    let mut values = values(head, PROTO);
    let (value, None) = (values.next()?, values.next()) else { return None };
    let is = |scheme: &str| value.eq_ignore_ascii_case(scheme.as_bytes());
    match () {
        () if is("https") || is("wss") => Some(true),
        () if is("http") || is("ws") => Some(false),
        () => None,
    }
}

/// An address, with or without a port, IPv6 with or without brackets.
fn address(element: &[u8]) -> Option<SocketAddr> {
    let text = str::from_utf8(element).ok()?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    Some(SocketAddr::new(bare.parse::<IpAddr>().ok()?.to_canonical(), 0))
}

fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let same = |ours: u128, theirs: u128, width: u32| {
        let rest = width.saturating_sub(bits.into());
        (ours ^ theirs).checked_shr(rest).unwrap_or(0) == 0
    };
    match (network, address) {
        (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
            same(ours.to_bits().into(), theirs.to_bits().into(), u32::BITS)
        }
        (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
            same(ours.to_bits(), theirs.to_bits(), u128::BITS)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::h1::{H1, Options, Step};

    fn trusted(networks: &[(&str, u8)]) -> Trusted {
        let networks = networks.iter().map(|(ip, bits)| (ip.parse().unwrap(), *bits)).collect();
        Trusted { networks, unix: true }
    }

    fn neighbours() -> Trusted {
        trusted(&[("127.0.0.1", 32), ("10.0.0.0", 8), ("fd00::", 8)])
    }

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let fields: String = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let text = format!("GET / HTTP/1.1\r\nhost: x\r\n{fields}\r\n");
        let mut head = RequestHead::default();
        let options = Options { body_size_max: 0 };
        let step = H1::new().decode(text.as_bytes(), &options, &mut head).unwrap();
        assert!(matches!(step, Step::Head { .. }));
        head
    }

    fn from(peer: &str, fields: &[(&str, &str)]) -> (String, bool) {
        let direct = Origin { peer: Some(peer.parse().unwrap()), secure: false };
        let origin = neighbours().origin(&head(fields), direct);
        (origin.peer.unwrap().to_string(), origin.secure)
    }

    fn client(forwarded_for: &str) -> String {
        from("127.0.0.1:99", &[("X-Forwarded-For", forwarded_for)]).0
    }

    #[test]
    fn a_stranger_is_who_he_is_whatever_he_says() {
        let said = [("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-Proto", "https")];
        assert_eq!(from("203.0.113.9:1000", &said), ("203.0.113.9:1000".into(), false));
        let nobody = Trusted::default();
        let direct = Origin { peer: None, secure: false };
        assert_eq!(nobody.origin(&head(&said), direct), direct);
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_a_trusted_proxy() {
        for (said, expected) in [
            ("203.0.113.7", "203.0.113.7:0"),
            ("203.0.113.7, 10.1.2.3", "203.0.113.7:0"),
            // What the client wrote itself comes first.
            ("127.0.0.1, 203.0.113.7,10.0.0.1", "203.0.113.7:0"),
            ("6.6.6.6, 203.0.113.7", "203.0.113.7:0"),
            ("10.0.0.1, 10.0.0.2", "10.0.0.1:0"),
            ("203.0.113.7:8080", "203.0.113.7:8080"),
            ("2001:db8::1", "[2001:db8::1]:0"),
            ("[2001:db8::1]", "[2001:db8::1]:0"),
            ("[2001:db8::1]:443, fd12::1", "[2001:db8::1]:443"),
            ("203.0.113.7, unknown", "127.0.0.1:99"),
            ("203.0.113.7, unknown, 10.0.0.1", "10.0.0.1:0"),
            ("", "127.0.0.1:99"),
            ("203.0.113.7,", "127.0.0.1:99"),
            ("1.2.3.4.5", "127.0.0.1:99"),
        ] {
            assert_eq!(client(said), expected, "{said:?}");
        }
        let lines = [("X-Forwarded-For", "6.6.6.6"), ("x-forwarded-for", "203.0.113.7, 10.0.0.1")];
        assert_eq!(from("127.0.0.1:1", &lines).0, "203.0.113.7:0");
    }

    #[test]
    fn the_scheme_is_one_word_or_as_the_connection_is() {
        for (said, expected) in [
            ("https", true),
            ("HTTPS", true),
            ("wss", true),
            ("http", false),
            ("ws", false),
            ("https, http", false),
            ("gopher", false),
            ("", false),
        ] {
            assert_eq!(from("127.0.0.1:1", &[("X-Forwarded-Proto", said)]).1, expected, "{said:?}");
        }
        let twice = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "https")];
        assert!(!from("127.0.0.1:1", &twice).1);
        let over_tls = Origin { peer: None, secure: true };
        let plain = neighbours().origin(&head(&[("x-forwarded-proto", "http")]), over_tls);
        assert!(!plain.secure);
        assert!(neighbours().origin(&head(&[("x-forwarded-for", "1.2.3.4")]), over_tls).secure);
    }

    #[test]
    fn a_unix_socket_speaks_for_its_clients() {
        let direct = Origin { peer: None, secure: false };
        let origin = neighbours().origin(&head(&[("X-Forwarded-For", "203.0.113.7")]), direct);
        assert_eq!(origin.peer, Some("203.0.113.7:0".parse().unwrap()));
        assert_eq!(neighbours().origin(&head(&[]), direct), direct);
    }

    #[test]
    fn networks_count_in_bits_and_by_family() {
        for (network, bits, inside, outside) in [
            ("10.0.0.0", 8, "10.255.0.1", "11.0.0.1"),
            ("192.0.2.128", 25, "192.0.2.255", "192.0.2.127"),
            ("192.0.2.1", 32, "192.0.2.1", "192.0.2.2"),
            ("192.0.2.1", 32, "::ffff:192.0.2.1", "::c000:201"),
            ("0.0.0.0", 0, "255.1.1.1", "::1"),
            ("::", 0, "2001:db8::1", "1.1.1.1"),
            ("fe80::", 10, "febf::1", "fec0::1"),
            ("::1", 128, "::1", "::2"),
        ] {
            let trusted = trusted(&[(network, bits)]);
            assert!(trusted.trusts(inside.parse().unwrap()), "{network}/{bits} {inside}");
            assert!(!trusted.trusts(outside.parse().unwrap()), "{network}/{bits} {outside}");
        }
    }
}
