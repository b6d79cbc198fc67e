//! The greeting: the first frame of a connection in call mode, from the master to its worker.

use std::any::type_name;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::codec::{Codec, Postcard, Request};
use super::limits::Limits;
use super::shape::{Difference, Rule, Shape};
use crate::{Error, ErrorKind};

/// Changes whenever master and worker of two versions could misunderstand each other.
pub(crate) const PROTOCOL: u16 = 3;

/// Who a worker is and what it gets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) worker: u32,
    pub(crate) generation: u32,
    pub(crate) group: String,
    pub(crate) agreed: Agreed,
    /// The names of the listening sockets, which are descriptors 3, 4, ... of the new process.
    pub(crate) listeners: Vec<String>,
    /// Set when both are the same executable, whose types must agree.
    pub(crate) types: Option<Box<Types>>,
    pub(crate) context: Vec<u8>,
}

impl Hello {
    /// The version comes first: what follows it in another one is not known here.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, String> {
        match postcard::take_from_bytes::<u16>(body) {
            Ok((PROTOCOL, _)) => Postcard.decode(body).map_err(|error| error.to_string()),
            Ok((theirs, _)) => Err(format!("it speaks protocol {theirs}, this worker {PROTOCOL}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The settings of a connection that both sides must have alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agreed {
    frame_limit: u32,
    descriptors: usize,
}

impl Agreed {
    pub(crate) fn of(limits: Limits) -> Self {
        Self { frame_limit: limits.frame, descriptors: limits.descriptors }
    }

    /// What differs, in words; `None` when nothing does.
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

/// The message types of a connection, so that a mix-up is an error at the start and not a
/// misunderstanding later.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Types {
    pub(crate) context: Message,
    pub(crate) to_master: Exchange,
    pub(crate) to_worker: Exchange,
}

/// The type of a message: its name, and its shape as far as it is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Message {
    name: String,
    shape: Shape,
    /// Why the codec does not carry it.
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

    /// That the codec carries both.
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

    /// How this version differs from an old one. Names are compared where shapes are not known:
    /// a type may move from one module to another.
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

    /// An error for a type that its codec does not carry.
    pub(crate) fn check(&self, what: &str) -> Result<(), Error> {
        let Some(refusal) = &self.refusal else { return Ok(()) };
        Err(Error::new(ErrorKind::Usage, format!("{what}: {refusal}")))
    }

    /// Says when another version of the type may differ from this one without being found out.
    fn tell_gap(&self, what: &str) {
        if let Some(why) = self.shape.gap() {
            tracing::warn!(
                r#type = self.name,
                why,
                "{what}: a part of the type cannot be compared with that of another version; see \
                 `Codec::shape`"
            );
        }
    }

    /// What another version of the program has left as this type.
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

/// What messages are for, and what may differ in them: a version may read more than another one
/// writes.
const USES: [(&str, Rule); 5] = [
    ("the context", Rule::Same),
    ("requests to the master", Rule::MoreAtTheEnd),
    ("answers of the master", Rule::Same),
    ("requests to the worker", Rule::Same),
    ("answers of the worker", Rule::MoreAtTheEnd),
];

impl Types {
    /// Those of a worker with such a context; the connection knows the others.
    pub(crate) fn of_context(context: Message) -> Self {
        Self { context, to_master: Exchange::none(), to_worker: Exchange::none() }
    }

    /// The same with a context, which the connection does not know.
    pub(crate) fn with_context(&self, context: &Message) -> Self {
        Self { context: context.clone(), ..self.clone() }
    }

    /// No messages.
    pub(crate) fn none() -> Self {
        Self::of_context(Message::of::<()>(&Postcard))
    }

    /// Those of a connection; the worker's context is encoded as postcard, whatever the codec.
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

    /// That the codec carries them all.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.messages().into_iter().zip(USES).try_for_each(|(one, (what, _))| one.check(what))
    }

    /// Says in the log which of them are not known as a whole.
    pub(crate) fn tell_gaps(&self) {
        self.messages().into_iter().zip(USES).for_each(|(one, (what, _))| one.tell_gap(what));
    }

    /// What a worker of an old version and a master of a new one have differently, first of all.
    fn first_difference(&self, old: &Self) -> Option<(&'static str, Difference)> {
        let pairs = self.messages().into_iter().zip(old.messages()).zip(USES);
        pairs.into_iter().find_map(|((new, old), (what, rule))| {
            new.difference(old, rule).map(|difference| (what, difference))
        })
    }

    /// What the new version of a master does not have as its running workers do; their contexts
    /// have been given to them.
    pub(crate) fn difference(&self, running: &Self) -> Option<String> {
        let new = self.with_context(&running.context);
        let (what, Difference { place, old, new, how }) = new.first_difference(running)?;
        let how = if how.is_empty() { String::new() } else { format!(" ({how})") };
        Some(format!("{what}: {place} is {old} in running workers, {new} in the new version{how}"))
    }

    /// What the master has otherwise than this worker expects; `None` when nothing matters.
    pub(crate) fn mismatch(&self, expected: &Self) -> Option<String> {
        let (what, Difference { place, old, new, .. }) = self.first_difference(expected)?;
        Some(format!("{what}: {place} is {new} in the master, {old} in this worker"))
    }

    /// The same without shapes, which may be long.
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
