//! A worker that breaks every rule of its connection: the master and the other workers go on
//! (gate G2).

use std::cell::Cell;
use std::time::{Duration, Instant};

use release_tests::{
    Backend, Footprint, Program, Running, control, eventually, knows_refusals,
    on_all_backends_at_once, on_every_backend,
};

/// The test program `attacked`: an honest worker, a hostile one, and their master.
struct Attacked {
    master: Running,
    before: Footprint,
    honest: String,
    served: Cell<u64>,
}

impl Attacked {
    fn start(backend: Backend) -> Self {
        Self::start_with(backend, &[])
    }

    fn start_with(backend: Backend, options: &[&str]) -> Self {
        // A backtrace loads debug information, tens of megabytes of it. And where a runtime has
        // several threads, each has an arena in which the allocator keeps what was freed.
        let program = Program::new(backend, "attacked").args(options).with(|command| {
            command.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
            command.env("MALLOC_ARENA_MAX", "1");
        });
        let master = program.start();
        master.await_ready(3);
        let mut attacked = Self {
            before: Footprint::of(master.process()),
            honest: String::new(),
            served: Cell::new(0),
            master,
        };
        attacked.honest = attacked.line_of("honest");
        attacked.is_serving();
        attacked.before = Footprint::of(attacked.master.process());
        attacked
    }

    fn ask(&self, text: &str) -> String {
        control(&self.master.control(), text)
    }

    fn line_of(&self, group: &str) -> String {
        let status = self.ask("status");
        status.lines().find(|line| line.starts_with(group)).expect("a line").to_owned()
    }

    /// The other worker is the same process as ever and gets its answers.
    fn is_serving(&self) {
        for _ in 0..3 {
            eventually("the other worker is served", || {
                let served = self.ask("served").parse().expect("a number");
                self.served.replace(served) < served
            });
        }
        assert_eq!(self.line_of("honest"), self.honest, "log: {}", self.master.stderr());
    }

    /// Master and the other worker are as they were, and the offender's place is filled.
    fn is_unharmed(&self) {
        self.master.await_ready(3);
        self.is_serving();
        self.before.is_restored();
        let process = self.master.process();
        eventually("the master is idle", || {
            let (began, ticks) = (Instant::now(), process.ticks());
            while began.elapsed() < Duration::from_millis(300) {
                self.is_serving();
            }
            process.ticks() - ticks < 20
        });
    }

    /// The offender does this, dies for it with these words in the log, and is replaced.
    fn kills(&self, attack: &str, words: &str) {
        let offender = self.line_of("offender");
        assert_eq!(self.ask(attack), "sent 1");
        eventually(
            &format!("{attack}: the offender is replaced; {}", self.master.stderr()),
            || {
                self.is_serving();
                let now = self.line_of("offender");
                now != offender && now.contains("\"ready\"")
            },
        );
        let log = self.master.stderr();
        assert!(log.contains(words), "{attack}: no `{words}` in {log}");
        self.is_unharmed();
    }

    /// The offender does this, lives on, and saw these words.
    fn answers(&self, attack: &str, words: &str) {
        let offender = self.line_of("offender");
        assert_eq!(self.ask(attack), "sent 1");
        let expected = format!("{attack}: {words}");
        let prefix = format!("{attack}:");
        let mut saw = String::new();
        eventually(&format!("{attack} is over"), || {
            self.is_serving();
            saw =
                self.ask("saw").lines().find(|line| line.starts_with(&prefix)).unwrap_or("").into();
            !saw.is_empty()
        });
        assert_eq!(saw, expected);
        assert_eq!(self.line_of("offender"), offender, "{attack}: it was replaced");
        self.is_unharmed();
    }
}

on_all_backends_at_once! {
    fn what_is_no_frame_of_the_protocol_ends_the_worker(backend: Backend) {
        let attacked = Attacked::start(backend);
        attacked.kills("garbage", "is over the limit of 16777216 bytes");
        attacked.kills("unknown kind", "a frame of no known kind");
        attacked.kills("empty frame", "a frame of no known kind");
        attacked.kills("cut header", "a frame of no known kind");
        attacked.kills("cut beat", "a frame of no known kind");
    }

    fn what_is_out_of_place_ends_the_worker(backend: Backend) {
        let attacked = Attacked::start(backend);
        attacked.kills("too long", "a frame of 4294967295 bytes is over the limit of 16777216");
        attacked.kills("hello", "a greeting at the wrong time");
        match knows_refusals() {
            true => attacked.answers("descriptors", "the kernel refuses"),
            false => attacked.kills("descriptors", "descriptors that nobody asked for"),
        }
    }

    fn a_worker_that_nobody_can_talk_to_is_expelled(backend: Backend) {
        let attacked = Attacked::start(backend);
        let began = Instant::now();
        attacked.kills("closes", "it closed its connection and lived on");
        assert!(began.elapsed() > Duration::from_secs(1));
        attacked.kills("closes its side", "it closed its connection and lived on");
    }

    fn half_a_frame_ends_the_worker_at_the_deadline(backend: Backend) {
        let attacked = Attacked::start(backend);
        let began = Instant::now();
        attacked.kills("half a frame", "began a frame and did not finish it in time");
        let took = began.elapsed();
        assert!(took > Duration::from_secs(9) && took < Duration::from_secs(14), "{took:?}");
    }

    fn a_request_cut_short_by_death_is_not_executed(backend: Backend) {
        let attacked = Attacked::start(backend);
        attacked.kills("dies in a frame", "exit");
        assert_eq!(attacked.ask("counted"), "0");
    }

    fn requests_that_cannot_be_served_are_refused(backend: Backend) {
        let attacked = Attacked::start(backend);
        let reason = "Hit the end of buffer, expected more data";
        attacked.answers("undecodable", &format!("not understood {reason}"));
        let log = attacked.master.stderr();
        let mut warnings = log.lines().filter(|line| line.contains("has another type"));
        let warning = warnings.next_back().unwrap_or_else(|| panic!("no warning: {log}"));
        assert!(warning.contains("WARN") && warning.contains(reason), "{warning}");
        assert!(warning.contains("worker=") && warning.contains("pid="), "{warning}");
        attacked.answers("panic", "refused the handler panicked");
        attacked.answers("panic at once", "refused the handler panicked");
    }

    fn a_plain_worker_whose_request_panics_is_replaced(backend: Backend) {
        let attacked = Attacked::start(backend);
        let plain = attacked.line_of("plain");
        assert_eq!(attacked.ask("plain panic"), "sent 1");
        eventually("it is replaced", || {
            attacked.is_serving();
            attacked.line_of("plain") != plain
        });
        let log = attacked.master.stderr();
        assert!(log.contains("its request's handler panicked: "), "{log}");
        attacked.is_unharmed();
    }

    fn what_is_not_permitted_ends_the_worker(backend: Backend) {
        let attacked = Attacked::start(backend);
        attacked.kills("forbidden", "what may never be asked");
        attacked.kills("forbidden notice", "what may never be asked");
        attacked.kills("too early", "the second before the first");
        attacked.answers("in order", "answered ");
        attacked.kills("twice", "what may be asked once, again");
        // A new process begins anew.
        attacked.kills("too early", "the second before the first");
    }

    fn descriptors_against_the_rules_end_the_worker_and_are_closed(backend: Backend) {
        let attacked = Attacked::start_with(backend, &["descriptors"]);
        attacked.kills("253 descriptors", "more descriptors with one message than agreed");
        attacked.kills("no descriptors", "not as many descriptors as the frame says");
        attacked.kills("descriptors without end", "more unanswered requests than agreed");
        attacked.kills("half a frame of descriptors", "did not finish it in time");
    }

    fn a_master_without_room_for_descriptors_takes_none_of_them(backend: Backend) {
        let attacked = Attacked::start_with(backend, &["descriptors"]);
        let process = attacked.master.process();
        let open: Vec<_> = process.descriptors().into_iter().map(|(number, _)| number).collect();
        // Enough for everything else that the master does meanwhile.
        let room = (0..).filter(|number| !open.contains(number)).nth(10).expect("a number");
        let set = |limit: i32| {
            let (pid, limit) = (process.0.to_string(), format!("--nofile={limit}:"));
            let done = std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status();
            assert!(done.expect("prlimit").success());
        };
        let offender = attacked.line_of("offender");
        set(room);
        // A worker is not killed for what its master lacks.
        let attack = "16 descriptors without room";
        assert_eq!(attacked.ask(attack), "sent 1");
        let mut saw = String::new();
        eventually("the offender is answered", || {
            saw = attacked.ask("saw");
            saw.contains(attack)
        });
        set(1024);
        assert!(saw.contains(": not understood ") && saw.contains("RLIMIT_NOFILE"), "{saw}");
        assert_eq!(attacked.line_of("offender"), offender);
        attacked.is_unharmed();
    }
}

// These have work for the processors.
on_every_backend! {
    fn floods_of_frames_without_meaning_are_survived(backend: Backend) {
        let attacked = Attacked::start(backend);
        for attack in ["readies", "notices", "cancels", "answers", "refusals", "pulses", "beats"] {
            attacked.answers(attack, "answered xxx");
        }
    }

    fn a_flood_of_bad_notices_does_not_fill_the_log(backend: Backend) {
        let attacked = Attacked::start(backend);
        attacked.answers("bad notices", "answered xxx");
        let log = attacked.master.stderr().len();
        assert!(log < 64 * 1024, "{log} bytes of log");
    }

    fn answers_wait_for_a_worker_that_does_not_read(backend: Backend) {
        let attacked = Attacked::start(backend);
        attacked.answers("unread", "1000 answers");
        attacked.kills("too many unread", "more unanswered requests than agreed");
    }

    fn a_worker_has_so_many_requests_in_flight_and_no_more(backend: Backend) {
        let attacked = Attacked::start(backend);
        attacked.answers("in flight", "answered xxx");
        attacked.kills("too many in flight", "more unanswered requests than agreed");
    }

    fn a_worker_that_asks_without_end_is_served_in_turn(backend: Backend) {
        let attacked = Attacked::start(backend);
        attacked.answers("endless", "answered");
    }

    fn a_torrent_delays_no_other_worker(backend: Backend) {
        let attacked = Attacked::start(backend);
        for attack in ["torrent", "torrent of answers", "torrent of notices"] {
            let began = Instant::now();
            assert_eq!(attacked.ask(attack), "sent 1");
            // Served in turn or ended for asking too much: the other worker does not notice.
            while began.elapsed() < Duration::from_millis(6500) {
                attacked.is_serving();
            }
            attacked.is_unharmed();
        }
    }

    fn a_torrent_without_a_meaning_ends_the_worker(backend: Backend) {
        let attacked = Attacked::start(backend);
        attacked.kills("torrent of answers", "answers to nothing, again and again");
        attacked.kills("torrent of beats", "words that nobody asked for, again and again");
        attacked.kills("torrent of bad notices", "notices that mean nothing, again and again");
    }

    fn a_nesting_bomb_is_refused(backend: Backend) {
        Attacked::start(backend).answers("nesting bomb", "not understood the message is nested too deeply");
    }

    fn requests_that_wait_do_not_fill_the_masters_memory(backend: Backend) {
        let attacked = Attacked::start(backend);
        attacked.kills("hold", "more unanswered requests than agreed");
    }
}
