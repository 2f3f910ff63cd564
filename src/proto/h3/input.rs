//! What comes in: a datagram, as the packets that it consists of (RFC 9000 §12.2).
//!
//! Invariant: the packets are the datagram, in its order, none of them empty; what is no packet whose length is said is one
//! with all that follows it. quiche drops what follows a packet that it cannot open, although each stands for itself: a client
//! that closes before it knows that its handshake is confirmed says so in a Handshake packet, whose keys are gone here, and
//! again in the 1-RTT packet behind it. So it is given one packet at a time. Its frames are counted ([`super::pieces`]),
//! but for ten packets of early data, which it keeps for later. Deliberately absent: what frames say.

use super::{H3, Place, code::Code, frames::varint, pieces::Piece, pieces::pieces};

/// Of every suite of TLS 1.3 (RFC 9001 §5.3).
const TAG_SIZE: usize = 16;

impl H3 {
    /// Gives QUIC a datagram.
    ///
    /// # Errors
    /// A rule of QUIC is broken; what follows is not looked at.
    pub(super) fn receive(
        &mut self,
        datagram: &mut [u8],
        info: quiche::RecvInfo,
    ) -> Result<(), quiche::Error> {
        let mut rest = datagram;
        loop {
            let (packet, behind) = rest.split_at_mut(first_len(rest));
            self.quic.recv(packet, info)?;
            self.count(packet);
            if behind.is_empty() {
                return Ok(());
            }
            rest = behind;
        }
    }

    /// Counts what QUIC keeps of a packet, which it has decrypted. One that it could not open is noise here, in which hardly
    /// anything looks like a piece of a stream that there is.
    fn count(&mut self, packet: &[u8]) {
        let id_len = self.quic.source_id().len();
        for piece in payload(packet, id_len).into_iter().flat_map(pieces) {
            // Of streams that are over, and of those that the client was asked to end, nothing is kept.
            if let Piece::Stream { id, .. } = piece
                && (self.quic.stream_finished(id) || self.is_stopped(id))
            {
                continue;
            }
            self.pieces.note(piece);
        }
        if self.pieces.is_settling_due() {
            let Self { pieces, places, streams, control, quic, stopped, .. } = self;
            pieces.settle(|id| match places.get(&id) {
                _ if stopped.iter().any(|(stopped, _)| *stopped == id) => None,
                Some(Place::Slot(slot)) => streams.get(*slot).map(|stream| stream.inlet.taken),
                Some(Place::Discarded(rest)) => Some(rest.taken),
                None if quic.stream_finished(id) => None,
                None => Some(control.taken(id)),
            });
        }
        if self.pieces.are_too_many() {
            self.close(Code::ExcessiveLoad);
        }
    }

    fn is_stopped(&self, id: u64) -> bool {
        self.stopped.iter().any(|(stopped, _)| *stopped == id)
    }
}

/// The frames of a packet that was decrypted in place.
fn payload(packet: &[u8], id_len: usize) -> Option<&[u8]> {
    let (&first, rest) = packet.split_first()?;
    let sealed = match first & 0x80 {
        0 => rest.get(id_len..)?,
        _ => {
            let (len, at) = varint(protected(packet)?)?;
            protected(packet)?.get(at..)?.get(..usize::try_from(len).ok()?)?
        }
    };
    // Behind the number of the packet.
    let start = usize::from(first & 3) + 1;
    sealed.get(start..sealed.len().checked_sub(TAG_SIZE)?)
}

/// How many of these bytes the first packet takes.
fn first_len(datagram: &[u8]) -> usize {
    let behind = behind_first(datagram).unwrap_or_default();
    datagram.len() - behind.len()
}

/// What follows the first packet; `None` if it has no length, or a longer one.
fn behind_first(datagram: &[u8]) -> Option<&[u8]> {
    behind_sized(protected(datagram)?)
}

/// The length of a packet with a long header, and all that follows it; `None` if there is none.
fn protected(datagram: &[u8]) -> Option<&[u8]> {
    // RFC 9000 §17.2: form and type, version, the ids with their lengths.
    let (&first, rest) = datagram.split_first()?;
    let (version, rest) = rest.split_first_chunk()?;
    if first & 0x80 == 0 || u32::from_be_bytes(*version) != quiche::PROTOCOL_VERSION {
        return None;
    }
    let rest = behind_id(behind_id(rest)?)?;
    match first >> 4 & 3 {
        // §17.2.2: a token.
        0 => behind_sized(rest),
        // §17.2.5: a Retry has no length.
        3 => None,
        _ => Some(rest),
    }
}

fn behind_id(bytes: &[u8]) -> Option<&[u8]> {
    let (&len, rest) = bytes.split_first()?;
    rest.get(len.into()..)
}

fn behind_sized(bytes: &[u8]) -> Option<&[u8]> {
    let (len, at) = varint(bytes)?;
    bytes.get(at..)?.get(usize::try_from(len).ok()?..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet of this type; `behind_ids` is what its header has there.
    fn packet(kind: u8, behind_ids: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xc0 | kind << 4, 0, 0, 0, 1, 2, 7, 7, 1, 8];
        bytes.extend_from_slice(behind_ids);
        bytes
    }

    #[test]
    fn packets_are_told_apart_by_their_lengths() {
        let initial = packet(0, &[3, 1, 2, 3, 0x40, 4, 9, 9, 9, 9]);
        let handshake = packet(2, &[2, 9, 9]);
        let early = packet(1, &[0]);
        let short = [0x40; 30];
        let datagram = [&initial[..], &handshake, &early, &short].concat();
        let mut rest = &datagram[..];
        for expected in [&initial[..], &handshake, &early, &short] {
            assert_eq!(first_len(rest), expected.len());
            rest = &rest[expected.len()..];
        }
        assert_eq!(first_len(rest), 0);
    }

    #[test]
    fn what_says_no_length_goes_as_a_whole() {
        let mut other_version = packet(2, &[1, 9, 9, 9]);
        other_version[4] = 2;
        for datagram in [
            // A Retry, another version, a length beyond the end, one that is cut off, ids that are.
            packet(3, &[1, 9, 9, 9]),
            other_version,
            packet(2, &[9, 9, 9]),
            packet(2, &[0xff; 8]),
            packet(2, &[0x40]),
            packet(0, &[9, 1]),
            packet(2, &[])[..8].to_vec(),
            packet(2, &[])[..3].to_vec(),
        ] {
            assert_eq!(first_len(&datagram), datagram.len(), "{datagram:x?}");
        }
    }

    proptest! {
        #[test]
        fn no_packet_is_empty_or_longer_than_its_datagram(
            kind in 0_u8..4, head: Vec<u8>, behind: Vec<u8>,
        ) {
            let datagram = [packet(kind, &head), behind].concat();
            for start in 0..datagram.len() {
                prop_assert!((1..=datagram.len() - start).contains(&first_len(&datagram[start..])));
            }
        }
    }
}
