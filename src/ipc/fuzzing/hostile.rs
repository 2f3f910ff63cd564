//! The edge against a worker that writes whatever it likes, whenever it likes.
//!
//! ```text
//! input:  geometry (1) │ TAIL HEAD EVENT SPACE_EVENT (8 each) │ ring │ arena │ operations (4 each)
//! ```
//! A short input leaves the rest of the segment zero. The hostile side is written against the raw layout, not against
//! the code under test.

use std::sync::Arc;

use crate::{
    ipc::{
        Doorbell, EdgeLane, Fault, Segment,
        layout::{Geometry, RING_OFFSET, Word},
        message::{Cancellation, Close, FromWorker, Piece, Request},
        sync::Ordering,
    },
    limits::{EXCHANGE_WINDOW, HEAD_FIELDS_MAX, RECORD_ALIGN},
    span::{Field, Span},
};

const GEOMETRIES: [Geometry; 4] = [
    Geometry::new(128, 16, 1).unwrap(),
    Geometry::new(256, 64, 2).unwrap(),
    Geometry::new(1024, 256, 3).unwrap(),
    Geometry::new(4096, 64, 8).unwrap(),
];
const WORDS: [Word; 4] = [Word::Tail, Word::Head, Word::Event, Word::SpaceEvent];
/// A peer that keeps publishing is not read to the end, here as in the shard.
const RECEIVES_MAX: usize = 32;

struct Case {
    geometry: Geometry,
    /// The hostile segment. Only the harness writes to it.
    hostile: Arc<Segment>,
    /// The edge's own segment, for a look at its words.
    own: Arc<Segment>,
    edge: EdgeLane,
}

/// Runs one case to the end of its input.
pub(super) fn run(data: &[u8]) {
    let (first, rest) = data.split_first().unwrap_or((&0, &[]));
    let geometry = GEOMETRIES[usize::from(*first) % GEOMETRIES.len()];
    let hostile = Arc::new(Segment::heap(geometry));
    let (words, rest) = rest.split_at(rest.len().min(WORDS.len() * 8));
    for (word, value) in WORDS.into_iter().zip(words.as_chunks().0) {
        hostile.word(word).store(u64::from_le_bytes(*value), Ordering::Relaxed);
    }
    let body_size = geometry.segment_size() - RING_OFFSET;
    let (body, operations) = rest.split_at(rest.len().min(body_size));
    hostile.write(RING_OFFSET, body);

    let bell = Arc::new(Doorbell::new().unwrap());
    let own = Arc::new(Segment::heap(geometry));
    let edge = EdgeLane::new(Arc::clone(&own), Arc::clone(&hostile), bell);
    let mut case = Case { geometry, hostile, own, edge };
    // Half of what there is to find needs no interleaving.
    case.receive(RECEIVES_MAX);
    for operation in super::operations(operations) {
        case.step(operation);
    }
    case.receive(RECEIVES_MAX);
    case.edge.publish().ok();
    case.receive(RECEIVES_MAX);
}

impl Case {
    fn step(&mut self, [selector, a, b, c]: [u8; super::OPERATION_SIZE]) {
        let wide = u16::from_le_bytes([a, b]);
        let leased = self.edge.leased_chunks();
        match selector % 16 {
            0 | 1 => return self.receive(1 + usize::from(a) % RECEIVES_MAX),
            2 => self.publish(),
            3 => self.send_request(usize::from(wide), c),
            4 => self.send_body(usize::from(wide), c & 1 != 0),
            5 => {
                self.edge.send_credit(u64::from(c), u64::from(wide)).ok();
            }
            6 => {
                self.edge.send_cancel(u64::from(c), Cancellation::ClientGone).ok();
            }
            7 => {
                self.edge.arm().ok();
            }
            8 => {
                self.edge.disarm();
                self.edge.pending();
            }
            9..=11 => self.forge_record(a, b, c),
            12 => self.forge_byte(usize::from(wide), c),
            13 => self.move_word(WORDS[usize::from(a) % 4], i64::from(b.cast_signed()), c),
            14 => self.move_word(Word::Tail, i64::from(a % 16) * 16, 0),
            _ => self.read_everything(),
        }
        assert!(self.edge.leased_chunks() >= leased, "only a received RELEASE ends a lease");
        assert!(self.edge.leased_chunks() <= self.geometry.chunk_count());
    }

    fn receive(&mut self, times: usize) {
        for _ in 0..times {
            let leased = self.edge.leased_chunks();
            let data_max = self.geometry.record_size_max().max(self.geometry.chunk_size());
            match self.edge.receive() {
                Ok(None) | Err(_) => return,
                Ok(Some((_, message))) => match message {
                    FromWorker::Response(response)
                    | FromWorker::Informational(response)
                    | FromWorker::Trailers(response) => {
                        assert!(response.fields.len() <= HEAD_FIELDS_MAX);
                        for field in response.fields {
                            assert!(field.name.of(response.blob).is_some());
                            assert!(field.value.of(response.blob).is_some());
                        }
                        assert!(response.blob.len() + response.body.len() <= data_max);
                    }
                    FromWorker::Body { data, .. }
                    | FromWorker::Message(Piece { data, .. })
                    | FromWorker::Close(Close { reason: data, .. }) => {
                        assert!(data.len() <= data_max);
                    }
                    FromWorker::Credit(bytes) => assert!(bytes <= EXCHANGE_WINDOW as u64),
                    FromWorker::Abort => {}
                },
            }
            assert!(self.edge.leased_chunks() <= leased);
        }
    }

    fn publish(&mut self) {
        let kicks = self.edge.kicks();
        let kicked = self.edge.publish();
        assert_eq!(self.edge.kicks() - kicks, u64::from(kicked == Ok(true)));
    }

    fn send_request(&mut self, blob_len: usize, fields: u8) {
        let fields = vec![Field::default(); usize::from(fields % 4)];
        let blob = vec![b'r'; blob_len % 512];
        let span = Span::default();
        let mut request = Request {
            route: 0,
            method: 0,
            version: 11,
            method_name: span,
            raw_path: span,
            path: span,
            query: span,
            authority: span,
            fields: &fields,
            params: &[],
            blob: &blob,
            content_length: None,
            peer: None,
            secure: false,
            tls: None,
            websocket: false,
            halvings: 0,
            body: &[],
            end: false,
        };
        // The shard keeps to `fits`; this geometry's bound is lower.
        let room = self.geometry.record_size_max() - RECORD_ALIGN;
        let excess = request.payload_len().saturating_sub(room);
        let Some(kept) = blob.len().checked_sub(excess) else { return };
        request.blob = &blob[..kept];
        self.edge.send_request(5, &request).ok();
    }

    fn send_body(&mut self, len: usize, end: bool) {
        let leased = self.edge.leased_chunks();
        let data = vec![b'b'; len % 4096];
        match self.edge.send_body(6, &data, end) {
            Ok(Some(taken)) => {
                assert!(taken <= data.len());
                let chunks = self.edge.leased_chunks() - leased;
                let inline_max = self.geometry.record_size_max() / 2;
                assert!(taken <= chunks * self.geometry.chunk_size() + inline_max);
            }
            Ok(None) => assert_eq!(self.edge.leased_chunks(), leased),
            Err(Fault::Head { .. }) => {}
            Err(fault) => panic!("sending found {fault}"),
        }
    }

    /// A record that is nearly right, at the hostile tail, and the tail behind it.
    fn forge_record(&mut self, kind: u8, len: u8, flags: u8) {
        let tail = self.hostile.word(Word::Tail).load(Ordering::Relaxed);
        let len = 16 + u32::from(len);
        let ring_size = self.geometry.ring_size();
        let place = usize::try_from(tail % ring_size as u64).unwrap() & !(RECORD_ALIGN - 1);
        let mut header = [0; RECORD_ALIGN];
        header[..4].copy_from_slice(&len.to_ne_bytes());
        header[4..6].copy_from_slice(&u16::from(kind % 12).to_ne_bytes());
        header[6..8].copy_from_slice(&u16::from(flags & 31).to_ne_bytes());
        header[8] = flags >> 5;
        self.hostile.write(RING_OFFSET + place, &header);
        let next = tail.wrapping_add(u64::from(len.next_multiple_of(16)));
        self.hostile.word(Word::Tail).store(next, Ordering::Relaxed);
    }

    fn forge_byte(&mut self, at: usize, value: u8) {
        let offset = RING_OFFSET + at % (self.geometry.segment_size() - RING_OFFSET);
        self.hostile.write(offset, &[value]);
    }

    fn move_word(&mut self, word: Word, by: i64, shift: u8) {
        let word = self.hostile.word(word);
        let moved = word.load(Ordering::Relaxed).wrapping_add_signed(by << (shift & 63));
        word.store(moved, Ordering::Relaxed);
    }

    /// What a well-behaved worker would do next: without it the edge's ring fills up once and stays full.
    fn read_everything(&mut self) {
        let written = self.own.word(Word::Tail).load(Ordering::Relaxed);
        self.hostile.word(Word::Head).store(written, Ordering::Relaxed);
    }
}
