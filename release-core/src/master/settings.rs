//! `Settings`: a value of the program's own for each generation of workers.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::guard::Guard;
use crate::{Error, ErrorKind};

/// Settings of a program, one immutable value for each generation of workers.
///
/// The number of workers ([`Workers::size_from`]), their contexts ([`Workers::context_from`]) and their
/// options ([`Workers::worker_options_from`]) are functions of such a value. At each reload the master
/// makes the value of the new generation. It is in force when that generation serves, and is dropped when
/// the reload is rolled back: [`current`](Self::current) returns the value in force. A worker that is
/// started again gets the value of its own generation, also while another one is tried.
///
/// A group with a fixed size and context needs no settings, and costs nothing at a reload.
///
/// Cheap to clone: all clones share their values.
///
/// # Upgrades
///
/// A new version of the program ([`MasterHandle::upgrade`](crate::MasterHandle::upgrade)) has settings of
/// its own, from its own `main`. Workers of the version before keep the contexts and options that they have
/// when they are started again, also when the upgrade is rolled back.
///
/// # Examples
///
/// ```no_run
/// use release_core::rt::local::Local;
/// use release_core::{Exit, Master, Settings, Workers, read_to_start};
///
/// fn read() -> std::io::Result<String> {
///     Ok(String::from_utf8_lossy(&read_to_start("/etc/mottos")?).into_owned())
/// }
///
/// fn main() -> Exit {
///     let first = match read() {
///         Ok(first) => first,
///         Err(error) => return Exit::failure(error),
///     };
///     // One worker for each line of the file, which gets that line.
///     let settings = Settings::new(first, |_| read());
///     let size = |text: &String| u32::try_from(text.lines().count()).unwrap_or(u32::MAX);
///     let line = |text: &String, id| text.lines().nth(usize::try_from(id).ok()?).map(str::to_owned);
///     let workers = Workers::same_executable("motto", 0)
///         .user("nobody")
///         .size_from(&settings, size)
///         .context_from(&settings, line)
///         .plain(|_, line: String| async move { Ok(line) });
///     Master::new().workers(workers).run(Local::new)
/// }
/// ```
///
/// [`Workers::size_from`]: crate::Workers::size_from
/// [`Workers::context_from`]: crate::Workers::context_from
/// [`Workers::worker_options_from`]: crate::Workers::worker_options_from
pub struct Settings<T>(Arc<Shared<T>>);

struct Shared<T> {
    reload: Box<Reload<T>>,
    values: Mutex<Values<T>>,
}

/// Makes the next value from the one in force.
type Reload<T> = dyn Fn(&T) -> Result<T, Error> + Send + Sync;

struct Values<T> {
    /// Value of the generation that serves.
    current: Arc<T>,
    /// Number and value of the generation that is tried.
    next: Option<(u32, Arc<T>)>,
}

impl<T> Clone for Settings<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Settings<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Settings<T> {
    /// Creates settings from the value of the first generation, and the function that makes the value of
    /// the next one from the value in force.
    ///
    /// The function runs in [`Rt::unblock`](crate::rt::Rt::unblock) and may read files. It has the
    /// [`Master::reload_timeout`](crate::Master::reload_timeout). In all three cases of failure the reload
    /// is refused with the reason, and nothing has changed:
    ///
    /// # Errors
    ///
    /// An error of `reload` refuses the reload, as does a function that takes too long. A value that comes
    /// later is dropped.
    ///
    /// # Panics
    ///
    /// A panic in `reload` refuses the reload, too. It does not end the master.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Settings;
    ///
    /// let read = || std::fs::read_to_string("/proc/sys/kernel/hostname");
    /// let settings = Settings::new(read()?, move |_| read());
    /// assert!(settings.current().ends_with('\n'));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn new<E>(first: T, reload: impl Fn(&T) -> Result<T, E> + Send + Sync + 'static) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let reload = Box::new(move |now: &T| {
            reload(now).map_err(|error| {
                Error::new(ErrorKind::Program, "no new configuration").caused_by(error)
            })
        });
        let values = Mutex::new(Values { current: Arc::new(first), next: None });
        Self(Arc::new(Shared { reload, values }))
    }

    /// Returns the value of the generation that serves. It stays as it is for as long as it is held.
    ///
    /// In [`Master::observe`](crate::Master::observe) of
    /// [`Report::Reloaded`](crate::supervise::Report::Reloaded) this is the new value already.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, Settings};
    ///
    /// let settings = Settings::new(4, |_| Ok::<u32, Error>(5));
    /// assert_eq!(*settings.current(), 4);
    /// ```
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.lock().current)
    }

    /// Returns the value of a generation: the one in force, unless that generation is tried.
    pub(crate) fn of(&self, generation: u32) -> Arc<T> {
        let values = self.0.lock();
        let next = values.next.as_ref().filter(|(its, _)| *its == generation);
        Arc::clone(next.map_or(&values.current, |(_, value)| value))
    }

    pub(crate) fn shared(&self) -> Arc<dyn Generations> {
        self.0.clone()
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Values<T>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts a new value in its place, for the generation of this number.
pub(crate) type Made = Box<dyn FnOnce(u32) + Send>;

/// Settings of any type.
pub(crate) trait Generations: Send + Sync {
    /// Makes the next value. It may block.
    fn make(self: Arc<Self>) -> Result<Made, Error>;

    /// Makes the value of this generation the one in force, and drops the other.
    fn settle(&self, serving: u32);
}

impl<T: Send + Sync + 'static> Generations for Shared<T> {
    fn make(self: Arc<Self>) -> Result<Made, Error> {
        let now = Arc::clone(&self.lock().current);
        let value = Arc::new((self.reload)(&now)?);
        Ok(Box::new(move |generation| self.lock().next = Some((generation, value))))
    }

    fn settle(&self, serving: u32) {
        let mut values = self.lock();
        let former = match values.next.take() {
            Some((its, value)) if its == serving => {
                Some(std::mem::replace(&mut values.current, value))
            }
            taken_back => taken_back.map(|(_, value)| value),
        };
        // The destructor belongs to the application, and may call `current`.
        drop(values);
        if let Err(panicked) = Guard::SETTINGS.call(|| drop(former)) {
            log_error!(reason = %panicked, "a value of the settings could not be dropped");
        }
    }
}
