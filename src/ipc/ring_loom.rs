//! Every interleaving and every visible value of two threads on one ring, within loom's bounds.
//!
//! What the models can show: a slot touched by both sides without an edge, a record lost or torn, a sleeper that
//! nobody wakes (loom reports the deadlock). What they cannot: load buffering, which loom does not explore.

use loom::{sync::Notify, thread};

use super::{
    layout::Geometry,
    ring::{Consumer, Producer, Withdrawal, publish},
    segment::Segment,
    sync::Arc,
};

/// Eight places; a record is one or two of them.
const TINY: Geometry = Geometry::new(128, 1, 1).unwrap();
const LONG: usize = 16;
const SHORT: usize = 0;

struct Side {
    tx: Producer,
    rx: Consumer,
    /// The peer's doorbell.
    bell: Arc<Notify>,
    /// This side's.
    own_bell: Arc<Notify>,
}

impl Side {
    fn pair() -> (Self, Self) {
        let segments = [Arc::new(Segment::heap(TINY)), Arc::new(Segment::heap(TINY))];
        let bells = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let side = |own: usize, peer: usize| Self {
            tx: Producer::new(Arc::clone(&segments[own]), Arc::clone(&segments[peer])),
            rx: Consumer::new(Arc::clone(&segments[own]), Arc::clone(&segments[peer])),
            bell: Arc::clone(&bells[peer]),
            own_bell: Arc::clone(&bells[own]),
        };
        (side(0, 1), side(1, 0))
    }

    /// Moves both ends to `places` with nothing in flight.
    fn advance(&mut self, other: &mut Self, places: usize) {
        for _ in 0..places {
            assert!(self.send(SHORT, 0));
            self.publish();
            assert!(other.take(0).is_some());
            other.publish();
        }
    }

    /// One record that carries its number in both parts.
    fn send(&mut self, payload_len: usize, number: u8) -> bool {
        let Some(mut claim) = self.tx.claim(payload_len).unwrap() else { return false };
        claim.put(&[number; LONG][..payload_len]);
        claim.commit(1, 0, u64::from(number));
        true
    }

    fn publish(&mut self) {
        if publish(&mut self.tx, &mut self.rx) {
            self.bell.notify();
        }
    }

    fn take(&mut self, number: u8) -> Option<usize> {
        let mut payload = Vec::new();
        let record = self.rx.take(&mut payload).unwrap()?;
        assert_eq!(record.exchange, u64::from(number));
        assert!(payload.iter().all(|byte| *byte == number));
        Some(payload.len())
    }

    /// Takes records `0..count`, sleeping whenever there is none.
    fn take_all(&mut self, count: u8) {
        let mut next = 0;
        while next < count {
            if self.take(next).is_some() {
                next += 1;
                continue;
            }
            self.publish();
            if !self.rx.arm() {
                self.own_bell.wait();
            }
        }
        self.publish();
    }

    /// Sends a record, sleeping while there is no room.
    fn send_patiently(&mut self, payload_len: usize, number: u8) {
        while !self.send(payload_len, number) {
            self.publish();
            if !self.tx.arm_space(payload_len).unwrap() {
                self.own_bell.wait();
            }
        }
    }
}

fn model(scenario: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(scenario);
}

#[test]
fn loom_records_arrive_whole_and_in_order() {
    model(|| {
        let (mut left, mut right) = Side::pair();
        let consumer = thread::spawn(move || {
            let mut next = 0;
            while next < 3 {
                match right.take(next) {
                    Some(_) => next += 1,
                    None => thread::yield_now(),
                }
            }
        });
        for number in 0..3 {
            assert!(left.send(LONG, number));
            if number != 1 {
                left.publish();
            }
        }
        consumer.join().unwrap();
    });
}

#[test]
fn loom_a_place_is_written_again_only_after_it_was_read() {
    model(|| {
        let (mut left, mut right) = Side::pair();
        for number in 0..4 {
            assert!(left.send(LONG, number));
        }
        left.publish();
        let consumer = thread::spawn(move || {
            for number in 0..4 {
                assert!(right.take(number).is_some());
                if number == 1 {
                    right.publish();
                }
            }
            right.publish();
            right
        });
        for number in 4..6 {
            while !left.send(LONG, number) {
                thread::yield_now();
            }
        }
        left.publish();
        let mut right = consumer.join().unwrap();
        assert!(right.take(4).is_some() && right.take(5).is_some());
    });
}

#[test]
fn loom_a_sleeping_consumer_is_always_kicked() {
    model(|| {
        let (mut left, mut right) = Side::pair();
        let consumer = thread::spawn(move || right.take_all(2));
        for number in 0..2 {
            assert!(left.send(SHORT, number));
            left.publish();
        }
        consumer.join().unwrap();
    });
}

#[test]
fn loom_a_producer_that_sleeps_for_room_is_always_kicked() {
    model(|| {
        let (mut left, mut right) = Side::pair();
        for number in 0..4 {
            assert!(left.send(LONG, number));
        }
        left.publish();
        // Exactly the room that is wanted, and no later publication that would make up for a missed kick.
        let consumer = thread::spawn(move || {
            assert!(right.take(0).is_some());
            right.publish();
            right
        });
        left.send_patiently(LONG, 4);
        left.publish();
        let mut right = consumer.join().unwrap();
        for number in 1..5 {
            assert!(right.take(number).is_some());
        }
    });
}

#[test]
fn loom_room_that_is_acknowledged_before_the_kick_is_decided_never_leaves_its_producer_asleep() {
    model(|| {
        let (mut left, mut right) = Side::pair();
        for number in 0..4 {
            assert!(left.send(LONG, number));
        }
        left.publish();
        let consumer = thread::spawn(move || {
            assert!(right.take(0).is_some());
            assert!(right.rx.keep());
            right.publish();
            right
        });
        left.send_patiently(LONG, 4);
        left.publish();
        let mut right = consumer.join().unwrap();
        for number in 1..5 {
            assert!(right.take(number).is_some());
        }
    });
}

#[test]
fn loom_a_record_is_kept_or_withdrawn_and_never_both() {
    model(|| {
        let (mut left, mut right) = Side::pair();
        assert!(left.send(LONG, 0));
        let first = left.tx.newest();
        left.publish();
        let consumer = thread::spawn(move || {
            let mut payload = Vec::new();
            assert!(right.rx.take(&mut payload).unwrap().is_some());
            right.rx.keep()
        });
        let withdrawn = left.tx.withdraw(first).unwrap() == Withdrawal::Done;
        let kept = consumer.join().unwrap();
        // Neither is possible: the producer was too late, and the consumer saw its mark.
        assert!(!(kept && withdrawn));
    });
}

#[test]
fn loom_what_is_written_over_a_record_that_is_kept_is_no_mark_of_it() {
    model(|| {
        let (mut left, mut right) = Side::pair();
        for number in 0..4 {
            assert!(left.send(LONG, number));
        }
        left.publish();
        let consumer = thread::spawn(move || {
            assert!(right.take(0).is_some());
            assert!(right.rx.keep(), "nobody withdrew it");
            right.publish();
        });
        // A payload that looks like a mark, into the first place that gets free.
        loop {
            if let Some(mut claim) = left.tx.claim(LONG).unwrap() {
                claim.put(&[0xFF; LONG]);
                claim.commit(1, 0, 9);
                break;
            }
            thread::yield_now();
        }
        left.publish();
        consumer.join().unwrap();
    });
}

#[test]
fn loom_both_sides_asleep_in_turn_always_finish() {
    model(|| {
        let (mut left, mut right) = Side::pair();
        for number in 0..4 {
            assert!(left.send(LONG, number));
        }
        left.publish();
        let consumer = thread::spawn(move || right.take_all(6));
        left.send_patiently(LONG, 4);
        left.send_patiently(SHORT, 5);
        left.publish();
        consumer.join().unwrap();
    });
}

#[test]
fn loom_a_record_behind_a_padding_arrives_with_it() {
    model(|| {
        let (mut left, mut right) = Side::pair();
        left.advance(&mut right, 7);
        let consumer = thread::spawn(move || right.take_all(2));
        assert!(left.send(LONG, 0), "needs both the last place and the first two");
        left.publish();
        assert!(left.send(LONG, 1));
        left.publish();
        consumer.join().unwrap();
    });
}

#[test]
fn loom_waiting_for_room_at_the_wrap_counts_the_padding() {
    model(|| {
        let (mut left, mut right) = Side::pair();
        left.advance(&mut right, 5);
        // Places 5 and 6, then 7 is skipped, then 0 to 3: one place is free, and no LONG record fits before the wrap.
        for number in 0..3 {
            assert!(left.send(LONG, number));
        }
        left.publish();
        let consumer = thread::spawn(move || right.take_all(4));
        left.send_patiently(LONG, 3);
        left.publish();
        consumer.join().unwrap();
    });
}
