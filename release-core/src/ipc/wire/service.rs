//! The requests of a worker's library to its master, and their answers.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::descriptor::Descriptor;

/// Maximum length of an encoded type in a [`ServiceRequest::Declare`].
pub(crate) const LONGEST_TYPE: usize = 16 * 1024;

/// A request of a worker's library, beside those of the program.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ServiceRequest {
    /// The encoded types of the states that this process gives, and that it takes. The master only
    /// compares the bytes.
    Declare {
        gives: Vec<u8>,
        takes: Vec<u8>,
    },
    /// A connection for another worker. Answered when that worker has it.
    Give {
        state: Vec<u8>,
        socket: Descriptor,
    },
    /// Waits for a connection of another worker.
    Take,
    /// The worker has received the connection of this number, and asks whether it may use it.
    Taken {
        number: u64,
    },
    Channel(ChannelRequest),
    /// A connection that did not arrive, because the master has no free descriptors. Not sent.
    #[serde(skip)]
    NotArrived,
}

/// A request about the channels between workers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ChannelRequest {
    /// This process calls the workers of a group, and has channels to these already.
    Call { group: String, held: Vec<WorkerKey> },
    /// This process answers the calls of other workers, with these encoded types.
    Answer { types: Vec<u8> },
    /// Waits for the next change of this process's channels.
    Next,
    /// The channel to this worker has ended.
    Ended { worker: WorkerKey },
}

/// Id and pid of a worker's process.
pub(crate) type WorkerKey = (u32, i32);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ServiceAnswer {
    Done,
    /// Nothing was changed: the worker should declare its types and repeat the request.
    Again,
    Connection {
        number: u64,
        state: Vec<u8>,
        socket: Descriptor,
    },
    /// Nothing was changed: the workers that would take the connection have this type of state.
    OtherType(Vec<u8>),
    Refused(HandOnRefusal),
    Channel(ChannelChange),
    /// The process may not call that group, or its group has no channels.
    NoChannel,
}

/// A change of the channels of a process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ChannelChange {
    /// A worker of a group that this process calls, and the encoded types of its answers.
    Opened { group: String, worker: WorkerKey, types: Vec<u8>, socket: Descriptor },
    /// A worker calls this process.
    Accepted { group: String, generation: u32, caller: WorkerKey, socket: Descriptor },
    /// This worker gets no more calls.
    Leaving { worker: WorkerKey },
}

/// The reason why the master does not hand a connection on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HandOnRefusal {
    Off,
    Full,
    NoTaker,
    /// The connection of this number is not, or no longer, meant for this process.
    Gone,
    /// The request is wrong.
    Wrong,
}

impl fmt::Display for HandOnRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => {
                "the master hands no connections of this group on; call `Workers::hand_on` there"
            }
            Self::Full => {
                "as many connections as the group may have wait for another worker; try again, or \
                 raise the limits of `Workers::hand_on`"
            }
            Self::NoTaker => {
                "no other ready worker of the group takes connections; call `Me::handed_on` in it"
            }
            Self::Gone => "the connection was given to another worker",
            Self::Wrong => "the master does not understand the request",
        })
    }
}
