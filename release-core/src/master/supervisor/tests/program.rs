//! The programs of simulated processes: they speak the protocol with the worker's own code, or do not.

use std::future::{pending, poll_fn};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{Either, join_all, select};

use super::chance::Chance;
use super::system::{Kernel, Role};
use crate::ipc::hello::Hello;
use crate::ipc::limits::Limits;
use crate::ipc::link::{Incoming, Link, Mode};
use crate::ipc::serve::{Heard, serve};
use crate::ipc::{Codec, Header, HeartbeatReply, Peer, Postcard, Refused, SendError};
use crate::net::Stream;
use crate::rt::{Direction, Progress};
use crate::sys::exit_status::ExitStatus;
use crate::sys::spawn::{ASKS, FIRST_PASSED, GOES_ON, decode};

/// What a process has from its master.
pub(super) struct Given {
    pub(super) role: Role,
    pub(super) report: OwnedFd,
    pub(super) descriptors: Vec<(RawFd, OwnedFd)>,
}

/// How a process gets to its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Runs,
    /// It is stopped by somebody before.
    Stuck,
    Dies,
    Fails(&'static str, i32),
    /// Nobody may signal it.
    Endless,
}

/// What a worker does besides, or instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Works,
    /// It neither reads nor writes.
    NeverSpeaks,
    /// It is never ready.
    NeverReady,
    Garbage,
    FloodsRequests,
    FloodsNotices,
    FloodsReady,
    FloodsReplies,
    FloodsOutput,
    StopsReading,
    /// It does not answer heartbeats any more.
    Hangs,
    /// It works on one thing for ever.
    IsStuck,
    /// It closes its connection and lives on.
    Closes,
    /// It says what only masters say.
    BreaksRules,
    /// It gets a user that the master may not signal: when it is ready, or later.
    Escapes,
    EscapesLater,
}

#[derive(Clone, Debug)]
pub(super) struct Life {
    /// The call that refuses to start it.
    pub(super) refused: Option<(&'static str, i32)>,
    start: Start,
    ready_after: Duration,
    deed: Deed,
    /// When it ends of itself after it has begun.
    dies: Option<(Duration, ExitStatus)>,
    /// When it ends after it was told, and how.
    stops: Option<(Duration, ExitStatus)>,
    /// How long processes that it has started live longer than it.
    pub(super) leaves: Duration,
}

impl Life {
    fn good() -> Self {
        Self {
            refused: None,
            start: Start::Runs,
            ready_after: Duration::from_millis(20),
            deed: Deed::Works,
            dies: None,
            stops: Some((Duration::from_millis(30), ExitStatus::Code(0))),
            leaves: Duration::ZERO,
        }
    }

    /// Draws a life. Most are good.
    pub(super) fn draw(chance: &mut Chance, role: Role, is_calm: bool) -> Self {
        let mut life = Self::good();
        if role == Role::Trial {
            life.start =
                chance.pick(&[Start::Runs, Start::Dies, Start::Fails("execve", libc::ENOENT)]);
            life.stops = None;
            life.dies = chance.one_in(2).then(|| (chance.millis(500), ExitStatus::Code(2)));
            return life;
        }
        if is_calm {
            return life;
        }
        life.ready_after = chance.millis(1500);
        life.stops = Some((chance.millis(1500), ExitStatus::Code(0)));
        let exit =
            chance.pick(&[ExitStatus::Code(0), ExitStatus::Code(1), super::system::DEATHS[1]]);
        match chance.below(64) {
            0 => life.refused = Some(("fork", libc::EAGAIN)),
            1 => life.refused = Some(("socketpair", libc::EMFILE)),
            2 if chance.one_in(4) => life.refused = Some(("pidfd_open", libc::EPERM)),
            3 => life.start = Start::Stuck,
            4 => life.start = Start::Dies,
            5 => life.start = Start::Fails("execve", libc::ENOENT),
            6 => life.start = Start::Fails("setresuid", libc::EPERM),
            7 if chance.one_in(4) => life.start = Start::Endless,
            8 | 9 => life.dies = Some((chance.millis(100), exit)),
            10 | 11 => life.dies = Some((chance.millis(8_000), exit)),
            12 => life.dies = Some((life.ready_after, exit)),
            13 => life.stops = Some((chance.millis(4_000), exit)),
            14 => life.stops = Some((Duration::ZERO, exit)),
            15 | 16 => life.stops = None,
            17 => life.leaves = chance.millis(20_000),
            18 if chance.one_in(3) => {
                life.deed = chance.pick(&[Deed::Escapes, Deed::EscapesLater]);
            }
            19..30 => {
                life.deed = chance.pick(&[
                    Deed::NeverSpeaks,
                    Deed::NeverReady,
                    Deed::Garbage,
                    Deed::FloodsRequests,
                    Deed::FloodsNotices,
                    Deed::FloodsReady,
                    Deed::FloodsReplies,
                    Deed::FloodsOutput,
                    Deed::StopsReading,
                    Deed::Hangs,
                    Deed::IsStuck,
                    Deed::Closes,
                    Deed::BreaksRules,
                ]);
            }
            _ => {}
        }
        life
    }
}

/// Runs a process from its fork to its end.
pub(super) async fn run(kernel: &Kernel, pid: i32, life: Life, given: Given) -> ExitStatus {
    let Given { role, report, descriptors } = given;
    let report = Stream::new(&kernel.rt, report).unwrap();
    match life.start {
        Start::Stuck => return pending().await,
        Start::Dies => return ExitStatus::Signal { number: libc::SIGSEGV, core: false },
        Start::Endless => kernel.with(pid, |its| its.can_be_signalled = false),
        Start::Runs | Start::Fails(..) => {}
    }
    let _ = report.write_all(&[ASKS]).await;
    match report.read(1, None).await {
        Ok(crate::net::Read::Data(answer)) if answer == [GOES_ON] => {}
        // No program runs that cannot be ended: like a process that dies with its master.
        _ => return ExitStatus::Code(127),
    }
    if let Start::Fails(call, errno) = life.start {
        let index = (0..).find(|index| decode([*index, 0, 0, 0, 0]).call == call).unwrap();
        let [a, b, c, d] = errno.to_ne_bytes();
        let _ = report.write_all(&[index, a, b, c, d]).await;
        return ExitStatus::Code(127);
    }
    kernel.with(pid, |its| its.runs = true);
    drop(report);
    let worker = Worker { kernel, pid, life: &life };
    let dies = async {
        let Some((time, exit)) = life.dies else { return pending().await };
        kernel.rt.sleep(time).await;
        exit
    };
    let program = async {
        match role {
            Role::Web => worker.web(descriptors).await,
            Role::Tool => worker.tool(descriptors).await,
            Role::Trial => pending().await,
        }
    };
    select(pin!(dies), pin!(program)).await.factor_first().0
}

struct Worker<'a> {
    kernel: &'a Kernel,
    pid: i32,
    life: &'a Life,
}

impl Worker<'_> {
    /// Ends when it was told, in its time.
    async fn stops(&self) -> ExitStatus {
        self.kernel.told(self.pid).await;
        self.stop().await
    }

    async fn stop(&self) -> ExitStatus {
        let Some((time, exit)) = self.life.stops else { return pending().await };
        self.kernel.rt.sleep(time).await;
        exit
    }

    fn says_ready(&self) {
        let now = self.kernel.rt.now();
        self.kernel.with(self.pid, |its| its.said_ready = its.said_ready.or(Some(now)));
    }

    fn becomes_useless(&self) {
        let now = self.kernel.rt.now();
        self.kernel.with(self.pid, |its| its.useless = its.useless.or(Some(now)));
    }

    /// Nobody can end it: it does so itself some time.
    async fn escapes(&self) -> ExitStatus {
        if self.life.deed == Deed::EscapesLater {
            self.kernel.rt.sleep(Duration::from_secs(2)).await;
        }
        let now = self.kernel.rt.now();
        self.kernel.with(self.pid, |its| {
            its.can_be_signalled = false;
            its.escaped = Some(now);
        });
        self.kernel.rt.sleep(Duration::from_secs(20)).await;
        ExitStatus::Code(0)
    }

    /// A command of another make.
    async fn tool(&self, descriptors: Vec<(RawFd, OwnedFd)>) -> ExitStatus {
        let mut descriptors = descriptors;
        let ready = descriptors.iter().position(|(number, _)| *number == FIRST_PASSED).unwrap();
        let ready = Some(descriptors.swap_remove(ready).1);
        let acts = async {
            self.kernel.rt.sleep(self.life.ready_after).await;
            match self.life.deed {
                Deed::NeverReady | Deed::NeverSpeaks | Deed::Hangs => {}
                Deed::Closes => {
                    self.becomes_useless();
                    drop(ready);
                }
                Deed::Escapes | Deed::EscapesLater => return self.escapes().await,
                Deed::Garbage => {
                    self.becomes_useless();
                    self.write(&ready, &[b'x'; 8192]).await;
                }
                _ => {
                    self.says_ready();
                    self.write(&ready, b"\n").await;
                }
            }
            if self.life.deed == Deed::FloodsOutput {
                self.floods_output(&descriptors).await;
            }
            pending().await
        };
        select(pin!(self.stops()), pin!(acts)).await.factor_first().0
    }

    async fn write(&self, file: &Option<OwnedFd>, mut bytes: &[u8]) {
        let file = file.as_ref().unwrap().try_clone().unwrap();
        let io = self.kernel.rt.register(file).unwrap();
        while !bytes.is_empty() {
            let written = io.run(Direction::Write, |fd| {
                Ok((nix::unistd::write(fd.as_fd(), bytes)?, Progress::More))
            });
            let Ok(count) = written.await else { return };
            bytes = &bytes[count..];
        }
    }

    async fn floods_output(&self, descriptors: &[(RawFd, OwnedFd)]) {
        let line = [[b'y'; 99].as_slice(), b"\n"].concat().repeat(80);
        for (number, file) in descriptors {
            if matches!(number, 1 | 2) {
                let file = Some(file.try_clone().unwrap());
                for _ in 0..32 {
                    self.write(&file, &line).await;
                }
            }
        }
    }

    /// A worker in call mode.
    async fn web(&self, mut descriptors: Vec<(RawFd, OwnedFd)>) -> ExitStatus {
        let rt = &self.kernel.rt;
        let stdin = descriptors.iter().position(|(number, _)| *number == 0).unwrap();
        let socket = descriptors.swap_remove(stdin).1;
        match self.life.deed {
            Deed::NeverSpeaks => return pending().await,
            Deed::Garbage => {
                let stream = Stream::new(rt, socket).unwrap();
                rt.sleep(self.life.ready_after).await;
                self.becomes_useless();
                let word = self.kernel.state().chance.next();
                let _ = stream.write_all(&word.to_ne_bytes().repeat(100)).await;
                return self.stops().await;
            }
            _ => {}
        }
        let link = Link::new(rt, socket, Mode::Calls, Limits::IPC.of_worker()).unwrap();
        let link = Arc::new(link);
        let mut take = |Incoming { body, .. }: Incoming<'_>| Hello::decode(body.bytes).unwrap();
        let Ok(hello) = poll_fn(|cx| link.poll_incoming(cx, 0, &mut take)).await else {
            return ExitStatus::Code(1);
        };
        let context: u32 = Postcard.decode(&hello.context).unwrap();
        self.kernel.with(self.pid, |its| {
            assert_eq!(hello.worker, its.id);
            its.greeted = Some((hello.generation, context));
        });
        let (reads, beats) = (AtomicBool::new(true), AtomicBool::new(true));
        let ended = {
            let heard = |word| {
                if let (Heard::Heartbeat, true) = (word, beats.load(Ordering::Relaxed)) {
                    self.replies(&link);
                }
            };
            let answer = |text: String| Ok(async move { Ok::<String, Refused>(text) });
            let serving = serve::<String, _, _, _>(Arc::clone(&link), Postcard, answer, heard);
            let mut serving = Box::pin(serving);
            let serving = poll_fn(|cx| match reads.load(Ordering::Relaxed) {
                true => serving.as_mut().poll(cx),
                false => Poll::Pending,
            });
            let acts = self.acts(&link, &reads, &beats, &descriptors);
            let works = async {
                match select(pin!(serving), pin!(acts)).await {
                    Either::Left(_) => None,
                    Either::Right((exit, _)) => exit,
                }
            };
            let stops = async { Some(self.stops().await) };
            select(pin!(stops), pin!(works)).await.factor_first().0
        };
        drop(link);
        match (ended, self.life.deed) {
            (Some(exit), _) => exit,
            // It does not mind.
            (None, Deed::Closes | Deed::BreaksRules) => self.stops().await,
            // The master has.
            (None, _) => self.stop().await,
        }
    }

    /// Says how the work goes.
    fn replies(&self, link: &Link) {
        let (now, since) = (self.kernel.rt.now(), self.kernel.with(self.pid, |its| its.said_ready));
        let is_stuck = self.life.deed == Deed::IsStuck;
        let oldest = since.filter(|_| is_stuck).map(|since| now - since);
        let reply = HeartbeatReply { finished: 1, oldest };
        let _ = link.queue(Some(Header::HeartbeatReply { reply }), |_| Ok::<(), SendError>(()));
    }

    /// Becomes ready, and then does what it does; an exit status, or `None` when it closes its
    /// connection.
    async fn acts(
        &self,
        link: &Arc<Link>,
        reads: &AtomicBool,
        beats: &AtomicBool,
        descriptors: &[(RawFd, OwnedFd)],
    ) -> Option<ExitStatus> {
        let rt = &self.kernel.rt;
        let peer = Peer::<String>::new(Arc::clone(link), Postcard);
        rt.sleep(self.life.ready_after).await;
        let say = |header| {
            let _ = link.queue(Some(header), |_| Ok::<(), SendError>(()));
            link.flush_now();
        };
        if self.life.deed == Deed::NeverReady {
            return pending().await;
        }
        self.says_ready();
        say(Header::Ready);
        match self.life.deed {
            Deed::StopsReading | Deed::Hangs | Deed::IsStuck | Deed::Closes | Deed::BreaksRules => {
                self.becomes_useless()
            }
            _ => {}
        }
        match self.life.deed {
            Deed::BreaksRules => say(Header::Hello),
            Deed::FloodsRequests => {
                let text = "r".repeat(2000);
                let _ = join_all((0..400).map(|_| peer.call(&text))).await;
            }
            Deed::FloodsNotices => {
                let text = "n".repeat(2000);
                for _ in 0..400 {
                    if peer.notify(&text).is_err() {
                        rt.sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            Deed::FloodsReady => (0..1000).for_each(|_| say(Header::Ready)),
            Deed::FloodsReplies => (0..1000).for_each(|_| self.replies(link)),
            Deed::FloodsOutput => self.floods_output(descriptors).await,
            Deed::StopsReading => reads.store(false, Ordering::Relaxed),
            Deed::Hangs => beats.store(false, Ordering::Relaxed),
            Deed::Closes => return None,
            Deed::Escapes | Deed::EscapesLater => return Some(self.escapes().await),
            _ => {
                for _ in 0..20 {
                    let _ = peer.call(&"how are you".to_owned()).await;
                    rt.sleep(Duration::from_secs(1)).await;
                }
            }
        }
        pending().await
    }
}
