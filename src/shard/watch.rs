//! What the shard has in the kernel of each worker: polls of its doorbell and of its pidfd.
//!
//! Invariant: the descriptors live until both polls have ended; a worker's lane may be let go long before.

use std::os::fd::{AsFd, OwnedFd};

use super::turn::{Shard, kind, token};
use crate::{
    ipc::Doorbell,
    pool::Link,
    uring::{Driver, Event, Token},
};

/// Of one worker.
pub(super) struct Watch {
    pidfd: OwnedFd,
    bell: Doorbell,
    link: usize,
    link_generation: u32,
    /// Polls in flight, of two; at zero the descriptors are closed.
    polls: u8,
    /// The process has ended.
    over: bool,
}

impl<D: Driver> Shard<D> {
    pub(super) fn attach(&mut self, link: Link) {
        let Link { worker, incarnation, lane, bell, pidfd, load } = link;
        let (link, link_generation) = self.core.links.insert((worker, incarnation), lane, load);
        let watch = Watch { pidfd, bell, link, link_generation, polls: 2, over: false };
        let index = self.watches.insert(watch);
        let Some(watch) = self.watches.get(index) else { return };
        let of = |kind| token(kind, 0, u32::try_from(index).unwrap_or(u32::MAX));
        self.driver.poll(watch.pidfd.as_fd(), of(kind::PIDFD));
        self.driver.poll(watch.bell.as_fd(), of(kind::LANE));
    }

    /// A worker rang (its lane is read with the others, at the end of the turn), or has ended.
    pub(super) fn watched(&mut self, token: Token, event: &Event, more: bool) {
        let index = token.index as usize;
        let Some(watch) = self.watches.get_mut(index) else { return };
        if token.kind == kind::PIDFD && matches!(event, Event::Readable) && !watch.over {
            watch.over = true;
            self.core.worker_died(watch.link, watch.link_generation);
            for kind in [kind::PIDFD, kind::LANE] {
                if kind == kind::LANE || more {
                    self.driver.cancel(Token { kind, ..token });
                }
            }
        }
        if more {
            return;
        }
        if watch.over {
            watch.polls -= 1;
            if watch.polls == 0 {
                let watch = self.watches.remove(index);
                self.driver.close(watch.pidfd);
                self.driver.close(watch.bell.into());
            }
            return;
        }
        // The kernel may end a multishot poll at any time.
        match token.kind {
            kind::LANE => self.driver.poll(watch.bell.as_fd(), token),
            _ => self.driver.poll(watch.pidfd.as_fd(), token),
        }
    }

    /// Lets go of workers that are dead or at fault. Their pidfds report in their own time.
    pub(super) fn reap(&mut self) {
        drop(self.core.reap_links());
        self.core.report_retired(self.shard);
    }
}
