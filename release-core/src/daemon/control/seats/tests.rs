use super::*;

const ROOT: u32 = 0;
const GREEDY: u32 = 1000;
const OTHER: u32 = 1001;

/// Seats of a control socket for four.
struct Room {
    seats: Arc<Seats>,
    start: Instant,
    /// Whoever connects later is younger.
    moments: u32,
}

impl Room {
    fn new() -> Self {
        Self { seats: Arc::default(), start: Instant::now(), moments: 0 }
    }

    fn now(&mut self) -> Instant {
        self.moments += 1;
        self.start + SEAT_TIME * self.moments
    }

    fn enter(&mut self, uid: u32) -> Option<(Seat, AbortRegistration)> {
        let now = self.now();
        match self.seats.take(uid, 4, now) {
            Offer::Seat(seat, registration) => Some((seat, registration)),
            Offer::Later(_) => panic!("everybody had time to ask"),
            Offer::AllBusy => None,
        }
    }

    fn ask(&mut self, seat: &Seat) {
        let now = self.now();
        seat.asked(now, &mut Vec::new());
    }
}

fn is_out((_, registration): &(Seat, AbortRegistration)) -> bool {
    registration.handle().is_aborted()
}

#[test]
fn who_has_most_gives_way_first() {
    let mut room = Room::new();
    // It never asked and is older than all others, but it is the only one of its user.
    let alone = room.enter(OTHER).unwrap();
    let greedy = [(); 3].map(|()| room.enter(GREEDY).unwrap());
    for (seat, _) in &greedy {
        room.ask(seat);
        seat.answered(room.now());
    }
    let root = room.enter(ROOT).unwrap();
    assert_eq!(greedy.each_ref().map(is_out), [true, false, false]);
    let again = room.enter(GREEDY).unwrap();
    assert_eq!(greedy.each_ref().map(is_out), [true, true, false]);
    assert!(!is_out(&alone) && !is_out(&root) && !is_out(&again));
}

#[test]
fn requests_without_end_do_not_keep_another_user_out() {
    let mut room = Room::new();
    let greedy = [(); 4].map(|()| room.enter(GREEDY).unwrap());
    for (seat, _) in &greedy {
        room.ask(seat);
    }
    assert!(room.enter(GREEDY).is_none());
    let root = room.enter(ROOT).unwrap();
    // What was begun last is lost.
    assert_eq!(greedy.each_ref().map(is_out), [false, false, false, true]);
    room.ask(&root.0);
    assert!(room.enter(GREEDY).is_none());
    let other = room.enter(OTHER).unwrap();
    room.ask(&other.0);
    assert!(room.enter(ROOT).is_none(), "nobody has more than half");
}

#[test]
fn a_request_that_does_not_end_keeps_no_upgrade_out() {
    let mut room = Room::new();
    let [stuck, waiting, late] = [(); 3].map(|()| room.enter(ROOT).unwrap());
    room.ask(&stuck.0);
    let begun = room.now();
    let asking = waiting.0.asked(begun, &mut Vec::new());
    let _waiting = asking.wait_for_upgrade();
    late.0.asked(begun + BUSY_TIME, &mut Vec::new());
    room.seats.pause(begun + BUSY_TIME);
    assert_eq!([&stuck, &waiting, &late].map(is_out), [true, false, false]);
    assert_eq!(room.seats.lock().seats.len(), 2);
}
