//! Two ends, two rings, one oracle that does its own arithmetic.
//!
//! Invariant of the model: what `take` returns, what `claim` refuses and whom `publish` kicks follow from the
//! operations alone.

use std::{collections::VecDeque, sync::Arc};

use crate::ipc::{
    layout::{Geometry, Word},
    ring::{Consumer, Producer, Record, Withdrawal, publish},
    segment::Segment,
    sync::Ordering,
};

const GEOMETRIES: [Geometry; 3] = [
    Geometry::new(128, 1, 1).unwrap(),
    Geometry::new(256, 1, 1).unwrap(),
    Geometry::new(1024, 1, 1).unwrap(),
];

/// What one end does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    /// Claim, put in two parts, commit.
    Send {
        size: u8,
        split: u8,
    },
    /// Claim, put, change one's mind.
    GiveUp {
        size: u8,
    },
    Publish,
    Take,
    /// Take a record, and say so before anything else.
    Keep,
    /// Withdraw a record, or the one that was taken last.
    Withdraw {
        which: u8,
    },
    Arm,
    Disarm,
    ArmSpace {
        size: u8,
    },
}

/// An action and who does it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    side: usize,
    action: Action,
}

impl Operation {
    pub(super) fn decode([selector, size, split, _]: [u8; super::OPERATION_SIZE]) -> Self {
        let action = match selector >> 1 & 15 {
            0..=4 => Action::Send { size, split },
            5 => Action::Withdraw { which: size },
            6 => Action::GiveUp { size },
            7..=8 => Action::Publish,
            9 => Action::Keep,
            10..=12 => Action::Take,
            13 => Action::Arm,
            14 => Action::ArmSpace { size },
            _ => Action::Disarm,
        };
        Self { side: usize::from(selector & 1), action }
    }
}

/// A record as it was sent.
struct Sent {
    record: Record,
    payload: Vec<u8>,
    start: u64,
    end: u64,
    /// As the consumer that keeps it shall be told.
    withdrawn: bool,
}

impl Sent {
    fn withdraw(&mut self) {
        self.withdrawn = true;
        self.payload[..8].fill(0xFF);
    }
}

/// One direction as the oracle knows it.
#[derive(Default)]
struct Direction {
    /// Committed, invisible to the consumer.
    committed: VecDeque<Sent>,
    /// Published, not taken.
    visible: VecDeque<Sent>,
    /// Where the record begins that was taken last, if it has room for a mark.
    latest: Option<u64>,
    tail: u64,
    tail_published: u64,
    head: u64,
    /// What the producer can see.
    head_published: u64,
    /// Where the head was when the consumer last looked whether the producer waits.
    head_judged: u64,
    /// The consumer wants to hear of the next record.
    armed: bool,
    /// The producer wants to hear when the head gets there.
    space_wanted: Option<u64>,
}

impl Direction {
    /// Where a record of this payload would end.
    fn end_of(&self, payload_len: usize, ring_size: u64) -> u64 {
        let size = (16 + payload_len as u64).div_ceil(16) * 16;
        let lap_end = (self.tail / ring_size + 1) * ring_size;
        if self.tail + size > lap_end { lap_end + size } else { self.tail + size }
    }
}

struct End {
    own: Arc<Segment>,
    tx: Producer,
    rx: Consumer,
}

/// Runs the operations, then drains and compares the shared words with the oracle's.
pub(super) fn run(geometry: usize, operations: &[Operation]) {
    let geometry = GEOMETRIES[geometry];
    let segments = [Arc::new(Segment::heap(geometry)), Arc::new(Segment::heap(geometry))];
    let end = |own: usize| {
        let (own, peer) = (&segments[own], &segments[1 - own]);
        End {
            own: Arc::clone(own),
            tx: Producer::new(Arc::clone(own), Arc::clone(peer)),
            rx: Consumer::new(Arc::clone(own), Arc::clone(peer)),
        }
    };
    let mut model = Model {
        ends: [end(0), end(1)],
        directions: [Direction::default(), Direction::default()],
        ring_size: geometry.ring_size() as u64,
        payload_max: geometry.record_size_max() - 16,
        sent: 0,
    };
    for operation in operations {
        model.step(operation.side, operation.action);
    }
    model.drain();
}

struct Model {
    ends: [End; 2],
    /// `directions[i]` is what `ends[i]` sends.
    directions: [Direction; 2],
    ring_size: u64,
    payload_max: usize,
    sent: u64,
}

impl Model {
    fn step(&mut self, side: usize, action: Action) {
        let payload_len = |size: u8| usize::from(size) % (self.payload_max + 1);
        match action {
            Action::Send { size, split } => self.send(side, payload_len(size), split),
            Action::GiveUp { size } => {
                let bytes = vec![0xEE; payload_len(size)];
                if let Some(mut claim) = self.ends[side].tx.claim(bytes.len()).unwrap() {
                    claim.put(&bytes);
                }
            }
            Action::Publish => self.publish(side),
            Action::Take => {
                self.take(side);
            }
            Action::Keep => {
                if let Some(withdrawn) = self.take(side) {
                    assert_eq!(self.ends[side].rx.keep(), !withdrawn, "keep");
                    let incoming = &mut self.directions[1 - side];
                    incoming.head_published = incoming.head;
                }
            }
            Action::Withdraw { which } => self.withdraw(side, usize::from(which)),
            Action::Arm => {
                let incoming = &mut self.directions[1 - side];
                let awake = !incoming.visible.is_empty() || incoming.head != incoming.head_judged;
                assert_eq!(self.ends[side].rx.pending(), !incoming.visible.is_empty());
                assert_eq!(self.ends[side].rx.arm(), awake, "arm");
                incoming.armed = !awake;
            }
            Action::Disarm => {
                self.ends[side].rx.disarm();
                self.directions[1 - side].armed = false;
            }
            Action::ArmSpace { size } => self.arm_space(side, payload_len(size)),
        }
    }

    fn send(&mut self, side: usize, payload_len: usize, split: u8) {
        let outgoing = &mut self.directions[side];
        let end = outgoing.end_of(payload_len, self.ring_size);
        let claim = self.ends[side].tx.claim(payload_len).unwrap();
        assert_eq!(claim.is_some(), end - outgoing.head_published <= self.ring_size, "claim");
        let Some(mut claim) = claim else { return };
        self.sent += 1;
        let number = self.sent;
        let payload: Vec<u8> = (0..payload_len).map(|i| number.to_le_bytes()[i % 8]).collect();
        let (first, second) = payload.split_at(usize::from(split).min(payload_len));
        claim.put(first);
        claim.put(second);
        let record = Record { kind: 1 + u16::from(split), flags: 3, exchange: number };
        claim.commit(record.kind, record.flags, record.exchange);
        let start = end - (16 + payload_len as u64).next_multiple_of(16);
        assert_eq!(self.ends[side].tx.newest(), start, "newest");
        outgoing.tail = end;
        outgoing.committed.push_back(Sent { record, payload, start, end, withdrawn: false });
    }

    fn withdraw(&mut self, side: usize, which: usize) {
        let outgoing = &mut self.directions[side];
        let there = outgoing.visible.iter_mut().chain(&mut outgoing.committed);
        let mut there: Vec<&mut Sent> = there.filter(|sent| sent.payload.len() >= 8).collect();
        let tx = &mut self.ends[side].tx;
        let count = there.len();
        if let Some(sent) = there.get_mut(which % (count + 1)) {
            assert_eq!(tx.withdraw(sent.start), Ok(Withdrawal::Done), "withdraw");
            sent.withdraw();
        } else if let Some(start) = outgoing.latest {
            let kept = start < outgoing.head_published;
            let expected = if kept { Withdrawal::TooLate } else { Withdrawal::Done };
            assert_eq!(tx.withdraw(start), Ok(expected), "withdraw what was taken");
        }
    }

    fn publish(&mut self, side: usize) {
        let outgoing = &mut self.directions[side];
        let record_wanted = !outgoing.committed.is_empty() && outgoing.armed;
        outgoing.armed &= outgoing.committed.is_empty();
        outgoing.visible.append(&mut outgoing.committed);
        outgoing.tail_published = outgoing.tail;
        let incoming = &mut self.directions[1 - side];
        (incoming.head_published, incoming.head_judged) = (incoming.head, incoming.head);
        let reached = incoming.space_wanted.is_some_and(|needed| needed <= incoming.head);
        if reached {
            incoming.space_wanted = None;
        }
        let end = &mut self.ends[side];
        assert_eq!(publish(&mut end.tx, &mut end.rx), record_wanted || reached, "kick");
    }

    /// Whether the record was withdrawn; `None` when there is none.
    fn take(&mut self, side: usize) -> Option<bool> {
        let incoming = &mut self.directions[1 - side];
        let mut payload = vec![0xAA];
        let taken = self.ends[side].rx.take(&mut payload).unwrap();
        let Some(sent) = incoming.visible.pop_front() else {
            assert_eq!(taken, None, "take");
            return None;
        };
        incoming.head = sent.end;
        incoming.latest = (sent.payload.len() >= 8).then_some(sent.start);
        assert_eq!(taken, Some(sent.record), "take");
        assert_eq!(payload[1..], sent.payload, "payload");
        Some(sent.withdrawn)
    }

    fn arm_space(&mut self, side: usize, payload_len: usize) {
        let outgoing = &mut self.directions[side];
        let needed = outgoing.end_of(payload_len, self.ring_size).saturating_sub(self.ring_size);
        let unpublished = !outgoing.committed.is_empty();
        let awake = unpublished || needed <= outgoing.head_published;
        assert_eq!(self.ends[side].tx.unpublished(), unpublished);
        assert_eq!(self.ends[side].tx.arm_space(payload_len), Ok(awake), "arm_space");
        outgoing.space_wanted = (!awake).then_some(needed);
    }

    fn drain(&mut self) {
        for side in [0, 1] {
            self.publish(side);
        }
        for side in [0, 1] {
            while self.take(side).is_some() {}
            self.publish(side);
        }
        for side in [0, 1] {
            let (outgoing, incoming) = (&self.directions[side], &self.directions[1 - side]);
            let word = |word| self.ends[side].own.word(word).load(Ordering::Relaxed);
            assert_eq!(word(Word::Tail), outgoing.tail);
            assert_eq!(word(Word::Head), incoming.head);
            assert_eq!(incoming.head, incoming.tail_published, "nothing is left over");
        }
    }
}
