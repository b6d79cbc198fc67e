//! The greeting: the first frame of a connection in call mode, from the master to its worker.

use std::any::type_name;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::codec::{Codec, Postcard, Request};
use super::format::CodecError;
use super::limits::Limits;
use super::shape::{Difference, Rule, Shape};
use crate::{Error, ErrorKind};

/// The version of the protocol. It changes when master and worker of two versions are incompatible.
pub(crate) const PROTOCOL: u16 = 3;

/// The name of the memory for metrics among the listening sockets, as which earlier versions take it. No
/// listener has such a name.
pub(crate) const METRICS: &str = "\0metrics";

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
    pub(crate) context: MessageType,
    pub(crate) to_master: Exchange,
    pub(crate) to_worker: Exchange,
}

/// The type of a message: its name, and the known part of its shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MessageType {
    name: String,
    shape: Shape,
    /// The reason why the codec does not support it.
    #[serde(skip)]
    refusal: Option<String>,
}

/// The types of a request and its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Exchange {
    request: MessageType,
    answer: MessageType,
    /// Whether a variant of the answers belongs to each variant of the requests.
    #[serde(skip)]
    paired: bool,
}

impl Exchange {
    pub(crate) fn of<R, C>(codec: &C) -> Self
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
    {
        let (request, answer) =
            (MessageType::of::<R>(codec), MessageType::of::<R::Response>(codec));
        Self { request, answer, paired: R::PAIRED }
    }

    fn none() -> Self {
        let (request, answer) =
            (MessageType::of::<()>(&Postcard), MessageType::of::<()>(&Postcard));
        Self { request, answer, paired: false }
    }

    /// Returns an error if the codec does not support both types.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.request.check("requests")?;
        self.answer.check("answers")
    }

    /// Returns the encoded types: their names alone if they would be longer than `most` bytes.
    pub(crate) fn encoded(&self, most: usize) -> Result<Vec<u8>, CodecError> {
        let encode = |types: &Self| {
            let mut bytes = Vec::new();
            Postcard.encode(types, &mut bytes).map(|()| bytes)
        };
        let bytes = encode(self)?;
        if bytes.len() <= most {
            return Ok(bytes);
        }
        let (request, answer) = (self.request.clone().name(), self.answer.clone().name());
        encode(&Self { request, answer, paired: self.paired })
    }

    /// Returns a description of the first difference between these types of a caller and those of a
    /// worker that answers. Either of them may have more requests at the end, which the other does not
    /// understand.
    pub(crate) fn mismatch(&self, answering: &Self) -> Option<String> {
        let (here, there) = (self, answering);
        let request = here.request.difference(&there.request, Rule::MoreAtTheEnd);
        let request = request.filter(|_| there.request.new_to(&here.request).is_some());
        // This process does not send the requests of the other answers.
        let reads_its_own =
            || here.paired && there.answer.difference(&here.answer, Rule::MoreVariants).is_none();
        let answer = || here.answer.difference(&there.answer, Rule::MoreAtTheEnd);
        let differs = request.or_else(|| answer().filter(|_| !reads_its_own()));
        let Difference { place, old, new, .. } = differs?;
        Some(format!("{place} is {new} in this worker, {old} in the one that answers"))
    }
}

impl MessageType {
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

    /// Returns the type without its shape, which may be long.
    pub(crate) fn name(self) -> Self {
        Self { shape: Shape::unknown(), ..self }
    }

    /// Returns the type under another name.
    pub(crate) fn renamed(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// Returns a description of the difference if the names differ.
    pub(crate) fn other_name(&self, old: &Self) -> Option<String> {
        let (new, old) = (&self.name, &old.name);
        (new != old).then(|| format!("{old} in this worker, {new} in those"))
    }

    /// Returns a description of the first difference that prevents this version from reading a value of
    /// an old one.
    pub(crate) fn new_to(&self, old: &Self) -> Option<String> {
        let Difference { place, old, new, .. } = self.difference(old, Rule::MoreAtTheEnd)?;
        Some(format!("{place} is {old} in this worker, {new} in those"))
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

const ANSWERS_OF_THE_MASTER: &str = "answers of the master";

/// The purposes of messages, and the permitted differences: the reader may know more variants than
/// the writer.
const USES: [(&str, Rule); 5] = [
    ("the context", Rule::Same),
    ("requests to the master", Rule::MoreAtTheEnd),
    (ANSWERS_OF_THE_MASTER, Rule::Same),
    ("requests to the worker", Rule::Same),
    ("answers of the worker", Rule::MoreAtTheEnd),
];

impl Types {
    /// Creates the types of a worker with a context and without messages.
    pub(crate) fn of_context(context: MessageType) -> Self {
        Self { context, to_master: Exchange::none(), to_worker: Exchange::none() }
    }

    /// Returns the types with another context.
    pub(crate) fn with_context(&self, context: &MessageType) -> Self {
        Self { context: context.clone(), ..self.clone() }
    }

    /// Creates the types of a worker without messages.
    pub(crate) fn none() -> Self {
        Self::of_context(MessageType::of::<()>(&Postcard))
    }

    /// Creates the types of a connection. The context is always encoded as postcard.
    pub(crate) fn of<ToMaster, ToWorker, C>(context: MessageType, codec: &C) -> Self
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

    fn messages(&self) -> [&MessageType; 5] {
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
        let paired = self.to_master.paired || old.to_master.paired;
        let pairs = self.messages().into_iter().zip(old.messages()).zip(USES);
        pairs.into_iter().find_map(|((new, old), (what, rule))| {
            // An old worker has no request for the other answers.
            let more = paired && what == ANSWERS_OF_THE_MASTER;
            let rule = if more { Rule::MoreVariants } else { rule };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::Never;

    /// A version of the messages, in a module of its own.
    macro_rules! version {
        ($version:ident, $paired:literal, $ask:item $answer:item) => {
            mod $version {
                use serde::{Deserialize, Serialize};

                #[derive(Serialize, Deserialize)]
                $ask
                #[derive(Serialize, Deserialize)]
                $answer

                impl crate::ipc::Request for Ask {
                    type Response = Answer;
                    const PAIRED: bool = $paired;
                }
            }
        };
    }

    version! { one, true, pub(super) enum Ask { Touch } pub(super) enum Answer { Touch(bool) } }
    version! {
        two, true,
        pub(super) enum Ask { Touch, Read }
        pub(super) enum Answer { Touch(bool), Read(String) }
    }
    version! {
        other, true,
        pub(super) enum Ask { Read, Touch }
        pub(super) enum Answer { Read(String), Touch(bool) }
    }
    version! {
        nested, true,
        pub(super) enum Ask { Touch }
        pub(super) enum Answer { Touch(Option<super::More>) }
    }
    version! {
        unpaired, false,
        pub(super) enum Ask { Touch, Read }
        pub(super) enum Answer { Touch(bool), Read(String) }
    }

    version! { short, false, pub(super) enum Ask { Touch } pub(super) enum Answer { Touch(bool) } }

    #[derive(Serialize, Deserialize)]
    enum More {
        No,
    }

    fn types<R: Request>() -> Types
    where
        Postcard: Codec<R> + Codec<R::Response>,
    {
        Types::of::<R, Never, _>(MessageType::of::<()>(&Postcard), &Postcard)
    }

    /// The types as another process receives them.
    fn sent(types: &Types) -> Types {
        let mut bytes = Vec::new();
        Postcard.encode(types, &mut bytes).expect("bytes");
        Postcard.decode(&bytes).expect("types")
    }

    #[test]
    fn a_caller_reads_all_answers_and_may_have_other_requests_at_the_end() {
        fn differs<Here: Request, There: Request>() -> Option<String>
        where
            Postcard: Codec<Here> + Codec<Here::Response> + Codec<There> + Codec<There::Response>,
        {
            let there = Exchange::of::<There, _>(&Postcard).encoded(1 << 14).expect("bytes");
            let there = Postcard.decode(&there).expect("types");
            Exchange::of::<Here, _>(&Postcard).mismatch(&there)
        }
        assert_eq!(differs::<one::Ask, one::Ask>(), None);
        assert_eq!(differs::<one::Ask, two::Ask>(), None);
        assert_eq!(differs::<two::Ask, one::Ask>(), None);
        assert_eq!(differs::<unpaired::Ask, short::Ask>(), None, "it reads more");
        let answers =
            differs::<short::Ask, unpaired::Ask>().expect("an answer that it cannot read");
        assert!(answers.contains("`Answer`") && answers.contains("`Read`"), "{answers}");
        let requests = differs::<other::Ask, one::Ask>().expect("another order");
        assert!(requests.contains("variant 0 of `Ask`"), "{requests}");
        assert!(differs::<one::Ask, nested::Ask>().is_some());
        // Types that are too long are compared by their names.
        let bytes = Exchange::of::<one::Ask, _>(&Postcard).encoded(0).expect("bytes");
        let names: Exchange = Postcard.decode(&bytes).expect("types");
        assert_eq!(Exchange::of::<one::Ask, _>(&Postcard).mismatch(&names), None);
        assert!(Exchange::of::<two::Ask, _>(&Postcard).mismatch(&names).is_some());
    }

    #[test]
    fn a_paired_request_may_be_new_at_the_end() {
        let (one, two) = (types::<one::Ask>(), types::<two::Ask>());
        // In the trial of an upgrade, and in the greeting of another process of the old version.
        assert_eq!(two.difference(&sent(&one)), None);
        assert_eq!(sent(&two).mismatch(&one), None);
        assert!(one.difference(&sent(&two)).is_some(), "a request is missing");
        assert!(sent(&one).mismatch(&two).is_some(), "a request is missing");
        for (new, place) in [
            (types::<other::Ask>(), "requests to the master: variant 0 of `Ask`"),
            (types::<nested::Ask>(), "answers of the master: "),
        ] {
            let difference = new.difference(&sent(&one)).unwrap_or_default();
            assert!(difference.starts_with(place), "{difference}");
        }
        let unpaired = types::<unpaired::Ask>();
        let difference = unpaired.difference(&sent(&types::<unpaired::Ask>()));
        assert_eq!(difference, None);
        let difference = unpaired.difference(&{
            let mut old = sent(&one);
            old.to_master.request = unpaired.to_master.request.clone();
            old
        });
        assert!(difference.is_some_and(|text| text.starts_with("answers of the master: ")));
    }
}
