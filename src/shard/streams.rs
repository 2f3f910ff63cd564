//! Connections that carry many exchanges at one time: an engine, and what the shard keeps by stream.
//!
//! ```text
//!   bytes or datagrams ──► engine ──► [`Core::pump`] ──► exchanges ──► lanes
//!   bytes or datagrams ◄── engine ◄── [`Stream`], of which a worker's records know nothing but [`Respond`]
//! ```
//!
//! Written once for every engine. Whoever has the connection feeds the engine, pumps, and takes its output whenever the
//! connection was touched; nothing here knows of sockets.
//!
//! Invariant: a stream that the engine reported has an entry from its request on until its response is with the engine to
//! the end or it was reset, whichever is first; the entry names an exchange exactly as long as the exchange names its stream. What
//! a worker sent and the engine has not taken is at most the exchange's window.

use std::time::Instant;

use super::{
    Core,
    answer::CLIENT_GONE,
    client::{Respond, Saying, exceeds, head_of},
    conn::Verdict,
    engine::Engine,
    fields::{OwnFields, with_fields},
    serve::{Asked, unavailable},
    websocket::{Site, Talk, WebSocket},
};
use crate::{
    ipc::message::{Cancellation, Response},
    limits,
    proto::{
        answer::EdgeAnswer,
        error::BadResponse,
        forwarded::Origin,
        head::{BodyLength, Method, ResponseHead},
        stream::{Cut, Event, StreamKey},
    },
    span::{Field, Span},
};

/// How a connection's requests come in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) direct: Origin,
    /// Requests are sent to the TLS listener.
    pub(super) redirects: bool,
    /// The client has found HTTP/3 and need not be told of it.
    pub(super) http3: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Streams<E> {
    pub(super) engine: E,
    pub(super) access: Access,
    /// By [`StreamKey::slot`].
    entries: Vec<Option<Entry>>,
    open: usize,
    /// Bytes of responses that the engine has not taken, of all streams.
    unsent: usize,
    /// The windows of all streams' responses.
    granted: usize,
    /// Requests are not begun for now.
    pub(super) holds: bool,
    /// The client was asked for no more requests.
    pub(super) leaving: bool,
}

/// What the shard knows of one stream.
#[derive(Debug)]
struct Entry {
    key: StreamKey,
    /// The exchange, until its worker has written all of the response or its WebSocket parts from it.
    exchange: Option<usize>,
    is_head: bool,
    /// The request was read to its end.
    request_ended: bool,
    /// Body of the response that the engine has not taken, from `at` on.
    unsent: Vec<u8>,
    at: usize,
    /// How much of it the connection has counted.
    counted: usize,
    /// What follows that.
    then: Then,
    /// Its response's window.
    granted: usize,
    websocket: Option<WebSocket>,
    /// Received on it and not decoded: at most the stream's window, for which no credit was given yet.
    heard: Vec<u8>,
}

/// What follows the body that was given so far.
#[derive(Debug)]
enum Then {
    /// More of it.
    More,
    /// The end.
    End,
    /// Trailer fields, and the end.
    Trailers(Box<(Vec<u8>, Vec<Field>)>),
    /// Nothing: the engine has all of it.
    Nothing,
}

/// What events leave behind to be done when the streams are in their place again.
#[derive(Debug, Default)]
struct After {
    /// WebSockets that have something to be decoded, or room to say something.
    heard: Vec<StreamKey>,
    /// Exchanges all of whose response so far is with the engine.
    freed: Vec<usize>,
}

/// One stream, as a place for a response.
pub(super) struct Stream<'a, E> {
    engine: &'a mut E,
    entry: &'a mut Entry,
    /// Of the connection.
    unsent: &'a mut usize,
    access: Access,
}

impl<E: Engine> Streams<E> {
    pub(super) fn new(engine: E, access: Access) -> Self {
        Self {
            engine,
            access,
            entries: Vec::new(),
            open: 0,
            unsent: 0,
            granted: 0,
            holds: false,
            leaving: false,
        }
    }

    /// Streams whose response is not with the engine to its end.
    pub(super) fn len(&self) -> usize {
        self.open
    }

    /// The stream of this key, if it has not ended.
    pub(super) fn stream(&mut self, key: StreamKey) -> Option<Stream<'_, E>> {
        let entry = self.entries.get_mut(key.slot())?.as_mut().filter(|entry| entry.key == key)?;
        let Self { engine, unsent, access, .. } = self;
        Some(Stream { engine, entry, unsent, access: *access })
    }

    /// Streams whose request has not been read to its end.
    pub(super) fn unfinished(&self) -> Vec<StreamKey> {
        let entries = self.entries.iter().flatten();
        entries.filter(|entry| !entry.request_ended).map(|entry| entry.key).collect()
    }

    /// Streams and their exchanges, for whoever counts.
    #[cfg(test)]
    pub(super) fn exchanges(&self) -> impl Iterator<Item = (StreamKey, usize)> {
        let entries = self.entries.iter().flatten();
        entries.filter_map(|entry| Some((entry.key, entry.exchange?)))
    }

    /// The most that one stream has to send and the engine has not taken.
    #[cfg(test)]
    pub(super) fn unsent_max(&self) -> usize {
        let unsent = self.entries.iter().flatten().map(|entry| entry.unsent.len());
        unsent.max().unwrap_or_default()
    }

    fn insert(&mut self, entry: Entry) {
        let key = entry.key;
        if self.entries.len() <= key.slot() {
            self.entries.resize_with(key.slot() + 1, || None);
        }
        self.granted += entry.granted;
        if let Some(slot) = self.entries.get_mut(key.slot()) {
            debug_assert!(slot.is_none(), "an engine's slot has one stream at a time");
            self.open += usize::from(slot.replace(entry).is_none());
        }
    }

    /// How often the window of one more response is halved, so that all of them together stay within bounds.
    fn halvings(&self) -> u8 {
        let share = limits::STREAMS_WINDOW.saturating_sub(self.granted) / 4;
        let fits = |halvings: &u8| limits::EXCHANGE_WINDOW >> halvings <= share;
        (0..limits::WINDOW_HALVINGS_MAX).find(fits).unwrap_or(limits::WINDOW_HALVINGS_MAX)
    }

    /// How much wider the window of a response may become whose client reads.
    pub(super) fn headroom(&self, limit: usize) -> usize {
        let share = limits::STREAMS_WINDOW.saturating_sub(self.granted) / 4;
        share.min(limit).min(limits::EXCHANGE_WINDOW.saturating_sub(limit))
    }

    /// The window of a stream's response has become wider.
    pub(super) fn widen(&mut self, key: StreamKey, bytes: usize) {
        if let Some(stream) = self.stream(key) {
            stream.entry.granted += bytes;
            self.granted += bytes;
        }
    }

    fn remove(&mut self, key: StreamKey) -> Option<Entry> {
        let slot = self.entries.get_mut(key.slot())?;
        let entry = slot.take_if(|entry| entry.key == key);
        self.open -= usize::from(entry.is_some());
        self.unsent -= entry.as_ref().map_or(0, |entry| entry.counted);
        self.granted -= entry.as_ref().map_or(0, |entry| entry.granted);
        entry
    }

    pub(super) fn response_waits(&self, key: StreamKey) -> bool {
        self.engine.response_waits(key)
    }

    /// True when the engine has all that was given for this stream.
    pub(super) fn has_sent_all(&self, key: StreamKey) -> bool {
        let entry = self.entries.get(key.slot()).and_then(Option::as_ref);
        entry.is_none_or(|entry| entry.key != key || entry.at == entry.unsent.len())
    }

    /// Ends a stream with an answer of the edge's own, or by a reset if a response has begun.
    pub(super) fn answer(
        &mut self,
        key: StreamKey,
        verdict: &Verdict,
        own: &OwnFields,
        date: &[u8],
    ) {
        let mut fields = verdict.fields();
        fields.extend(own.of(self.access.direct.secure, self.access.http3));
        let answer = EdgeAnswer::new(verdict.status, verdict.detail, &fields);
        if self.engine.answer(key, &answer, date).is_err() {
            self.engine.reset(key, Cut::Internal);
        }
        self.remove(key);
    }

    /// Its WebSocket parts from its exchange.
    pub(super) fn part_websocket(&mut self, key: StreamKey) {
        if let Some(stream) = self.stream(key) {
            stream.entry.exchange = None;
        }
    }

    /// Keeps what arrived for a WebSocket, to be decoded; false when this stream is none.
    fn hear(&mut self, key: StreamKey, data: &[u8], end: bool) -> bool {
        let Some(stream) = self.stream(key) else { return false };
        if stream.entry.websocket.is_none() {
            return false;
        }
        stream.entry.heard.extend_from_slice(data);
        stream.entry.request_ended |= end;
        true
    }

    /// See [`Site`].
    pub(super) fn site(&mut self, key: StreamKey) -> Option<Site<'_>> {
        self.stream(key).map(|stream| stream.entry.site())
    }

    /// The WebSockets among the streams.
    pub(super) fn websockets(&self) -> impl Iterator<Item = (StreamKey, &WebSocket)> {
        let entries = self.entries.iter().flatten();
        entries.filter_map(|entry| Some((entry.key, entry.websocket.as_ref()?)))
    }

    /// The worker has written all of this stream's response.
    fn part(&mut self, key: StreamKey) {
        let entry = self.entries.get_mut(key.slot()).and_then(Option::as_mut);
        let Some(entry) = entry.filter(|entry| entry.key == key) else { return };
        entry.exchange = None;
        if matches!(entry.then, Then::Nothing) {
            self.remove(key);
        }
    }

    /// There is room for more of this stream's response; the exchange that may go on, if there is one.
    fn go_on(&mut self, key: StreamKey, now: Instant) -> Result<Option<usize>, BadResponse> {
        let Some(mut stream) = self.stream(key) else { return Ok(None) };
        stream.push_on(now)?;
        let (exchange, over) = (stream.entry.exchange, matches!(stream.entry.then, Then::Nothing));
        if over && exchange.is_none() {
            self.remove(key);
        }
        Ok(exchange.filter(|_| self.has_sent_all(key)))
    }
}

impl Entry {
    fn new(key: StreamKey, exchange: usize, is_head: bool, request_ended: bool) -> Self {
        Self {
            key,
            exchange: Some(exchange),
            is_head,
            request_ended,
            unsent: Vec::new(),
            at: 0,
            counted: 0,
            then: Then::More,
            granted: 0,
            websocket: None,
            heard: Vec::new(),
        }
    }

    fn site(&mut self) -> Site<'_> {
        let talk = match (&self.websocket, self.exchange) {
            (Some(WebSocket::Open(_)), Some(exchange)) => Talk::Both(exchange),
            (Some(WebSocket::Open(_)), None) => Talk::Parting,
            (Some(WebSocket::Asked(_)) | None, _) => Talk::Silent,
        };
        let has_room = self.unsent.len() - self.at <= limits::UNSENT_SIZE_MAX;
        let Self { websocket, unsent: output, .. } = self;
        Site { websocket, output, talk, has_room }
    }
}

impl<E: Engine> Stream<'_, E> {
    /// Gives the engine a piece of the response's body, and what follows it; what it does not take waits.
    fn push(&mut self, data: &[u8], then: Then, now: Instant) -> Result<(), BadResponse> {
        self.entry.then = then;
        let mut rest = data;
        if self.entry.unsent.is_empty() {
            let end = matches!(self.entry.then, Then::End);
            let taken = self.engine.body(self.entry.key, data, end, now)?;
            rest = data.get(taken..).unwrap_or_default();
            if rest.is_empty() {
                return self.finish();
            }
        }
        self.entry.unsent.extend_from_slice(rest);
        self.count();
        Ok(())
    }

    /// Brings the books up to date.
    fn count(&mut self) {
        let left = self.entry.unsent.len() - self.entry.at;
        *self.unsent = *self.unsent - std::mem::replace(&mut self.entry.counted, left) + left;
    }

    /// Gives the engine more of what waits.
    fn push_on(&mut self, now: Instant) -> Result<(), BadResponse> {
        let Entry { key, unsent, at, then, .. } = &mut *self.entry;
        if *at == unsent.len() {
            return Ok(());
        }
        let rest = unsent.get(*at..).unwrap_or_default();
        *at += self.engine.body(*key, rest, matches!(then, Then::End), now)?;
        let is_all = *at == unsent.len();
        if is_all {
            (*unsent, *at) = (Vec::new(), 0);
        }
        self.count();
        if is_all { self.finish() } else { Ok(()) }
    }

    /// The engine has taken all of the body so far.
    fn finish(&mut self) -> Result<(), BadResponse> {
        match std::mem::replace(&mut self.entry.then, Then::Nothing) {
            Then::More => self.entry.then = Then::More,
            Then::End | Then::Nothing => {}
            Then::Trailers(trailers) => {
                let (blob, fields) = &*trailers;
                self.engine.trailers(self.entry.key, &trailer_head(blob, fields))?;
            }
        }
        Ok(())
    }
}

impl<E: Engine> Respond for Stream<'_, E> {
    fn respond(&mut self, response: &Response<'_>, saying: Saying<'_>) -> Result<(), BadResponse> {
        let head = head_of(response);
        if exceeds(response) {
            return Err(BadResponse::BodyTooLong);
        }
        let bodiless = self.entry.is_head || matches!(response.status, 204 | 304);
        let missing = |length| length > response.body.len() as u64;
        if response.end && !bodiless && response.content_length.is_some_and(missing) {
            return Err(BadResponse::BodyTooShort);
        }
        let over = response.end && response.body.is_empty();
        let key = self.entry.key;
        let ours = saying.own.of(self.access.direct.secure, self.access.http3);
        match with_fields(&head, ours) {
            Some((blob, fields)) => {
                let head = ResponseHead { blob: &blob, fields: &fields, ..head };
                self.engine.respond(key, &head, &saying.date, over)?;
            }
            None => self.engine.respond(key, &head, &saying.date, over)?,
        }
        if over {
            self.entry.then = Then::Nothing;
            return Ok(());
        }
        self.body(response.body, response.end, saying.now)
    }

    fn body(&mut self, data: &[u8], end: bool, now: Instant) -> Result<(), BadResponse> {
        if data.is_empty() && !end {
            return Ok(());
        }
        self.push(data, if end { Then::End } else { Then::More }, now)
    }

    fn trail(&mut self, trailers: &ResponseHead<'_>, now: Instant) -> Result<(), BadResponse> {
        let owned = Box::new((trailers.blob.to_vec(), trailers.fields.to_vec()));
        self.push(&[], Then::Trailers(owned), now)
    }

    fn inform(&mut self, head: &ResponseHead<'_>) -> Result<(), BadResponse> {
        self.engine.informational(self.entry.key, head)
    }

    fn grant(&mut self, bytes: usize, now: Instant) {
        // A WebSocket's bytes are given credit for as they are decoded.
        if self.entry.websocket.is_none() {
            self.engine.go_on(self.entry.key);
            self.engine.credit(self.entry.key, bytes, now);
        }
    }

    fn switch(
        &mut self,
        _: usize,
        head: &ResponseHead<'_>,
        ours: &[(&'static str, String)],
        saying: Saying<'_>,
    ) -> Result<(), BadResponse> {
        let (blob, fields) = accepting(head, ours).ok_or(BadResponse::TooManyFields)?;
        let head =
            ResponseHead { blob: &blob, fields: &fields, body: BodyLength::Unknown, ..*head };
        self.engine.respond(self.entry.key, &head, &saying.date, false)
    }

    fn site(&mut self) -> Site<'_> {
        self.entry.site()
    }

    fn said(&mut self, now: Instant) {
        if let Err(error) = self.push_on(now) {
            // Nobody has announced a length.
            debug_assert!(false, "the body of a WebSocket is never wrong: {error}");
        }
    }
}

/// The head that accepts a WebSocket: of the application's fields those that are its own to write (RFC 6455 §4.2.2), and ours.
fn accepting(
    head: &ResponseHead<'_>,
    ours: &[(&'static str, String)],
) -> Option<(Vec<u8>, Vec<Field>)> {
    let (mut blob, mut fields) = (head.blob.to_vec(), Vec::with_capacity(head.fields.len() + 1));
    for field in head.fields {
        let name = field.name.of(head.blob).unwrap_or_default();
        let handshakes = [&b"sec-websocket-accept"[..], b"sec-websocket-extensions"];
        if !handshakes.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            fields.push(*field);
        }
    }
    for (name, value) in ours {
        let at = blob.len();
        blob.extend_from_slice(name.as_bytes());
        blob.extend_from_slice(value.as_bytes());
        let name_span = Span::new(at, name.len())?;
        fields.push(Field { name: name_span, value: Span::new(at + name.len(), value.len())? });
    }
    Some((blob, fields))
}

fn trailer_head<'a>(blob: &'a [u8], fields: &'a [Field]) -> ResponseHead<'a> {
    ResponseHead { status: 0, blob, fields, body: BodyLength::Empty }
}

impl Core {
    /// Serves what a connection's clients did, for a while; true when there may be more of it.
    pub(super) fn pump<E: Engine>(&mut self, index: usize) -> bool {
        // Taken out for the while: nothing below looks for a stream in its place.
        let Some(mut streams) = E::place(self, index).and_then(Option::take) else { return false };
        streams.holds = streams.unsent > limits::STREAMS_UNSENT_MAX
            || (streams.open >= limits::STREAMS_SHARE
                && self.links.are_half_full(&self.options.limits));
        streams.engine.hold_requests(streams.holds);
        let mut after = After::default();
        let more =
            (0..limits::STREAM_EVENTS_MAX).all(|_| self.step(index, &mut streams, &mut after));
        if let Some(place) = E::place(self, index) {
            *place = Some(streams);
        }
        // Here, where the streams are in their place again: a window may become wider.
        for exchange in after.freed {
            self.return_credit(exchange);
        }
        for stream in after.heard {
            self.listen_stream::<E>(index, stream);
        }
        more
    }

    /// The next event; false when there is none. WebSockets that have something to be decoded, or room to say something, are
    /// noted in `after`.
    fn step<E: Engine>(
        &mut self,
        index: usize,
        streams: &mut Streams<E>,
        after: &mut After,
    ) -> bool {
        match streams.engine.poll_event(&mut self.head, self.clock.now) {
            None => return false,
            Some(Event::Request { stream, end, websocket }) => {
                self.begin_stream(index, streams, stream, (end, websocket), after);
            }
            Some(Event::Body { stream, data, end }) if streams.hear(stream, &data, end) => {
                after.heard.push(stream);
            }
            Some(event) => {
                if let Event::Writable { stream } = event
                    && streams.site(stream).is_some_and(|site| site.talk != Talk::Silent)
                {
                    after.heard.push(stream);
                }
                self.react(streams, event, after);
            }
        }
        true
    }

    /// A request's head is here, in `head`.
    fn begin_stream<E: Engine>(
        &mut self,
        index: usize,
        streams: &mut Streams<E>,
        stream: StreamKey,
        (mut end, websocket): (bool, bool),
        after: &mut After,
    ) {
        let Access { direct, redirects, .. } = streams.access;
        let found = match websocket && !redirects {
            true => self.find_extended().map(|(route, asked)| (route, Some(asked))),
            false => self.route(redirects),
        };
        let (route, asked) = match found {
            Ok(found) => found,
            Err(verdict) => return self.answer_stream(streams, stream, &verdict),
        };
        if let Some(asked) = asked {
            return self.begin_websocket(index, streams, stream, asked, route);
        }
        let mut body = bytes::Bytes::new();
        if !end {
            // What is here of the body goes with the head: then one record may carry the whole request.
            match streams.engine.poll_stream_event(stream, self.clock.now) {
                Some(Event::Body { data, end: last, .. }) => (body, end) = (data, last),
                Some(event) => return self.react(streams, event, after),
                None => {}
            }
        }
        let halvings = streams.halvings();
        let fits = body.len() <= limits::INLINE_BODY_SIZE_MAX;
        let (inline, rest) = if fits { (&body[..], &[][..]) } else { (&[][..], &body[..]) };
        let asked = Asked {
            client: E::client(index, stream),
            direct,
            route,
            websocket: false,
            halvings,
            body: inline,
            end: end && fits,
        };
        let Some(exchange) = self.admit(&asked) else {
            return self.answer_stream(streams, stream, &unavailable());
        };
        let granted = limits::EXCHANGE_WINDOW >> halvings;
        let entry = Entry::new(stream, exchange, self.head.method == Method::Head, end);
        streams.insert(Entry { granted, ..entry });
        if !fits {
            self.upload(exchange, rest);
            if end {
                self.end_upload(exchange);
            }
        }
    }

    /// A request for a WebSocket: nothing of it follows its head, whatever the client sends from then on.
    fn begin_websocket<E: Engine>(
        &mut self,
        index: usize,
        streams: &mut Streams<E>,
        stream: StreamKey,
        websocket: WebSocket,
        route: u32,
    ) {
        self.head.body = BodyLength::Empty;
        let direct = streams.access.direct;
        let client = E::client(index, stream);
        let asked =
            Asked { client, direct, route, websocket: true, halvings: 0, body: &[], end: true };
        match self.admit(&asked) {
            Some(exchange) => {
                let websocket = Some(websocket);
                streams.insert(Entry { websocket, ..Entry::new(stream, exchange, false, false) });
            }
            None => self.answer_stream(streams, stream, &unavailable()),
        }
    }

    /// Goes through what the client of a WebSocket sent, as far as its worker has room.
    pub(super) fn listen_stream<E: Engine>(&mut self, index: usize, stream: StreamKey) {
        let client = E::client(index, stream);
        let now = self.clock.now;
        let Some(found) = E::place(self, index).and_then(|s| s.as_mut()?.stream(stream)) else {
            return;
        };
        if found.entry.websocket.is_none() {
            return;
        }
        let heard = std::mem::take(&mut found.entry.heard);
        let consumed = self.listen(client, &heard);
        // It may have ended over it.
        let Some(found) = E::place(self, index).and_then(|s| s.as_mut()?.stream(stream)) else {
            return;
        };
        found.engine.credit(stream, consumed, now);
        found.entry.heard = heard;
        found.entry.heard.drain(..consumed);
        let gone = found.entry.request_ended && matches!(found.entry.then, Then::More);
        let silent = matches!(found.entry.websocket, Some(WebSocket::Asked(_)));
        if gone && !silent && found.entry.heard.is_empty() {
            self.lose_stream::<E>(index, stream);
        }
    }

    /// The client of a stream will send nothing more, and it is not all.
    pub(super) fn lose_stream<E: Engine>(&mut self, index: usize, stream: StreamKey) {
        let Some(Some(streams)) = E::place(self, index) else { return };
        let Some(entry) = streams.remove(stream) else { return };
        streams.engine.reset(stream, Cut::Cancelled);
        if let Some(exchange) = entry.exchange {
            self.abandon_exchange(exchange, Cancellation::ClientGone, CLIENT_GONE);
        }
    }

    /// Sends what a WebSocket has to say; `over`: and nothing after it.
    pub(super) fn speak_stream<E: Engine>(&mut self, index: usize, stream: StreamKey, over: bool) {
        let now = self.clock.now;
        let Some(Some(streams)) = E::place(self, index) else { return };
        let Some(mut found) = streams.stream(stream) else { return };
        found.said(now);
        if !over || matches!(found.entry.then, Then::End | Then::Nothing) {
            return;
        }
        if let Err(error) = found.push(&[], Then::End, now) {
            tracing::debug!("the end of a WebSocket cannot be sent: {error}");
        }
        if matches!(found.entry.then, Then::Nothing) {
            streams.remove(stream);
        }
    }

    /// Answers a request without a worker.
    fn answer_stream<E: Engine>(
        &mut self,
        streams: &mut Streams<E>,
        stream: StreamKey,
        verdict: &Verdict,
    ) {
        let date = self.clock.date();
        if let Some(mut line) = self.line(streams.access.direct) {
            line.status = verdict.status;
            self.access_log.write(&line, &date, std::time::Duration::ZERO);
        }
        streams.answer(stream, verdict, &self.own_fields, &date);
    }

    /// Something happened on a stream that is there.
    fn react<E: Engine>(&mut self, streams: &mut Streams<E>, event: Event, after: &mut After) {
        let now = self.clock.now;
        match event {
            Event::Request { .. } => debug_assert!(false, "that is where a stream begins"),
            Event::Body { stream, data, end } => {
                let Some(entry) = streams.stream(stream).map(|stream| stream.entry) else { return };
                entry.request_ended |= end;
                let Some(exchange) = entry.exchange else { return };
                self.upload(exchange, &data);
                if end {
                    self.end_upload(exchange);
                }
            }
            Event::Refused { stream, refusal } => {
                if let Some(exchange) = streams.remove(stream).and_then(|entry| entry.exchange) {
                    self.abandon_exchange(exchange, Cancellation::ClientGone, refusal.status());
                }
                streams.engine.refuse(stream, refusal, &self.clock.date(), now);
            }
            Event::Writable { stream } => match streams.go_on(stream, now) {
                Ok(None) => {}
                Ok(Some(exchange)) => after.freed.push(exchange),
                Err(error) => {
                    tracing::error!("the application's response cannot be completed: {error}");
                    streams.engine.reset(stream, Cut::Internal);
                    self.tally.failed += 1;
                    if let Some(exchange) = streams.remove(stream).and_then(|entry| entry.exchange)
                    {
                        self.part_exchange(exchange, 0);
                        self.cancel(exchange, Cancellation::ClientGone);
                    }
                }
            },
            Event::Reset { stream } => {
                if let Some(exchange) = streams.remove(stream).and_then(|entry| entry.exchange) {
                    self.abandon_exchange(exchange, Cancellation::ClientGone, CLIENT_GONE);
                }
            }
        }
    }

    /// The worker has written all of a stream's response.
    pub(super) fn stream_ended<E: Engine>(&mut self, index: usize, stream: StreamKey) {
        if let Some(Some(streams)) = E::place(self, index) {
            streams.part(stream);
        }
    }

    /// The connection goes away, and with it all its streams.
    pub(super) fn abandon_streams<E: Engine>(
        &mut self,
        index: usize,
        why: Cancellation,
        status: u16,
    ) {
        let Some(streams) = E::place(self, index).and_then(Option::take) else { return };
        for entry in streams.entries.into_iter().flatten() {
            if let Some(exchange) = entry.exchange {
                self.abandon_exchange(exchange, why, status);
            }
        }
    }
}
