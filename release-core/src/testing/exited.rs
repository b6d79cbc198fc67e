//! `Exited`: how a program under test has ended.

use crate::supervise::ExitStatus;

/// How a program under test has ended.
///
/// # Examples
///
/// ```
/// use release_core::testing::Program;
///
/// let ended = Program::new("/bin/sh").args(["-c", "echo hello; exit 3"]).run()?;
/// assert_eq!((ended.code(), ended.log()), (Some(3), "hello\n"));
/// # Ok::<(), release_core::testing::TestFailure>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exited {
    pub(super) status: Option<ExitStatus>,
    pub(super) log: String,
}

impl Exited {
    /// Returns the exit status, or `None` if a signal ended the program or it was a daemon in the
    /// background, whose status only its parent process learns.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// assert_eq!(Program::new("/bin/false").run()?.code(), Some(1));
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self.status {
            Some(ExitStatus::Code(code)) => Some(code),
            Some(ExitStatus::Signal { .. } | ExitStatus::ForbiddenCall { .. }) | None => None,
        }
    }

    /// Returns the exit status or the signal, or `None` for a daemon in the background.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::ExitStatus;
    /// use release_core::testing::Program;
    ///
    /// let ended = Program::new("/bin/sh").args(["-c", "kill -9 $$"]).run()?;
    /// assert_eq!(ended.status(), Some(ExitStatus::Signal { number: 9, core: false }));
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// Returns everything that the program has logged.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// assert_eq!(Program::new("/bin/echo").args(["hello"]).run()?.log(), "hello\n");
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn log(&self) -> &str {
        &self.log
    }
}
