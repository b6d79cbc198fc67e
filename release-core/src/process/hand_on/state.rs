//! The connections of a group that wait for their takers, and the decisions about them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::ipc::link::Link;
use crate::ipc::service::{HandOnRefusal, LONGEST_TYPE, ServiceAnswer, reply};
use crate::ipc::{Descriptor, SendError};
use crate::log_throttle::LogThrottle;
use crate::sys::resources::in_words;
use crate::sys::socket::is_stream;

/// Id and pid of a process.
pub(crate) type ProcessKey = (u32, i32);

/// Time for a worker to ask for a connection, and to use it.
pub(super) const TAKE_TIME: Duration = Duration::from_secs(5);

/// Maximum number of requests of one process that wait for a connection.
const TAKES: usize = 64;

/// Limits of the connections of a group that wait for a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandOnLimits {
    pub(crate) connections: usize,
    pub(crate) bytes: usize,
}

pub(super) struct HandOnState {
    /// Processes that are ready and not told to stop; `None` while a new version has not said so.
    pub(super) ready: Option<BTreeSet<ProcessKey>>,
    pub(super) processes: HashMap<ProcessKey, Member>,
    /// In the order of their numbers, which is that of their arrival.
    pub(super) given: BTreeMap<u64, Given>,
    /// Length of all states.
    pub(super) bytes: usize,
    pub(super) next: u64,
    /// Number of grants, by which workers take turns.
    pub(super) turn: u64,
    pub(super) is_paused: bool,
    pub(super) is_stopping: bool,
    /// Whether a task checks the times.
    pub(super) is_watched: bool,
    pub(super) handed_on: u64,
    pub(super) lost: u64,
    pub(super) warnings: LogThrottle,
}

/// A connected process.
pub(super) struct Member {
    pub(super) link: Weak<Link>,
    pub(super) generation: u32,
    pub(super) types: Option<Declared>,
    /// Numbers of its requests for a connection.
    pub(super) takes: VecDeque<u32>,
    /// When it got its latest connection.
    pub(super) turn: u64,
    /// When it became ready or asked for a connection, whichever was later.
    pub(super) heard: Instant,
}

/// The encoded types of a process.
pub(super) struct Declared {
    pub(super) gives: Arc<[u8]>,
    pub(super) takes: Arc<[u8]>,
}

/// A connection that waits for its taker.
pub(super) struct Given {
    pub(super) giver: ProcessKey,
    /// Number of the giver's request; `None` if the giver no longer has the connection.
    pub(super) request: Option<u32>,
    /// Its type of state.
    pub(super) gives: Arc<[u8]>,
    /// The answer for the taker.
    pub(super) connection: ServiceAnswer,
    pub(super) bytes: usize,
    /// The process that has received it and has not said so yet.
    pub(super) offered: Option<ProcessKey>,
    pub(super) since: Instant,
}

/// The key of the verdict whether a connection is taken: its giver, and the address of its type.
type GivenKind = (ProcessKey, usize);

/// The reason why a connection is not taken.
#[derive(Clone)]
enum NotTaken {
    NoTaker,
    OtherType(Arc<[u8]>),
}

impl From<NotTaken> for ServiceAnswer {
    fn from(why: NotTaken) -> Self {
        match why {
            NotTaken::NoTaker => Self::Refused(HandOnRefusal::NoTaker),
            NotTaken::OtherType(theirs) => Self::OtherType(theirs.to_vec()),
        }
    }
}

/// An answer, sent after the decision.
pub(super) type Reply = (Weak<Link>, u32, ServiceAnswer);

impl Member {
    pub(super) fn new(link: &Arc<Link>, generation: u32) -> Self {
        Self {
            link: Arc::downgrade(link),
            generation,
            types: None,
            takes: VecDeque::new(),
            turn: 0,
            heard: Instant::now(),
        }
    }

    /// Returns whether it asks for a connection, or did so a moment ago, or had no time to.
    fn may_take(&self, now: Instant) -> bool {
        !self.takes.is_empty() || now.saturating_duration_since(self.heard) < TAKE_TIME
    }
}

impl Given {
    fn kind(&self) -> GivenKind {
        (self.giver, self.gives.as_ptr().addr())
    }

    /// The process is gone.
    pub(super) fn forget(&mut self, process: ProcessKey, now: Instant) {
        if self.giver == process {
            self.request = None;
        }
        if self.offered == Some(process) {
            self.take_back(now);
        }
    }

    pub(super) fn take_back(&mut self, now: Instant) {
        (self.offered, self.since) = (None, now);
    }
}

impl HandOnState {
    pub(super) fn new(next: u64) -> Self {
        Self {
            ready: None,
            processes: HashMap::new(),
            given: BTreeMap::new(),
            bytes: 0,
            next,
            turn: 0,
            is_paused: false,
            is_stopping: false,
            is_watched: false,
            handed_on: 0,
            lost: 0,
            warnings: LogThrottle::default(),
        }
    }

    pub(super) fn is_same(&self, ready: &BTreeSet<ProcessKey>, is_stopping: bool) -> bool {
        self.ready.as_ref() == Some(ready) && self.is_stopping == is_stopping
    }

    pub(super) fn declare(&mut self, process: ProcessKey, types: Declared) -> ServiceAnswer {
        if types.gives.len().max(types.takes.len()) > LONGEST_TYPE {
            return ServiceAnswer::Refused(HandOnRefusal::Wrong);
        }
        match self.processes.get_mut(&process) {
            Some(member) => {
                member.types = Some(types);
                ServiceAnswer::Done
            }
            None => ServiceAnswer::Refused(HandOnRefusal::Off),
        }
    }

    /// Adds a connection, or returns the answer if that is not possible.
    pub(super) fn give(
        &mut self,
        giver: ProcessKey,
        (request, state, socket): (u32, Vec<u8>, Descriptor),
        limits: HandOnLimits,
        now: Instant,
    ) -> Result<(), ServiceAnswer> {
        let types = self.processes.get(&giver).and_then(|member| member.types.as_ref());
        let Some(gives) = types.map(|types| Arc::clone(&types.gives)).filter(|_| !self.is_paused)
        else {
            return Err(ServiceAnswer::Again);
        };
        if !is_stream(&socket) {
            return Err(ServiceAnswer::Refused(HandOnRefusal::Wrong));
        }
        self.check_taker(giver, &gives, now).map_err(ServiceAnswer::from)?;
        let bytes = state.len();
        if self.given.len() >= limits.connections || self.bytes + bytes > limits.bytes {
            return Err(ServiceAnswer::Refused(HandOnRefusal::Full));
        }
        let number = self.next;
        self.next += 1;
        self.bytes += bytes;
        let connection = ServiceAnswer::Connection { number, state, socket };
        let (request, offered) = (Some(request), None);
        let given = Given { giver, request, gives, connection, bytes, offered, since: now };
        self.given.insert(number, given);
        Ok(())
    }

    /// Returns the answer for the giver if no process takes such a connection.
    fn check_taker(&self, giver: ProcessKey, gives: &[u8], now: Instant) -> Result<(), NotTaken> {
        let Some(ready) = &self.ready else { return Ok(()) };
        let others = ready.iter().filter(|process| **process != giver);
        let mut members = others.filter_map(|process| self.processes.get(process));
        if self.is_stopping || !members.any(|member| member.may_take(now)) {
            return Err(NotTaken::NoTaker);
        }
        let newest = self.takers(giver, now).max_by_key(|(_, member)| member.generation);
        match newest.and_then(|(_, member)| member.types.as_ref()) {
            Some(types) if *types.takes != *gives => {
                Err(NotTaken::OtherType(Arc::clone(&types.takes)))
            }
            _ => Ok(()),
        }
    }

    /// Returns the processes that take connections and have said of which type, except for the giver.
    fn takers(
        &self,
        giver: ProcessKey,
        now: Instant,
    ) -> impl Iterator<Item = (ProcessKey, &Member)> {
        let ready = self.ready.iter().flatten();
        let others = ready.filter(move |process| **process != giver);
        let members = others.filter_map(|process| Some((*process, self.processes.get(process)?)));
        members.filter(move |(_, member)| member.types.is_some() && member.may_take(now))
    }

    /// Processes that were not ready before have now the time to ask.
    pub(super) fn heard_of(&mut self, ready: &BTreeSet<ProcessKey>, now: Instant) {
        let was_ready =
            |process| self.ready.as_ref().is_some_and(|before| before.contains(process));
        for process in ready.iter().filter(|process| !was_ready(process)) {
            if let Some(member) = self.processes.get_mut(process) {
                member.heard = now;
            }
        }
    }

    /// A connection was given for whose descriptor this process had no room.
    pub(super) fn not_arrived(&mut self, now: Instant) -> ServiceAnswer {
        if let Some(unsaid) = self.warnings.now(now) {
            let reason = in_words(&io::Error::from(Errno::EMFILE));
            log_warning!(reason, unsaid, "a connection is not handed on now");
        }
        ServiceAnswer::Refused(HandOnRefusal::Full)
    }

    /// Adds a request for a connection, or returns the answer if that is not possible.
    pub(super) fn take(
        &mut self,
        process: ProcessKey,
        request: u32,
        now: Instant,
    ) -> Result<(), ServiceAnswer> {
        let is_paused = self.is_paused;
        let Some(member) = self.processes.get_mut(&process) else {
            return Err(ServiceAnswer::Refused(HandOnRefusal::Off));
        };
        if member.types.is_none() || is_paused {
            return Err(ServiceAnswer::Again);
        }
        if member.takes.len() >= TAKES {
            return Err(ServiceAnswer::Refused(HandOnRefusal::Wrong));
        }
        member.takes.push_back(request);
        member.heard = now;
        Ok(())
    }

    /// Lets a process use a connection that it has received. From now on it is no longer the giver's.
    pub(super) fn taken(
        &mut self,
        taker: ProcessKey,
        number: u64,
        replies: &mut Vec<Reply>,
    ) -> ServiceAnswer {
        let is_its = |given: &&Given| given.offered == Some(taker);
        if self.given.get(&number).filter(is_its).is_none() {
            return ServiceAnswer::Refused(HandOnRefusal::Gone);
        }
        self.handed_on += 1;
        if let Some(given) = self.remove(number)
            && let Some(request) = given.request
        {
            replies.extend(self.reply_to(given.giver, request, ServiceAnswer::Done));
        }
        ServiceAnswer::Done
    }

    /// Gives those back that no process will take, after a change of the processes, and offers others.
    pub(super) fn settle_all(&mut self, replies: &mut Vec<Reply>, now: Instant) {
        // Many have the same giver and type.
        let mut verdicts = HashMap::new();
        let waiting = self.given.iter().filter(|(_, given)| given.offered.is_none());
        let check = |(number, given): (&u64, &Given)| {
            let check = || self.check_taker(given.giver, &given.gives, now).err();
            let verdict = verdicts.entry(given.kind()).or_insert_with(check);
            verdict.clone().map(|answer| (*number, answer))
        };
        for (number, answer) in waiting.filter_map(check).collect::<Vec<_>>() {
            self.refuse(number, answer.into(), replies);
        }
        self.settle(replies, now);
    }

    /// Offers connections to processes that ask for them.
    pub(super) fn settle(&mut self, replies: &mut Vec<Reply>, now: Instant) {
        // None of these is taken now.
        let mut kinds = HashSet::new();
        let mut next = 0;
        while !self.is_paused
            && self.asks()
            && let Some((number, kind)) = self.first_waiting(next, &kinds)
        {
            if !self.offer(number, replies, now) {
                kinds.insert(kind);
            }
            next = number + 1;
        }
    }

    /// Returns whether a process asks for a connection.
    fn asks(&self) -> bool {
        let ready = self.ready.iter().flatten();
        let mut members = ready.filter_map(|process| self.processes.get(process));
        members.any(|member| !member.takes.is_empty())
    }

    /// Returns the first connection from this number on that is not offered, and of none of these kinds.
    fn first_waiting(&self, from: u64, but: &HashSet<GivenKind>) -> Option<(u64, GivenKind)> {
        let rest = self.given.range(from..).filter(|(_, given)| given.offered.is_none());
        let mut kinds = rest.map(|(number, given)| (*number, given.kind()));
        kinds.find(|(_, kind)| !but.contains(kind))
    }

    /// Offers a connection to a process that asks. Returns false if none asks for its kind.
    fn offer(&mut self, number: u64, replies: &mut Vec<Reply>, now: Instant) -> bool {
        let Some(given) = self.given.get(&number) else { return true };
        let newest = self.takers(given.giver, now).map(|(_, member)| member.generation).max();
        let can_take = |(_, member): &(ProcessKey, &Member)| {
            let reads = member.link.upgrade().is_some_and(|link| !link.is_choked());
            let types = member.types.as_ref();
            let fits = types.is_some_and(|types| types.takes == given.gives);
            Some(member.generation) == newest && fits && reads && !member.takes.is_empty()
        };
        let takers = self.takers(given.giver, now).filter(can_take);
        let Some((taker, _)) = takers.min_by_key(|(_, member)| member.turn) else { return false };
        let Some(given) = self.given.get_mut(&number) else { return true };
        let Some(member) = self.processes.get_mut(&taker) else { return true };
        let (Some(take), Some(link)) = (member.takes.pop_front(), member.link.upgrade()) else {
            return true;
        };
        self.turn += 1;
        (member.turn, member.heard) = (self.turn, now);
        // Encoded now: the master keeps its own until the taker has said that it has it.
        let Err(error) = reply(&link, take, &given.connection) else {
            (given.offered, given.since) = (Some(taker), now);
            return true;
        };
        // The process goes on waiting: nothing was sent.
        member.takes.push_front(take);
        if let Some(unsaid) = self.warnings.now(now) {
            let reason = crate::error::chain(&error);
            log_warning!(reason, unsaid, "a connection is not handed on now");
        }
        if let SendError::Codec(_) = error {
            // This process has no free descriptors.
            self.refuse(number, ServiceAnswer::Refused(HandOnRefusal::Full), replies);
        }
        true
    }

    /// Gives a connection back to its giver. Without a giver it is closed.
    pub(super) fn refuse(&mut self, number: u64, answer: ServiceAnswer, replies: &mut Vec<Reply>) {
        let Some(given) = self.remove(number) else { return };
        match given.request {
            Some(request) => replies.extend(self.reply_to(given.giver, request, answer)),
            None => self.lost += 1,
        }
    }

    fn remove(&mut self, number: u64) -> Option<Given> {
        let given = self.given.remove(&number)?;
        self.bytes -= given.bytes;
        Some(given)
    }

    /// Takes back what was offered for too long, and gives back what has waited for too long.
    pub(super) fn look(&mut self, now: Instant, replies: &mut Vec<Reply>) {
        let is_late = |given: &Given| now.saturating_duration_since(given.since) >= TAKE_TIME;
        let late = self.given.iter().filter(|(_, given)| is_late(given));
        for number in late.map(|(number, _)| *number).collect::<Vec<_>>() {
            match self.given.get_mut(&number) {
                Some(given) if given.offered.is_some() => given.take_back(now),
                _ => {
                    let answer = ServiceAnswer::Refused(HandOnRefusal::NoTaker);
                    self.refuse(number, answer, replies);
                }
            }
        }
        self.settle_all(replies, now);
    }

    pub(super) fn reply_to(
        &self,
        process: ProcessKey,
        request: u32,
        answer: ServiceAnswer,
    ) -> Option<Reply> {
        Some((Weak::clone(&self.processes.get(&process)?.link), request, answer))
    }
}
