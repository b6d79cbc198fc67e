//! The state of a pool of jobs: carries out the decisions of its schedule.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::JobError;
use super::schedule::{JobAction, JobEnd, JobRules, Number, ProcessId, Return, Schedule};
use crate::guard::{Guard, wake_all};
use crate::ipc::{CallError, Request};
use crate::rt::{Rt, Task};

/// A panic in the codec of a job refuses the job.
const JOB: Guard = Guard::new("job");

/// A call to a worker.
pub(super) type Call<W> =
    std::pin::Pin<Box<dyn Future<Output = Result<<W as Request>::Response, CallError>> + Send>>;

/// Makes the call of a job to a process of one group, if the process is connected.
pub(super) type MakeCall<W> =
    Arc<dyn Fn(ProcessId, Arc<W>, Option<Duration>) -> Option<Call<W>> + Send + Sync>;

/// Has a process replaced in which a job has taken that long.
pub(crate) type Replace = Arc<dyn Fn(u32, i32, Duration) + Send + Sync>;

/// A function that is called when a process has no job in hand.
pub(super) type Then = Box<dyn FnOnce() + Send>;

/// A pool of jobs.
pub(super) struct SharedJobs<W: Request, P>(Mutex<JobsState<W, P>>);

pub(super) struct JobsState<W: Request, P> {
    pub(super) schedule: Schedule,
    /// The jobs whose outcome has not been taken.
    pub(super) entries: HashMap<Number, JobEntry<W, P>>,
    /// Each group of workers that carries jobs out: its calls, and its processes that are ready.
    pub(super) groups: Vec<(MakeCall<W>, BTreeSet<ProcessId>)>,
    /// `None` until the master runs.
    pub(super) master: Option<(Rt, Replace)>,
    pub(super) at_rest: Vec<(ProcessId, Then)>,
    /// The timeouts of jobs that have hung, each with its process.
    pub(super) hung: HashMap<ProcessId, Duration>,
    /// Number of changes whose functions are being called.
    changing: usize,
    /// Waits until no job is in hand.
    pub(super) waiter: Option<Waker>,
}

/// A job, as its future sees it.
pub(super) struct JobEntry<W: Request, P> {
    /// `None` when the job has an outcome.
    pub(super) value: Option<Arc<W>>,
    timeout: Option<Duration>,
    pub(super) is_accepted: bool,
    /// Number of the latest attempt: an earlier one has no say any more.
    attempt: u32,
    running: Option<Task<()>>,
    reply: Option<Result<W::Response, JobError>>,
    pub(super) outcome: Option<Result<W::Response, JobError>>,
    /// The latest progress that nobody has seen.
    pub(super) progress: Option<P>,
    pub(super) waker: Option<Waker>,
}

impl<W: Request, P> JobEntry<W, P> {
    pub(super) fn new(value: W, timeout: Option<Duration>) -> Self {
        Self {
            value: Some(Arc::new(value)),
            timeout,
            is_accepted: false,
            attempt: 0,
            running: None,
            reply: None,
            outcome: None,
            progress: None,
            waker: None,
        }
    }
}

/// The begin of an attempt.
struct Attempt<W: Request> {
    number: Number,
    process: ProcessId,
    attempt: u32,
    timeout: Option<Duration>,
    rt: Rt,
    call: Option<Call<W>>,
}

/// Effects of a change that may run foreign code: after the lock is free.
struct Effects<W: Request> {
    starts: Vec<Attempt<W>>,
    then: Vec<Then>,
    wakers: Vec<Waker>,
    values: Vec<Arc<W>>,
    tasks: Vec<Task<()>>,
}

impl<W: Request, P> JobsState<W, P> {
    /// Returns the number of jobs in hand, of those whose outcome nobody has taken, and of changes that
    /// are not complete.
    pub(super) fn unfinished(&self) -> usize {
        let untaken = self.entries.values().filter(|entry| entry.outcome.is_some()).count();
        self.schedule.in_hand() + untaken + self.changing
    }

    fn carry_out(&mut self, actions: Vec<JobAction>) -> Effects<W> {
        let mut effects = Effects {
            starts: Vec::new(),
            then: Vec::new(),
            wakers: Vec::new(),
            values: Vec::new(),
            tasks: Vec::new(),
        };
        for action in actions {
            match action {
                JobAction::Accept(number) => {
                    if let Some(entry) = self.entries.get_mut(&number) {
                        entry.is_accepted = true;
                        effects.wakers.extend(entry.waker.take());
                    }
                }
                JobAction::Start(number, process) => {
                    effects.starts.extend(self.begin(number, process));
                }
                // The job's future is gone, and its entry with it.
                JobAction::Abort(_) => {}
                JobAction::End(number, end) => self.end(number, end, &mut effects),
                JobAction::Replace(process) => {
                    if let (Some((_, replace)), Some(timeout)) =
                        (&self.master, self.hung.remove(&process))
                    {
                        let replace = Arc::clone(replace);
                        effects.then.push(Box::new(move || replace(process.0, process.1, timeout)));
                    }
                }
                JobAction::Rest(process) => {
                    let waits = self.at_rest.extract_if(.., |(its, _)| *its == process);
                    effects.then.extend(waits.map(|(_, then)| then));
                }
            }
        }
        self.changing += usize::from(!effects.then.is_empty());
        effects.wakers.extend(self.rested());
        effects
    }

    /// Returns the waker of the task that waits for the rest, if there is rest.
    fn rested(&mut self) -> Option<Waker> {
        let is_at_rest = self.waiter.is_some() && self.unfinished() == 0;
        if is_at_rest { self.waiter.take() } else { None }
    }

    fn begin(&mut self, number: Number, process: ProcessId) -> Option<Attempt<W>> {
        let entry = self.entries.get_mut(&number)?;
        let (rt, _) = self.master.as_ref()?;
        entry.attempt += 1;
        let value = entry.value.as_ref()?;
        let timeout = entry.timeout;
        let mut groups = self.groups.iter();
        let call = groups.find_map(|(call, _)| call(process, Arc::clone(value), timeout));
        Some(Attempt { number, process, attempt: entry.attempt, timeout, rt: rt.clone(), call })
    }

    fn end(&mut self, number: Number, end: JobEnd, effects: &mut Effects<W>) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        entry.outcome = Some(match (end, entry.reply.take()) {
            (JobEnd::Replied, Some(reply)) => reply,
            (JobEnd::Crashed(exit), _) => Err(JobError::Crashed(exit)),
            (JobEnd::TimedOut, _) => Err(JobError::TimedOut),
            (JobEnd::Full, _) => Err(JobError::Full),
            (JobEnd::Stopping | JobEnd::Replied, _) => Err(JobError::Stopping),
        });
        effects.values.extend(entry.value.take());
        effects.tasks.extend(entry.running.take());
        effects.wakers.extend(entry.waker.take());
    }
}

impl<W: Request, P> SharedJobs<W, P> {
    pub(super) fn new(schedule: Schedule) -> Self {
        Self(Mutex::new(JobsState {
            schedule,
            entries: HashMap::new(),
            groups: Vec::new(),
            master: None,
            at_rest: Vec::new(),
            hung: HashMap::new(),
            changing: 0,
            waiter: None,
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, JobsState<W, P>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Request + Sync, P: Send + 'static> SharedJobs<W, P> {
    /// Changes the state, and carries out the actions.
    pub(super) fn change<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut JobsState<W, P>, &mut Vec<JobAction>) -> T,
    ) -> T {
        let mut state = self.lock();
        let mut actions = Vec::new();
        let result = change(&mut state, &mut actions);
        let effects = state.carry_out(actions);
        drop(state);
        effects.starts.into_iter().for_each(|start| self.start(start));
        let mut wakers = effects.wakers;
        if !effects.then.is_empty() {
            effects.then.into_iter().for_each(|then| then());
            let mut state = self.lock();
            state.changing -= 1;
            wakers.extend(state.rested());
        }
        wake_all(wakers);
        result
    }

    pub(super) fn submit(self: &Arc<Self>, number: Number, rules: JobRules, entry: JobEntry<W, P>) {
        self.change(|state, actions| {
            state.entries.insert(number, entry);
            state.schedule.submit(number, rules, actions);
        });
    }

    /// Takes a job out whose future is gone.
    pub(super) fn cancel(self: &Arc<Self>, number: Number) {
        // Dropped when the lock is free: it is the program's.
        let _entry = self.change(|state, actions| {
            state.schedule.cancel(number, actions);
            state.entries.remove(&number)
        });
    }

    fn start(self: &Arc<Self>, start: Attempt<W>) {
        let Attempt { number, process, attempt, timeout, rt, call } = start;
        let shared = Arc::clone(self);
        let running = rt.spawn(async move {
            let (how, reply) = match call {
                None => (Return::Unsent, None),
                Some(call) => returned(JOB.run(|| call).await.unwrap_or_else(|panicked| {
                    log_error!(reason = %panicked, "a job failed");
                    Err(CallError::Refused(panicked.to_string()))
                })),
            };
            shared.change(|state, actions| {
                let entry = state.entries.get_mut(&number);
                let Some(entry) = entry.filter(|entry| entry.attempt == attempt) else { return };
                entry.reply = reply;
                if let (Return::TimedOut, Some(timeout)) = (how, timeout) {
                    state.hung.insert(process, timeout);
                }
                state.schedule.returned(number, process, how, actions);
            });
        });
        let mut running = Some(running);
        if let Some(entry) = self.lock().entries.get_mut(&number)
            && entry.attempt == attempt
            && entry.outcome.is_none()
        {
            entry.running = running.take();
        }
    }
}

/// Returns how an attempt ended, and the outcome of the job if that is final.
fn returned<T>(answer: Result<T, CallError>) -> (Return, Option<Result<T, JobError>>) {
    match answer {
        Ok(answer) => (Return::Replied, Some(Ok(answer))),
        Err(CallError::TimedOut) => (Return::TimedOut, None),
        Err(CallError::Ended(_)) => (Return::Lost, None),
        Err(CallError::Refused(why)) => (Return::Replied, Some(Err(JobError::Refused(why)))),
        Err(error) => (Return::Replied, Some(Err(JobError::Message(error)))),
    }
}
