//! The loop: what the shard has in the kernel, and the order of one turn.
//!
//! Invariant: nothing waits in user space while the shard sleeps: before it blocks, every dirty connection was flushed,
//! every lane published, and every lane armed without finding work.

use std::{
    os::fd::AsFd,
    sync::mpsc::TryRecvError,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use slab::Slab;

use super::{
    Core, Settings, Spare,
    accept::{Accepting, Socket},
    access_log::AccessLog,
    client::Client,
    clock::Clock,
    conn::{Connection, Listen, Phase, Reading},
    exchange::Exchanges,
    fields::OwnFields,
    handle::{Command, Listener, Mailbox, Options, QuicOptions, Report},
    links::Links,
    queue::Queue,
    quic::Quic,
    spin::Spin,
    tally::Tally,
    tls::Secure,
    udp::Udp,
    watch::Watch,
};
use crate::{
    limits,
    proto::{h2, h3, head::RequestHead, ws::Workspace},
    uring::{self, Completion, Driver, Event, Token, Uring, Wait},
};

/// Kinds of operations, each of one `Driver` method.
pub(super) mod kind {
    pub(in crate::shard) const ACCEPT: u8 = 1;
    pub(in crate::shard) const RECV: u8 = 2;
    pub(in crate::shard) const SEND: u8 = 3;
    pub(in crate::shard) const SHUTDOWN: u8 = 4;
    pub(in crate::shard) const DOORBELL: u8 = 5;
    pub(in crate::shard) const PIDFD: u8 = 6;
    pub(in crate::shard) const LANE: u8 = 7;
    pub(in crate::shard) const DATAGRAMS: u8 = 8;
    pub(in crate::shard) const SEND_DATAGRAMS: u8 = 9;
    pub(in crate::shard) const HANG_UP: u8 = 10;
}

/// A shard: its core, and what it has in the kernel.
pub(super) struct Shard<D> {
    pub(super) driver: D,
    pub(super) core: Core,
    pub(super) shard: usize,
    pub(super) mailbox: Mailbox,
    /// Of HTTP/3.
    pub(super) udp: Option<Udp>,
    pub(super) listeners: Vec<Option<Socket>>,
    /// What is polled of each worker, until the process has ended and its polls with it.
    pub(super) watches: Slab<Watch>,
    pub(super) generation: u32,
    spin: Spin,
    pub(super) next_sweep: Instant,
    pub(super) drain_until: Option<Instant>,
    completions: Vec<Completion>,
}

/// Runs a shard on the calling thread until it has drained, and says how it went through the mailbox.
pub fn run(options: Options, mailbox: Mailbox) {
    let (shard, reports) = (options.shard, mailbox.reports.clone());
    let report = |report| {
        if reports.send(report).is_err() {
            tracing::debug!("nobody listens to shard {shard} any more");
        }
    };
    let datagram_buffers = options.quic.as_ref().map_or(0, |_| limits::DATAGRAM_BUFFER_COUNT);
    let driver = match Uring::new(uring::Options { datagram_buffers, ..Default::default() }) {
        Ok(driver) => driver,
        Err(error) => return report(Report::Failed { shard, error: error.to_string() }),
    };
    report(Report::Started { shard, features: driver.features().to_string() });
    match Shard::new(driver, options, mailbox).run() {
        Ok(()) => report(Report::Drained { shard }),
        Err(error) => report(Report::Failed { shard, error: format!("io_uring_enter: {error}") }),
    }
}

impl<D: Driver> Shard<D> {
    pub(super) fn new(driver: D, options: Options, mailbox: Mailbox) -> Self {
        let now = driver.now();
        let h3 = h3::Options {
            body_size_max: options.h1.body_size_max,
            header_timeout: options.limits.header_timeout,
            body_timeout: options.limits.body_timeout,
            keepalive_timeout: options.limits.keepalive_timeout,
        };
        let (quic, udp) = match options.quic {
            Some(QuicOptions { socket, port, endpoint, qlog_dir, neighbours }) => (
                Some(Box::new(Quic::new(*endpoint, port, qlog_dir, h3))),
                Some(Udp::new(socket, neighbours)),
            ),
            None => (None, None),
        };
        let core = Core {
            options: Settings {
                http: options.http,
                h1: options.h1,
                h2: h2::Options {
                    body_size_max: options.h1.body_size_max,
                    header_timeout: options.limits.header_timeout,
                    body_timeout: options.limits.body_timeout,
                    keepalive_timeout: options.limits.keepalive_timeout,
                },
                access_log: options.access_log,
                limits: options.limits,
                websocket: options.websocket,
            },
            clock: Clock::new(now, driver.wall_clock()),
            connections: Slab::new(),
            quic_connections: Slab::new(),
            quic,
            exchanges: Exchanges::default(),
            links: Links::default(),
            routes: None,
            access_log: AccessLog::default(),
            reports: mailbox.reports.clone(),
            dirty: Vec::new(),
            postponed: Vec::new(),
            owing: Vec::new(),
            queue: Queue::default(),
            own_fields: OwnFields::new(options.headers, options.tls.as_ref()),
            secure: Secure::new(options.tls),
            trusted: options.trusted,
            tally: Tally::default(),
            told: Tally::default(),
            gauges: options.gauges,
            spare: Spare::default(),
            armed: false,
            kicks: 0,
            head: RequestHead::default(),
            params: Vec::new(),
            workspace: Workspace::default(),
        };
        let listeners = options.listeners.into_iter();
        let listeners = listeners
            .map(|Listener { socket, address, kind }| Socket {
                socket,
                local: address.is_none(),
                kind,
                accepting: Accepting::Idle,
            })
            .map(Some)
            .collect();
        Self {
            driver,
            core,
            shard: options.shard,
            mailbox,
            udp,
            listeners,
            watches: Slab::new(),
            generation: 0,
            spin: Spin::new(options.spin_max),
            next_sweep: now + limits::SWEEP_INTERVAL,
            drain_until: None,
            completions: Vec::new(),
        }
    }

    fn run(mut self) -> std::io::Result<()> {
        self.begin();
        while self.turn()? {}
        self.hand_over_log(true);
        self.log_stats();
        Ok(())
    }

    pub(super) fn begin(&mut self) {
        self.driver.poll(self.mailbox.doorbell.as_fd(), token(kind::DOORBELL, 0, 0));
    }

    /// One turn; false when the shard has drained.
    pub(super) fn turn(&mut self) -> std::io::Result<bool> {
        self.accept();
        self.receive_datagrams();
        self.core.publish_lanes();
        self.core.read_lanes();
        // In front of the queue, which gets the exchanges of those who are gone.
        self.reap();
        // Behind the reading, which brings back chunks: a debt that they could have settled must not go to sleep.
        self.core.settle_debts();
        self.flush();
        self.flush_quic();
        self.core.publish_tally();
        if self.has_drained() {
            // Workers hear of the last clients that went.
            self.core.publish_lanes();
            return Ok(false);
        }
        let wait = self.wait();
        let mut completions = std::mem::take(&mut self.completions);
        self.driver.turn(wait, &mut completions)?;
        self.core.disarm_lanes();
        self.core.clock.tick(self.driver.now(), || self.driver.wall_clock());
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
        self.core.wake_quic();
        self.sweep();
        self.hand_over_log(false);
        Ok(true)
    }

    /// True when there is nobody left to serve, and nothing left to say to workers that they could still take.
    fn has_drained(&self) -> bool {
        let served = self.core.connections.is_empty() && self.is_quic_over();
        let told = self.core.owing.is_empty();
        self.drain_until.is_some_and(|until| served && (told || self.core.clock.now >= until))
    }

    /// What it took, for whoever tunes: system calls, completions, kicks and spins against exchanges.
    fn log_stats(&mut self) {
        let stats = self.driver.stats();
        tracing::debug!(
            "shard {} has drained: {} exchanges ({} left over), {} enters, {} completions, {} kicks, spins {} hit {} missed",
            self.shard,
            self.core.tally.begun,
            self.core.exchanges.len(),
            stats.enters,
            stats.completions,
            self.core.kicks,
            self.spin.hits,
            self.spin.misses,
        );
    }

    /// Decides how the coming turn may wait: not at all while there is work, a spin first, then for the next event.
    fn wait(&mut self) -> Wait {
        // Flushing may have written to lanes (credit, cancels), and input may have come of it.
        self.core.publish_lanes();
        let quic = self.core.quic.as_ref();
        if !self.core.dirty.is_empty()
            || quic.is_some_and(|quic| !quic.dirty.is_empty())
            || self.work_visible()
            || self.spin()
            || self.core.arm_lanes()
        {
            return Wait::Poll;
        }
        let paused =
            self.listeners.iter().flatten().any(|listener| listener.accepting == Accepting::Paused);
        let paused = paused || self.udp.as_ref().is_some_and(Udp::is_paused);
        let Core { connections, quic_connections, exchanges, access_log, .. } = &self.core;
        let nothing_due = connections.is_empty()
            && quic_connections.is_empty()
            && exchanges.len() == 0
            && access_log.is_empty();
        if nothing_due && !paused {
            return Wait::Forever;
        }
        let timer = self.core.quic.as_ref().and_then(|quic| quic.next_timer());
        let next = timer.map_or(self.next_sweep, |timer| timer.min(self.next_sweep));
        let sweep = next.saturating_duration_since(self.driver.now());
        let poll = self.core.waits_for_others().then_some(limits::QUEUE_POLL_INTERVAL);
        Wait::AtMost(poll.map_or(sweep, |poll| poll.min(sweep)))
    }

    fn work_visible(&mut self) -> bool {
        self.core.links.pending() || self.driver.completions_visible()
    }

    /// Looks for work for a while, if somebody is likely to bring some.
    fn spin(&mut self) -> bool {
        let budget = self.spin.budget();
        let Core { connections, quic_connections, .. } = &self.core;
        if budget.is_zero() || connections.is_empty() && quic_connections.is_empty() {
            return false;
        }
        let end = self.driver.now() + budget;
        let mut found = false;
        while !found && self.driver.now() < end {
            for _ in 0..16 {
                std::hint::spin_loop();
            }
            found = self.work_visible();
        }
        self.spin.ended(found);
        found
    }

    fn complete(&mut self, Completion { token, event, more }: Completion) {
        match token.kind {
            kind::ACCEPT => self.accepted(token, event, more),
            kind::RECV => self.received(token, event, more),
            kind::SEND => self.sent(token, event),
            kind::HANG_UP => self.hung_up(token, &event),
            kind::SHUTDOWN => {
                if let Some(connection) = self.connection(token) {
                    connection.shutting_down = false;
                    self.core.touch(token.index as usize);
                }
            }
            kind::DOORBELL => {
                if !more {
                    self.driver.poll(self.mailbox.doorbell.as_fd(), token);
                }
                self.obey();
            }
            kind::DATAGRAMS => self.datagrams_arrived(event, more),
            kind::SEND_DATAGRAMS => self.datagrams_sent(event),
            kind::PIDFD | kind::LANE => self.watched(token, &event, more),
            other => unreachable!("the shard starts no operation of kind {other}"),
        }
    }

    /// The connection that a completion belongs to, unless its slot has another tenant by now.
    fn connection(&mut self, token: Token) -> Option<&mut Connection> {
        let connection = self.core.connections.get_mut(token.index as usize)?;
        (connection.generation == token.generation).then_some(connection)
    }

    fn received(&mut self, token: Token, event: Event, more: bool) {
        let index = token.index as usize;
        if let Some(connection) = self.connection(token) {
            if !more {
                connection.recv = Listen::Idle;
            }
            let sealed = connection.tls.is_some();
            match &event {
                Event::Received(lease) if sealed => {
                    self.core.receive_sealed(index, self.driver.bytes(lease));
                }
                Event::Received(lease) => self.core.receive(index, self.driver.bytes(lease)),
                // Whether it cuts a request short is seen when the connection is flushed.
                Event::EndOfStream => connection.at_end = true,
                // The buffers of this turn are on their way back: try again.
                Event::Failed(Errno::NOBUFS) => connection.starved = true,
                Event::Failed(Errno::CANCELED) => {}
                _ => self.core.lose(index),
            }
            self.core.touch(index);
        }
        if let Event::Received(lease) = event {
            self.driver.recycle(lease);
        }
    }

    fn hung_up(&mut self, token: Token, event: &Event) {
        let Some(connection) = self.connection(token) else { return };
        connection.hang_up = Listen::Idle;
        // What came before it is still to be received, and may be a whole request.
        connection.fin_seen |= matches!(event, Event::EndOfStream);
        let open = connection.phase == Phase::Open;
        let index = token.index as usize;
        if open && matches!(event, Event::HungUp) {
            self.core.lose(index);
        }
        self.core.touch(index);
    }

    fn sent(&mut self, token: Token, event: Event) {
        let index = token.index as usize;
        let failed = match event {
            Event::Sent(buffer) => {
                self.core.spare.give(buffer);
                false
            }
            _ => true,
        };
        let Some(connection) = self.connection(token) else { return };
        connection.sending = 0;
        if failed {
            return self.core.lose(index);
        }
        self.core.touch(index);
    }

    /// Performs what the dirty connections call for.
    fn flush(&mut self) {
        while let Some(index) = self.core.dirty.pop() {
            let Some(connection) = self.core.connections.get_mut(index) else { continue };
            // Until it is performed, so that it does not come on the list again.
            connection.dirty = true;
            // A response that has just ended, or been sent, may free the way for a request that is here already.
            let ready =
                matches!(connection.reading, Reading::Head) && connection.phase == Phase::Open;
            if connection.has_streams() {
                self.core.attend(index, self.drain_until.is_some());
            } else if ready && !connection.input.is_empty() && connection.sending == 0 {
                self.core.resume(index);
            }
            // A Ping, Pong or Close that was held back by what was unsent.
            self.core.speak(Client::Http1(index));
            if self.core.connections.get(index).is_some_and(Connection::is_over) {
                self.core.finish(index);
            }
            let Some(connection) = self.core.connections.get_mut(index) else { continue };
            if self.drain_until.is_some() && connection.phase == Phase::Open && connection.is_idle()
            {
                connection.begin_leave();
            }
            if connection.tls.is_some() {
                self.core.seal(index);
            }
            self.perform(index);
        }
        for index in std::mem::take(&mut self.core.postponed) {
            self.core.touch(index);
        }
    }

    fn perform(&mut self, index: usize) {
        let now = self.core.clock.now;
        let Some(connection) = self.core.connections.get_mut(index) else { return };
        connection.dirty = false;
        let generation = connection.generation;
        let of = |kind| token(kind, generation, u32::try_from(index).unwrap_or(u32::MAX));
        if connection.sending == 0 && !connection.outgoing().is_empty() {
            let output = std::mem::replace(connection.outgoing(), self.core.spare.take());
            connection.begin_send(output.len(), now);
            self.driver.send(connection.socket.as_fd(), output, of(kind::SEND));
        }
        if connection.unsent() == 0 {
            // Idle connections own no buffer.
            self.core.spare.give(std::mem::take(connection.outgoing()));
            match connection.phase {
                Phase::LastSend if !connection.at_end => {
                    connection.begin_linger(now);
                    connection.shutting_down = true;
                    self.driver.shutdown_write(connection.socket.as_fd(), of(kind::SHUTDOWN));
                }
                Phase::LastSend => connection.begin_close(),
                Phase::Lingering if connection.at_end => connection.begin_close(),
                _ => {}
            }
        }
        match (connection.wants_input(), connection.recv) {
            (true, Listen::Idle) => {
                connection.recv = Listen::Armed;
                self.driver.recv(connection.socket.as_fd(), of(kind::RECV));
            }
            (false, Listen::Armed) => {
                connection.recv = Listen::Ending;
                self.driver.cancel(of(kind::RECV));
            }
            _ => {}
        }
        if connection.may_miss_reset() {
            connection.hang_up = Listen::Armed;
            self.driver.hang_up(connection.socket.as_fd(), of(kind::HANG_UP));
        }
        if connection.phase == Phase::Closing {
            if connection.is_quiet() {
                if self.core.end_handshake(index) {
                    self.core.tally.handshakes_failed += 1;
                }
                let connection = self.core.connections.remove(index);
                self.driver.close(connection.socket);
                return;
            }
            if connection.sending > 0 {
                self.driver.cancel(of(kind::SEND));
            }
            if connection.hang_up == Listen::Armed {
                connection.hang_up = Listen::Ending;
                self.driver.cancel(of(kind::HANG_UP));
            }
            return;
        }
        connection.watch(now, &self.core.options.limits);
        // Also when nothing was sent, because the response has no body to send: its worker does not know that.
        if connection.unsent() == 0
            && let Some(exchange) = connection.exchange()
        {
            self.core.return_credit(exchange);
        }
    }

    pub(super) fn hand_over_log(&mut self, all: bool) {
        if let Some(lines) = self.core.access_log.take(all) {
            self.core.report(Report::AccessLog(lines));
        }
    }

    /// Does what the control thread asked for.
    fn obey(&mut self) {
        if self.take_forwarded()
            && let Err(error) = self.mailbox.doorbell.kick()
        {
            tracing::error!("a shard's doorbell: {error}");
        }
        loop {
            match self.mailbox.commands.try_recv() {
                Ok(command) => self.follow(command),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => return self.drain(Duration::ZERO),
            }
        }
    }

    fn follow(&mut self, command: Command) {
        match command {
            Command::Attach(link, routes) => {
                self.core.routes = Some(routes);
                self.attach(*link);
            }
            Command::Batch(commands) => {
                for command in commands {
                    self.follow(command);
                }
            }
            Command::Retire { worker, incarnation } => {
                for link in self.core.links.retire((worker, incarnation)) {
                    self.core.depart_from(link);
                }
            }
            Command::Certificates(config) => {
                if let Some(quic) = &mut self.core.quic
                    && let Err(error) = quic.endpoint.reload(&config)
                {
                    tracing::error!("the old certificates stay for HTTP/3: {error}");
                }
                self.core.secure.config = Some(config);
            }
            Command::Drain(grace) => self.drain(grace),
        }
    }

    /// Stops accepting; idle connections go, the others end with their response.
    fn drain(&mut self, grace: Duration) {
        if self.drain_until.is_some() {
            return;
        }
        self.drain_until = Some(self.core.clock.now + grace);
        for (index, at) in (0..).zip(0..self.listeners.len()) {
            match self.listeners.get(at).and_then(Option::as_ref).map(|listener| listener.accepting)
            {
                Some(Accepting::Armed) => self.driver.cancel(token(kind::ACCEPT, 0, index)),
                Some(Accepting::Idle | Accepting::Paused) => self.close_listener(at),
                None => {}
            }
        }
        let connections: Vec<usize> =
            self.core.connections.iter().map(|(index, _)| index).collect();
        for index in connections {
            if let Some(connection) = self.core.connections.get_mut(index) {
                connection.h1.close_after_response();
            }
            self.core.touch(index);
        }
        if let Some(quic) = &mut self.core.quic {
            quic.endpoint.close();
        }
        self.core.touch_all_quic();
        self.core.depart_all();
    }
}

pub(super) fn token(kind: u8, generation: u32, index: u32) -> Token {
    Token { kind, generation, index }
}
