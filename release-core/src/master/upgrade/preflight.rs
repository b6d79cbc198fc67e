//! The preflight: the new version is started as a child that reports whether it could take over, and
//! ends. The master then becomes the process that the child was: a script in between has done its work,
//! and files are not read again.

use std::ffi::CString;
use std::fs::{File, read};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::AsyncReadExt;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};

use super::invocation::{Invocation, Version, is_same, own_image};
use crate::kept::Files;
use crate::net::Stream;
use crate::path::c_string;
use crate::process::child::{Child, Missed};
use crate::process::environment::entry;
use crate::rt::Rt;
use crate::start_files;
use crate::sys::fds::asked_for;
use crate::sys::image::way_back::{TRIAL, VARIABLE, directory};
use crate::sys::image::{Image, seal, unseal};
use crate::sys::process::exit_now;
use crate::sys::resources::Resources;
use crate::sys::rights::receive;
use crate::sys::spawn::{Command, FIRST_PASSED, Identity, spawn};
use crate::sys::{self, rights};
use crate::{Error, ErrorKind};

/// Maximum time until the new version reports whether it could take over.
const TIME: Duration = Duration::from_secs(10);

/// Maximum length of its standard error in the reason.
const TAIL: usize = 1024;

/// How long it waits until its account has fewer descriptors on the way between processes, which the kernel
/// limits: those of others count, too.
const CROWDED_TIME: Duration = Duration::from_secs(3);

/// Maximum length of its report.
const REPORT: usize = 4096;

/// A trial that has begun; its end shows whether the program could be run.
#[derive(Debug)]
pub(crate) struct Trial {
    /// The version on trial.
    version: Version,
    started: sys::spawn::SpawnedChild,
    answer: OwnedFd,
    output: OwnedFd,
    path: String,
    /// Keeps the master from ending before the trial.
    missed: Missed,
}

impl Trial {
    /// Starts the new version. Only a copy of the state of this process is open in it.
    pub(super) fn begin(
        invocation: &Invocation,
        version: Version,
        state: &[u8],
    ) -> Result<Self, Error> {
        let failed = |what: &'static str| move |error| Error::system(what, error);
        let state = seal(state).map_err(failed("cannot write the state down"))?;
        let pair = || UnixStream::pair().map_err(failed("cannot make a socket pair"));
        let ((answer, theirs), (output, written)) = (pair()?, pair()?);
        // The program passes the other end on to all that it starts.
        rights::refuse(output.as_fd());
        let null = File::open("/dev/null").map_err(failed("cannot open /dev/null"))?;
        let location = invocation.location()?;
        // Sockets that this program was started with are open in the trial, too.
        let given = asked_for().map_err(failed("cannot copy a socket"))?;
        let first = given.last_key_value().map_or(FIRST_PASSED, |(number, _)| number + 1);
        let value = format!("{TRIAL}:{first}:{}", first + 1);
        let (arguments, environment, is_activated) = invocation.trial(&value)?;
        let command = Command {
            program: c_string(location.executable.clone().into())?,
            image: None,
            arguments,
            environment,
            own_pid: if is_activated { vec!["LISTEN_PID"] } else { Vec::new() },
            resources: Resources::default(),
            root: None,
            directory: Some(c_string(location.directory.clone().into())?),
            identity: Identity::Same,
            confinement: None,
        };
        let path = location.executable.display().to_string();
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
        let (answer, output) = (answer.into(), output.into());
        Ok(Self { version, started, answer, output, path, missed })
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
        if let Some(outcome) = hear(&self.answer, child.child().pid().as_raw(), self.version) {
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

/// Reports in the new version whether it could take over, and ends it, before its program does anything
/// else.
pub(super) fn answer(socket: OwnedFd, outcome: Result<(), String>) -> ! {
    tell(&UnixStream::from(socket), outcome);
    exit_now(0)
}

/// A new version that could take over.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(super) version: Version,
    pub(super) image: Image,
    pub(super) directory: OwnedFd,
    /// Files that it has read on its way to [`Master::run`](crate::Master::run).
    pub(super) files: Files,
}

/// The new version's own description of its start.
#[derive(Serialize, Deserialize)]
struct Description {
    pid: u32,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    files: Files,
}

/// Sends the outcome of the trial, with the executable, the working directory, and the description.
pub(super) fn tell(socket: &UnixStream, outcome: Result<(), String>) {
    let outcome = outcome.and_then(|()| describe().map_err(|error| error.report()));
    let (said, descriptors) = match outcome {
        Ok(descriptors) => (Ok(()), Vec::from(descriptors)),
        Err(why) => (Err(why.chars().take(REPORT / 4 - 16).collect::<String>()), Vec::new()),
    };
    let (until, mut sent) = (Instant::now() + CROWDED_TIME, send(socket, &said, &descriptors));
    while sent == Err(Errno::ETOOMANYREFS) && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
        sent = send(socket, &said, &descriptors);
    }
    if let Err(errno) = sent {
        // If this fails, too, the master has ended.
        let why = format!("its report cannot be sent: {errno}");
        let _ = send(socket, &Err(why), &[]);
    }
}

fn send(
    socket: &UnixStream,
    said: &Result<(), String>,
    descriptors: &[OwnedFd],
) -> Result<usize, Errno> {
    let said = postcard::to_stdvec(said).unwrap_or_default();
    let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[][..] } else { &control };
    let parts = [IoSlice::new(&said)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)
}

fn describe() -> Result<[OwnedFd; 3], Error> {
    let failed = |what: &'static str| move |error| Error::system(what, error);
    let strings = |path: &str| {
        let bytes = read(path).map_err(|error| Error::system(format!("cannot read {path}"), error));
        let is_whole = |string: &&[u8]| string.ends_with(&[0]);
        bytes.map(|bytes| {
            let strings = bytes.split_inclusive(|byte| *byte == 0).filter(is_whole);
            strings.flat_map(|it| CString::from_vec_with_nul(it.to_vec())).collect::<Vec<_>>()
        })
    };
    let description = Description {
        pid: std::process::id(),
        // The arguments as given, even if `main` has changed them.
        arguments: strings("/proc/self/cmdline")?,
        environment: strings("/proc/self/environ")?,
        files: start_files::read_so_far(),
    };
    let bytes = serde_json::to_vec(&description).map_err(|error| {
        Error::new(ErrorKind::Change, "it cannot say how it was started").caused_by(error)
    })?;
    let text = seal(&bytes).map_err(failed("cannot write down how it was started"))?;
    let here = directory().ok_or_else(|| {
        Error::new(ErrorKind::Change, "its working directory could not be opened")
    })?;
    let here = here.try_clone().map_err(failed("cannot duplicate a descriptor"))?;
    Ok([own_image()?, here, text])
}

/// Receives the report of the new version, the process of this number, in the master. Returns `None` if
/// there is none.
pub(super) fn hear(socket: &OwnedFd, pid: i32, version: Version) -> Option<Result<Tried, String>> {
    let mut said = vec![0; REPORT];
    let arrived = receive(socket.as_fd(), &mut said).ok()?;
    match postcard::from_bytes::<Result<(), String>>(&said[..arrived.bytes]).ok()? {
        Ok(()) => {
            let descriptors = arrived.descriptors.into_iter().map(OwnedFd::from).collect();
            Some(read_description(descriptors, pid, version))
        }
        Err(why) => Some(Err(why)),
    }
}

fn read_description(
    descriptors: Vec<OwnedFd>,
    pid: i32,
    version: Version,
) -> Result<Tried, String> {
    let [program, directory, text] = <[OwnedFd; 3]>::try_from(descriptors)
        .map_err(|_| "what it is did not arrive: are there descriptors left?".to_owned())?;
    let bytes = unseal(&text).map_err(|error| format!("it says how it was started: {error}"))?;
    let described: Description = serde_json::from_slice(&bytes)
        .map_err(|error| format!("it says how it was started: {error}"))?;
    if i32::try_from(described.pid) != Ok(pid) {
        return Err(
            "it is not the process that was started but a child of it: a script has to `exec` it"
                .to_owned(),
        );
    }
    let mut environment = described.environment;
    let own = format!("{}=", VARIABLE.to_string_lossy());
    environment.retain(|entry| !entry.as_bytes().starts_with(own.as_bytes()));
    let theirs = format!("LISTEN_PID={pid}");
    for it in environment.iter_mut().filter(|it| it.as_bytes() == theirs.as_bytes()) {
        let ours = std::process::id().to_string();
        *it = entry("LISTEN_PID".as_ref(), ours.into()).map_err(|error| error.report())?;
    }
    let image = Image { program, arguments: described.arguments, environment };
    Ok(Tried { version, image, directory, files: described.files })
}

impl Tried {
    /// Returns whether another file has taken the place of its program, which is not the file of the
    /// start if a script is in between.
    pub(super) fn is_replaced(&self) -> bool {
        let program = format!("/proc/self/fd/{}", self.image.program.as_raw_fd());
        let Ok(path) = std::fs::read_link(&program) else { return false };
        // The kernel adds this word when another file has taken the place.
        let path = path.to_string_lossy();
        let path = Path::new(path.strip_suffix(" (deleted)").unwrap_or(&path));
        path.exists() && !is_same(path, program.as_ref())
    }

    /// Adds one variable to its environment.
    pub(super) fn told(&mut self, value: &str) -> Result<(), Error> {
        let name = VARIABLE.to_string_lossy().into_owned();
        self.image.environment.push(entry(name.as_ref(), value.into())?);
        Ok(())
    }
}
