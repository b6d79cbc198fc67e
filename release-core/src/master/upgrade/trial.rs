//! The trial: the new version is started as a child that says whether it could take over, and ends.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use futures_util::AsyncReadExt;

use super::{Origin, Tried, tried};
use crate::net::Stream;
use crate::path::c_string;
use crate::process::child::{Child, Missed};
use crate::rt::Rt;
use crate::sys::fds::asked_for;
use crate::sys::image::seal;
use crate::sys::image::way_back::TRIAL;
use crate::sys::process::exit_now;
use crate::sys::resources::Resources;
use crate::sys::spawn::{Command, FIRST_PASSED, Identity, spawn};
use crate::sys::{self, rights};
use crate::{Error, ErrorKind};

/// How long the new version may take to say that it could take over.
const TIME: Duration = Duration::from_secs(10);

/// Maximum length of its standard error in the reason.
const TAIL: usize = 1024;

/// A trial that was begun; whether the program could be run is found out later.
#[derive(Debug)]
pub(crate) struct Trial {
    started: sys::spawn::Child,
    answer: OwnedFd,
    output: OwnedFd,
    path: String,
    /// The master does not end before it.
    missed: Missed,
}

impl Trial {
    /// Starts the new version. Nothing of this process is open in it but a copy of its state.
    pub(super) fn begin(origin: &Origin, state: &[u8]) -> Result<Self, Error> {
        let failed = |what: &'static str| move |error| Error::system(what, error);
        let state = seal(state).map_err(failed("cannot write the state down"))?;
        let pair = || UnixStream::pair().map_err(failed("cannot make a socket pair"));
        let ((answer, theirs), (output, written)) = (pair()?, pair()?);
        // It is text, and the program passes the other end on to whatever it starts.
        rights::refuse(output.as_fd());
        let null = File::open("/dev/null").map_err(failed("cannot open /dev/null"))?;
        let place = origin.place()?;
        // Sockets that this program was started with are there in the trial, too.
        let given = asked_for().map_err(failed("cannot copy a socket"))?;
        let first = given.last_key_value().map_or(FIRST_PASSED, |(number, _)| number + 1);
        let value = format!("{TRIAL}:{first}:{}", first + 1);
        let (arguments, environment, is_activated) = origin.trial(&value)?;
        let command = Command {
            program: c_string(place.executable.clone().into())?,
            image: None,
            arguments,
            environment,
            own_pid: if is_activated { vec!["LISTEN_PID"] } else { Vec::new() },
            resources: Resources::default(),
            root: None,
            directory: Some(c_string(place.directory.clone().into())?),
            identity: Identity::Same,
        };
        let path = place.executable.display().to_string();
        let own = [
            (0, null.as_fd()),
            (1, written.as_fd()),
            (2, written.as_fd()),
            (first, state.as_fd()),
            (first + 1, theirs.as_fd()),
        ];
        let given = given.iter().map(|(number, socket)| (*number, socket.as_fd()));
        let descriptors: Vec<_> = own.into_iter().chain(given).collect();
        let started = spawn(&command, &descriptors);
        let started = started.map_err(|error| cannot_start(&path, error))?;
        let missed = Missed::new();
        Ok(Self { started, answer: answer.into(), output: output.into(), path, missed })
    }

    /// Waits for its report. Dropping the future ends the trial.
    pub(crate) async fn end(self, rt: Rt) -> Result<Tried, String> {
        let (path, _missed) = (self.path, self.missed);
        let child = Child::launched(&rt, self.started).await;
        let child = child.map_err(|error| cannot_start(&path, error).report())?;
        let output = Stream::new(&rt, self.output)
            .map_err(|error| format!("cannot watch {path}: {error}"))?;
        let output = rt.spawn(tail(output));
        let Ok(exit) = rt.timeout(TIME, child.child().exit()).await else {
            return Err(format!(
                "{path} hung: it did not say within {TIME:?} whether it can start"
            ));
        };
        if let Some(outcome) = tried::hear(&self.answer, child.child().pid().as_raw()) {
            return outcome.map_err(|why| format!("{path} cannot take over: {why}"));
        }
        let exit = exit.map_or_else(|error| error.to_string(), |exit| exit.to_string());
        let last = rt.timeout(Duration::from_secs(1), output).await.unwrap_or_default();
        let words = if last.is_empty() { String::new() } else { format!("; it wrote: {last}") };
        Err(format!(
            "{path} ended ({exit}) without saying that it can take over; \
             is it another version of this program?{words}"
        ))
    }
}

#[cold]
fn cannot_start(path: &str, error: sys::spawn::SpawnError) -> Error {
    Error::new(ErrorKind::Change, format!("cannot start {path}")).caused_by(error)
}

/// Returns the end of its output, on one line.
async fn tail(mut output: Stream) -> String {
    let (mut tail, mut chunk) = (Vec::new(), vec![0; 4096]);
    while let Ok(read @ 1..) = AsyncReadExt::read(&mut output, &mut chunk).await {
        tail.extend_from_slice(&chunk[..read]);
        tail.drain(..tail.len().saturating_sub(TAIL));
    }
    let words = String::from_utf8_lossy(&tail).trim().replace('\n', " | ");
    words.chars().filter(|letter| !letter.is_control()).collect()
}

/// Says in the new version whether it could take over, and ends it: nothing that its program would
/// do afterwards is its business.
pub(super) fn answer(socket: OwnedFd, outcome: Result<(), String>) -> ! {
    tried::tell(&UnixStream::from(socket), outcome);
    exit_now(0)
}
