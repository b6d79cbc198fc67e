//! The processes of workers, handed over from one version of the master to the next.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_channel::mpsc::UnboundedSender;
use nix::sys::signal::Signal as Sig;

use super::launch::SpawnRequest;
use super::watch::Stacks;
use super::{MasterEvent, Processes, WorkerProcess};
use crate::Error;
use crate::ipc::Descriptor;
use crate::ipc::link::Link;
use crate::ipc::link::frozen::Frozen;
use crate::master::group::{Contact, Group, WorkerSetup};
use crate::master::handle::MasterHandle;
use crate::master::upgrade::{Kept, KeptWorker, own_image};
use crate::metrics::WORDS;
use crate::process::attach::{Attached, Notify, WorkerEvent, serve_leftover};
use crate::process::child::Child;
use crate::process::output::Output;
use crate::process::readiness::{KeptReadiness, PendingReadiness, ReadinessHandle};
use crate::process::worker_info::WorkerInfo;
use crate::supervise::{Event, WorkerId};
use crate::sys::exit_status::ExitStatus;
use crate::sys::fds::duplicate_from;
use crate::sys::shared_memory::{SharedMemory, Unmapped};

impl Processes {
    /// Returns the state for the next version. The connections stand still from then on, and so do the
    /// processes and their output: the tasks of other threads would change what was written down.
    pub(in crate::master::supervisor) fn freeze(&self) -> Result<Kept, Error> {
        self.stand_still(true);
        self.write_down(|link| link.freeze(None))
    }

    /// Continues after a handover that failed: the processes are reaped and their output is read again.
    pub(in crate::master::supervisor) fn resume(&self) {
        self.stand_still(false);
    }

    fn stand_still(&self, is_still: bool) {
        self.master.children().stand_still(is_still);
        for process in self.running.values() {
            process.child.stand_still(is_still);
            process.output.iter().for_each(|output| output.stand_still(is_still));
        }
    }

    /// Returns the state for a trial, while the connections go on.
    pub(in crate::master::supervisor) fn sample(&self) -> Result<Kept, Error> {
        self.write_down(Link::sample)
    }

    fn write_down(
        &self,
        freeze: impl Fn(&Link) -> Result<Option<Frozen>, Error>,
    ) -> Result<Kept, Error> {
        let mut kept = Kept {
            children: self.master.children().freeze()?,
            metrics: self.metrics_to_keep().keep(),
            ..Kept::default()
        };
        for ((id, pid), process) in &self.running {
            let link = process.connection.as_ref().and_then(|attached| attached.link.upgrade());
            let link = link.map(|link| freeze(&link)).transpose()?.flatten();
            let readiness = process.readiness.as_ref().map(|it| it.keep(&self.rt));
            kept.workers.push(KeptWorker {
                id: id.0,
                pid: *pid,
                generation: process.generation,
                finished: process.finished.load(Ordering::Relaxed),
                link,
                output: process.output.as_ref().map(Output::freeze).transpose()?,
                is_told: process.is_told,
                metrics: process.metrics.as_deref().map(copy_of).transpose()?,
                sandbox: self.master.restrictions_of(*pid),
                ending: Some(process.child.ending()?),
                readiness: readiness.transpose()?.flatten(),
            });
        }
        let serving = self.master.generation();
        let own = self.particulars.iter().filter(|(request, _)| request.generation == serving);
        kept.particulars = own.map(|(request, its)| (request.id.0, its.keep())).collect();
        let image = match self.image_of(serving) {
            Some(image) => duplicate_from(image.as_fd(), 3)
                .map_err(|error| Error::system("cannot duplicate an executable", error))?,
            None => own_image()?,
        };
        kept.image = Some((serving, image.into()));
        Ok(kept)
    }

    /// Executable of a generation that an earlier version of the program started.
    pub(super) fn image_of(&self, generation: u32) -> Option<Arc<OwnedFd>> {
        let image = self.image.as_ref().filter(|(its, _)| *its == generation);
        image.map(|(_, image)| Arc::clone(image))
    }

    /// Takes over the processes of the previous version.
    pub(in crate::master::supervisor) fn inherit(
        groups: Vec<Group>,
        master: MasterHandle,
        sender: UnboundedSender<MasterEvent>,
        kept: &mut Kept,
    ) -> Self {
        let mut processes = Self::new(groups, master, sender);
        processes.ended_metrics = std::mem::take(&mut kept.metrics).into();
        if let Some((generation, image)) = kept.image.take() {
            processes.image = Some((generation, Arc::new(image.into())));
            for (id, its) in kept.particulars.drain(..) {
                match WorkerSetup::adopt(its) {
                    Ok(its) => {
                        let request = SpawnRequest { id: WorkerId(id), generation };
                        processes.particulars.insert(request, its);
                    }
                    Err(error) => log_warning!(
                        worker = id,
                        reason = error.report(),
                        "its options are made anew"
                    ),
                }
            }
        }
        for mut worker in kept.workers.drain(..) {
            let restrictions = worker.sandbox.take().map(Into::into);
            processes.master.set_restrictions(worker.pid, restrictions);
            processes.keep(worker);
        }
        processes.watch_listeners();
        processes
    }

    fn keep(&mut self, worker: KeptWorker) {
        let KeptWorker { id, pid, generation, link, is_told, metrics, ending, .. } = worker;
        let id = WorkerId(id);
        let metrics = metrics.and_then(|memory| mapped(id, memory));
        let child = match Child::kept(&self.rt, pid, ending) {
            Ok(child) => Arc::new(child),
            Err(error) => {
                log_warning!(pid, %error, "the exit status of a worker was lost");
                metrics.iter().for_each(|memory| self.add_ended_metrics(id, memory.words()));
                let exited = Event::Exited { id, pid, exit: ExitStatus::Code(-1) };
                let _ = self.sender.unbounded_send(MasterEvent::Pool(exited));
                return;
            }
        };
        let group = self.group(id);
        let (finished, hung) = (Arc::new(AtomicU64::new(worker.finished)), Stacks::default());
        let (listener, silence) = self.listen(id, pid, &finished, &hung);
        // Its output is passed on even if its group is gone, or has no pipes any more.
        let name = group.map_or_else(|| Arc::from("gone"), |group| Arc::clone(&group.name));
        let info = WorkerInfo { id: id.0, pid, group: name, generation, rt: self.rt.clone() };
        let capture = group.and_then(|group| group.output.clone()).unwrap_or_default();
        let lost = |error| log_error!(pid, %error, "a worker's output is lost");
        let output = worker.output.map(|output| output.thaw(&self.rt, info.clone(), &capture));
        let output = output.and_then(|output| output.map_err(lost).ok());
        let (connection, readiness) =
            self.connect_again(info, &child, (link, worker.readiness), listener);
        // A command's messages do not end with it.
        let silence = (connection.is_some() && readiness.is_none()).then_some(silence);
        let watch = self.watch(id, &child, output.clone(), silence);
        let process = WorkerProcess {
            child,
            generation,
            connection,
            readiness,
            output,
            is_told,
            finished,
            hung,
            metrics,
            sockets: 0,
            _watch: watch,
        };
        self.running.insert((id, pid), process);
    }

    /// Continues the connection of a worker, or waits for its messages.
    fn connect_again(
        &self,
        worker: WorkerInfo,
        child: &Child,
        (link, readiness): (Option<Frozen>, Option<KeptReadiness>),
        listener: Notify,
    ) -> (Option<Attached>, Option<ReadinessHandle>) {
        let (id, pid) = (WorkerId(worker.id), worker.pid);
        let group = self.group(id);
        let connection = match (group.map(|group| &group.contact), link, readiness) {
            // Also one whose group is gone may need more time to end.
            (Some(Contact::Command(_)) | None, None, Some(readiness)) => {
                let readiness = PendingReadiness::kept(readiness);
                let (attached, handle) = readiness.attach(&self.rt, &worker, listener);
                return (Some(attached), Some(handle));
            }
            // It has said everything, or waits for its time.
            (Some(Contact::Command(_)), None, None) => None,
            (Some(Contact::Connection(attach)), Some(link), _) => {
                let services = group.map(|group| group.services.clone()).unwrap_or_default();
                let attached = attach.reattach(worker, link, services, listener);
                attached.inspect_err(|error| given_up(id, pid, child, error)).ok()
            }
            (_, None, _) => {
                listener(WorkerEvent::Closed("its connection"));
                None
            }
            // Its group is gone.
            (_, Some(link), _) => self.leave(child, link),
        };
        (connection, None)
    }

    /// Tells a worker without a group to stop. The end of its connection would say so, too, but not what
    /// becomes of the connections that it hands on.
    fn leave(&self, child: &Child, link: Frozen) -> Option<Attached> {
        if !link.limits.hands_on {
            return None;
        }
        let attached = serve_leftover(&self.rt, link).ok()?;
        child.signal(Sig::SIGTERM).ok().map(|()| attached)
    }
}

/// Duplicates the memory of a worker's metrics, for the next version.
fn copy_of(memory: &SharedMemory) -> Result<Descriptor, Error> {
    let copy = duplicate_from(memory.as_fd(), 3);
    let copy =
        copy.map_err(|error| Error::system("cannot duplicate the metrics of a worker", error));
    Ok(Descriptor::new(copy?))
}

/// Maps the memory of a worker's metrics. Without it, the worker's counts are lost.
fn mapped(id: WorkerId, memory: Descriptor) -> Option<Arc<SharedMemory>> {
    let mapped = SharedMemory::of_peer(memory, WORDS);
    let lost = |error: &Unmapped| log_warning!(worker = id.0, ?error, "its metrics are lost");
    mapped.inspect_err(lost).ok().map(Arc::new)
}

/// Kills a process that cannot be connected again. Its exit is the event.
fn given_up(id: WorkerId, pid: i32, child: &Child, error: &Error) {
    let reason = error.report();
    log_error!(worker = id.0, pid, reason, "no connection to a worker");
    let _ = child.signal(Sig::SIGKILL);
}
