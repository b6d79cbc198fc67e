//! The greeting: the first frame of a connection in call mode, from the master to its worker.

use std::any::type_name;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::codec::{Codec, Postcard, Request};
use super::limits::Limits;
use super::shape::{Difference, Rule, Shape};
use crate::{Error, ErrorKind};

/// The version of the protocol. It changes when master and worker of two versions are incompatible.
pub(crate) const PROTOCOL: u16 = 3;

/// The identity of a worker and its resources.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) worker: u32,
    pub(crate) generation: u32,
    pub(crate) group: String,
    pub(crate) agreed: Agreed,
    /// The names of the listening sockets, which are descriptors 3, 4, ... of the new process.
    pub(crate) listeners: Vec<String>,
    /// Set if both sides are the same executable. The types must then be equal.
    pub(crate) types: Option<Box<Types>>,
    pub(crate) context: Vec<u8>,
}

impl Hello {
    /// Decodes a greeting. Reads the version first, because the rest depends on it.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, String> {
        match postcard::take_from_bytes::<u16>(body) {
            Ok((PROTOCOL, _)) => Postcard.decode(body).map_err(|error| error.to_string()),
            Ok((theirs, _)) => Err(format!("it speaks protocol {theirs}, this worker {PROTOCOL}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The settings of a connection that must be equal on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agreed {
    frame_limit: u32,
    descriptors: usize,
}

impl Agreed {
    pub(crate) fn of(limits: Limits) -> Self {
        Self { frame_limit: limits.frame, descriptors: limits.descriptors }
    }

    /// Returns a description of the first difference.
    pub(crate) fn mismatch(&self, here: &Self) -> Option<String> {
        let pairs = [
            ("frame_limit", u64::from(self.frame_limit), u64::from(here.frame_limit)),
            ("descriptors", self.descriptors as u64, here.descriptors as u64),
        ];
        let (what, sent, here) = pairs.into_iter().find(|(_, sent, here)| sent != here)?;
        Some(format!(
            "`{what}`: the master has {sent} (`Workers::{what}`), this worker {here} \
             (`Worker::{what}`)"
        ))
    }
}

/// The message types of a connection. Different types are an error at the start, instead of wrong
/// values later.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Types {
    pub(crate) context: Message,
    pub(crate) to_master: Exchange,
    pub(crate) to_worker: Exchange,
}

/// The type of a message: its name, and the known part of its shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Message {
    name: String,
    shape: Shape,
    /// The reason why the codec does not support it.
    #[serde(skip)]
    refusal: Option<String>,
}

/// The types of a request and its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Exchange {
    request: Message,
    answer: Message,
}

impl Exchange {
    pub(crate) fn of<R, C>(codec: &C) -> Self
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
    {
        Self { request: Message::of::<R>(codec), answer: Message::of::<R::Response>(codec) }
    }

    fn none() -> Self {
        Self { request: Message::of::<()>(&Postcard), answer: Message::of::<()>(&Postcard) }
    }

    /// Returns an error if the codec does not support both types.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.request.check("requests")?;
        self.answer.check("answers")
    }
}

impl Message {
    pub(crate) fn of<T>(codec: &impl Codec<T>) -> Self {
        let name = type_name::<T>().to_owned();
        let (shape, refusal) = match codec.shape() {
            Ok(shape) => (shape, None),
            Err(error) => (Shape::unknown(), Some(error.to_string())),
        };
        Self { name, shape, refusal }
    }

    /// Returns the difference between this version and an old one. Names are compared only if a
    /// shape is unknown, because a type may move to another module.
    pub(crate) fn difference(&self, old: &Self, rule: Rule) -> Option<Difference> {
        if self.shape.is_known() && old.shape.is_known() {
            return self.shape.difference(&old.shape, rule);
        }
        (self.name != old.name).then(|| Difference {
            place: "the type".to_owned(),
            old: format!("`{}`", old.name),
            new: format!("`{}`", self.name),
            how: "",
        })
    }

    /// Returns an error if the codec does not support the type.
    pub(crate) fn check(&self, what: &str) -> Result<(), Error> {
        let Some(refusal) = &self.refusal else { return Ok(()) };
        Err(Error::new(ErrorKind::Usage, format!("{what}: {refusal}")))
    }

    /// Logs a warning if differences to other versions of the type cannot be detected.
    fn tell_gap(&self, what: &str) {
        if let Some(why) = self.shape.gap() {
            log_warning!(
                r#type = self.name,
                why,
                "{what}: a part of the type cannot be compared with that of another version; see \
                 `Codec::shape`"
            );
        }
    }

    /// Decodes a value of this type that another version of the program has left.
    pub(crate) fn read<T: Serialize + DeserializeOwned>(
        &self,
        old: &Self,
        bytes: &[u8],
    ) -> Result<T, Error> {
        let refuse = |why: String| Error::new(ErrorKind::Change, why);
        if let Some(difference) = self.difference(old, Rule::MoreAtTheEnd) {
            let Difference { place, old, new, .. } = difference;
            let message =
                format!("the version before has left another type: {place} is {old}, here {new}");
            return Err(refuse(message));
        }
        Postcard.decode(bytes).map_err(|error| {
            let message = format!("what the version before has left is no `{}`", self.name);
            refuse(message).caused_by(error)
        })
    }
}

/// The purposes of messages, and the permitted differences: the reader may know more variants than
/// the writer.
const USES: [(&str, Rule); 5] = [
    ("the context", Rule::Same),
    ("requests to the master", Rule::MoreAtTheEnd),
    ("answers of the master", Rule::Same),
    ("requests to the worker", Rule::Same),
    ("answers of the worker", Rule::MoreAtTheEnd),
];

impl Types {
    /// Creates the types of a worker with a context and without messages.
    pub(crate) fn of_context(context: Message) -> Self {
        Self { context, to_master: Exchange::none(), to_worker: Exchange::none() }
    }

    /// Returns the types with another context.
    pub(crate) fn with_context(&self, context: &Message) -> Self {
        Self { context: context.clone(), ..self.clone() }
    }

    /// Creates the types of a worker without messages.
    pub(crate) fn none() -> Self {
        Self::of_context(Message::of::<()>(&Postcard))
    }

    /// Creates the types of a connection. The context is always encoded as postcard.
    pub(crate) fn of<ToMaster, ToWorker, C>(context: Message, codec: &C) -> Self
    where
        ToMaster: Request,
        ToWorker: Request,
        C: Codec<ToMaster> + Codec<ToMaster::Response>,
        C: Codec<ToWorker> + Codec<ToWorker::Response>,
    {
        Self {
            context,
            to_master: Exchange::of::<ToMaster, C>(codec),
            to_worker: Exchange::of::<ToWorker, C>(codec),
        }
    }

    fn messages(&self) -> [&Message; 5] {
        let Self { context, to_master, to_worker } = self;
        [context, &to_master.request, &to_master.answer, &to_worker.request, &to_worker.answer]
    }

    /// Returns an error if the codec does not support all types.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.messages().into_iter().zip(USES).try_for_each(|(one, (what, _))| one.check(what))
    }

    /// Logs the types that are not completely known.
    pub(crate) fn tell_gaps(&self) {
        self.messages().into_iter().zip(USES).for_each(|(one, (what, _))| one.tell_gap(what));
    }

    /// Returns the first difference between an old worker and a new master.
    fn first_difference(&self, old: &Self) -> Option<(&'static str, Difference)> {
        let pairs = self.messages().into_iter().zip(old.messages()).zip(USES);
        pairs.into_iter().find_map(|((new, old), (what, rule))| {
            new.difference(old, rule).map(|difference| (what, difference))
        })
    }

    /// Returns a description of the first difference between a new master and its running workers.
    /// Contexts are not compared, because the workers already have them.
    pub(crate) fn difference(&self, running: &Self) -> Option<String> {
        let new = self.with_context(&running.context);
        let (what, Difference { place, old, new, how }) = new.first_difference(running)?;
        let how = if how.is_empty() { String::new() } else { format!(" ({how})") };
        Some(format!("{what}: {place} is {old} in running workers, {new} in the new version{how}"))
    }

    /// Returns a description of the first difference between the master and this worker.
    pub(crate) fn mismatch(&self, expected: &Self) -> Option<String> {
        let (what, Difference { place, old, new, .. }) = self.first_difference(expected)?;
        Some(format!("{what}: {place} is {new} in the master, {old} in this worker"))
    }

    /// Removes the shapes, which may be long.
    pub(crate) fn names(mut self) -> Self {
        let Self { context, to_master, to_worker } = &mut self;
        for exchange in [to_master, to_worker] {
            exchange.request.shape = Shape::unknown();
            exchange.answer.shape = Shape::unknown();
        }
        context.shape = Shape::unknown();
        self
    }
}
