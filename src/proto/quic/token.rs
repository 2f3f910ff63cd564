//! Retry tokens: what a client shows to prove that it receives what is sent to its address (RFC 9000 §8.1.2, §8.1.4).
//!
//! ```text
//!   0         12                                       n-16      n
//!   ┌─────────┬────────────────────────────────────────┬─────────┐
//!   │ nonce   │ AES-128-GCM: expiry in ms, original id  │ tag     │
//!   └─────────┴────────────────────────────────────────┴─────────┘
//! ```
//!
//! Invariant: a token opens only for the address and the connection id that it was made for, and not after its time; so one
//! that was seen on the wire opens nothing but the connection that it was for. Deliberately absent: tokens for later
//! connections (NEW_TOKEN), which quiche does not send.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use boring::{
    error::ErrorStack,
    rand::rand_bytes,
    symm::{Cipher, decrypt_aead, encrypt_aead},
};

use super::{Id, Keys, id::ID_SIZE};
use crate::limits::QUIC_TOKEN_LIFETIME;

const NONCE_SIZE: usize = 12;
const TAG_SIZE: usize = 16;
const EXPIRY_SIZE: usize = 8;

/// Address, port, and the id of the Retry.
const BOUND_SIZE: usize = 16 + 2 + ID_SIZE;

fn bound_to(client: SocketAddr, id: &Id) -> [u8; BOUND_SIZE] {
    let mut bound = [0; BOUND_SIZE];
    let address = match client.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    bound[..16].copy_from_slice(&address.octets());
    bound[16..18].copy_from_slice(&client.port().to_be_bytes());
    bound[18..].copy_from_slice(id);
    bound
}

impl Keys {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }

    /// For the Retry that gives the client `id`, and the id that its first Initial had.
    pub(super) fn seal(
        &self,
        client: SocketAddr,
        id: &Id,
        original: &[u8],
        now: Instant,
    ) -> Result<Vec<u8>, ErrorStack> {
        let expiry = (self.age(now) + QUIC_TOKEN_LIFETIME).as_millis();
        let expiry = u64::try_from(expiry).unwrap_or(u64::MAX);
        let mut plain = expiry.to_be_bytes().to_vec();
        plain.extend_from_slice(original);
        let (mut nonce, mut tag) = ([0; NONCE_SIZE], [0; TAG_SIZE]);
        rand_bytes(&mut nonce)?;
        let bound = bound_to(client, id);
        let cipher = Cipher::aes_128_gcm();
        let sealed = encrypt_aead(cipher, &self.token, Some(&nonce), &bound, &plain, &mut tag)?;
        Ok([&nonce[..], &sealed, &tag].concat())
    }

    /// The id that the client's first Initial had, if the token is ours, for this client and this id, and not too old.
    pub(super) fn open(
        &self,
        client: SocketAddr,
        id: &[u8],
        token: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let id: &Id = id.try_into().ok()?;
        let (nonce, rest) = token.split_at_checked(NONCE_SIZE)?;
        let (sealed, tag) = rest.split_at_checked(rest.len().checked_sub(TAG_SIZE)?)?;
        let bound = bound_to(client, id);
        let cipher = Cipher::aes_128_gcm();
        let mut plain = decrypt_aead(cipher, &self.token, Some(nonce), &bound, sealed, tag).ok()?;
        let expiry = u64::from_be_bytes(plain.get(..EXPIRY_SIZE)?.try_into().ok()?);
        (self.age(now).as_millis() <= u128::from(expiry)).then(|| plain.split_off(EXPIRY_SIZE))
    }
}
