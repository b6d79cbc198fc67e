//! Messages between master and workers: types, encoding and limits.

use super::Workers;
use crate::ipc::{Codec, Never, Postcard, Request};
use crate::jobs::Jobs;
use crate::process::connections::Connections;

impl Workers {
    /// Sets the type of the master's requests and notices to these workers: see
    /// [`Workers::connections`]. Call this before [`answer`](Workers::answer) or
    /// [`plain`](Workers::plain).
    #[must_use]
    pub fn requests<W: Request>(self) -> Workers<W> {
        self.with_types(Postcard)
    }
}

impl<W, C> Workers<W, C> {
    /// Sets another codec than [`Postcard`]; workers of this library need the same setting,
    /// [`Worker::codec`](crate::Worker::codec). Call this before [`answer`](Workers::answer).
    ///
    /// Postcard does not write the names of fields and variants. Types that need them, with serde's
    /// `tag`, `untagged`, `flatten` or `skip_serializing_if`, need a format with names, such as JSON.
    #[must_use]
    pub fn codec<D>(self, codec: D) -> Workers<W, D> {
        self.with_types(codec)
    }

    /// Sets the maximum length of a message between master and workers, in bytes; 16 MiB by default.
    /// Workers of this library need the same setting:
    /// [`Worker::frame_limit`](crate::Worker::frame_limit).
    #[must_use]
    pub fn frame_limit(mut self, bytes: u32) -> Self {
        self.limits = self.limits.with_frame(bytes);
        self
    }

    /// Allows descriptors, of type [`Descriptor`](crate::ipc::Descriptor), in messages between master
    /// and workers: up to `most` in each message, at most 253, and as many in all unanswered requests
    /// of one side together; further requests wait. None are allowed by default.
    ///
    /// Workers of this library need the same setting,
    /// [`Worker::descriptors`](crate::Worker::descriptors). The limit bounds the descriptors that a
    /// compromised worker can make the master hold: the worker is killed for one more, and for one
    /// without a place in its message. Plain mode never has descriptors.
    #[must_use]
    pub fn descriptors(mut self, most: u8) -> Self {
        self.limits = self.limits.with_descriptors(most);
        self
    }

    /// Returns the connections to the running workers, for requests and broadcasts of the master.
    #[must_use]
    pub fn connections(&self) -> Connections<W, C> {
        self.connections.clone()
    }
}

impl<W, C> Workers<W, C>
where
    W: Request + Sync,
    C: Codec<W> + Codec<W::Response> + Codec<Never> + Codec<()>,
{
    /// Has these workers carry out the jobs of a pool. Call this after
    /// [`requests`](Workers::requests) and [`codec`](Workers::codec). Workers that send no requests
    /// need no [`answer`](Workers::answer) then.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::jobs::Jobs;
    ///
    /// let jobs = Jobs::<String>::new();
    /// let workers = Workers::same_executable("echo", 4).requests().jobs(&jobs);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn jobs<P: Send + 'static>(mut self, jobs: &Jobs<W, P>) -> Self {
        self.jobs = Some(jobs.attach(&self.connections));
        match self.attach {
            Some(_) => self,
            None => self.answer(|_, never: Never| async move { match never {} }),
        }
    }
}
