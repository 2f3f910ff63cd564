//! What the driver sleeps on: the desk's doorbell, and each worker's lane, control channel and exit, in one epoll.
//!
//! Invariant: a lane's doorbell is edge-triggered and never read (see [`crate::ipc::doorbell`]); everything else is
//! level-triggered. An event may be late, of a process that has gone: it says where to look, and no more.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, EventData, EventFlags},
    },
};

use crate::limits::WORKERS_MAX;

/// Where something happened; for all but desk and lanes with the worker's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Desk,
    Lane,
    Channel(u16),
    Exit(u16),
}

impl Source {
    fn encode(self) -> EventData {
        EventData::new_u64(match self {
            Self::Desk => 0,
            Self::Lane => 1,
            Self::Channel(place) => (u64::from(place) << 8) | 2,
            Self::Exit(place) => (u64::from(place) << 8) | 3,
        })
    }

    fn decode(data: EventData) -> Self {
        let place = u16::try_from(data.u64() >> 8).unwrap_or_default();
        match data.u64() & 0xff {
            0 => Self::Desk,
            2 => Self::Channel(place),
            3 => Self::Exit(place),
            _ => Self::Lane,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Events {
    epoll: OwnedFd,
}

impl Events {
    pub(super) fn new(desk: impl AsFd) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, desk, Source::Desk.encode(), EventFlags::IN)?;
        Ok(Self { epoll })
    }

    /// From now on also of this worker; its descriptors leave when they are closed.
    pub(super) fn add(
        &self,
        place: u16,
        lane: impl AsFd,
        channel: impl AsFd,
        pidfd: impl AsFd,
    ) -> io::Result<()> {
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&self.epoll, lane, Source::Lane.encode(), edge)?;
        epoll::add(&self.epoll, channel, Source::Channel(place).encode(), EventFlags::IN)?;
        epoll::add(&self.epoll, pidfd, Source::Exit(place).encode(), EventFlags::IN)?;
        Ok(())
    }

    /// A channel at its end would be readable for ever.
    pub(super) fn forget(&self, channel: impl AsFd) {
        // One that is not there any more is forgotten.
        let _ = epoll::delete(&self.epoll, channel);
    }

    /// Sleeps until something happens, or for as long as `at_most`.
    pub(super) fn wait(&self, at_most: Option<Duration>) -> Vec<Source> {
        let mut events = Vec::with_capacity(2 * WORKERS_MAX);
        let forever = Timespec { tv_sec: i64::MAX, tv_nsec: 0 };
        let timeout = at_most.map(|left| Timespec::try_from(left).unwrap_or(forever));
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("waiting on an epoll of our own: {error}"),
        }
        events.iter().map(|event| Source::decode(event.data)).collect()
    }
}
