//! The requests of a worker's library to its master, of all kinds.

use std::sync::Arc;

use super::channels::{ChannelMembership, Channels};
use super::hand_on::{HandOn, Membership};
use super::worker_info::WorkerInfo;
use crate::ipc::link::Link;
use crate::ipc::service::{HandOnRefusal, ServiceAnswer, ServiceRequest, reply};

/// The services of the master for the libraries of a group's workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupServices {
    /// The connections that they hand on to each other.
    pub(crate) hand_on: Option<Arc<HandOn>>,
    /// Their channels to workers of other groups.
    pub(crate) channels: Option<Arc<Channels>>,
}

/// The requests of a connected process.
pub(crate) struct ServiceMembership {
    link: Arc<Link>,
    hand_on: Option<Membership>,
    channels: Option<ChannelMembership>,
}

impl GroupServices {
    /// Adds a connected process, for as long as the result lives.
    pub(crate) fn connected(self, worker: &WorkerInfo, link: &Arc<Link>) -> ServiceMembership {
        // A connection that an earlier version has made may not carry them.
        let hand_on = self.hand_on.filter(|_| link.limits().hands_on);
        let hand_on = hand_on.map(|hand_on| hand_on.connected(worker, link));
        let channels = self.channels.map(|channels| channels.connected(worker, link));
        ServiceMembership { link: Arc::clone(link), hand_on, channels }
    }
}

impl ServiceMembership {
    /// Handles a request of the process.
    pub(crate) fn asked(&self, number: u32, request: ServiceRequest) {
        let rt = self.link.rt();
        let refusal = match (request, &self.channels, &self.hand_on) {
            (ServiceRequest::Channel(request), Some(channels), _) => {
                return channels.asked(rt, number, request);
            }
            (ServiceRequest::Channel(_), None, _) => ServiceAnswer::NoChannel,
            (request, _, Some(hand_on)) => return hand_on.asked(rt, number, request),
            (_, _, None) => ServiceAnswer::Refused(HandOnRefusal::Off),
        };
        // An ended connection needs no answer.
        let _ = reply(&self.link, number, &refusal);
    }

    /// The process no longer waits for the answer to this request.
    pub(crate) fn cancelled(&self, number: u32) {
        self.hand_on.iter().for_each(|member| member.cancelled(number));
        self.channels.iter().for_each(|member| member.cancelled(number));
    }
}
