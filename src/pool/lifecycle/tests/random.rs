//! Whatever happens in whatever order: the promises of the module hold, and a pool that is left alone comes to rest.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::limits::PLACE_PROCESSES_MAX;

/// What the driver of a pool would know.
#[derive(Default)]
struct Ledger {
    /// Processes that were started and have not ended.
    alive: BTreeSet<Id>,
    /// Those that were attached and not retired since.
    serving: BTreeSet<Id>,
    finished: bool,
}

impl Ledger {
    fn note(&mut self, action: Action) {
        assert!(!self.finished, "{action:?} after the end");
        match action {
            Action::Spawn(id) => assert!(self.alive.insert(id), "{id:?} twice"),
            Action::Switch { attach, retire } => {
                assert!(attach.iter().chain(&retire).all(|id| self.alive.contains(id)));
                self.serving.extend(attach);
                for id in retire {
                    assert!(self.serving.remove(&id), "{id:?} did not serve");
                }
            }
            Action::DumpStacks(id) | Action::SendStop(id) | Action::Kill(id) => {
                assert!(self.alive.contains(&id), "{id:?} is gone");
            }
            Action::Report { id, .. } => {
                self.serving.remove(&id);
            }
            Action::Recycle { .. }
            | Action::Recycled { .. }
            | Action::Reloaded { .. }
            | Action::DrainShards(_) => {}
            Action::Finish(_) => self.finished = true,
        }
    }
}

fn step() -> impl Strategy<Value = (u8, u8, u64)> {
    (0..13_u8, any::<u8>(), 0..40_000_u64)
}

/// Something that can happen, of somebody who is there.
fn apply(world: &mut World, ledger: &mut Ledger, (kind, which, time): (u8, u8, u64)) {
    let alive: Vec<Id> = ledger.alive.iter().copied().collect();
    let someone = alive.get(usize::from(which) % alive.len().max(1)).copied();
    let now = world.now;
    let (WorkerId(w), Incarnation(i)) = someone.unwrap_or((WorkerId(0), Incarnation(0)));
    match kind {
        0..=2 if someone.is_some() => world.apply(Ready(w, i)),
        3 if someone.is_some() => world.apply(Fail(w, i)),
        4 if someone.is_some() => world.apply(Faulty(w, i)),
        5 if someone.is_some() => world.apply(Stick(w, i)),
        6 if someone.is_some() => world.apply(Retired(w, i)),
        7 | 8 if someone.is_some() => {
            ledger.alive.remove(&(WorkerId(w), Incarnation(i)));
            ledger.serving.remove(&(WorkerId(w), Incarnation(i)));
            world.apply(Exit(w, i));
        }
        9 => drop(world.pool.handle_reload(now)),
        10 => {
            world.pool.handle_scale(usize::from(which % 5), now);
        }
        11 => {
            world.pool.handle_drain(WorkerId(u16::from(which % 5)), now);
        }
        _ => world.apply(After(ms(time))),
    }
}

fn settle(world: &mut World, ledger: &mut Ledger) {
    while let Some(action) = world.pool.poll_action() {
        ledger.note(action);
    }
    let pool = &world.pool;
    let recycled = pool.processes().filter(|(_, process)| {
        process.role == Role::Successor && process.generation == pool.current.number
    });
    assert!(recycled.count() <= 1, "two places recycle");
    for place in &pool.places {
        let count = |role| place.processes.iter().filter(|process| process.role == role).count();
        assert!(count(Role::Holder) <= 1 && count(Role::Successor) <= 1, "{place:?}");
        assert!(place.vacant.is_none() || count(Role::Holder) == 0, "{place:?}");
        assert!(place.processes.len() <= PLACE_PROCESSES_MAX + 1, "{place:?}");
        assert!(place.wanted || place.vacant.is_none(), "{place:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_order_of_events_breaks_a_promise(
        workers in 1..4_u16,
        patient in any::<bool>(),
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let settings = Settings { patient, lifetime_max: Some(s(100)), ..Settings::default() };
        let mut world = World::with(settings, workers);
        let mut ledger = Ledger::default();
        settle(&mut world, &mut ledger);
        for step in steps {
            if ledger.finished {
                return Ok(());
            }
            let served = !ledger.serving.is_empty();
            let design = matches!(step.0, 6 | 9..);
            apply(&mut world, &mut ledger, step);
            settle(&mut world, &mut ledger);
            // Nobody who serves leaves by design before somebody else serves.
            prop_assert!(!served || !design || !ledger.serving.is_empty());
        }
        // From now on everything goes well: the pool gets to its full strength...
        for _ in 0..200 {
            if ledger.finished {
                return Ok(());
            }
            for id in ledger.alive.iter().copied().collect::<Vec<_>>() {
                let leaving = world.pool.is_leaving(id);
                let starting = world.pool.views().any(|view| view.id == id
                    && matches!(view.state, State::Starting { .. }));
                let stuck = !leaving && !starting && !ledger.serving.contains(&id);
                if leaving {
                    apply_exit(&mut world, &mut ledger, id);
                } else if starting {
                    world.apply(Ready(id.0.0, id.1.0));
                } else if stuck {
                    world.apply(Retired(id.0.0, id.1.0));
                }
                settle(&mut world, &mut ledger);
            }
            world.apply(After(ms(600)));
            settle(&mut world, &mut ledger);
        }
        if world.pool.is_serving() && world.pool.generation() > 0 {
            prop_assert_eq!(world.pool.ready_count(), world.pool.wanted_count());
        }
        // ...and comes to its end when asked to.
        world.apply(Stop);
        world.apply(Drained);
        settle(&mut world, &mut ledger);
        for _ in 0..3 {
            for id in ledger.alive.iter().copied().collect::<Vec<_>>() {
                apply_exit(&mut world, &mut ledger, id);
                settle(&mut world, &mut ledger);
            }
        }
        prop_assert!(ledger.finished, "{:?}", world.pool);
    }
}

fn apply_exit(world: &mut World, ledger: &mut Ledger, (worker, incarnation): Id) {
    ledger.alive.remove(&(worker, incarnation));
    ledger.serving.remove(&(worker, incarnation));
    world.apply(Exit(worker.0, incarnation.0));
}
