//! Connection ids: each says which shard has the connection, to us alone.
//!
//! ```text
//!   0        1                         9                    16
//!   ┌────────┬─────────────────────────┬────────────────────┐
//!   │ shard ⊕│ random                  │ HMAC(key, shard,   │
//!   │ mask   │                         │ random)            │
//!   └────────┴─────────────────────────┴────────────────────┘
//! ```
//!
//! Invariant: an id that verifies was issued by this process, and nobody who lacks the key can make one; so a packet with
//! any other unknown id is answered with nothing. The mask is a cheap keyed function of the random part, which the kernel
//! computes too ([`Keys::steering`]): it keeps two ids of one connection from looking alike to somebody who watches a client
//! change its network (RFC 9000 §9.5). It is an obstacle and no encryption; what it hides is which of a few shards.
//! Deliberately absent: which connection an id belongs to.

use std::time::Instant;

use boring::{error::ErrorStack, hash::hmac_sha256, memcmp, rand::rand_bytes};

/// Bytes of an id that we issue.
pub(super) const ID_SIZE: usize = 16;
const RANDOM_END: usize = 9;

/// A connection id that we issued.
pub type Id = [u8; ID_SIZE];

/// One instruction of classic BPF: code, jump if true, jump if false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// What all shards of a process have in common; it does not outlive the process.
pub struct Keys {
    /// For ids and for stateless reset tokens, told apart by the first byte of what is hashed.
    mac: [u8; 32],
    /// For Retry tokens.
    pub(super) token: [u8; 16],
    mask: [u32; 2],
    /// What the expiry of tokens is counted from.
    pub(super) epoch: Instant,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// New ones.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(now: Instant) -> Result<Self, ErrorStack> {
        let (mut mac, mut token, mut mask) = ([0; 32], [0; 16], [0; 8]);
        rand_bytes(&mut mac)?;
        rand_bytes(&mut token)?;
        rand_bytes(&mut mask)?;
        let [a, b, c, d, e, f, g, h] = mask;
        let mask = [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]) | 1];
        Ok(Self { mac, token, mask, epoch: now })
    }

    /// A fresh id for a connection of this shard.
    pub(super) fn issue(&self, shard: u8) -> Result<Id, ErrorStack> {
        let mut id = [0; ID_SIZE];
        rand_bytes(&mut id[1..RANDOM_END])?;
        id[0] = shard ^ self.mask(&id);
        let tag = self.tag(shard, &id)?;
        id[RANDOM_END..].copy_from_slice(&tag);
        Ok(id)
    }

    /// The shard of an id that we issued.
    pub(super) fn shard_of(&self, id: &[u8]) -> Option<u8> {
        let id: &Id = id.try_into().ok()?;
        let shard = id[0] ^ self.mask(id);
        // Out of memory is no proof.
        let tag = self.tag(shard, id).ok()?;
        memcmp::eq(&tag, &id[RANDOM_END..]).then_some(shard)
    }

    /// What ends a connection that we have forgotten (RFC 9000 §10.3.2).
    pub(super) fn reset_token(&self, id: &Id) -> Result<u128, ErrorStack> {
        let mut input = [b'r'; 1 + ID_SIZE];
        input[1..].copy_from_slice(id);
        let mac = hmac_sha256(&self.mac, &input)?;
        Ok(mac.iter().take(16).fold(0, |token, byte| token << 8 | u128::from(*byte)))
    }

    fn tag(&self, shard: u8, id: &Id) -> Result<[u8; ID_SIZE - RANDOM_END], ErrorStack> {
        let mut input = [b'i'; 1 + RANDOM_END];
        input[1..].copy_from_slice(&id[..RANDOM_END]);
        input[1] = shard;
        let mac = hmac_sha256(&self.mac, &input)?;
        let mut tag = [0; ID_SIZE - RANDOM_END];
        tag.copy_from_slice(&mac[..ID_SIZE - RANDOM_END]);
        Ok(tag)
    }

    fn mask(&self, id: &Id) -> u8 {
        let word = u32::from_be_bytes([id[1], id[2], id[3], id[4]]);
        let [_, _, _, mask] =
            ((word ^ self.mask[0]).wrapping_mul(self.mask[1]) >> 24).to_be_bytes();
        mask
    }

    /// Has the kernel give a packet with a short header to the shard that its id names, if shards' sockets are in their order. Of
    /// any other packet it says nothing, and the kernel goes by the addresses. Only to save the way between shards: a wrong
    /// choice costs time.
    pub fn steering(&self) -> [Instruction; 11] {
        const LOAD_BYTE: u16 = 0x30;
        const LOAD_WORD: u16 = 0x20;
        const JUMP_IF_SET: u16 = 0x45;
        const XOR: u16 = 0xa4;
        const XOR_X: u16 = 0xac;
        const MULTIPLY: u16 = 0x24;
        const SHIFT_RIGHT: u16 = 0x74;
        const TO_X: u16 = 0x07;
        const RETURN: u16 = 0x06;
        const RETURN_A: u16 = 0x16;
        // The id follows the first byte, whose first bit marks a long header (RFC 9000 §17).
        [
            (LOAD_BYTE, 0, 0, 0),
            (JUMP_IF_SET, 0, 1, 0x80),
            (RETURN, 0, 0, u32::MAX),
            (LOAD_WORD, 0, 0, 2),
            (XOR, 0, 0, self.mask[0]),
            (MULTIPLY, 0, 0, self.mask[1]),
            (SHIFT_RIGHT, 0, 0, 24),
            (TO_X, 0, 0, 0),
            (LOAD_BYTE, 0, 0, 1),
            (XOR_X, 0, 0, 0),
            (RETURN_A, 0, 0, 0),
        ]
    }
}
