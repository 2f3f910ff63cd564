//! The same worker, once it lies: lengths, kinds, indices, ids, positions, credit, order.
//!
//! Invariant: a lie is entered into the book before it is told, and whether the shard has to notice it is known beforehand.
//! No lie passes one request's answer off as another's in a form that the protocol allows: that no edge could notice.

use super::{
    book::Book,
    kernel::Kernel,
    plan::Tag,
    reply::response,
    rng::Rng,
    wire::{CHUNK, Crash, END, kind},
    worker::Worker,
};
use crate::{ipc::layout::Word, limits::EXCHANGE_WINDOW};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    TailBack,
    TailAhead,
    TailOdd,
    /// The tail runs on into what lay in the ring before.
    TailGarbage,
    HeadBack,
    HeadAhead,
    HeadOdd,
    RecordShort,
    RecordLong,
    KindUnknown,
    KindOfTheEdge,
    PadInside,
    CreditTorn,
    CreditBeyond,
    CreditHuge,
    BodyFirst,
    BodyBeyond,
    ResponseTwice,
    ResponseTorn,
    ChunkIndex,
    ChunkLength,
    ChunkAgain,
    ReleaseForeign,
    ReleaseTorn,
    ExchangeZero,
    ExchangeFuture,
    ExchangeForeign,
    ExchangeStale,
    EndTwice,
    FieldBad,
    StatusBad,
    LengthBad,
    EventsWild,
}

use Lie::{
    BodyBeyond, BodyFirst, ChunkAgain, ChunkIndex, ChunkLength, CreditBeyond, CreditHuge,
    CreditTorn, EndTwice, EventsWild, ExchangeForeign, ExchangeFuture, ExchangeStale, ExchangeZero,
    FieldBad, HeadAhead, HeadBack, HeadOdd, KindOfTheEdge, KindUnknown, LengthBad, PadInside,
    RecordLong, RecordShort, ReleaseForeign, ReleaseTorn, ResponseTorn, ResponseTwice, StatusBad,
    TailAhead, TailBack, TailGarbage, TailOdd,
};

impl Lie {
    pub(super) const ALL: [Self; 33] = [
        TailBack,
        TailAhead,
        TailOdd,
        TailGarbage,
        HeadBack,
        HeadAhead,
        HeadOdd,
        RecordShort,
        RecordLong,
        KindUnknown,
        KindOfTheEdge,
        PadInside,
        CreditTorn,
        CreditBeyond,
        CreditHuge,
        BodyFirst,
        BodyBeyond,
        ResponseTwice,
        ResponseTorn,
        ChunkIndex,
        ChunkLength,
        ChunkAgain,
        ReleaseForeign,
        ReleaseTorn,
        ExchangeZero,
        ExchangeFuture,
        ExchangeForeign,
        ExchangeStale,
        EndTwice,
        FieldBad,
        StatusBad,
        LengthBad,
        EventsWild,
    ];

    /// The shard cannot but see it.
    fn must_be_noticed(self) -> bool {
        !matches!(
            self,
            TailGarbage
                | HeadBack
                | HeadAhead
                | HeadOdd
                | ExchangeForeign
                | ExchangeStale
                | EndTwice
                | FieldBad
                | StatusBad
                | LengthBad
                | EventsWild
        )
    }

    fn needs_a_job(self) -> bool {
        matches!(
            self,
            CreditTorn
                | CreditBeyond
                | CreditHuge
                | BodyFirst
                | BodyBeyond
                | ResponseTwice
                | ResponseTorn
                | ChunkIndex
                | ChunkLength
                | ChunkAgain
                | FieldBad
                | StatusBad
                | LengthBad
                | EndTwice
        )
    }
}

/// What a worker has in mind.
#[derive(Debug)]
pub(super) struct Evil {
    lie: Lie,
    /// Steps until then.
    patience: usize,
    told: bool,
}

impl Evil {
    pub(super) fn draw(rng: &mut Rng, lie: Option<Lie>) -> Self {
        let any = rng.pick(&Lie::ALL);
        Self { lie: lie.unwrap_or(any), patience: rng.below(60), told: false }
    }

    /// It was told, and the shard had to notice.
    pub(super) fn should_have_been_noticed(&self) -> bool {
        self.told && self.lie.must_be_noticed()
    }

    pub(super) fn was_told(&self) -> bool {
        self.told
    }

    pub(super) fn lie(&self) -> Lie {
        self.lie
    }
}

impl Worker {
    /// Tells its lie, if the time has come; true when that was this step.
    pub(super) fn lie(&mut self, kernel: &mut Kernel, book: &mut Book) -> Result<bool, Crash> {
        let Some(evil) = &mut self.evil else { return Ok(false) };
        if evil.told {
            return Ok(false);
        }
        if evil.patience > 0 {
            evil.patience -= 1;
            return Ok(false);
        }
        let lie = evil.lie;
        let wants_no_head = !matches!(lie, CreditTorn | CreditBeyond | CreditHuge);
        let job = self
            .jobs
            .iter()
            .find(|(_, job)| !(wants_no_head && job.head_sent))
            .map(|(id, job)| (*id, job.tag));
        let foreign = book.foreign(self.who);
        let stale = self.ended.first().copied();
        let impossible = match lie {
            ExchangeForeign => foreign.is_none(),
            ExchangeStale => stale.is_none(),
            lie => lie.needs_a_job() && job.is_none(),
        };
        // Room for everything that a lie writes, and nothing of its own half-told.
        if impossible || !self.wire.has_room(8192) {
            return Ok(false);
        }
        self.publish(kernel, book)?;
        book.trace(|| format!("worker {:?} lies: {lie:?}", self.who));
        book.tally.lies += 1;
        book.fell(self.who);
        book.liars.push(self.who);
        evil_told(&mut self.evil);
        let (id, tag) = job.unwrap_or_default();
        match lie {
            ExchangeForeign => self.wire.put(kind::ABORT, 0, foreign.unwrap_or_default(), &[])?,
            ExchangeStale => self.wire.put(kind::ABORT, 0, stale.unwrap_or_default(), &[])?,
            TailBack | TailAhead | TailOdd | TailGarbage | HeadBack | HeadAhead | HeadOdd
            | EventsWild => self.tell_by_words(lie)?,
            RecordShort | RecordLong | KindUnknown | KindOfTheEdge | PadInside => {
                self.tell_by_header(lie)?;
            }
            lie => self.tell_by_record(lie, id, tag)?,
        }
        self.hung |= !matches!(lie, ExchangeStale | EndTwice | EventsWild);
        if matches!(lie, EndTwice) {
            self.jobs.remove(&id);
            self.ended.insert(id);
        }
        self.wire.publish()?;
        kernel.ring(self.bell_watch);
        Ok(true)
    }

    fn tell_by_words(&mut self, lie: Lie) -> Result<(), Crash> {
        let (tail, head) = (self.wire.tail, self.wire.head);
        let ring = self.wire.geometry().ring_size() as u64;
        match lie {
            TailBack => self.wire.store(Word::Tail, tail.wrapping_sub(ring + 16)),
            TailAhead => self.wire.store(Word::Tail, tail + ring + 16),
            TailOdd => self.wire.store(Word::Tail, tail + 8),
            TailGarbage => self.wire.store(Word::Tail, tail + 16 * self.rng.between(1, 40) as u64),
            HeadBack => self.wire.store(Word::Head, head.saturating_sub(16)),
            HeadAhead => self.wire.store(Word::Head, self.wire.theirs(Word::Tail) + 16),
            HeadOdd => self.wire.store(Word::Head, head.saturating_sub(8)),
            _ => {
                let (event, space) = (self.rng.next(), self.wire.theirs(Word::Tail));
                self.wire.store(Word::Event, event)?;
                self.wire.store(Word::SpaceEvent, space)
            }
        }
    }

    fn tell_by_header(&mut self, lie: Lie) -> Result<(), Crash> {
        let at = self.wire.tail;
        let most = self.wire.geometry().record_size_max();
        let (len, kind) = match lie {
            RecordShort => (self.rng.below(16), kind::BODY),
            RecordLong => (most + 16, kind::BODY),
            KindUnknown => (16, self.rng.pick(&[10, 99, u16::MAX])),
            KindOfTheEdge => (64, self.rng.pick(&[kind::REQUEST, kind::CANCEL])),
            // Where this does not fill the ring.
            _ if self.wire.place(at + 16) == 0 => (32, kind::PAD),
            _ => (16, kind::PAD),
        };
        self.wire.header(at, len, kind, 0, 1)?;
        self.wire.tail += 64;
        Ok(())
    }

    fn tell_by_record(&mut self, lie: Lie, id: u64, tag: Tag) -> Result<(), Crash> {
        let credit = |bytes: usize| (bytes as u64).to_ne_bytes();
        let reference = |index: u32, len: u32| [index.to_ne_bytes(), len.to_ne_bytes()].concat();
        let geometry = self.wire.geometry();
        let count = u32::try_from(geometry.chunk_count()).unwrap();
        let size = u32::try_from(geometry.chunk_size()).unwrap();
        let answer = response(200, None, tag, b"");
        let wire = &mut self.wire;
        match lie {
            CreditTorn => wire.put(kind::CREDIT, 0, id, &[b"1234"]),
            CreditHuge => wire.put(kind::CREDIT, 0, id, &[&u64::MAX.to_ne_bytes()]),
            CreditBeyond => {
                wire.put(kind::CREDIT, 0, id, &[&credit(EXCHANGE_WINDOW)])?;
                wire.put(kind::CREDIT, 0, id, &[&credit(EXCHANGE_WINDOW)])
            }
            BodyFirst => wire.put(kind::BODY, 0, id, &[b"first"]),
            BodyBeyond => {
                wire.put(kind::RESPONSE, 0, id, &[&answer])?;
                // Where the arena is larger than the window no chunk is named twice.
                for index in (0..count).cycle().take(EXCHANGE_WINDOW / geometry.chunk_size() + 1) {
                    wire.put(kind::BODY, CHUNK, id, &[&reference(index, size)])?;
                }
                Ok(())
            }
            ResponseTwice => {
                wire.put(kind::RESPONSE, 0, id, &[&answer])?;
                wire.put(kind::RESPONSE, 0, id, &[&answer])
            }
            ResponseTorn => {
                let mut torn = answer;
                let at = self.rng.pick(&[8, 9, 14, 16, 18, 20, 22]);
                torn[at] = 0xff;
                wire.put(kind::RESPONSE, 0, id, &[&torn])
            }
            ChunkIndex => wire.put(kind::BODY, CHUNK, id, &[&reference(count, 1)]),
            ChunkLength => wire.put(kind::BODY, CHUNK, id, &[&reference(0, size + 1)]),
            ChunkAgain => {
                wire.put(kind::RESPONSE, 0, id, &[&answer])?;
                for _ in 0..=count {
                    wire.put(kind::BODY, CHUNK, id, &[&reference(0, 1)])?;
                }
                Ok(())
            }
            ReleaseForeign => wire.put(kind::RELEASE, 0, 0, &[&count.to_ne_bytes()]),
            ReleaseTorn => wire.put(kind::RELEASE, 0, 0, &[b"123"]),
            ExchangeZero => wire.put(kind::ABORT, 0, 0, &[]),
            ExchangeFuture => wire.put(kind::ABORT, 0, 0x7000_0000_0000_0000, &[]),
            EndTwice => {
                wire.put(kind::RESPONSE, END, id, &[&answer])?;
                wire.put(kind::BODY, END, id, &[])
            }
            FieldBad => {
                let mut bad = answer;
                let last = bad.len() - 1;
                bad[last] = b'\n';
                wire.put(kind::RESPONSE, END, id, &[&bad])
            }
            StatusBad => {
                let status = self.rng.pick(&[0, 99, 100, 101, 600, 1000, u16::MAX]);
                wire.put(kind::RESPONSE, END, id, &[&response(status, None, tag, b"")])
            }
            _ => {
                let length = self.rng.pick(&[0, 4, 6, 1 << 40]);
                let bad = response(200, Some(length), tag, b"12345");
                wire.put(kind::RESPONSE, END, id, &[&bad])
            }
        }
    }
}

fn evil_told(evil: &mut Option<Evil>) {
    if let Some(evil) = evil {
        evil.told = true;
    }
}
