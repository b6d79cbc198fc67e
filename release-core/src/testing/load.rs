//! `Load`: clients that count every failure and repeat no request.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::TestFailure;
use super::program::DEADLINE;

/// Clients that send requests without a pause while a test reloads, upgrades or kills.
///
/// A request that fails is counted and not repeated: a test with [`lost_nothing`](Loaded::lost_nothing)
/// proves what your users see. Dropping the value stops the clients and waits for their current requests, so
/// give requests a time limit.
///
/// # Examples
///
/// ```
/// use std::net::{SocketAddr, TcpListener, TcpStream};
/// use release_core::testing::Load;
///
/// let server = TcpListener::bind("127.0.0.1:0")?;
/// let address = server.local_addr()?;
/// std::thread::spawn(move || server.incoming().for_each(drop));
/// // Four clients; each connects anew for each request.
/// let load = Load::start(4, move |_client| move || TcpStream::connect(address).map(drop));
/// load.wait_for(100)?;
/// // Here a test reloads the service.
/// load.wait_for(100)?;
/// assert!(load.stop().lost_nothing()? >= 200);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Load<T, E> {
    is_over: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Loaded<T, E>>>,
}

/// The results of a [`Load`], in the order of each client.
///
/// # Examples
///
/// ```
/// use release_core::testing::Load;
///
/// let load = Load::start(1, |_client| || Err::<(), _>("the service is away"));
/// load.wait_for(1).unwrap();
/// let loaded = load.stop();
/// assert!(loaded.answers.is_empty() && !loaded.failures.is_empty());
/// assert!(loaded.lost_nothing().unwrap_err().to_string().contains("the service is away"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded<T, E> {
    /// The answers.
    pub answers: Vec<T>,
    /// The errors of the requests that were lost.
    pub failures: Vec<E>,
}

impl<T: Send + 'static, E: Send + 'static> Load<T, E> {
    /// Starts so many clients, each on a thread of its own. `client` is called once for each of them with
    /// its number, and returns the function that sends one request and waits for its answer. What this
    /// function owns, such as a connection, is the client's.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{self, Read, Write};
    /// use std::net::TcpStream;
    /// use release_core::testing::Load;
    ///
    /// /// Sends one line and reads one byte, on a new connection if there is none.
    /// fn request(connection: &mut Option<TcpStream>) -> io::Result<u8> {
    ///     let stream = match connection.take() {
    ///         Some(stream) => stream,
    ///         None => TcpStream::connect("127.0.0.1:7777")?,
    ///     };
    ///     let (mut byte, mut stream) = ([0], connection.insert(stream));
    ///     stream.write_all(b"hello\n")?;
    ///     stream.read_exact(&mut byte)?;
    ///     Ok(byte[0])
    /// }
    ///
    /// let load = Load::start(8, |_client| {
    ///     let mut connection = None;
    ///     move || request(&mut connection)
    /// });
    /// # drop(load);
    /// ```
    pub fn start<R>(clients: usize, client: impl Fn(usize) -> R) -> Self
    where
        R: FnMut() -> Result<T, E> + Send + 'static,
    {
        let (is_over, made) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let start = |number| {
            let mut request = client(number);
            let (is_over, made) = (Arc::clone(&is_over), Arc::clone(&made));
            std::thread::spawn(move || {
                let mut loaded = Loaded { answers: Vec::new(), failures: Vec::new() };
                while !is_over.load(Ordering::Acquire) {
                    match request() {
                        Ok(answer) => loaded.answers.push(answer),
                        Err(error) => loaded.failures.push(error),
                    }
                    made.fetch_add(1, Ordering::Release);
                }
                loaded
            })
        };
        let clients = (0..clients).map(start).collect();
        Self { is_over, made, clients }
    }

    /// Returns the number of requests that were made so far, answered or lost.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Load;
    ///
    /// let load = Load::start(0, |_client| || Ok::<(), ()>(()));
    /// assert_eq!(load.made(), 0);
    /// ```
    #[must_use]
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Acquire)
    }

    /// Waits until the clients have made so many more requests: the load runs, or has gone on after a
    /// change.
    ///
    /// # Errors
    ///
    /// Returns an error if they have not within a minute.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Load;
    ///
    /// let load = Load::start(2, |_client| || Ok::<(), String>(()));
    /// load.wait_for(10)?;
    /// assert!(load.made() >= 10);
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn wait_for(&self, requests: usize) -> Result<(), TestFailure> {
        let (aim, deadline) = (self.made() + requests, Instant::now() + DEADLINE);
        while self.made() < aim {
            if self.clients.iter().all(JoinHandle::is_finished) {
                return Err(TestFailure::new("no client runs any more"));
            }
            if Instant::now() > deadline {
                let short = aim.saturating_sub(self.made());
                let message =
                    format!("{short} of {requests} requests were not made in {DEADLINE:?}");
                return Err(TestFailure::new(message));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Waits until each client has finished its current request, and returns the results.
    ///
    /// # Panics
    ///
    /// Panics if the function of a client has panicked.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Load;
    ///
    /// let load = Load::start(2, |client| move || Ok::<_, String>(client));
    /// load.wait_for(20)?;
    /// let loaded = load.stop();
    /// assert!(loaded.answers.len() >= 20);
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use = "it counts the requests that were lost"]
    pub fn stop(mut self) -> Loaded<T, E> {
        self.is_over.store(true, Ordering::Release);
        let mut all = Loaded { answers: Vec::new(), failures: Vec::new() };
        for client in std::mem::take(&mut self.clients) {
            match client.join() {
                Ok(one) => {
                    all.answers.extend(one.answers);
                    all.failures.extend(one.failures);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    }
}

impl<T, E> Drop for Load<T, E> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

impl<T, E: fmt::Debug> Loaded<T, E> {
    /// Returns the number of answered requests if none was lost.
    ///
    /// # Errors
    ///
    /// Returns an error with the first failures if a request was lost, or if none was made.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Loaded;
    ///
    /// let loaded = Loaded { answers: vec!["hello"], failures: Vec::<String>::new() };
    /// assert_eq!(loaded.lost_nothing()?, 1);
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn lost_nothing(&self) -> Result<usize, TestFailure> {
        const SHOWN: usize = 5;
        let (answered, lost) = (self.answers.len(), self.failures.len());
        if lost > 0 {
            let first = &self.failures[..lost.min(SHOWN)];
            let all = answered + lost;
            let message =
                format!("{lost} of {all} requests were lost, the first of them: {first:?}");
            return Err(TestFailure::new(message));
        }
        if answered == 0 {
            return Err(TestFailure::new("no request was made: `Load::wait_for` waits for some"));
        }
        Ok(answered)
    }
}
