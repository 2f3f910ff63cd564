//! What one run is made of, and what each tag stands for: the request that carries it and the answer that it gets.
//!
//! Invariant: a tag's plan depends on the seed and the tag alone, so client and worker agree on every byte of both bodies
//! without talking to each other; two tags' bodies differ wherever they are looked at for more than a few bytes.

use std::{sync::OnceLock, time::Duration};

use super::{hostile::Lie, rng::Rng};
use crate::{ipc::layout::Geometry, limits, shard::Limits};

/// Names a request in the whole run, from 1.
pub(super) type Tag = u32;

/// Prime, so that no two tags' bodies begin at the same place.
const PERIOD: usize = 65_521;

/// Which of a tag's two bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut rng = Rng::new(0x7ab1e);
        (0..PERIOD).map(|_| rng.next().to_le_bytes()[3]).collect()
    })
}

fn place(tag: Tag, side: Side, at: usize) -> usize {
    (tag as usize * 2 + usize::from(side == Side::Response)).wrapping_mul(7919).wrapping_add(at)
        % PERIOD
}

/// Bytes `at..at + len` of a body.
pub(super) fn body(tag: Tag, side: Side, at: usize, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        let from = place(tag, side, at + out.len());
        let count = (PERIOD - from).min(len - out.len());
        out.extend_from_slice(&table()[from..from + count]);
    }
    out
}

/// True when these are the bytes from `at` on.
pub(super) fn is_body(tag: Tag, side: Side, at: usize, bytes: &[u8]) -> bool {
    let mut done = 0;
    while done < bytes.len() {
        let from = place(tag, side, at + done);
        let count = (PERIOD - from).min(bytes.len() - done);
        if table()[from..from + count] != bytes[done..done + count] {
            return false;
        }
        done += count;
    }
    true
}

/// A request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    None,
    Sized(usize),
    Chunked(usize),
}

impl Upload {
    pub(super) fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Sized(len) | Self::Chunked(len) => len,
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A worker's answer with the tag.
    Worker,
    /// 404, from the edge.
    Nowhere,
    /// 400, from the edge.
    Malformed,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) method: &'static str,
    pub(super) upload: Upload,
    pub(super) target: Target,
    pub(super) http10: bool,
    pub(super) close: bool,
    pub(super) expects_continue: bool,
}

impl Ask {
    /// The answer has no body. A server that could not read the request does not know that.
    pub(super) fn is_bodiless(self) -> bool {
        self.method == "HEAD" && self.target != Target::Malformed
    }

    /// RFC 9110 §9.2.2.
    pub(super) fn is_idempotent(self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "PUT" | "DELETE")
    }

    pub(super) fn draw(rng: &mut Rng, profile: &Profile) -> Self {
        let method =
            rng.pick(&["GET", "GET", "GET", "HEAD", "POST", "POST", "POST", "PUT", "DELETE"]);
        let mut ask = Self {
            method,
            upload: Upload::None,
            target: Target::Worker,
            http10: rng.chance(40),
            close: rng.chance(60),
            expects_continue: false,
        };
        if matches!(method, "POST" | "PUT") {
            let len = profile.length(rng);
            let chunked = rng.chance(400) && !ask.http10;
            ask.upload = if chunked { Upload::Chunked(len) } else { Upload::Sized(len) };
            ask.expects_continue = rng.chance(150) && !ask.http10;
        }
        if rng.chance(60) {
            ask.target = if rng.chance(700) { Target::Nowhere } else { Target::Malformed };
        }
        ask
    }
}

/// How a worker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One record, if it fits.
    Whole,
    /// A head, then pieces.
    Streamed,
    /// Given up before the head.
    AbortedBefore,
    /// Given up behind the head.
    AbortedAfter,
}

/// An answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The handler takes that long.
    pub(super) think: Duration,
    pub(super) shape: Shape,
    pub(super) status: u16,
    pub(super) length: usize,
    /// The length is announced.
    pub(super) known: bool,
    /// Answers without waiting for the request's body.
    pub(super) early: bool,
}

impl Plan {
    pub(super) fn of(seed: u64, tag: Tag, profile: &Profile) -> Self {
        let mut rng = Rng::new(seed ^ (u64::from(tag) << 32));
        let status = rng.pick(&[200, 200, 200, 200, 201, 404, 500, 204, 304]);
        let empty = matches!(status, 204 | 304);
        let shape = match rng.below(100) {
            0..50 => Shape::Whole,
            50 if profile.aborts => Shape::AbortedBefore,
            51 if profile.aborts => Shape::AbortedAfter,
            _ => Shape::Streamed,
        };
        let length = match shape {
            _ if empty => 0,
            Shape::Whole => rng.pick(&[0, 1, 5, 100, 3000, limits::INLINE_BODY_SIZE_MAX]),
            _ => profile.length(&mut rng),
        };
        let think = match rng.below(100) {
            // Long enough for a queue.
            0..20 if profile.tight => Duration::from_millis(rng.next() % 2500),
            0..60 => Duration::ZERO,
            60..98 => Duration::from_micros(rng.next() % 20_000),
            _ if profile.long_thinks => Duration::from_millis(rng.next() % 70_000),
            _ => Duration::from_millis(rng.next() % 300),
        };
        let known = rng.chance(600) || shape == Shape::Whole || empty;
        Self { think, shape, status, length, known, early: rng.chance(60) }
    }
}

/// Something that is broken on purpose, outside of the shard, for the checker to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    /// A worker gives one request the answer of another.
    SwapAnswers,
    /// A piece of an answer is another's.
    SwapBytes,
    /// The kernel loses the last byte of a send.
    LoseByte,
    /// The kernel sends the end of a send twice.
    RepeatByte,
    /// A send never completes.
    LoseCompletion,
    /// The driver keeps a receive buffer.
    KeepLease,
    /// A worker keeps a chunk of the edge's.
    KeepChunk,
    /// A worker returns no credit.
    KeepCredit,
    /// A worker takes credit for what it did not get.
    InventCredit,
    /// A kick does not arrive at a worker.
    LoseKick,
    /// A record appears behind the shard's last look.
    HideRecord,
    /// A request comes out of the lane again.
    RepeatRequest,
    /// A worker begins what was withdrawn.
    IgnoreMark,
}

/// How a run is set up.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) sabotage: Option<Sabotage>,
    pub(super) clients: usize,
    pub(super) requests: usize,
    pub(super) workers: usize,
    pub(super) geometry: Geometry,
    pub(super) recv_buffers: usize,
    pub(super) recv_size: usize,
    /// Endings, errors and delays that the kernel may do at any time, in a thousand.
    pub(super) noise: usize,
    /// Clients that are not polite, in a thousand.
    pub(super) rudeness: usize,
    pub(super) aborts: bool,
    pub(super) long_thinks: bool,
    pub(super) big_bodies: bool,
    /// The first incarnation of worker 0 ends after so many stores.
    pub(super) crash_after: Option<u64>,
    /// Chance that an incarnation crashes at some time, in a thousand.
    pub(super) crashes: usize,
    /// Chance that an incarnation lies at some time, in a thousand.
    pub(super) lies: usize,
    /// Which lie, instead of any.
    pub(super) lie: Option<Lie>,
    pub(super) lost_kicks: usize,
    pub(super) kick_storms: usize,
    pub(super) retires: bool,
    /// The server is told to stop while clients are at work.
    pub(super) drains_early: bool,
    pub(super) limits: Limits,
    /// `limits` may leave a request without a worker.
    pub(super) tight: bool,
}

impl Profile {
    /// Nothing goes wrong: then every request is answered.
    pub(super) fn calm(rng: &mut Rng) -> Self {
        let small = Geometry::new(128 * 1024, 16 * 1024, rng.between(2, 8)).unwrap();
        let middle = Geometry::new(256 * 1024, 64 * 1024, rng.between(1, 4)).unwrap();
        Self {
            sabotage: None,
            clients: rng.between(1, 6),
            requests: rng.between(1, 6),
            workers: rng.between(1, 3),
            geometry: if rng.chance(700) { small } else { middle },
            recv_buffers: rng.pick(&[2, 4, 8, 32]),
            recv_size: rng.pick(&[64, 512, 4096, 4096]),
            noise: 0,
            rudeness: 0,
            aborts: false,
            long_thinks: false,
            big_bodies: rng.chance(250),
            crash_after: None,
            crashes: 0,
            lies: 0,
            lie: None,
            lost_kicks: 0,
            kick_storms: 0,
            retires: false,
            drains_early: false,
            limits: Limits::default(),
            tight: false,
        }
    }

    /// Three runs in four have something go wrong; which things is drawn.
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let mut profile = Self::calm(rng);
        if rng.chance(250) {
            return profile;
        }
        profile.noise = rng.pick(&[0, 20, 200]);
        profile.rudeness = rng.pick(&[0, 200, 600]);
        profile.aborts = rng.chance(500);
        profile.long_thinks = rng.chance(200);
        profile.crashes = rng.pick(&[0, 0, 300, 800]);
        profile.lies = rng.pick(&[0, 0, 0, 400, 800]);
        profile.lost_kicks = rng.pick(&[0, 0, 0, 300]);
        profile.kick_storms = rng.pick(&[0, 0, 0, 300]);
        profile.retires = rng.chance(200);
        profile.drains_early = rng.chance(100);
        profile.limits.repeat = rng.chance(800);
        if rng.chance(250) {
            profile.tight = true;
            profile.limits.inflight_max = rng.pick(&[1, 1, 2, 4]);
            profile.limits.queue_max = rng.pick(&[0, 1, 3, 100]);
            profile.limits.queue_timeout =
                rng.pick(&[Duration::from_millis(20), limits::QUEUE_TIMEOUT]);
        }
        if rng.chance(150) {
            profile.limits.request_timeout = Duration::from_millis(rng.next() % 5000);
        }
        profile
    }

    fn length(&self, rng: &mut Rng) -> usize {
        match rng.below(100) {
            0..10 => 0,
            10..60 => rng.between(1, 600),
            60..85 => rng.between(600, 20_000),
            85..97 if self.big_bodies => rng.between(20_000, 150_000),
            97.. if self.big_bodies => {
                rng.between(limits::EXCHANGE_WINDOW, 2 * limits::EXCHANGE_WINDOW)
            }
            _ => rng.between(10_000, 40_000),
        }
    }
}
