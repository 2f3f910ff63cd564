//! What applications are told of the client's own TLS connection.
//!
//! Invariant: Python makes a session's description once; it is made anew only for a request of another session than the one
//! before. Deliberately absent: what the description looks like in each interface (`_tls.py`).

use fasterapi::ipc::message;
use pyo3::{prelude::*, types::PyDict};

use crate::ffi::GilCell;

/// Of a request, out of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    version: u16,
    cipher_suite: u16,
    certificate: Option<Certificate>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Certificate {
    subject: Vec<u8>,
    issuer: Vec<u8>,
    chain: Vec<u8>,
}

impl Tls {
    pub(crate) fn of(tls: &message::Tls<'_>) -> Self {
        let certificate = tls.certificate.as_ref().map(|certificate| Certificate {
            subject: certificate.subject.to_vec(),
            issuer: certificate.issuer.to_vec(),
            chain: certificate.chain.to_vec(),
        });
        Self { version: tls.version, cipher_suite: tls.cipher_suite, certificate }
    }
}

/// How one interface describes sessions.
#[derive(Debug)]
pub(crate) struct Description {
    /// A function of `fasterapi._tls`.
    function: &'static str,
    /// The session that was described last.
    last: GilCell<Option<(Tls, Py<PyDict>)>>,
}

impl Description {
    pub(crate) fn new(function: &'static str) -> Self {
        Self { function, last: GilCell::new(None) }
    }

    /// The description of this session: shared, to be copied.
    pub(crate) fn of<'py>(&self, py: Python<'py>, tls: &Tls) -> PyResult<Bound<'py, PyDict>> {
        if let Some((known, made)) = &*self.last.borrow(py)?
            && known == tls
        {
            return Ok(made.bind(py).clone());
        }
        let certificate = tls.certificate.as_ref().map(|certificate| {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            let chain = certificates(&certificate.chain).map(<[u8]>::to_vec).collect::<Vec<_>>();
            (text(&certificate.subject), text(&certificate.issuer), chain)
        });
        let module = py.import("fasterapi._tls")?;
        let made = module.call_method1(self.function, (tls.version, tls.cipher_suite, certificate));
        let made = made?.cast_into::<PyDict>()?;
        let entry = Some((tls.clone(), made.clone().unbind()));
        let before = std::mem::replace(&mut *self.last.borrow(py)?, entry);
        drop(before);
        Ok(made)
    }
}

/// DER says its own length (X.690 §8.1.3): each certificate of several that follow one another, as far as they are whole.
fn certificates(chain: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = chain;
    std::iter::from_fn(move || {
        let (head, length) = match rest {
            [_, long @ 0x81..=0x84, octets @ ..] => {
                let octets = octets.get(..usize::from(long & 0x7f))?;
                let length =
                    octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet));
                (2 + octets.len(), length)
            }
            [_, short @ 0..=0x7f, ..] => (2, usize::from(*short)),
            _ => return None,
        };
        let (one, others) = rest.split_at_checked(head.checked_add(length)?)?;
        rest = others;
        Some(one)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_told_apart_by_their_own_lengths() {
        let short = [0x30, 2, 1, 2];
        let long = [&[0x30, 0x82, 1, 0][..], &[7; 256]].concat();
        let chain = [&short[..], &long, &short].concat();
        assert_eq!(certificates(&chain).collect::<Vec<_>>(), [&short[..], &long, &short]);
        assert_eq!(certificates(&chain[..chain.len() - 1]).count(), 2);
        for broken in [&[][..], &[0x30], &[0x30, 0x80], &[0x30, 0x84, 255, 255, 255, 255]] {
            assert_eq!(certificates(broken).count(), 0, "{broken:?}");
        }
    }
}
