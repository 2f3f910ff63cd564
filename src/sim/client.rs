//! A client: connections, requests in random cuts, pipelining, and everything that a client may do to a server.
//!
//! Invariant: whatever a client does by which it may lose an answer, it enters into the book first. A polite one does
//! nothing of the kind, so every request of it has to be answered.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    book::Book,
    check,
    http::{Parser, Piece},
    kernel::Kernel,
    plan::{Ask, Side, Tag, Target, Upload, body},
    rng::Rng,
};

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Polite,
    /// Reads little at a time, but never stops for long.
    Slow,
    /// Stops reading and writing for longer than any timeout.
    Sleepy,
    /// Sends FIN behind its last request.
    HalfCloser,
    /// Goes away at any byte.
    Rude,
}

/// The answer that is being read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) tag: Tag,
    /// A worker's, which is known by its tag.
    pub(super) tagged: bool,
    /// Bytes of the body so far.
    pub(super) at: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    rng: Rng,
    manner: Manner,
    /// Requests still to be sent.
    left: usize,
    depth: usize,
    socket: Option<usize>,
    out: Vec<u8>,
    at: usize,
    /// Requests without the end of an answer, in order.
    pending: VecDeque<Tag>,
    answer: Option<Answer>,
    /// What was answered last on this connection.
    previous: Option<Tag>,
    parser: Parser,
    /// No further request on this connection.
    said_close: bool,
    /// The server announced the end of the connection.
    told_close: bool,
    /// Bytes until a rude client goes.
    fuse: usize,
    pause_until: Instant,
    pub(super) done: bool,
}

impl Client {
    pub(super) fn new(mut rng: Rng, requests: usize, rudeness: usize, now: Instant) -> Self {
        let manner = if rng.chance(rudeness) {
            rng.pick(&[
                Manner::Slow,
                Manner::Sleepy,
                Manner::HalfCloser,
                Manner::Rude,
                Manner::Rude,
            ])
        } else {
            Manner::Polite
        };
        let depth = rng.pick(&[1, 1, 2, 4]);
        let pause_until = now + Duration::from_micros(rng.next() % 3000);
        Self {
            rng,
            manner,
            left: requests,
            depth,
            socket: None,
            out: Vec::new(),
            at: 0,
            pending: VecDeque::new(),
            answer: None,
            previous: None,
            parser: Parser::new(),
            said_close: false,
            told_close: false,
            fuse: 0,
            pause_until,
            done: false,
        }
    }

    /// When it goes on by itself.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        (!self.done).then_some(self.pause_until)
    }

    pub(super) fn act(&mut self, kernel: &mut Kernel, book: &mut Book) -> bool {
        if self.done || kernel.now < self.pause_until {
            return false;
        }
        let Some(id) = self.socket else {
            if self.left == 0 {
                self.done = true;
            } else {
                self.connect(kernel, book);
            }
            return true;
        };
        let read_first = self.rng.chance(500);
        let acted = read_first && self.read(id, kernel, book)
            || self.write(id, kernel, book)
            || !read_first && self.read(id, kernel, book);
        if acted {
            book.progress();
            self.rest(kernel.now, book);
        }
        acted
    }

    fn connect(&mut self, kernel: &mut Kernel, book: &mut Book) {
        let capacity = self.rng.pick(&[2048, 16 * 1024, 64 * 1024, 64 * 1024]);
        let id = kernel.connect(capacity);
        book.trace(|| format!("client {:?} connects as socket {id}", self.manner));
        (self.socket, self.parser, self.at) = (Some(id), Parser::new(), 0);
        self.out.clear();
        (self.said_close, self.told_close) = (false, false);
        let least = self.rng.pick(&[1, 40, 300, 20_000]);
        self.fuse = self.rng.between(0, least);
    }

    /// Pauses now and then.
    fn rest(&mut self, now: Instant, book: &mut Book) {
        let pause = match self.manner {
            Manner::Slow => Duration::from_micros(self.rng.next() % 5000),
            Manner::Sleepy if self.rng.chance(50) => {
                self.forfeit_all(book);
                Duration::from_millis(self.rng.next() % 70_000)
            }
            _ if self.rng.chance(30) => Duration::from_micros(self.rng.next() % 5000),
            _ => return,
        };
        self.pause_until = now + pause;
    }

    fn forfeit_all(&mut self, book: &mut Book) {
        for tag in &self.pending {
            book.forfeit(*tag);
        }
    }

    fn may_ask(&self) -> bool {
        self.left > 0 && !self.said_close && !self.told_close && self.pending.len() < self.depth
    }

    fn write(&mut self, id: usize, kernel: &mut Kernel, book: &mut Book) -> bool {
        if self.at == self.out.len() {
            if self.may_ask() {
                self.ask(book);
                return true;
            }
            return self.finish(id, kernel, book);
        }
        let room = kernel.sockets[id].room();
        let rest = self.out.len() - self.at;
        let cut = match self.rng.below(4) {
            0 => 1,
            1 => self.rng.between(1, 100),
            _ => rest,
        };
        let mut len = cut.min(room).min(rest);
        if self.manner == Manner::Rude {
            len = len.min(self.fuse);
            self.fuse -= len;
            if self.fuse == 0 {
                self.leave(id, kernel, book);
                return true;
            }
        }
        if len == 0 {
            return false;
        }
        kernel.upload(id, &self.out[self.at..self.at + len]);
        self.at += len;
        if self.at == self.out.len() {
            self.out.clear();
            self.at = 0;
        }
        true
    }

    /// Nothing is left to send on this connection.
    fn finish(&mut self, id: usize, kernel: &mut Kernel, book: &mut Book) -> bool {
        let over = self.left == 0 || self.said_close || self.told_close;
        if over && self.manner == Manner::HalfCloser && !kernel.sockets[id].up_fin {
            self.forfeit_all(book);
            book.trace(|| format!("socket {id}: FIN from the client"));
            kernel.sockets[id].up_fin = true;
            return true;
        }
        if !over || !self.pending.is_empty() {
            return false;
        }
        if self.left == 0 && !self.told_close && self.rng.chance(300) {
            // It leaves the connection open, and never comes back.
            self.socket = None;
            self.done = true;
            return true;
        }
        if self.told_close && self.rng.chance(700) {
            // Until the server ends it.
            return false;
        }
        book.trace(|| format!("socket {id}: closed by the client"));
        kernel.close_client(id);
        self.socket = None;
        true
    }

    /// Goes away without a word.
    fn leave(&mut self, id: usize, kernel: &mut Kernel, book: &mut Book) {
        self.forfeit_all(book);
        book.trace(|| format!("socket {id}: abandoned by the client"));
        if self.rng.chance(500) {
            kernel.reset_client(id);
        } else {
            kernel.close_client(id);
        }
        self.disconnect(book);
    }

    fn disconnect(&mut self, book: &mut Book) {
        self.forfeit_all(book);
        self.socket = None;
        self.pending.clear();
        (self.answer, self.previous) = (None, None);
    }

    /// Writes the next request down.
    fn ask(&mut self, book: &mut Book) {
        let ask = Ask::draw(&mut self.rng, &book.profile);
        let tag = book.enter(ask);
        let plan = book.get(tag).map(|entry| entry.plan);
        book.trace(|| format!("tag {tag}: {ask:?} {plan:?}"));
        self.left -= 1;
        self.pending.push_back(tag);
        if matches!(self.manner, Manner::Sleepy) {
            book.forfeit(tag);
        }
        let target = match ask.target {
            Target::Worker => format!("/t/{tag}"),
            Target::Nowhere => "/nowhere".into(),
            Target::Malformed => "nowhere at all".into(),
        };
        let version = if ask.http10 { "1.0" } else { "1.1" };
        let mut head = format!("{} {target} HTTP/{version}\r\nhost: test\r\n", ask.method);
        if ask.close {
            head += "connection: close\r\n";
        } else if ask.http10 && self.rng.chance(500) {
            head += "connection: keep-alive\r\n";
        }
        if ask.expects_continue {
            head += "expect: 100-continue\r\n";
        }
        match ask.upload {
            Upload::None => {}
            Upload::Sized(len) => head += &format!("content-length: {len}\r\n"),
            Upload::Chunked(_) => head += "transfer-encoding: chunked\r\n",
        }
        self.out.extend_from_slice(head.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        match ask.upload {
            Upload::None => {}
            Upload::Sized(len) => self.out.extend(body(tag, Side::Request, 0, len)),
            Upload::Chunked(len) => self.chunks(tag, len),
        }
        // A server may take HTTP/1.0 for the last word, and ends the connection behind what it refuses.
        self.said_close = ask.close || ask.http10 || ask.target == Target::Malformed;
    }

    fn chunks(&mut self, tag: Tag, len: usize) {
        let mut at = 0;
        while at < len {
            let most = self.rng.pick(&[10, 1000, 70_000, 200_000]);
            let size = self.rng.between(1, most).min(len - at);
            self.out.extend_from_slice(format!("{size:x}\r\n").as_bytes());
            self.out.extend(body(tag, Side::Request, at, size));
            self.out.extend_from_slice(b"\r\n");
            at += size;
        }
        self.out.extend_from_slice(b"0\r\n\r\n");
    }

    fn read(&mut self, id: usize, kernel: &mut Kernel, book: &mut Book) -> bool {
        let socket = &mut kernel.sockets[id];
        let most = socket.down.len();
        if most == 0 {
            if socket.reset_by_server || socket.down_fin {
                let reset = socket.reset_by_server;
                book.trace(|| format!("socket {id}: the end, reset {reset}"));
                kernel.close_client(id);
                self.ended(book);
                return true;
            }
            return false;
        }
        let len = match self.manner {
            Manner::Slow => self.rng.between(1, most.min(4096)),
            _ if self.rng.chance(200) => self.rng.between(1, most),
            _ => most,
        };
        if self.manner == Manner::Rude {
            if self.fuse <= len {
                self.leave(id, kernel, book);
                return true;
            }
            self.fuse -= len;
        }
        let bytes = socket.down.take(len);
        self.parser.feed(&bytes);
        self.understand(book);
        true
    }

    fn understand(&mut self, book: &mut Book) {
        loop {
            let bodiless = self.is_bodiless(book, self.pending.front().copied());
            match self.parser.next(bodiless) {
                Err(what) => return book.fail(format!("a client reads {what}")),
                Ok(None) => return,
                Ok(Some(Piece::Head(head))) => {
                    let Some(&tag) = self.pending.front() else {
                        return book.fail(format!("an answer that nobody asked for: {head:?}"));
                    };
                    book.trace(|| format!("tag {tag}: {head:?}"));
                    check::head(book, tag, &head);
                    self.told_close |= head.close;
                    let tagged = head.tag.is_some();
                    self.answer = Some(Answer { tag, tagged, at: 0 });
                }
                Ok(Some(Piece::Body(data))) => {
                    let Some(answer) = &mut self.answer else { return };
                    check::body(book, answer, &data);
                    answer.at += data.len();
                }
                Ok(Some(Piece::End)) => self.answered(book),
            }
        }
    }

    fn is_bodiless(&self, book: &Book, tag: Option<Tag>) -> bool {
        tag.and_then(|tag| book.get(tag)).is_some_and(|entry| entry.ask.is_bodiless())
    }

    fn answered(&mut self, book: &mut Book) {
        let (Some(answer), Some(tag)) = (self.answer.take(), self.pending.pop_front()) else {
            return;
        };
        check::end(book, &answer);
        self.previous = Some(tag);
        book.trace(|| format!("tag {tag}: answered, {} bytes", answer.at));
        if self.told_close {
            // What was pipelined behind the last answer is not read (RFC 9112 §9.6).
            self.forfeit_all(book);
        }
    }

    /// The server has ended the connection.
    fn ended(&mut self, book: &mut Book) {
        if self.parser.is_to_close() {
            self.answered(book);
        } else {
            if let Some(&tag) = self.pending.front() {
                check::cut(book, tag, self.previous, self.answer.is_some());
            } else if !self.parser.is_empty() && !self.is_bodiless(book, self.previous) {
                // A server that did not get to read HEAD gives its answer a body.
                book.fail("bytes behind the last answer");
            }
        }
        self.disconnect(book);
    }
}
