//! `JobError`: how a job ended without an answer.

use std::fmt;

use crate::ipc::CallError;
use crate::sys::exit_status::ExitStatus;

/// The reason why a job has no answer.
///
/// # Examples
///
/// ```
/// use release_core::jobs::JobError;
/// use release_core::supervise::ExitStatus;
///
/// fn is_worth_another_try(error: &JobError) -> bool {
///     matches!(error, JobError::Crashed(_) | JobError::Full)
/// }
/// let crashed = JobError::Crashed(ExitStatus::Signal { number: 9, core: false });
/// assert!(is_worth_another_try(&crashed));
/// assert_eq!(crashed.to_string(), "the worker ended with the job in hand: signal 9 (SIGKILL)");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum JobError {
    /// The worker of the last attempt has exited, with the job in hand and with that status.
    Crashed(ExitStatus),
    /// The last attempt took longer than the job's timeout. Its worker is replaced.
    TimedOut,
    /// The worker's handler refused the job, failed or panicked; the text is its own.
    Refused(String),
    /// The master is shutting down, and the job has not begun.
    Stopping,
    /// The queue is full ([`Jobs::try_submit`](super::Jobs::try_submit)).
    Full,
    /// The job cannot be sent, or its answer cannot be decoded.
    Message(CallError),
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crashed(exit) => write!(f, "the worker ended with the job in hand: {exit}"),
            Self::TimedOut => f.write_str("the job took too long, and its worker is replaced"),
            Self::Refused(why) => write!(f, "the worker refused the job: {why}"),
            Self::Stopping => f.write_str("the master stops, and the job has not begun"),
            Self::Full => f.write_str("the queue of jobs is full"),
            Self::Message(_) => f.write_str("the job or its answer is not a valid message"),
        }
    }
}

impl std::error::Error for JobError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Message(error) => Some(error),
            Self::Crashed(_) | Self::TimedOut | Self::Refused(_) | Self::Stopping | Self::Full => {
                None
            }
        }
    }
}
