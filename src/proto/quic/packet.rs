//! The part of a packet that is read before anybody knows whose it is (RFC 8999), and the answers that need no connection.
//!
//! Invariant: what is read lies within the datagram. Deliberately absent: everything that is encrypted.

use boring::{error::ErrorStack, rand::rand_bytes};
use quiche::ConnectionId;

use super::{Id, id::ID_SIZE};

/// A datagram with an Initial packet has at least so many bytes, and any other that is answered without a connection too
/// (RFC 9000 §14.1, §5.2.2).
pub(super) const INITIAL_SIZE_MIN: usize = 1200;
/// Shorter is no stateless reset (RFC 9000 §10.3).
const RESET_SIZE_MIN: usize = 21;
/// As long as a short packet; longer ones would only be heavier.
const RESET_SIZE_MAX: usize = 43;
const RESET_TOKEN_SIZE: usize = 16;
/// An id in version 1 (RFC 9000 §17.2).
const ID_SIZE_MAX: usize = 20;

/// The first packet of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// Its id is as long as those that we issue, or it is none of ours.
    Short {
        to: &'a Id,
    },
    Long(Long<'a>),
}

/// RFC 8999 §5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Long<'a> {
    first: u8,
    pub(super) version: u32,
    pub(super) to: &'a [u8],
    pub(super) from: &'a [u8],
    rest: &'a [u8],
}

/// RFC 9000 §17.2; to be asked only when the version is known to be 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
}

impl<'a> Packet<'a> {
    pub(super) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (&first, rest) = datagram.split_first()?;
        if first & 0x80 == 0 {
            let (to, _) = rest.split_first_chunk()?;
            return Some(Self::Short { to });
        }
        let (version, rest) = rest.split_first_chunk()?;
        let (to, rest) = prefixed(rest)?;
        let (from, rest) = prefixed(rest)?;
        Some(Self::Long(Long { first, version: u32::from_be_bytes(*version), to, from, rest }))
    }
}

fn prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(len.into())
}

impl<'a> Long<'a> {
    pub(super) fn is_supported(&self) -> bool {
        quiche::version_is_supported(self.version)
    }

    /// Of a version that is not ours ids may be longer.
    pub(super) fn ids_fit(&self) -> bool {
        self.to.len() <= ID_SIZE_MAX && self.from.len() <= ID_SIZE_MAX
    }

    pub(super) fn kind(&self) -> Type {
        match self.first >> 4 & 3 {
            0 => Type::Initial,
            1 => Type::ZeroRtt,
            2 => Type::Handshake,
            _ => Type::Retry,
        }
    }

    /// The token of an Initial (RFC 9000 §17.2.2), empty when it has none.
    pub(super) fn token(&self) -> Option<&'a [u8]> {
        let first = *self.rest.first()?;
        let (len, rest) = self.rest.split_at_checked(1 << (first >> 6))?;
        // RFC 9000 §16.
        let len = len.iter().fold(0, |len, byte| len << 8 | u64::from(*byte));
        let len = len & u64::MAX >> (8 * (8 - (1_usize << (first >> 6))) + 2);
        rest.get(..usize::try_from(len).ok()?)
    }
}

/// Longer than any answer.
const REPLY_SIZE_MAX: usize = 512;

/// To a packet of a version that we do not speak (RFC 9000 §6).
pub(super) fn version_negotiation(asked: &Long<'_>) -> Option<Vec<u8>> {
    // With two ids of 255 bytes it does not fit.
    let mut reply = vec![0; REPLY_SIZE_MAX + asked.to.len() + asked.from.len()];
    let (from, to) = (ConnectionId::from_ref(asked.from), ConnectionId::from_ref(asked.to));
    let len = quiche::negotiate_version(&from, &to, &mut reply).ok()?;
    reply.truncate(len);
    Some(reply)
}

/// Come back with this token, to this id (RFC 9000 §8.1.2).
pub(super) fn retry(asked: &Long<'_>, id: &Id, token: &[u8]) -> Option<Vec<u8>> {
    let mut reply = vec![0; REPLY_SIZE_MAX];
    let [from, to] = [asked.from, asked.to].map(ConnectionId::from_ref);
    let id = ConnectionId::from_ref(id);
    let len = quiche::retry(&from, &to, &id, token, asked.version, &mut reply).ok()?;
    reply.truncate(len);
    Some(reply)
}

/// To a packet of `len` bytes for a connection that is no more; `None` if there is no shorter one (RFC 9000 §10.3).
pub(super) fn stateless_reset(len: usize, token: u128) -> Result<Option<Vec<u8>>, ErrorStack> {
    let size = len.saturating_sub(1).min(RESET_SIZE_MAX);
    if size < RESET_SIZE_MIN {
        return Ok(None);
    }
    let mut reply = vec![0; size];
    rand_bytes(&mut reply)?;
    if let Some(first) = reply.first_mut() {
        // A short header, with the fixed bit.
        *first = *first & 0x3f | 0x40;
    }
    reply.truncate(size - RESET_TOKEN_SIZE);
    reply.extend(token.to_be_bytes());
    Ok(Some(reply))
}

const _: () = assert!(ID_SIZE <= ID_SIZE_MAX && RESET_SIZE_MIN > RESET_TOKEN_SIZE);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_header_is_read_in_any_version() {
        let mut bytes = vec![0xc3, 0x6b, 0x33, 0x43, 0xcf, 2, 1, 2, 3, 4, 5, 6];
        bytes.extend([0x40, 3, 9, 9, 9, 7]);
        let Some(Packet::Long(long)) = Packet::parse(&bytes) else { panic!("a long header") };
        assert_eq!((long.version, long.to, long.from), (0x6b33_43cf, &[1, 2][..], &[4, 5, 6][..]));
        assert_eq!((long.kind(), long.token()), (Type::Initial, Some(&[9, 9, 9][..])));
        assert!(!long.is_supported());
    }

    #[test]
    fn a_token_has_the_length_that_is_said() {
        let token = |rest| Long { first: 0xc0, version: 1, to: &[], from: &[], rest }.token();
        assert_eq!(token(&[0]), Some(&[][..]));
        assert_eq!(token(&[1, 7, 8]), Some(&[7][..]));
        assert_eq!(token(&[2, 7]), None);
        assert_eq!(token(&[]), None);
        assert_eq!(token(&[0x40]), None);
        assert_eq!(token(&[0x80, 0, 0, 1, 5]), Some(&[5][..]));
        assert_eq!(token(&[0xc0, 0, 0, 0, 0, 0, 0, 1, 5]), Some(&[5][..]));
        assert_eq!(token(&[0xff; 9]), None);
    }

    #[test]
    fn a_reset_is_shorter_than_what_it_answers() {
        for (len, size) in [(0, None), (21, None), (22, Some(21)), (43, Some(42)), (1200, Some(43))]
        {
            let reset = stateless_reset(len, 7).unwrap();
            assert_eq!(reset.as_ref().map(Vec::len), size);
            if let Some(reset) = reset {
                assert!(reset[0] & 0xc0 == 0x40 && reset.ends_with(&7_u128.to_be_bytes()));
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_within_their_bounds(bytes: Vec<u8>) {
            if let Some(Packet::Long(long)) = Packet::parse(&bytes) {
                let _ = (long.kind(), long.token());
                prop_assert!(version_negotiation(&long).is_some_and(|reply| reply.len() < 1100));
            }
        }
    }
}
