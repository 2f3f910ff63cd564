//! What the edge wrote for a worker, read back once the worker is gone.
//!
//! Invariant: everything comes from the edge's own segment, which nobody else can write, at positions that the edge noted
//! itself. The worker's word counts for one thing only: how far it read. It stores that before it acts on a REQUEST, so a
//! request that it says it did not take was not begun.

use super::EdgeLane;
use crate::ipc::{
    fault::Fault,
    message::{Kind, Request, flags, parse_chunk, parse_request},
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
