//! `Settings`: a value of the program's own for each generation of workers.

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::guard::Guard;
use crate::start_files::{self, ReadAside};
use crate::{Error, ErrorKind, WorkerInfo};

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
/// when they are started again, also when the upgrade is rolled back. Values that their requests need go
/// from [`in_use`](Self::in_use) through [`Master::hand_over`](crate::Master::hand_over) to
/// [`with_earlier`](Self::with_earlier).
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
pub struct Settings<T>(Arc<SettingsInner<T>>);

struct SettingsInner<T> {
    reload: Box<Reload<T>>,
    values: Mutex<SettingsValues<T>>,
}

/// Makes the next value from the one in force.
type Reload<T> = dyn Fn(&T) -> Result<T, Error> + Send + Sync;

struct SettingsValues<T> {
    /// Value of the generation that serves.
    current: Arc<T>,
    /// The generation that is tried.
    next: Option<NextValue<T>>,
    /// What [`Settings::of`] has returned, by generation. Only its callers hold these values.
    given: BTreeMap<u32, Weak<T>>,
    /// Values of generations of the version before, until this one serves.
    earlier: Vec<Arc<T>>,
}

struct NextValue<T> {
    generation: u32,
    value: Arc<T>,
    /// Files that the value comes from.
    read: ReadAside,
}

impl<T> SettingsValues<T> {
    fn of_generation(&self, generation: u32) -> Arc<T> {
        let next = self.next.as_ref().filter(|next| next.generation == generation);
        Arc::clone(next.map_or(&self.current, |next| &next.value))
    }
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
        let values = SettingsValues {
            current: Arc::new(first),
            next: None,
            given: BTreeMap::new(),
            earlier: Vec::new(),
        };
        Self(Arc::new(SettingsInner { reload, values: Mutex::new(values) }))
    }

    /// Adds the value of a generation of the version before, whose processes outlive an upgrade: see
    /// [`in_use`](Self::in_use).
    ///
    /// [`of`](Self::of) returns it for a process of that generation. It is dropped with the last of these
    /// processes, or when this version serves without any.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, Settings, handed_over};
    ///
    /// let mut colours = Settings::new("red".to_owned(), |_| std::fs::read_to_string("/etc/colour"));
    /// for (generation, colour) in handed_over::<Vec<(u32, String)>>()?.unwrap_or_default() {
    ///     colours = colours.with_earlier(generation, colour);
    /// }
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn with_earlier(self, generation: u32, value: T) -> Self {
        let value = Arc::new(value);
        let mut values = self.0.lock();
        values.given.insert(generation, Arc::downgrade(&value));
        values.earlier.push(value);
        drop(values);
        self
    }

    /// Returns the values that [`of`](Self::of) has returned and that are still held, by generation. A
    /// version of the program hands them over to the next one, whose processes start with other values.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Master, Settings};
    ///
    /// let colours = Settings::new("red".to_owned(), |_| std::fs::read_to_string("/etc/colour"));
    /// let master = Master::new().hand_over(move || {
    ///     let in_use = colours.in_use().into_iter();
    ///     in_use.map(|(generation, colour)| (generation, (*colour).clone())).collect::<Vec<_>>()
    /// });
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn in_use(&self) -> Vec<(u32, Arc<T>)> {
        let held = |(generation, value): (&u32, &Weak<T>)| Some((*generation, value.upgrade()?));
        self.0.lock().given.iter().filter_map(held).collect()
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

    /// Returns the value of a worker's generation: the one that its other processes hold, or the one in
    /// force, unless that generation is tried.
    ///
    /// Call this in the state function of
    /// [`Workers::answer_permitted`](crate::Workers::answer_permitted), which runs when a process starts.
    /// The state keeps the value as long as the process lives, also when the next generation serves: a
    /// value that only processes hold is dropped with the last of them.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Decision, Settings, Workers};
    ///
    /// let settings = Settings::new("red".to_owned(), |_| std::fs::read_to_string("/etc/colour"));
    /// let theirs = settings.clone();
    /// let workers = Workers::same_executable("painter", 4)
    ///     .user("nobody")
    ///     .context_from(&settings, |colour, _| colour.clone())
    ///     .answer_permitted(
    ///         move |worker| theirs.of(worker),
    ///         |_, _: &String| Decision::Allow,
    ///         |_, colour, question| async move { Ok(format!("{question}: {colour}")) },
    ///     );
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn of(&self, worker: &WorkerInfo) -> Arc<T> {
        let mut values = self.0.lock();
        let held = values.given.get(&worker.generation).and_then(Weak::upgrade);
        let value = held.unwrap_or_else(|| values.of_generation(worker.generation));
        values.given.retain(|_, value| value.strong_count() > 0);
        values.given.insert(worker.generation, Arc::downgrade(&value));
        value
    }

    pub(crate) fn of_generation(&self, generation: u32) -> Arc<T> {
        self.0.lock().of_generation(generation)
    }

    pub(crate) fn shared(&self) -> Arc<dyn Generations> {
        self.0.clone()
    }
}

impl<T> SettingsInner<T> {
    fn lock(&self) -> MutexGuard<'_, SettingsValues<T>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts a new value in its place, for the generation of this number.
pub(crate) type Made = Box<dyn FnOnce(u32) + Send>;

/// Settings of any type.
pub(crate) trait Generations: Send + Sync {
    /// Makes the next value. It may block.
    fn make(self: Arc<Self>) -> Result<Made, Error>;

    /// Makes the value of this generation the one in force, and drops the others.
    fn settle(&self, serving: u32);
}

impl<T: Send + Sync + 'static> Generations for SettingsInner<T> {
    fn make(self: Arc<Self>) -> Result<Made, Error> {
        let now = Arc::clone(&self.lock().current);
        let (value, read) = start_files::aside(|| (self.reload)(&now));
        let value = Arc::new(value?);
        Ok(Box::new(move |generation| {
            self.lock().next = Some(NextValue { generation, value, read });
        }))
    }

    fn settle(&self, serving: u32) {
        let mut values = self.lock();
        let former = match values.next.take() {
            Some(NextValue { generation, value, read }) if generation == serving => {
                read.keep();
                Some(mem::replace(&mut values.current, value))
            }
            taken_back => taken_back.map(|next| next.value),
        };
        let earlier = mem::take(&mut values.earlier);
        // The destructor belongs to the application, and may call `current`.
        drop(values);
        for value in former.into_iter().chain(earlier) {
            if let Err(panicked) = Guard::SETTINGS.call(|| drop(value)) {
                log_error!(reason = %panicked, "a value of the settings could not be dropped");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::Driver;
    use crate::rt::local::Local;

    fn of_generation(generation: u32) -> WorkerInfo {
        let rt = Local::new().unwrap().handle();
        WorkerInfo { id: 0, pid: 1, group: "group".into(), generation, rt }
    }

    #[test]
    fn a_value_lives_as_long_as_a_process_of_its_generation() {
        let settings = Settings::new(1, |now: &u32| Ok::<_, Error>(now + 1));
        let first = settings.of(&of_generation(1));
        settings.0.clone().make().unwrap()(2);
        settings.0.settle(2);
        let second = settings.of(&of_generation(2));
        // Another process of the former generation.
        assert_eq!([*settings.of(&of_generation(1)), *first, *second], [1, 1, 2]);
        let in_use = || settings.in_use().into_iter().map(|(it, value)| (it, *value));
        assert_eq!(in_use().collect::<Vec<_>>(), [(1, 1), (2, 2)]);
        let weak = Arc::downgrade(&first);
        drop(first);
        assert_eq!(weak.strong_count(), 0, "nobody holds it");
        assert_eq!(in_use().collect::<Vec<_>>(), [(2, 2)]);
    }

    #[test]
    fn a_version_that_comes_back_sees_the_files_of_the_generation_that_serves() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("number");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        let theirs = file.clone();
        let read = move || -> Result<u32, Box<dyn std::error::Error + Send + Sync>> {
            Ok(String::from_utf8(crate::read_to_start(&theirs)?)?.parse()?)
        };
        let seen = || {
            let files = start_files::read_so_far().0;
            let found = files.into_iter().find(|found| *found.path == *file.as_os_str());
            String::from_utf8(found.unwrap().bytes).unwrap()
        };
        write("1");
        let settings = Settings::new(read().unwrap(), move |_| read());
        let next = |generation| settings.0.clone().make().map(|made| made(generation));
        write("none");
        next(2).unwrap_err();
        assert_eq!(seen(), "1", "the reload was refused");
        write("2");
        next(2).unwrap();
        assert_eq!(seen(), "1", "it is tried");
        settings.0.settle(1);
        assert_eq!(seen(), "1", "it was rolled back");
        next(2).unwrap();
        settings.0.settle(2);
        assert_eq!((seen().as_str(), *settings.current()), ("2", 2));
    }

    #[test]
    fn a_value_of_the_version_before_is_dropped_when_this_one_serves() {
        let settings = Settings::new(3, |now: &u32| Ok::<_, Error>(now + 1));
        let settings = settings.with_earlier(1, 10).with_earlier(2, 20);
        let held = settings.of(&of_generation(2));
        assert_eq!((*held, *settings.of(&of_generation(3))), (20, 3));
        // As at the end of an upgrade.
        settings.0.settle(3);
        let in_use: Vec<_> =
            settings.in_use().into_iter().map(|(it, value)| (it, *value)).collect();
        assert_eq!(in_use, [(2, 20), (3, 3)]);
    }
}
