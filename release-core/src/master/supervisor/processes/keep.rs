//! The processes on their way from one version of the program to the next.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_channel::mpsc::UnboundedSender;
use nix::sys::signal::Signal as Sig;

use super::{MasterEvent, Process, Processes, Wish};
use crate::Error;
use crate::ipc::link::Link;
use crate::ipc::link::frozen::Frozen;
use crate::master::group::{Contact, Group};
use crate::master::handle::MasterHandle;
use crate::master::upgrade::{Kept, KeptWorker, own_image};
use crate::process::attach::WorkerEvent;
use crate::process::child::Child;
use crate::process::output::Output;
use crate::process::worker_info::WorkerInfo;
use crate::supervise::{Event, WorkerId};
use crate::sys::exit_status::ExitStatus;
use crate::sys::fds::duplicate_from;

impl Processes {
    pub(in crate::master::supervisor) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The connections that have not ended.
    pub(in crate::master::supervisor) fn links(&self) -> Vec<Arc<Link>> {
        let attached = self.running.values().filter_map(|process| process.connection.as_ref());
        attached.filter_map(|attached| attached.link.upgrade()).collect()
    }

    /// The worker of a connection, for the reason of a failure.
    pub(in crate::master::supervisor) fn worker_of(&self, link: &Arc<Link>) -> Option<WorkerId> {
        let mut running = self.running.iter();
        let has_it = |process: &Process| {
            let attached = process.connection.as_ref();
            attached.is_some_and(|attached| std::ptr::eq(attached.link.as_ptr(), &raw const **link))
        };
        running.find_map(|((id, _), process)| has_it(process).then_some(*id))
    }

    /// Everything that the next version needs. The connections stand still then.
    pub(in crate::master::supervisor) fn freeze(&self) -> Result<Kept, Error> {
        self.write_down(|link| link.freeze(None))
    }

    /// The same for a trial, while the connections go on.
    pub(in crate::master::supervisor) fn sample(&self) -> Result<Kept, Error> {
        self.write_down(Link::sample)
    }

    fn write_down(
        &self,
        freeze: impl Fn(&Link) -> Result<Option<Frozen>, Error>,
    ) -> Result<Kept, Error> {
        let mut kept = Kept::default();
        for ((id, pid), process) in &self.running {
            // It was reaped, which the next version does not know.
            process.child.cut_short();
            let link = process.connection.as_ref().and_then(|attached| attached.link.upgrade());
            let link = link.map(|link| freeze(&link)).transpose()?.flatten();
            kept.workers.push(KeptWorker {
                id: id.0,
                pid: *pid,
                generation: process.generation,
                finished: process.finished.load(Ordering::Relaxed),
                link,
                output: process.output.as_ref().map(Output::freeze).transpose()?,
                is_told: process.is_told,
            });
        }
        let serving = self.master.generation();
        let own = self.particulars.iter().filter(|(wish, _)| wish.generation == serving);
        kept.particulars = own.map(|(wish, its)| (wish.id.0, its.clone())).collect();
        let image = match self.image_of(serving) {
            Some(image) => duplicate_from(image.as_fd(), 3)
                .map_err(|error| Error::system("cannot duplicate an executable", error))?,
            None => own_image()?,
        };
        kept.image = Some((serving, image.into()));
        Ok(kept)
    }

    /// The executable of a generation that an earlier version of the program has started.
    pub(super) fn image_of(&self, generation: u32) -> Option<Arc<OwnedFd>> {
        let image = self.image.as_ref().filter(|(its, _)| *its == generation);
        image.map(|(_, image)| Arc::clone(image))
    }

    /// The processes of the version before, which are this one's now.
    pub(in crate::master::supervisor) fn inherit(
        groups: Vec<Group>,
        master: MasterHandle,
        sender: UnboundedSender<MasterEvent>,
        kept: &mut Kept,
    ) -> Self {
        let mut processes = Self::new(groups, master, sender);
        if let Some((generation, image)) = kept.image.take() {
            processes.image = Some((generation, Arc::new(image.into())));
            for (id, its) in kept.particulars.drain(..) {
                match its.checked() {
                    Ok(its) => {
                        let wish = Wish { id: WorkerId(id), generation };
                        processes.particulars.insert(wish, its);
                    }
                    Err(error) => log_warning!(
                        worker = id,
                        reason = error.report(),
                        "its options are made anew"
                    ),
                }
            }
        }
        for worker in kept.workers.drain(..) {
            processes.keep(worker);
        }
        processes
    }

    fn keep(&mut self, worker: KeptWorker) {
        let KeptWorker { id, pid, generation, finished, link, output, is_told } = worker;
        let id = WorkerId(id);
        let child = match Child::kept(&self.rt, pid) {
            Ok(child) => Arc::new(child),
            Err(error) => {
                log_warning!(pid, %error, "the exit status of a worker was lost");
                let exited = Event::Exited { id, pid, exit: ExitStatus::Code(-1) };
                let _ = self.sender.unbounded_send(MasterEvent::Pool(exited));
                return;
            }
        };
        let group = self.group(id);
        let finished = Arc::new(AtomicU64::new(finished));
        let (listener, silence) = self.listen(id, pid, Arc::clone(&finished));
        // What it writes is passed on as well when its group is gone, or has no pipes any more.
        let name = group.map_or_else(|| Arc::from("gone"), |group| Arc::clone(&group.name));
        let info = WorkerInfo { id: id.0, pid, group: name, generation, rt: self.rt.clone() };
        let capture = group.and_then(|group| group.output.clone()).unwrap_or_default();
        let output = output.and_then(|output| {
            let output = output.thaw(&self.rt, info.clone(), &capture);
            let lost = |error| log_error!(pid, %error, "a worker's output is lost");
            output.map_err(lost).ok()
        });
        let contact = group.map(|group| &group.contact);
        let connection = match (contact, link) {
            // It has become ready, or is started again when its time to is over.
            (Some(Contact::Foreign(_)), None) => None,
            (Some(Contact::Connection(attach)), Some(link)) => {
                let attached = attach.reattach(info, link, listener);
                let attached = attached.inspect_err(|error| {
                    // It ends, and its exit is the news.
                    let reason = error.report();
                    log_error!(worker = id.0, pid, reason, "no connection to a worker");
                    let _ = child.signal(Sig::SIGKILL);
                });
                attached.ok()
            }
            (_, None) => {
                listener(WorkerEvent::Closed("its connection"));
                None
            }
            // Its group is gone, and the end of the connection tells it to stop.
            (_, Some(_)) => None,
        };
        let silence = connection.is_some().then_some(silence);
        let watch = self.watch(id, Arc::clone(&child), output.clone(), silence);
        let process = Process {
            child,
            generation,
            connection,
            output,
            is_told,
            finished,
            sockets: 0,
            _watch: watch,
        };
        self.running.insert((id, pid), process);
    }
}
