//! What the edge wrote for a worker, read back once the worker is gone, or taken back before the worker took it.
//!
//! Invariant: everything comes from the edge's own segment, which nobody else can write, at positions that the edge noted
//! itself. The worker's word counts for one thing only: how far it read. It stores that before it acts on a REQUEST, so a
//! request that it says it did not take was not begun.

use super::EdgeLane;
use crate::ipc::{
    fault::Fault,
    message::{Kind, Request, flags, parse_chunk, parse_request},
    record::padded,
    ring::Withdrawal,
    segment::Segment,
};

impl EdgeLane {
    /// Where the record begins that was written last.
    pub fn newest(&self) -> u64 {
        self.0.tx.newest()
    }

    /// The position behind everything that was written.
    pub fn tail(&self) -> u64 {
        self.0.tx.tail()
    }

    /// How far the worker has read: what begins below was taken.
    pub fn taken(&mut self) -> Result<u64, Fault> {
        self.0.tx.taken()
    }

    /// True when something that was published was not taken yet.
    pub fn is_unread(&mut self) -> Result<bool, Fault> {
        Ok(self.0.tx.taken()? < self.0.tx.published())
    }

    /// Withdraws the REQUEST that was written at `position`. When that is done the worker never acts on it, and nothing of this
    /// exchange is owed to it or by it any more. If not, it is to be told with CANCEL, for
    /// [`Cancellation::WithdrawnLate`] if the withdrawal is unsure, and ends the exchange.
    ///
    /// What follows of its body the worker passes over, as it does with an exchange that has ended, and gives chunks
    /// back: an index names no lease, so only of those that it cannot have seen is it sure that it will not.
    ///
    /// [`Cancellation::WithdrawnLate`]: crate::ipc::message::Cancellation::WithdrawnLate
    pub fn withdraw_request(&mut self, position: u64, exchange: u64) -> Result<Withdrawal, Fault> {
        let withdrawal = self.0.tx.withdraw(position)?;
        if withdrawal != Withdrawal::Done {
            return Ok(withdrawal);
        }
        let Some((_, request)) = self.0.tx.header(position) else { return Ok(withdrawal) };
        if request.flags & flags::END == 0 {
            self.take_back_chunks(position.max(self.0.tx.published()), exchange)?;
        }
        Ok(withdrawal)
    }

    /// Frees the chunks of a body that are named from `at` on, which nobody has seen.
    fn take_back_chunks(&mut self, mut at: u64, exchange: u64) -> Result<(), Fault> {
        let mut payload = Vec::new();
        while let Some((start, header)) = self.0.tx.header(at) {
            at = start + padded(header.len as usize) as u64;
            let of_body = header.kind == Kind::Body as u16 && header.exchange == exchange;
            if of_body && header.flags & flags::CHUNK != 0 {
                payload.clear();
                self.0.tx.read_back(start, &mut payload);
                self.0.tx.rewrite(start, Kind::Withdrawn as u16);
                self.0.arena.release(parse_chunk(&payload)?.index)?;
            }
        }
        Ok(())
    }

    /// The payload of the REQUEST that was written at `position`, and whether it is the whole request, for
    /// [`Request::parse`]; `None` when its place was written again since.
    pub fn recall_request(&self, position: u64, exchange: u64) -> Option<(Vec<u8>, bool)> {
        let mut payload = Vec::new();
        let (record, _) = self.0.tx.read_back(position, &mut payload)?;
        let same = record.kind == Kind::Request as u16 && record.exchange == exchange;
        same.then_some((payload, record.flags & flags::END != 0))
    }

    /// The body that was written for an exchange behind its REQUEST at `position`, and whether its end was among it. `None`
    /// when a part of it is there no more.
    ///
    /// Only for a request that was not taken: a worker that gave back a chunk which it cannot have read yet makes the place
    /// of somebody else's bytes of it. Such a chunk is named twice behind `position`.
    pub fn recall_body(&self, position: u64, exchange: u64) -> Option<(Vec<u8>, bool)> {
        let own: &Segment = &self.0.own;
        let geometry = own.geometry();
        let mut named = vec![false; geometry.chunk_count()];
        let (mut body, mut ended, mut payload) = (Vec::new(), false, Vec::new());
        let mut at = position;
        while at < self.0.tx.tail() {
            payload.clear();
            let (record, next) = self.0.tx.read_back(at, &mut payload)?;
            at = next;
            if record.kind != Kind::Body as u16 {
                continue;
            }
            let ours = record.exchange == exchange;
            if record.flags & flags::CHUNK != 0 {
                let chunk = parse_chunk(&payload).ok()?;
                if std::mem::replace(named.get_mut(chunk.index as usize)?, true) {
                    return None;
                }
                if ours {
                    let offset = geometry.chunk_offset(chunk.index as usize);
                    own.read_onto(offset, chunk.len as usize, &mut body);
                }
            } else if ours {
                body.extend_from_slice(&payload);
            }
            ended |= ours && record.flags & flags::END != 0;
        }
        Some((body, ended))
    }
}

impl Request<'_> {
    /// The record's payload, for a request that waits.
    pub fn to_payload(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.payload_len());
        self.encode(|part| payload.extend_from_slice(part));
        payload
    }

    /// The request that [`Request::to_payload`] or [`EdgeLane::recall_request`] made a payload of.
    pub fn parse(payload: &[u8], end: bool) -> Option<Request<'_>> {
        parse_request(payload, end)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc as StdArc;

    use super::*;
    use crate::{
        ipc::{Doorbell, WorkerLane, layout::Geometry, message::ToWorker, sync::Arc},
        span::Span,
    };

    fn pair() -> (EdgeLane, WorkerLane) {
        let geometry = Geometry::new(4096, 256, 4).unwrap();
        let (e, w) = (Arc::new(Segment::heap(geometry)), Arc::new(Segment::heap(geometry)));
        let bell = || StdArc::new(Doorbell::new().unwrap());
        (EdgeLane::new(Arc::clone(&e), Arc::clone(&w), bell()), WorkerLane::new(w, e, bell()))
    }

    fn request(body: &[u8], end: bool) -> Request<'_> {
        Request {
            route: 1,
            method: 2,
            version: 11,
            method_name: Span::new(0, 4).unwrap(),
            raw_path: Span::new(4, 2).unwrap(),
            path: Span::new(4, 2).unwrap(),
            query: Span::default(),
            authority: Span::default(),
            fields: &[],
            params: &[],
            blob: b"POST/a",
            content_length: None,
            peer: None,
            secure: false,
            tls: None,
            websocket: false,
            halvings: 0,
            body,
            end,
        }
    }

    #[test]
    fn a_request_counts_as_taken_before_anybody_can_act_on_it() {
        let (mut edge, mut worker) = pair();
        assert!(edge.send_request(1, &request(b"one", true)).unwrap());
        let first = edge.newest();
        assert!(edge.send_request(2, &request(b"two", true)).unwrap());
        let second = edge.newest();
        edge.publish().unwrap();
        assert!(edge.taken().unwrap() <= first);
        // The worker holds the message, and has published nothing of its own accord.
        let Ok(Some((1, ToWorker::Request(_)))) = worker.receive() else { panic!("the first") };
        let taken = edge.taken().unwrap();
        assert!(first < taken && taken <= second, "{first} {taken} {second}");
        assert!(edge.is_unread().unwrap());
        let Ok(Some((2, ToWorker::Request(_)))) = worker.receive() else { panic!("the second") };
        assert!(edge.taken().unwrap() > second && !edge.is_unread().unwrap());
    }

    #[test]
    fn an_upload_that_was_not_taken_is_recalled_whole_and_apart_from_others() {
        let (mut edge, _worker) = pair();
        assert!(edge.send_request(1, &request(b"in", false)).unwrap());
        let position = edge.newest();
        assert!(edge.send_request(2, &request(b"other", false)).unwrap());
        assert_eq!(edge.send_body(1, &[b'x'; 300], false), Ok(Some(300)));
        assert_eq!(edge.send_body(2, &[b'y'; 10], true), Ok(Some(10)));
        assert_eq!(edge.send_body(1, b"end", true), Ok(Some(3)));
        edge.publish().unwrap();
        let (payload, whole) = edge.recall_request(position, 1).unwrap();
        let again = Request::parse(&payload, whole).unwrap();
        assert_eq!(
            (again.path.of(again.blob), again.body, again.end),
            (Some(&b"/a"[..]), &b"in"[..], false)
        );
        assert_eq!(
            edge.recall_body(position, 1),
            Some(([&[b'x'; 300][..], b"end"].concat(), true))
        );
        assert_eq!(edge.recall_request(position, 2), None, "that is not whose place it was");
        assert_eq!(request(b"in", false).to_payload(), payload);
    }

    #[test]
    fn a_request_that_was_not_taken_is_withdrawn_and_its_worker_never_sees_it() {
        let (mut edge, mut worker) = pair();
        let mut positions = Vec::new();
        for exchange in 1..=4 {
            assert!(edge.send_request(exchange, &request(b"body", true)).unwrap());
            positions.push(edge.newest());
            if exchange == 3 {
                edge.publish().unwrap();
            }
        }
        let Ok(Some((1, ToWorker::Request(_)))) = worker.receive() else { panic!("the first") };
        assert_eq!(edge.withdraw_request(positions[0], 1), Ok(Withdrawal::TooLate));
        assert_eq!(edge.withdraw_request(positions[1], 2), Ok(Withdrawal::Done), "published");
        assert_eq!(edge.withdraw_request(positions[3], 4), Ok(Withdrawal::Done), "not even that");
        edge.publish().unwrap();
        let Ok(Some((3, ToWorker::Request(got)))) = worker.receive() else { panic!("the third") };
        assert_eq!((got.body, got.end), (&b"body"[..], true));
        assert!(worker.receive().unwrap().is_none());
        assert!(!edge.is_unread().unwrap(), "it is past them");
    }

    #[test]
    fn what_was_written_of_a_withdrawn_upload_costs_no_chunk_for_longer_than_it_takes_to_pass_it() {
        let (mut edge, mut worker) = pair();
        assert!(edge.send_request(1, &request(b"", false)).unwrap());
        let first = edge.newest();
        assert_eq!(edge.send_body(1, &[b'x'; 700], false), Ok(Some(700)), "a chunk");
        edge.publish().unwrap();
        assert!(edge.send_request(2, &request(b"", false)).unwrap());
        let second = edge.newest();
        assert_eq!(edge.send_body(2, &[b'y'; 1000], true), Ok(Some(1000)), "two more");
        assert_eq!(edge.leased_chunks(), 3);
        assert_eq!(edge.withdraw_request(second, 2), Ok(Withdrawal::Done));
        assert_eq!(edge.leased_chunks(), 1, "what nobody has seen is back at once");
        assert_eq!(edge.withdraw_request(first, 1), Ok(Withdrawal::Done));
        assert_eq!(edge.leased_chunks(), 1, "of what was published the worker decides");
        assert!(edge.send_request(3, &request(b"", false)).unwrap());
        assert_eq!(edge.send_body(3, &[b'z'; 1200], true), Ok(Some(1200)), "the second's chunks");
        edge.publish().unwrap();

        let mut third = Vec::new();
        while let Some((exchange, message)) = worker.receive().unwrap() {
            match message {
                ToWorker::Request(_) => assert_eq!(exchange, 3),
                ToWorker::Body { data, .. } if exchange == 3 => third.extend_from_slice(data),
                ToWorker::Body { .. } => assert!(exchange < 3, "of no exchange that it knows"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(third, [b'z'; 1200]);
        worker.publish().unwrap();
        assert!(edge.receive().unwrap().is_none());
        assert_eq!(edge.leased_chunks(), 0);
    }

    #[test]
    fn a_worker_that_gave_back_what_it_cannot_have_seen_is_found_out_when_that_is_withdrawn() {
        let (mut edge, _) = pair();
        assert!(edge.send_request(1, &request(b"", false)).unwrap());
        let position = edge.newest();
        assert_eq!(edge.send_body(1, &[b'x'; 600], false), Ok(Some(600)));
        edge.0.arena.release(0).unwrap();
        assert_eq!(edge.withdraw_request(position, 1), Err(Fault::Release { index: 0 }));
    }

    #[test]
    fn a_chunk_that_was_given_back_unread_spoils_what_named_it() {
        let (mut edge, _) = pair();
        assert!(edge.send_request(1, &request(b"", false)).unwrap());
        let position = edge.newest();
        assert_eq!(edge.send_body(1, &[b'x'; 2000], true), Ok(Some(1024)), "the whole arena");
        edge.publish().unwrap();
        // The worker lies about the chunks, and somebody else's bytes come to lie there.
        edge.0.arena.release(0).unwrap();
        assert!(edge.recall_body(position, 1).is_some());
        assert_eq!(edge.send_body(2, &[b'y'; 600], true), Ok(Some(600)));
        assert!(edge.recall_body(position, 1).is_none());
    }
}
