//! [`Token`]: what a completion belongs to, and its place in the kernel's 64 bits of `user_data`.
//!
//! Invariant: packing and unpacking lose nothing, so a token comes back exactly as it was given.
//! Deliberately absent: any judgement whether a token is stale; its owner compares the generation.

/// The kind of the driver's own operations (cancel, close), whose completions nobody sees.
pub(super) const DRIVER_KIND: u8 = 0xff;

/// What a completion belongs to; chosen by the caller and handed back untouched.
/// `kind` (8 bits), `generation` (24 bits) and `index` (32 bits) fill the 64 bits of `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The caller's own kind of operation, always of the same [`Driver`](super::Driver) method; `0xff` is the driver's own.
    pub kind: u8,
    /// Guards against a completion that arrives after its slot was given to somebody else. At most [`Self::GENERATION_MAX`].
    pub generation: u32,
    /// The slot.
    pub index: u32,
}

impl Token {
    /// The last generation; the next one is 0 again.
    pub const GENERATION_MAX: u32 = (1 << 24) - 1;

    /// As `user_data`: kind in the top byte, then generation, then index.
    pub(super) fn to_bits(self) -> u64 {
        assert!(self.generation <= Self::GENERATION_MAX, "a generation has 24 bits");
        u64::from(self.kind) << 56 | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The inverse of [`Self::to_bits`].
    pub(super) fn from_bits(bits: u64) -> Self {
        let [kind, high, middle, low, index @ ..] = bits.to_be_bytes();
        Self {
            kind,
            generation: u32::from_be_bytes([0, high, middle, low]),
            index: u32::from_be_bytes(index),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_survives_the_round_trip(kind: u8, generation in 0..=Token::GENERATION_MAX, index: u32) {
            let token = Token { kind, generation, index };
            prop_assert_eq!(Token::from_bits(token.to_bits()), token);
        }

        #[test]
        fn all_bits_survive_the_round_trip(bits: u64) {
            prop_assert_eq!(Token::from_bits(bits).to_bits(), bits);
        }
    }

    #[test]
    #[should_panic(expected = "24 bits")]
    fn a_generation_that_does_not_fit_is_refused() {
        Token { kind: 0, generation: Token::GENERATION_MAX + 1, index: 0 }.to_bits();
    }
}
