//! [`Endpoint`]: which connection a datagram belongs to, whether a new one may begin, and what is answered when not.
//!
//! Invariant: an id in `index` leads to an entry that lists it, and the other way round; `handshaking` counts the entries
//! whose handshake is not over, `by_address` the same by client. Deliberately absent: the connections, which the caller keeps
//! in slots of its own.

use std::{
    collections::HashMap,
    fmt::{self, Debug, Formatter},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use quiche::{ConnectionId, RetryConnectionIds};

use super::{
    Id, Keys, Options, Quic, QuicError, Retry, config,
    packet::{self, INITIAL_SIZE_MIN, Long, Packet, Type},
};
use crate::{
    limits::{
        QUIC_HANDSHAKES_PER_ADDRESS_MAX, QUIC_IDS_MAX, QUIC_RESETS_PER_S,
        QUIC_RETRY_PER_ADDRESS_FROM,
    },
    proto::tls::ServerConfig,
};

/// A client chooses at least so many bytes for the id of its first packet (RFC 9000 §7.2).
const ORIGINAL_ID_SIZE_MIN: usize = 8;

/// RFC 9000 §8.1.
const AMPLIFICATION_MAX: usize = 3;

/// Who a datagram is for.
pub enum Arrival {
    /// The connection in this slot.
    Known(usize),
    /// Nobody yet: here is a connection that wants to see the datagram. Put it into a slot, and call [`Endpoint::insert`]
    /// before the next datagram.
    New(Box<Quic>, Issued),
    /// Send this back, from where the datagram was sent to.
    Reply(Vec<u8>),
    /// This shard.
    Elsewhere(usize),
    /// Nobody.
    Dropped(Why),
}

impl Debug for Arrival {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(slot) => write!(f, "Known({slot})"),
            Self::New(quic, issued) => write!(f, "New({}, {issued:?})", quic.trace_id()),
            Self::Reply(reply) => write!(f, "Reply({} bytes)", reply.len()),
            Self::Elsewhere(shard) => write!(f, "Elsewhere({shard})"),
            Self::Dropped(why) => write!(f, "Dropped({why:?})"),
        }
    }
}

/// Why a datagram is for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is no QUIC packet that a server takes.
    Malformed,
    /// It would have to be longer.
    Short,
    /// Nobody has its connection id.
    Unknown,
    /// There are as many connections or handshakes as may be.
    Full,
    /// No memory, no randomness.
    System,
}

/// What a new connection is known by.
#[derive(Debug)]
pub struct Issued {
    ids: Vec<Name>,
    client: IpAddr,
    /// See [`Entry::budget`].
    budget: Option<usize>,
}

/// An id of either side's choice.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Name {
    len: u8,
    bytes: [u8; 20],
}

impl Name {
    fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; 20];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        Some(Self { len: u8::try_from(id.len()).ok()?, bytes })
    }
}

impl Debug for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let id = self.bytes.iter().take(self.len.into());
        id.into_iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[derive(Debug)]
struct Entry {
    ids: Vec<Name>,
    /// The client's network, while its handshake is in progress.
    handshaking: Option<IpAddr>,
    /// Bytes that may still go to a client that has not shown its address (RFC 9000 §8.1). quiche counts too, but not the
    /// padding of Initial packets.
    budget: Option<usize>,
}

/// Entries by slot.
#[derive(Default)]
struct Slots {
    entries: Vec<Option<Entry>>,
    len: usize,
}

impl Slots {
    fn get_mut(&mut self, slot: usize) -> Option<&mut Entry> {
        self.entries.get_mut(slot)?.as_mut()
    }

    fn insert(&mut self, slot: usize, entry: Entry) {
        if self.entries.len() <= slot {
            self.entries.resize_with(slot + 1, || None);
        }
        let earlier = self.entries[slot].replace(entry);
        assert!(earlier.is_none(), "a slot is given away once");
        self.len += 1;
    }

    fn remove(&mut self, slot: usize) -> Option<Entry> {
        let entry = self.entries.get_mut(slot)?.take()?;
        self.len -= 1;
        Some(entry)
    }
}

/// See the module.
pub struct Endpoint {
    shard: u8,
    keys: Arc<Keys>,
    options: Options,
    config: quiche::Config,
    index: HashMap<Name, usize>,
    entries: Slots,
    handshaking: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Stateless resets that may still be sent in the second that began then.
    resets: (Instant, u32),
}

impl Debug for Endpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("shard", &self.shard)
            .field("connections", &self.entries.len)
            .field("handshaking", &self.handshaking)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// For the socket of this shard. Keys are those of all shards.
    ///
    /// # Errors
    /// When BoringSSL or quiche refuses what it is given.
    pub fn new(
        shard: u8,
        keys: Arc<Keys>,
        options: Options,
        tls: &ServerConfig,
        now: Instant,
    ) -> Result<Self, QuicError> {
        let config = config::build(tls.quic_context()?, &options)?;
        Ok(Self {
            shard,
            keys,
            options,
            config,
            index: HashMap::new(),
            entries: Slots::default(),
            handshaking: 0,
            by_address: HashMap::new(),
            resets: (now, QUIC_RESETS_PER_S),
        })
    }

    /// From now on, accept connections with these certificates; those that are there keep theirs.
    ///
    /// # Errors
    /// As `new`; the old ones stay.
    pub fn reload(&mut self, tls: &ServerConfig) -> Result<(), QuicError> {
        self.config = config::build(tls.quic_context()?, &self.options)?;
        Ok(())
    }

    /// From now on, begin no connection.
    pub fn close(&mut self) {
        self.options.connections_max = 0;
    }

    /// Connections that were inserted and not removed.
    pub fn connections(&self) -> usize {
        self.entries.len
    }

    /// Those of them whose handshake is not over.
    pub fn handshaking(&self) -> usize {
        self.handshaking
    }

    /// Tells who a datagram is for, by its first packet: those that follow it are for the same (RFC 9000 §12.2).
    pub fn classify(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        to: SocketAddr,
        now: Instant,
    ) -> Arrival {
        match Packet::parse(datagram) {
            None => Arrival::Dropped(Why::Malformed),
            Some(Packet::Short { to: id }) => match self.find(id) {
                Some(slot) => Arrival::Known(slot),
                None => self.stray(id, datagram.len(), now),
            },
            Some(Packet::Long(packet)) => {
                self.classify_long(&packet, datagram.len(), from, to, now)
            }
        }
    }

    fn classify_long(
        &mut self,
        packet: &Long<'_>,
        len: usize,
        from: SocketAddr,
        to: SocketAddr,
        now: Instant,
    ) -> Arrival {
        // The version first: what the bits of a type mean is up to it.
        if packet.version == 0 {
            return Arrival::Dropped(Why::Malformed);
        }
        if !packet.is_supported() {
            if len < INITIAL_SIZE_MIN {
                return Arrival::Dropped(Why::Short);
            }
            let reply = packet::version_negotiation(packet);
            return reply.map_or(Arrival::Dropped(Why::Malformed), Arrival::Reply);
        }
        if !packet.ids_fit() {
            return Arrival::Dropped(Why::Malformed);
        }
        let kind = packet.kind();
        if kind == Type::Initial && len < INITIAL_SIZE_MIN {
            return Arrival::Dropped(Why::Short);
        }
        if let Some(slot) = self.find(packet.to) {
            // Short headers come after the handshake, or at its very end.
            if let Some(Entry { budget: Some(budget), .. }) = self.entries.get_mut(slot) {
                *budget += AMPLIFICATION_MAX * len;
            }
            return Arrival::Known(slot);
        }
        match self.keys.shard_of(packet.to) {
            Some(shard) if shard != self.shard => Arrival::Elsewhere(shard.into()),
            _ if kind != Type::Initial => Arrival::Dropped(Why::Unknown),
            _ if packet.to.len() < ORIGINAL_ID_SIZE_MIN => Arrival::Dropped(Why::Malformed),
            _ => self.begin(packet, len, from, to, now).unwrap_or(Arrival::Dropped(Why::System)),
        }
    }

    fn find(&self, id: &[u8]) -> Option<usize> {
        self.index.get(&Name::new(id)?).copied()
    }

    /// A short header with an id that no connection has.
    fn stray(&mut self, id: &Id, len: usize, now: Instant) -> Arrival {
        match self.keys.shard_of(id) {
            None => Arrival::Dropped(Why::Unknown),
            Some(shard) if shard != self.shard => Arrival::Elsewhere(shard.into()),
            Some(_) => {
                let (since, left) = &mut self.resets;
                if now.saturating_duration_since(*since).as_secs() > 0 {
                    (*since, *left) = (now, QUIC_RESETS_PER_S);
                }
                let Some(rest) = left.checked_sub(1) else {
                    return Arrival::Dropped(Why::Full);
                };
                *left = rest;
                let token = self.keys.reset_token(id);
                match token.and_then(|token| packet::stateless_reset(len, token)) {
                    Ok(Some(reply)) => Arrival::Reply(reply),
                    Ok(None) => Arrival::Dropped(Why::Short),
                    Err(_) => Arrival::Dropped(Why::System),
                }
            }
        }
    }

    /// A client's first packet, or its first after a Retry. `None`: the system is to blame.
    fn begin(
        &mut self,
        packet: &Long<'_>,
        len: usize,
        from: SocketAddr,
        to: SocketAddr,
        now: Instant,
    ) -> Option<Arrival> {
        let Some(token) = packet.token() else { return Some(Arrival::Dropped(Why::Malformed)) };
        let client = network(from.ip());
        let its = self.by_address.get(&client).copied().unwrap_or(0);
        // A token that does not open is as good as none: it may be of our predecessor.
        let original = self.keys.open(from, packet.to, token, now);
        let is_crowded = self.handshaking >= self.options.handshakes_max / 2
            || its >= QUIC_RETRY_PER_ADDRESS_FROM;
        let must_show = match self.options.retry {
            Retry::Always => true,
            Retry::Auto => is_crowded,
            Retry::Never => false,
        };
        if original.is_none() && must_show {
            let id = self.keys.issue(self.shard).ok()?;
            let token = self.keys.seal(from, &id, packet.to, now).ok()?;
            return packet::retry(packet, &id, &token).map(Arrival::Reply);
        }
        if self.entries.len >= self.options.connections_max
            || self.handshaking >= self.options.handshakes_max
            || its >= QUIC_HANDSHAKES_PER_ADDRESS_MAX
        {
            return Some(Arrival::Dropped(Why::Full));
        }
        let id = self.keys.issue(self.shard).ok()?;
        self.config.set_stateless_reset_token(Some(self.keys.reset_token(&id).ok()?));
        let ours = ConnectionId::from_ref(&id);
        let asked = ConnectionId::from_ref(packet.to);
        let connection = match &original {
            None => quiche::accept_with_buf_factory(&ours, None, to, from, &mut self.config),
            Some(original) => {
                let original = ConnectionId::from_ref(original);
                let ids = RetryConnectionIds {
                    original_destination_cid: &original,
                    retry_source_cid: &asked,
                };
                quiche::accept_with_retry(&ours, ids, to, from, &mut self.config)
            }
        };
        let ids = [&id[..], packet.to].into_iter().map(Name::new).collect::<Option<_>>()?;
        let budget = original.is_none().then_some(AMPLIFICATION_MAX * len);
        Some(Arrival::New(Box::new(connection.ok()?), Issued { ids, client, budget }))
    }

    /// The connection of [`Arrival::New`] is in this slot.
    pub fn insert(&mut self, slot: usize, issued: Issued) {
        self.index.extend(issued.ids.iter().map(|id| (*id, slot)));
        *self.by_address.entry(issued.client).or_default() += 1;
        self.handshaking += 1;
        let Issued { ids, client, budget } = issued;
        self.entries.insert(slot, Entry { ids, handshaking: Some(client), budget });
    }

    /// How many of these bytes, in datagrams of `segment`, may go to this connection's client now. What is cut off counts as
    /// lost on the way.
    pub fn allow(&mut self, slot: usize, len: usize, segment: usize) -> usize {
        let Some(Entry { budget: Some(budget), .. }) = self.entries.get_mut(slot) else {
            return len;
        };
        let allowed = if *budget >= len { len } else { *budget - *budget % segment.max(1) };
        *budget -= allowed;
        allowed
    }

    /// Looks after the ids of a connection; to be called when it has been given datagrams. A client gets as many as it wants,
    /// one for each network that it may move to, and loses those that it has given up.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn refresh(&mut self, slot: usize, quic: &mut Quic) -> Result<(), QuicError> {
        let Some(entry) = self.entries.get_mut(slot) else { return Ok(()) };
        if !quic.is_established() {
            return Ok(());
        }
        if let Some(client) = entry.handshaking.take() {
            self.handshaking -= 1;
            entry.budget = None;
            forget(&mut self.by_address, client);
        }
        while quic.scids_left() > 0 && quic.active_scids() < QUIC_IDS_MAX {
            let id = self.keys.issue(self.shard)?;
            let token = self.keys.reset_token(&id)?;
            if quic.new_scid(&ConnectionId::from_ref(&id), token, false).is_err() {
                break;
            }
            if let Some(name) = Name::new(&id) {
                entry.ids.push(name);
                self.index.insert(name, slot);
            }
        }
        while let Some(retired) = quic.retired_scid_next() {
            let Some(name) = Name::new(&retired) else { continue };
            entry.ids.retain(|id| *id != name);
            self.index.remove(&name);
        }
        Ok(())
    }

    /// The connection in this slot is no more.
    pub fn remove(&mut self, slot: usize) {
        let Some(entry) = self.entries.remove(slot) else { return };
        for id in &entry.ids {
            self.index.remove(id);
        }
        if let Some(client) = entry.handshaking {
            self.handshaking -= 1;
            forget(&mut self.by_address, client);
        }
    }

    /// What the invariant says, for tests.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let entries = self.entries.entries.iter().enumerate();
        let entries: Vec<_> =
            entries.filter_map(|(slot, entry)| Some((slot, entry.as_ref()?))).collect();
        assert_eq!(entries.len(), self.entries.len);
        assert_eq!(
            entries.iter().map(|(_, entry)| entry.ids.len()).sum::<usize>(),
            self.index.len()
        );
        for (slot, entry) in &entries {
            assert!(entry.ids.iter().all(|id| self.index.get(id) == Some(slot)));
        }
        let handshaking = entries.iter().filter(|(_, entry)| entry.handshaking.is_some());
        assert_eq!(handshaking.count(), self.handshaking);
        assert_eq!(self.by_address.values().sum::<usize>(), self.handshaking);
    }
}

fn forget(by_address: &mut HashMap<IpAddr, usize>, client: IpAddr) {
    if let Some(count) = by_address.get_mut(&client) {
        *count -= 1;
        if *count == 0 {
            by_address.remove(&client);
        }
    }
}

/// What one client can hardly have more than one of: an IPv4 address, or an IPv6 network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}
