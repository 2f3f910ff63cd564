//! UTF-8 that arrives in pieces.
//!
//! Invariant: a byte that cannot belong to any text is found when it is fed, however the text was cut; `held` is the
//! valid beginning of one character.

#![forbid(unsafe_code)]

use simdutf8::compat::from_utf8;

/// What is known of a text that has not ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    held: [u8; 4],
    len: usize,
}

impl Utf8 {
    /// False if no text begins with what was fed so far.
    pub(super) fn feed(&mut self, mut data: &[u8]) -> bool {
        while self.len > 0 {
            let Some((&byte, rest)) = data.split_first() else { return true };
            // A character of four bytes is either whole or wrong, so there is always a free place.
            let Some(free) = self.held.get_mut(self.len) else { return false };
            *free = byte;
            self.len += 1;
            data = rest;
            match std::str::from_utf8(self.held.get(..self.len).unwrap_or_default()) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return false,
            }
        }
        let Err(error) = from_utf8(data) else { return true };
        let begun = data.get(error.valid_up_to()..).unwrap_or_default();
        match (error.error_len(), self.held.get_mut(..begun.len())) {
            (None, Some(held)) => {
                held.copy_from_slice(begun);
                self.len = begun.len();
                true
            }
            _ => false,
        }
    }

    /// True if a text may end here.
    pub(super) const fn may_end(&self) -> bool {
        self.len == 0
    }
}
