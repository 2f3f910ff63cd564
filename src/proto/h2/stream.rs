//! One request and its response on an HTTP/2 connection.
//!
//! Invariant: it is there from the request's head until the response ends or the stream is reset, whichever is first;
//! the library learns that we are done with a stream by both of its handles being dropped.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::Response;

use super::response::Sending;

/// The library's handle for answering; another one once the head is out.
#[derive(Debug)]
enum Sender {
    Respond(SendResponse<Bytes>),
    Stream(SendStream<Bytes>),
}

/// How far the request has been read.
#[derive(Debug)]
pub(super) enum Reading {
    /// Its body is under way.
    Body,
    /// It was read to its end.
    Done,
    /// It is not wanted any more.
    Refused,
}

/// A stream's turn to put body into the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It does not wait for one.
    None,
    /// It is among those that wait.
    Awaited,
    /// The caller was told, and has not used it.
    Come,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u64,
    /// `None`: the request had no body. Kept to the end, because credit is given through it.
    receiver: Option<RecvStream>,
    sender: Sender,
    pub(super) reading: Reading,
    /// Body bytes that were given to the caller.
    pub(super) received: u64,
    /// Those of them for which no credit came back.
    pub(super) unreturned: usize,
    pub(super) opened: Instant,
    /// When the last of them came, or credit for more.
    pub(super) last_data: Instant,
    pub(super) sending: Sending,
    /// END_STREAM is with the library.
    pub(super) end_sent: bool,
    /// Since when the client's window holds a piece of the body back, and how much has gone out since.
    pub(super) blocked: Option<(Instant, u64)>,
    pub(super) turn: Turn,
    pub(super) is_head: bool,
    pub(super) is_websocket: bool,
    pub(super) continue_due: bool,
}

/// What the library has of a request's body.
pub(super) enum Received {
    Data {
        data: Bytes,
        end: bool,
    },
    /// The trailer section, and with it the end.
    Trailers(http::HeaderMap),
    /// Nothing yet; the waker will be called.
    Nothing,
    /// The stream is no more.
    Lost,
}

impl Stream {
    pub(super) fn new(
        respond: SendResponse<Bytes>,
        receiver: RecvStream,
        is_head: bool,
        now: Instant,
    ) -> Self {
        let id = u64::from(respond.stream_id().as_u32());
        let ended = receiver.is_end_stream();
        Self {
            id,
            receiver: (!ended).then_some(receiver),
            sender: Sender::Respond(respond),
            reading: if ended { Reading::Done } else { Reading::Body },
            received: 0,
            unreturned: 0,
            opened: now,
            last_data: now,
            sending: Sending::Head,
            end_sent: false,
            blocked: None,
            turn: Turn::None,
            is_head,
            is_websocket: false,
            continue_due: false,
        }
    }

    /// Looks whether the stream was reset, by whichever side; asks to be woken if not.
    pub(super) fn is_lost(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.sender {
            Sender::Respond(respond) => respond.poll_reset(cx).is_ready(),
            Sender::Stream(stream) => stream.poll_reset(cx).is_ready(),
        }
    }

    /// Takes a piece of the request's body, or its end.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>) -> Received {
        let (Reading::Body, Some(receiver)) = (&self.reading, &mut self.receiver) else {
            return Received::Nothing;
        };
        match receiver.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => {
                let end = receiver.is_end_stream();
                Received::Data { data, end }
            }
            Poll::Ready(Some(Err(_))) => Received::Lost,
            Poll::Ready(None) => match receiver.poll_trailers(cx) {
                Poll::Ready(Ok(Some(trailers))) => Received::Trailers(trailers),
                Poll::Ready(Ok(None)) => Received::Data { data: Bytes::new(), end: true },
                Poll::Ready(Err(_)) => Received::Lost,
                Poll::Pending => Received::Nothing,
            },
            Poll::Pending => Received::Nothing,
        }
    }

    /// Lets the client send as many more bytes of body.
    pub(super) fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.unreturned);
        let Some(receiver) = &mut self.receiver else { return };
        // It refuses more than is out only, and of that this keeps the books.
        if receiver.flow_control().release_capacity(bytes).is_ok() {
            self.unreturned -= bytes;
        }
    }

    /// Queues a head. The library fails for a stream that was reset just now; that will be noticed in its turn.
    pub(super) fn send_head(&mut self, head: Response<()>, end: bool) {
        if let Sender::Respond(respond) = &mut self.sender
            && let Ok(stream) = respond.send_response(head, end)
        {
            self.sender = Sender::Stream(stream);
        }
        self.end_sent = end;
    }

    /// As [`Self::send_head`], for an informational response.
    pub(super) fn send_informational(&mut self, head: Response<()>) {
        if let Sender::Respond(respond) = &mut self.sender {
            let _: Result<(), h2::Error> = respond.send_informational(head);
        }
    }

    /// How many of these bytes the client's windows take now; asks to be woken if not all.
    pub(super) fn capacity(&mut self, wanted: usize, cx: &mut Context<'_>) -> usize {
        // It was reset, and what is meant for it can go.
        let Sender::Stream(stream) = &mut self.sender else { return wanted };
        stream.reserve_capacity(wanted);
        loop {
            let granted = stream.capacity().min(wanted);
            if granted == wanted {
                return granted;
            }
            match stream.poll_capacity(cx) {
                // News of an earlier grant; nobody was asked to wake us yet.
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return wanted,
                Poll::Pending => return granted,
            }
        }
    }

    /// True when the client's windows take what was asked for last, or some of it.
    pub(super) fn has_capacity(&self) -> bool {
        matches!(&self.sender, Sender::Stream(stream) if stream.capacity() > 0)
    }

    /// Queues a piece of body; see [`Self::send_head`] for failure.
    pub(super) fn send_data(&mut self, data: &[u8], end: bool) {
        if let Sender::Stream(stream) = &mut self.sender
            && !self.end_sent
        {
            let _: Result<(), h2::Error> = stream.send_data(Bytes::copy_from_slice(data), end);
            self.end_sent = end;
        }
    }

    /// Queues the trailer section and the end; see [`Self::send_head`] for failure.
    pub(super) fn send_trailers(&mut self, trailers: http::HeaderMap) {
        if let Sender::Stream(stream) = &mut self.sender
            && !self.end_sent
        {
            let _: Result<(), h2::Error> = stream.send_trailers(trailers);
            self.end_sent = true;
        }
    }

    pub(super) fn send_reset(&mut self, reason: Reason) {
        match &mut self.sender {
            Sender::Respond(respond) => respond.send_reset(reason),
            Sender::Stream(stream) => stream.send_reset(reason),
        }
    }
}
