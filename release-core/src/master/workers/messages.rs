//! What master and workers say to each other: types, encoding and limits of the messages.

use super::Workers;
use crate::ipc::{Postcard, Request};
use crate::process::connections::Connections;

impl Workers {
    /// What the master may ask these workers, or tell them by a notice: see
    /// [`Workers::connections`]. Say this before [`answer`](Workers::answer) or
    /// [`plain`](Workers::plain).
    #[must_use]
    pub fn requests<W: Request>(self) -> Workers<W> {
        self.with_types(Postcard)
    }
}

impl<W, C> Workers<W, C> {
    /// Another codec than [`Postcard`]; workers of this library have the same setting,
    /// [`Worker::codec`](crate::Worker::codec). Say this before [`answer`](Workers::answer).
    ///
    /// Postcard does not write the names of fields and variants. Types that need them, with serde's
    /// `tag`, `untagged`, `flatten` or `skip_serializing_if`, need a format that has them, such as JSON.
    #[must_use]
    pub fn codec<D>(self, codec: D) -> Workers<W, D> {
        self.with_types(codec)
    }

    /// The longest message between master and workers, in bytes; 16 MiB by default. Workers of this
    /// library have the same setting: [`Worker::frame_limit`](crate::Worker::frame_limit).
    #[must_use]
    pub fn frame_limit(mut self, bytes: u32) -> Self {
        self.limits = self.limits.with_frame(bytes);
        self
    }

    /// Messages between master and workers may hold descriptors, of type
    /// [`Descriptor`](crate::ipc::Descriptor): so many each, at most 253, and so many in all
    /// unanswered requests of one side together, which further ones wait for. None by default.
    ///
    /// Workers of this library have the same setting,
    /// [`Worker::descriptors`](crate::Worker::descriptors). It is what a worker that turned hostile
    /// can make the master hold: the worker dies for one more, and for one where no message has a
    /// place for it. In plain mode there are never any.
    #[must_use]
    pub fn descriptors(mut self, most: u8) -> Self {
        self.limits = self.limits.with_descriptors(most);
        self
    }

    /// The connections to the running workers, for the master's own questions and broadcasts.
    #[must_use]
    pub fn connections(&self) -> Connections<W, C> {
        self.connections.clone()
    }
}
