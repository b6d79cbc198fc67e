//! What a worker asks its master about the connections that it hands on, and takes from other workers.

use std::any::type_name;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use serde::{Serialize, de::DeserializeOwned};

use crate::ipc::hello::MessageType;
use crate::ipc::link::Link;
use crate::ipc::service::{HandOnRefusal, LONGEST_TYPE, ServiceAnswer, ServiceRequest, ask};
use crate::ipc::{CallError, Codec, CodecError, Descriptor, Postcard};
use crate::stopping::Stopping;
use crate::{Error, ErrorKind};

/// The reason why a connection was not handed on. Returned by [`Me::hand_on`](crate::Me::hand_on).
///
/// # Examples
///
/// ```
/// use release_core::HandOnError;
///
/// fn may_try_again(error: &HandOnError) -> bool {
///     matches!(error, HandOnError::Full)
/// }
/// # assert!(may_try_again(&HandOnError::Full));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum HandOnError {
    /// The group hands no connections on: the master has not called
    /// [`Workers::hand_on`](crate::Workers::hand_on).
    Off,
    /// The limits of [`Workers::hand_on`](crate::Workers::hand_on) are reached, or the master has no free
    /// descriptors. Try again later.
    Full,
    /// No other ready worker takes connections, or none has asked for this one within 5 seconds. The
    /// service may be shutting down.
    NoTaker,
    /// The workers that would take the connection have another type of state; with the first difference.
    OtherType(String),
    /// The master has gone, and may have passed the connection on before: it is closed here.
    Lost,
    /// The state cannot be sent, or the descriptor is no stream socket or cannot be duplicated.
    Failed(Error),
}

impl fmt::Display for HandOnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => HandOnRefusal::Off.fmt(f),
            Self::Full => HandOnRefusal::Full.fmt(f),
            Self::NoTaker => HandOnRefusal::NoTaker.fmt(f),
            Self::OtherType(difference) => {
                write!(f, "the new workers have another type of state: {difference}")
            }
            Self::Lost => f.write_str("the master has gone, and the connection is closed"),
            Self::Failed(_) => f.write_str("the connection cannot be sent to the master"),
        }
    }
}

impl std::error::Error for HandOnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// A connection that was not handed on, and the reason. Returned by [`Me::hand_on`](crate::Me::hand_on).
///
/// # Examples
///
/// ```
/// use release_core::net::Stream;
/// use release_core::{HandOnError, NotHandedOn};
///
/// /// Returns the connection if this worker should go on with it.
/// fn kept(refused: NotHandedOn<Stream>) -> Option<Stream> {
///     match refused.reason {
///         HandOnError::Lost => None,
///         _ => refused.connection,
///     }
/// }
/// # let _ = kept;
/// ```
#[non_exhaustive]
pub struct NotHandedOn<S> {
    /// The connection, unchanged. `None` only with [`HandOnError::Lost`].
    pub connection: Option<S>,
    /// The reason.
    pub reason: HandOnError,
}

impl<S> fmt::Debug for NotHandedOn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotHandedOn").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<S> fmt::Display for NotHandedOn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<S> std::error::Error for NotHandedOn<S> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.reason.source()
    }
}

/// The state and the descriptor of a connection that was taken, or the reason why there is none.
type Taken = Result<Option<(Vec<u8>, OwnedFd)>, CallError>;

type Taking = Pin<Box<dyn Future<Output = Taken> + Send>>;

/// Number of connections that a process hands on at a time. The others wait their turn here, and not in the
/// master.
const AT_ONCE: usize = 16;

/// The turns of the connections that wait to be handed on.
struct GiveTurns(Mutex<TurnQueue>);

struct TurnQueue {
    free: usize,
    waiting: VecDeque<oneshot::Sender<GiveTurn>>,
}

/// The turn of a connection. Dropping it passes it on.
struct GiveTurn(Option<Arc<GiveTurns>>);

impl Default for GiveTurns {
    fn default() -> Self {
        Self(Mutex::new(TurnQueue { free: AT_ONCE, waiting: VecDeque::new() }))
    }
}

impl GiveTurns {
    async fn next(self: &Arc<Self>) -> GiveTurn {
        let waiting = {
            let mut queue = self.lock();
            if queue.free > 0 {
                queue.free -= 1;
                None
            } else {
                let (give, turn) = oneshot::channel();
                queue.waiting.push_back(give);
                Some(turn)
            }
        };
        match waiting {
            None => GiveTurn(Some(Arc::clone(self))),
            // The queue lives as long as this borrow, so the turn comes.
            Some(turn) => turn.await.unwrap_or(GiveTurn(None)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, TurnQueue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for GiveTurn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        loop {
            let next = {
                let mut queue = turns.lock();
                let next = queue.waiting.pop_front();
                queue.free += usize::from(next.is_none());
                next
            };
            let Some(next) = next else { return };
            match next.send(Self(Some(Arc::clone(&turns)))) {
                Ok(()) => return,
                // Its task was dropped: the turn is the next one's.
                Err(mut unused) => unused.0 = None,
            }
        }
    }
}

/// What this process has told its master about the connections that it hands on.
#[derive(Default)]
pub(crate) struct HandOnClient {
    turns: Arc<GiveTurns>,
    types: Mutex<Option<StateType>>,
    /// Connections that were received, while the tasks that waited for them were dropped.
    taking: Mutex<VecDeque<Taking>>,
}

/// The type of the states of this process.
struct StateType {
    name: &'static str,
    /// The address that has accepted all connections, if only those of one address are handed on.
    listener: Option<String>,
    message: MessageType,
    /// The encoded type, and the one of the taking workers that it fits.
    takes: Vec<u8>,
    gives: Vec<u8>,
    is_declared: bool,
}

impl StateType {
    fn of<T: Serialize + DeserializeOwned>(listener: Option<&str>) -> Result<Self, Error> {
        let mut message = MessageType::of::<T>(&Postcard);
        if let Some(listener) = listener {
            message = message.renamed(format!("a connection of {listener}"));
        }
        message.check("the state of a connection")?;
        let mut takes = encoded(&message)?;
        if takes.len() > LONGEST_TYPE {
            // Only its name is compared.
            takes = encoded(&message.clone().name())?;
        }
        let name = type_name::<T>();
        let (listener, gives) = (listener.map(str::to_owned), takes.clone());
        Ok(Self { name, listener, message, gives, takes, is_declared: false })
    }

    /// Accepts the type of the taking workers if they can read this one.
    fn fit(&mut self, theirs: Vec<u8>) -> Result<(), HandOnError> {
        let decoded: MessageType = Postcard
            .decode(&theirs)
            .map_err(|_| HandOnError::OtherType("it cannot be read".to_owned()))?;
        let other_listener =
            || decoded.other_name(&self.message).filter(|_| self.listener.is_some());
        if let Some(words) = decoded.new_to(&self.message).or_else(other_listener) {
            return Err(HandOnError::OtherType(words));
        }
        (self.gives, self.is_declared) = (theirs, false);
        Ok(())
    }
}

fn encoded(message: &MessageType) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    Postcard.encode(message, &mut bytes).map_err(|error| {
        Error::new(ErrorKind::Usage, "the type of a state cannot be sent").caused_by(error)
    })?;
    Ok(bytes)
}

impl HandOnClient {
    /// Returns the request that declares the type, unless the master knows it.
    fn declaration<T: Serialize + DeserializeOwned>(
        &self,
        listener: Option<&str>,
    ) -> Result<Option<ServiceRequest>, Error> {
        let mut types = self.types();
        let known = match &mut *types {
            Some(known) => known,
            none => none.insert(StateType::of::<T>(listener)?),
        };
        if known.listener.as_deref() != listener {
            let message = "this worker hands on connections of one HTTP server already: only that one can, \
                           and `Me::hand_on` cannot be used beside it";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        if known.name != type_name::<T>() {
            let message = format!(
                "this worker hands connections on with a `{}` already: use one type, such as an enum, \
                 in place of another `{}`",
                known.name,
                type_name::<T>()
            );
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let (gives, takes) = (known.gives.clone(), known.takes.clone());
        Ok((!known.is_declared).then_some(ServiceRequest::Declare { gives, takes }))
    }

    /// Records whether the master knows the types.
    fn declared(&self, is_declared: bool) {
        if let Some(known) = &mut *self.types() {
            known.is_declared = is_declared;
        }
    }

    fn fit(&self, theirs: Vec<u8>) -> Result<(), HandOnError> {
        self.types().as_mut().map_or(Ok(()), |known| known.fit(theirs))
    }

    fn types(&self) -> MutexGuard<'_, Option<StateType>> {
        self.types.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn taking(&self) -> MutexGuard<'_, VecDeque<Taking>> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the master to hand a connection on, until it has decided.
    pub(super) async fn give<T: Serialize + DeserializeOwned>(
        &self,
        link: &Link,
        request: &ServiceRequest,
        listener: Option<&str>,
    ) -> Result<(), HandOnError> {
        let _turn = self.turns.next().await;
        loop {
            self.declare::<T>(link, listener).await?;
            if link.ended().is_some() {
                return Err(HandOnError::NoTaker);
            }
            match ask(link, request).await {
                Ok(ServiceAnswer::Done) => return Ok(()),
                Ok(ServiceAnswer::Again) => self.declared(false),
                Ok(ServiceAnswer::OtherType(theirs)) => self.fit(theirs)?,
                Ok(ServiceAnswer::Refused(why)) => return Err(why.into()),
                Ok(_) => return Err(HandOnRefusal::Wrong.into()),
                Err(CallError::Ended(_)) => return Err(HandOnError::Lost),
                Err(error) => return Err(HandOnError::Failed(not_sent(error))),
            }
        }
    }

    /// Tells the master the type of the states, unless it knows it.
    async fn declare<T: Serialize + DeserializeOwned>(
        &self,
        link: &Link,
        listener: Option<&str>,
    ) -> Result<(), HandOnError> {
        let declaration = self.declaration::<T>(listener).map_err(HandOnError::Failed)?;
        let Some(declaration) = declaration else { return Ok(()) };
        match ask(link, &declaration).await {
            Ok(ServiceAnswer::Done) => {
                self.declared(true);
                Ok(())
            }
            Ok(ServiceAnswer::Refused(why)) => Err(why.into()),
            Ok(_) => Err(HandOnRefusal::Wrong.into()),
            Err(error) => Err(HandOnError::Failed(not_sent(error))),
        }
    }

    /// Waits for the state and the descriptor of the next connection.
    pub(super) async fn take<T: Serialize + DeserializeOwned>(
        &self,
        link: &Arc<Link>,
        stopping: &Stopping,
        listener: Option<&str>,
    ) -> Result<Option<(Vec<u8>, OwnedFd)>, Error> {
        let failed = |error| Error::new(ErrorKind::Protocol, NO_MORE).caused_by(error);
        loop {
            let left = self.taking().pop_front();
            let taking = match left {
                Some(taking) => taking,
                None if stopping.is_stopping() => return Ok(None),
                None => {
                    self.declare::<T>(link, listener).await.map_err(no_taker)?;
                    let asking = std::pin::pin!(ask(link, &ServiceRequest::Take));
                    let answer = match select(asking, stopping.clone()).await {
                        Either::Left((Err(CallError::Codec(error)), _)) => {
                            not_arrived(link, &error).await;
                            continue;
                        }
                        Either::Left((answer, _)) => answer.map_err(failed)?,
                        Either::Right(_) => return Ok(None),
                    };
                    match answer {
                        ServiceAnswer::Connection { number, state, socket } => {
                            Box::pin(settle(Arc::clone(link), number, state, socket))
                        }
                        ServiceAnswer::Again => {
                            self.declared(false);
                            continue;
                        }
                        ServiceAnswer::Refused(why) => return Err(no_taker(why.into())),
                        _ => return Err(no_taker(HandOnRefusal::Wrong.into())),
                    }
                }
            };
            let taken = TakingTurn { client: self, taking: Some(taking) }.await.map_err(failed)?;
            if taken.is_some() {
                return Ok(taken);
            }
        }
    }
}

/// Waits for a connection that was received. If this is dropped, the next task waits for it.
struct TakingTurn<'a> {
    client: &'a HandOnClient,
    taking: Option<Taking>,
}

impl Future for TakingTurn<'_> {
    type Output = Taken;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Taken> {
        let Some(taking) = &mut self.taking else { return Poll::Pending };
        let taken = std::task::ready!(taking.as_mut().poll(cx));
        self.taking = None;
        Poll::Ready(taken)
    }
}

impl Drop for TakingTurn<'_> {
    fn drop(&mut self) {
        if let Some(taking) = self.taking.take() {
            self.client.taking().push_back(taking);
        }
    }
}

/// Asks the master whether this process may use the connection that it has received.
async fn settle(link: Arc<Link>, number: u64, state: Vec<u8>, socket: Descriptor) -> Taken {
    let answer = ask(&link, &ServiceRequest::Taken { number }).await?;
    let is_ours = matches!(answer, ServiceAnswer::Done);
    Ok(is_ours.then(|| (state, socket.into())))
}

/// A connection did not arrive, because this process has no free descriptors. The master offers it again
/// after a while.
async fn not_arrived(link: &Link, error: &CodecError) {
    let reason = crate::error::chain(error);
    log_warning!(reason, "a connection of another worker is not taken now");
    link.rt().sleep(ASK_AGAIN).await;
}

const ASK_AGAIN: Duration = Duration::from_secs(1);

const NO_MORE: &str = "no connections of other workers can be taken";

fn no_taker(error: HandOnError) -> Error {
    Error::new(ErrorKind::Protocol, NO_MORE).caused_by(error)
}

fn not_sent(error: CallError) -> Error {
    Error::new(ErrorKind::Protocol, "the master cannot be asked").caused_by(error)
}

impl From<HandOnRefusal> for HandOnError {
    fn from(why: HandOnRefusal) -> Self {
        match why {
            HandOnRefusal::Off => Self::Off,
            HandOnRefusal::Full => Self::Full,
            HandOnRefusal::NoTaker | HandOnRefusal::Gone => Self::NoTaker,
            HandOnRefusal::Wrong => {
                Self::Failed(Error::new(ErrorKind::Protocol, HandOnRefusal::Wrong.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    mod old {
        #[derive(serde::Serialize, serde::Deserialize)]
        pub(super) enum Session {
            Chat { user: String },
        }
    }

    mod new {
        #[derive(serde::Serialize, serde::Deserialize)]
        pub(super) enum Session {
            Chat { user: String },
            Game(u32),
        }
    }

    #[test]
    fn a_type_fits_one_with_more_variants_at_the_end_and_no_other() {
        let types = || (StateType::of::<old::Session>(None), StateType::of::<new::Session>(None));
        let (Ok(mut old), Ok(mut new)) = types() else { panic!("types") };
        let difference = new.fit(old.takes.clone()).expect_err("a variant is missing").to_string();
        assert!(difference.contains("`Session`"), "{difference}");
        assert!(new.gives == new.takes, "nothing has changed");
        old.is_declared = true;
        old.fit(new.takes.clone()).expect("it knows all variants");
        assert!(old.gives == new.takes && old.takes != new.takes && !old.is_declared);
        let unknown = old.fit(b"\xff".to_vec()).expect_err("no type").to_string();
        assert!(unknown.contains("cannot be read"), "{unknown}");
    }

    #[test]
    fn a_process_has_one_type() {
        let client = HandOnClient::default();
        assert!(client.declaration::<u32>(None).expect("a request").is_some());
        client.declared(true);
        assert!(client.declaration::<u32>(None).expect("no request").is_none());
        let error = client.declaration::<String>(None).expect_err("another type").report();
        assert!(error.contains("`u32` already") && error.contains("an enum"), "{error}");
    }
    #[test]
    fn connections_of_another_listener_do_not_fit() {
        let of = |listener| StateType::of::<u32>(listener).expect("a type");
        let (mut one, mut same) = (of(Some("127.0.0.1:1")), of(Some("127.0.0.1:1")));
        same.fit(one.takes.clone()).expect("the same address");
        for other in [Some("127.0.0.1:2"), None] {
            let difference = one.fit(of(other).takes).expect_err("another address").to_string();
            assert!(difference.contains("127.0.0.1:1 in this worker"), "{difference}");
        }
        let client = HandOnClient::default();
        assert!(client.declaration::<u32>(Some("127.0.0.1:1")).expect("a request").is_some());
        for other in [Some("127.0.0.1:2"), None] {
            let error = client.declaration::<u32>(other).expect_err("one server").report();
            assert!(error.contains("one HTTP server already"), "{error}");
        }
    }
}
