//! An honest client: `quiche::h3` over the client's end of a pair.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
};

use quiche::h3::{Header, NameValue};

use super::OPTIONS;
use crate::proto::{
    h3::{
        Options,
        peer::{Pair, WIDE, Windows},
    },
    stream::Event,
};

/// What a client has seen of one response.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Each field section: informational ones, the head, trailers.
    pub(super) sections: Vec<Vec<(String, String)>>,
    pub(super) body: Vec<u8>,
    pub(super) ended: bool,
    pub(super) reset: Option<u64>,
}

impl Seen {
    pub(super) fn field(&self, section: usize, name: &str) -> Option<&str> {
        let fields = self.sections.get(section)?;
        fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Statuses in the order in which they came.
    pub(super) fn statuses(&self) -> Vec<&str> {
        (0..self.sections.len()).filter_map(|at| self.field(at, ":status")).collect()
    }
}

pub(super) struct Client {
    pub(super) pair: Pair,
    pub(super) http: quiche::h3::Connection,
    pub(super) seen: BTreeMap<u64, Seen>,
    /// Body is left where it is.
    pub(super) is_deaf: bool,
}

impl Deref for Client {
    type Target = Pair;

    fn deref(&self) -> &Pair {
        &self.pair
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Pair {
        &mut self.pair
    }
}

pub(super) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")];
pub(super) const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", "/")];

pub(super) fn headers(fields: &[(&str, &str)]) -> Vec<Header> {
    fields.iter().map(|(name, value)| Header::new(name.as_bytes(), value.as_bytes())).collect()
}

impl Client {
    pub(super) fn new() -> Self {
        Self::with(WIDE, OPTIONS)
    }

    pub(super) fn with(windows: Windows, options: Options) -> Self {
        Self::over(Pair::open(windows, options))
    }

    pub(super) fn over(mut pair: Pair) -> Self {
        let config = quiche::h3::Config::new().unwrap();
        let http = quiche::h3::Connection::with_transport(&mut pair.client, &config).unwrap();
        let mut client = Self { pair, http, seen: BTreeMap::new(), is_deaf: false };
        assert_eq!(client.run(), []);
        client
    }

    /// Carries datagrams until nothing moves.
    pub(super) fn run(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while self.pair.round(&mut events) | self.look() {}
        events
    }

    pub(super) fn send(&mut self, fields: &[(&str, &str)], end: bool) -> u64 {
        self.http.send_request(&mut self.pair.client, &headers(fields), end).unwrap()
    }

    pub(super) fn send_body(&mut self, id: u64, body: &[u8], end: bool) -> usize {
        self.http.send_body(&mut self.pair.client, id, body, end).unwrap_or(0)
    }

    /// Takes what has come of responses. True if there was something.
    pub(super) fn look(&mut self) -> bool {
        let mut found = false;
        loop {
            let (id, event) = match self.http.poll(&mut self.pair.client) {
                Ok(polled) => polled,
                Err(quiche::h3::Error::Done) => return found,
                Err(error) => panic!("the client's view: {error}"),
            };
            found = true;
            let seen = self.seen.entry(id).or_default();
            match event {
                quiche::h3::Event::Headers { list, .. } => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let section =
                        list.iter().map(|field| (text(field.name()), text(field.value())));
                    seen.sections.push(section.collect());
                }
                quiche::h3::Event::Data => self.take(id),
                quiche::h3::Event::Finished => seen.ended = true,
                quiche::h3::Event::Reset(code) => seen.reset = Some(code),
                quiche::h3::Event::PriorityUpdate | quiche::h3::Event::GoAway => {}
            }
        }
    }

    pub(super) fn take(&mut self, id: u64) {
        if self.is_deaf {
            return;
        }
        let mut piece = vec![0; 64 * 1024];
        while let Ok(read) = self.http.recv_body(&mut self.pair.client, id, &mut piece) {
            self.seen.entry(id).or_default().body.extend_from_slice(&piece[..read]);
        }
    }

    /// A request of these fields that waits for its answer.
    #[track_caller]
    pub(super) fn ask(&mut self, fields: &[(&str, &str)]) -> crate::proto::stream::StreamKey {
        self.send(fields, true);
        let events = self.run();
        match events[..] {
            [Event::Request { stream, end: true, websocket: false }] => stream,
            _ => panic!("{events:?}"),
        }
    }
}
