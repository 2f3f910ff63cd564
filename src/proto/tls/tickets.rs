//! The keys of session tickets: a client that comes back, to whichever shard, resumes without a signature of ours.
//!
//! Invariant: tickets are made with the newest key and taken under the newest two; an older key is wiped from memory with
//! the last handshake that looks at it, so that recorded TLS 1.2 traffic cannot be decrypted with what is stolen later.
//! Nothing is shared with other machines, and keys do not outlive the process.

use std::{
    fmt::{self, Debug, Formatter},
    sync::Arc,
    time::Instant,
};

use arc_swap::ArcSwap;
use boring::{
    error::ErrorStack,
    hash::MessageDigest,
    hmac::HmacCtxRef,
    rand::rand_bytes,
    ssl::{SslContextBuilder, TicketKeyCallbackResult},
    symm::{Cipher, CipherCtxRef},
};
use zeroize::Zeroize;

use crate::limits;

/// Keys for the sessions of every [`super::ServerConfig`] that was made with them.
pub struct TicketKeys {
    keys: ArcSwap<Keys>,
}

struct Keys {
    current: Arc<Key>,
    previous: Option<Arc<Key>>,
    since: Instant,
}

/// RFC 5077 §4, with a 256-bit cipher.
struct Key {
    name: [u8; 16],
    cipher: [u8; 32],
    mac: [u8; 32],
}

impl Key {
    fn random() -> Result<Self, ErrorStack> {
        let mut key = Self { name: [0; 16], cipher: [0; 32], mac: [0; 32] };
        rand_bytes(&mut key.name)?;
        rand_bytes(&mut key.cipher)?;
        rand_bytes(&mut key.mac)?;
        Ok(key)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.cipher.zeroize();
        self.mac.zeroize();
    }
}

impl TicketKeys {
    /// A first key, made now.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(now: Instant) -> Result<Arc<Self>, ErrorStack> {
        let keys = Keys { current: Arc::new(Key::random()?), previous: None, since: now };
        Ok(Arc::new(Self { keys: ArcSwap::from_pointee(keys) }))
    }

    /// Replaces the key if it is [`limits::TLS_TICKET_KEY_LIFETIME`] old; true when it was. For one thread, at any rate.
    ///
    /// # Errors
    /// When the system has no randomness; the keys are as before.
    pub fn rotate(&self, now: Instant) -> Result<bool, ErrorStack> {
        let keys = self.keys.load();
        let age = now.saturating_duration_since(keys.since);
        if age < limits::TLS_TICKET_KEY_LIFETIME {
            return Ok(false);
        }
        // Nobody looked for two lifetimes: what the current key has made is too old as well.
        let recent = age < 2 * limits::TLS_TICKET_KEY_LIFETIME;
        let previous = recent.then(|| Arc::clone(&keys.current));
        let current = Arc::new(Key::random()?);
        self.keys.store(Arc::new(Keys { current, previous, since: now }));
        Ok(true)
    }

    /// Has sessions of this context make and take their tickets with these keys.
    pub(super) fn install(self: &Arc<Self>, context: &mut SslContextBuilder) {
        let keys = Arc::clone(self);
        let callback =
            move |_: &_, name: &mut _, iv: &mut _, cipher: &mut _, mac: &mut _, encrypt| {
                if encrypt {
                    keys.seal(name, iv, cipher, mac)
                } else {
                    keys.open(name, iv, cipher, mac)
                }
            };
        // SAFETY: what BoringSSL asks of the callback is kept by `seal` and `open`: both contexts are initialised
        // whenever they return success, and `seal` has filled the name and the whole IV by then.
        #[expect(unsafe_code, reason = "the binding has no safe way to share ticket keys")]
        unsafe {
            context.set_ticket_key_callback(callback);
        }
    }

    fn seal(
        &self,
        name: &mut [u8; 16],
        iv: &mut [u8; 16],
        cipher: &mut CipherCtxRef,
        mac: &mut HmacCtxRef,
    ) -> TicketKeyCallbackResult {
        let keys = self.keys.load();
        let key = &keys.current;
        *name = key.name;
        let sealed = rand_bytes(iv)
            .and_then(|()| cipher.init_encrypt(&Cipher::aes_256_cbc(), &key.cipher, iv))
            .and_then(|()| mac.init(&key.mac, &MessageDigest::sha256()));
        match sealed {
            Ok(()) => TicketKeyCallbackResult::Success,
            Err(_) => TicketKeyCallbackResult::Error,
        }
    }

    fn open(
        &self,
        name: &[u8; 16],
        iv: &[u8; 16],
        cipher: &mut CipherCtxRef,
        mac: &mut HmacCtxRef,
    ) -> TicketKeyCallbackResult {
        let keys = self.keys.load();
        let (key, taken) = if keys.current.name == *name {
            (&keys.current, TicketKeyCallbackResult::Success)
        } else {
            match &keys.previous {
                Some(key) if key.name == *name => {
                    (key, TicketKeyCallbackResult::DecryptSuccessRenew)
                }
                _ => return TicketKeyCallbackResult::Noop,
            }
        };
        let opened = cipher
            .init_decrypt(&Cipher::aes_256_cbc(), &key.cipher, iv)
            .and_then(|()| mac.init(&key.mac, &MessageDigest::sha256()));
        match opened {
            Ok(()) => taken,
            Err(_) => TicketKeyCallbackResult::Error,
        }
    }
}

impl Debug for TicketKeys {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}
