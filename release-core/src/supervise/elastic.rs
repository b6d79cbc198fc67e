//! The size of a group that grows and shrinks with its load.

use std::time::Duration;

use super::Moment;

/// How long no connection may have waited before a worker is removed, and the longest such time.
const CALM: Duration = Duration::from_secs(5);
const LONGEST_CALM: Duration = Duration::from_secs(300);

/// How long a group keeps its size after it could not grow, or somebody else has changed it.
const HOLD: Duration = Duration::from_secs(30);

/// Maximum number of workers that are added at a time.
const MOST_AT_ONCE: u32 = 32;

/// Decides about the size of one group, at regular looks at its load.
///
/// * It grows while connections wait at two looks in a row, or at once if more wait than there are
///   workers: by one worker, then by two, by four and so on, up to its maximum. It waits for the workers
///   that it has: those that start may suffice.
/// * It shrinks by one worker when no connection has waited for five seconds, down to its configured
///   size. If it must grow again soon after that, it waits twice as long the next time. That time halves
///   with each further worker that is removed, and starts anew with a growth that comes later.
/// * A size that somebody else has set holds for half a minute. So does the former one, if workers that
///   were added have failed.
#[derive(Clone, Debug)]
pub(crate) struct Elastic {
    most: u32,
    /// Number of looks in a row at which connections waited.
    pressed: u32,
    /// Number of workers that the next growth adds.
    step: u32,
    /// Time since no connection waits.
    calm_since: Option<Moment>,
    /// How long that must last before a worker is removed.
    calm: Duration,
    shrunk_at: Option<Moment>,
    /// Size of the group at the latest look, or after the change that was decided there.
    expected: Option<u32>,
    held_until: Moment,
}

/// The load of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupLoad {
    /// Size in the configuration, the minimum.
    pub(crate) configured: u32,
    /// Size now.
    pub(crate) size: u32,
    /// Number of workers that are ready, or have ended for good.
    pub(crate) settled: u32,
    /// Number of connections that wait to be accepted.
    pub(crate) waiting: u32,
}

impl Elastic {
    pub(crate) fn new(most: u32) -> Self {
        Self {
            most,
            pressed: 0,
            step: 1,
            calm_since: None,
            calm: CALM,
            shrunk_at: None,
            expected: None,
            held_until: Moment::START,
        }
    }

    /// Returns the maximum size.
    pub(crate) fn most(&self) -> u32 {
        self.most
    }

    /// Returns the new size, if it should change now.
    pub(crate) fn look(&mut self, load: GroupLoad, now: Moment) -> Option<u32> {
        if self.expected.replace(load.size).is_some_and(|size| load.size != size) {
            self.held_until = now + HOLD;
        }
        let size = match load.waiting {
            0 => self.shrink(load, now),
            _ => self.grow(load, now),
        };
        self.expected = size.or(self.expected);
        size
    }

    /// Returns whether the size may change now.
    fn is_free(&self, load: GroupLoad, now: Moment) -> bool {
        now >= self.held_until && load.settled >= load.size
    }

    fn grow(&mut self, load: GroupLoad, now: Moment) -> Option<u32> {
        self.calm_since = None;
        self.pressed = self.pressed.saturating_add(1);
        let is_urgent = self.pressed > 1 || load.waiting > load.size;
        if !is_urgent || load.size >= self.most || !self.is_free(load, now) {
            return None;
        }
        match self.shrunk_at.take() {
            Some(at) if now - at < self.calm * 2 => self.calm = (self.calm * 2).min(LONGEST_CALM),
            Some(_) => self.calm = CALM,
            None => {}
        }
        let size = load.size.saturating_add(self.step).min(self.most);
        self.step = (self.step * 2).min(MOST_AT_ONCE);
        Some(size)
    }

    fn shrink(&mut self, load: GroupLoad, now: Moment) -> Option<u32> {
        (self.pressed, self.step) = (0, 1);
        let since = *self.calm_since.get_or_insert(now);
        if load.size <= load.configured || !self.is_free(load, now) || now - since < self.calm {
            return None;
        }
        if self.shrunk_at.is_some() {
            // The one before was not too early.
            self.calm = (self.calm / 2).max(CALM);
        }
        (self.calm_since, self.shrunk_at) = (Some(now), Some(now));
        Some(load.size - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Looks once a second. Workers of a good group are ready at the next look.
    struct World {
        elastic: Elastic,
        load: GroupLoad,
        now: Moment,
    }

    impl World {
        fn new(configured: u32, most: u32) -> Self {
            let load = GroupLoad { configured, size: configured, settled: configured, waiting: 0 };
            Self { elastic: Elastic::new(most), load, now: Moment::START }
        }

        fn look(&mut self, waiting: u32) -> u32 {
            self.now += SECOND;
            self.load.waiting = waiting;
            if let Some(size) = self.elastic.look(self.load, self.now) {
                self.load.size = size;
            }
            self.load.settled = self.load.size;
            self.load.size
        }
    }

    #[test]
    fn it_grows_fast_and_shrinks_slowly() {
        let mut world = World::new(2, 20);
        let sizes: Vec<_> = [1, 1, 1, 1, 1, 1, 1].map(|waiting| world.look(waiting)).into();
        assert_eq!(sizes, [2, 3, 5, 9, 17, 20, 20]);
        let sizes: Vec<_> = (0..12).map(|_| world.look(0)).collect();
        assert_eq!(sizes, [20, 20, 20, 20, 20, 19, 19, 19, 19, 19, 18, 18]);
        for _ in 0..200 {
            world.look(0);
        }
        assert_eq!(world.look(0), 2);
        // More wait than there are workers.
        assert_eq!(world.look(3), 3);
    }

    #[test]
    fn a_queue_that_passes_is_no_reason_to_grow() {
        let mut world = World::new(2, 20);
        for round in 0..100 {
            assert_eq!(world.look(round % 2), 2);
        }
    }

    #[test]
    fn it_waits_longer_after_it_has_shrunk_too_early() {
        let mut world = World::new(1, 2);
        let mut shrunk_after = || {
            while world.look(1) < 2 {}
            (1..).find(|_| world.look(0) < 2).unwrap()
        };
        let times: Vec<_> = (0..9).map(|_| shrunk_after()).collect();
        assert_eq!(times, [6, 11, 21, 41, 81, 161, 301, 301, 301]);
    }

    #[test]
    fn the_longer_wait_comes_back() {
        let mut world = World::new(1, 20);
        let shrinks = |world: &mut World| {
            let size = world.load.size;
            (1..).find(|_| world.look(0) < size).unwrap()
        };
        for _ in 0..7 {
            while world.look(1) < 2 {}
            shrinks(&mut world);
        }
        while world.look(1) < 10 {}
        let times: Vec<_> = (0..8).map(|_| shrinks(&mut world)).collect();
        assert_eq!(times, [301, 300, 150, 75, 38, 19, 10, 5]);
        // And by a growth that comes much later.
        let mut world = World::new(1, 2);
        for _ in 0..7 {
            while world.look(1) < 2 {}
            shrinks(&mut world);
        }
        for _ in 0..700 {
            world.look(0);
        }
        while world.look(1) < 2 {}
        assert_eq!(shrinks(&mut world), 6);
    }

    #[test]
    fn a_size_that_somebody_else_has_set_holds_for_a_while() {
        for (set, waiting) in [(1, 9), (8, 0)] {
            let mut world = World::new(2, 9);
            for _ in 0..10 {
                world.look(0);
            }
            (world.load.size, world.load.settled) = (set, set);
            let held = (0..).find(|_| world.look(waiting) != set).unwrap();
            assert!((29..=31).contains(&held), "{held}");
        }
    }

    #[test]
    fn a_group_that_cannot_grow_is_left_alone_for_a_while() {
        let mut world = World::new(1, 9);
        world.look(1);
        let mut attempts = 0;
        for _ in 0..300 {
            if world.look(1) > 1 {
                attempts += 1;
                // The pool takes it back, as a new worker has failed.
                (world.load.size, world.load.settled) = (1, 1);
            }
        }
        assert!((9..=11).contains(&attempts), "{attempts}");
        // Nor does it add workers while others start.
        let mut world = World::new(1, 9);
        world.look(1);
        assert_eq!(world.look(1), 2);
        for _ in 0..100 {
            world.load.settled = 1;
            assert_eq!(world.look(100), 2);
        }
    }

    proptest::proptest! {
        #![proptest_config(crate::cases::cases(500))]

        #[test]
        fn no_history_leaves_the_bounds(
            most in 1_u32..50,
            configured in 0_u32..50,
            looks in proptest::collection::vec((0_u32..300, 0_u32..60, 0_u32..5), 1..300),
        ) {
            let mut elastic = Elastic::new(most);
            let (mut now, mut size) = (Moment::START, configured);
            let (mut calm_since, mut pressed, mut held_until) = (None, 0, now);
            for (set, settled, waiting) in looks {
                now += SECOND;
                if set < 60 && set != size && now > Moment::START + SECOND {
                    (size, held_until) = (set, now + HOLD);
                }
                let load = GroupLoad { configured, size, settled: settled.max(size / 2), waiting };
                if waiting > 0 { (calm_since, pressed) = (None, pressed + 1) }
                else { calm_since = Some(calm_since.unwrap_or(now)); pressed = 0 }
                let Some(new) = elastic.look(load, now) else { continue };
                assert!(now >= held_until);
                assert!(load.settled >= size, "never while workers start");
                if new > size {
                    assert!(waiting > 0 && new <= most && new - size <= MOST_AT_ONCE);
                    assert!(pressed > 1 || waiting > size);
                } else {
                    assert!(waiting == 0 && new == size - 1 && new >= configured);
                    assert!(now - calm_since.unwrap() >= CALM);
                    calm_since = Some(now);
                }
                size = new;
            }
        }
    }
}
