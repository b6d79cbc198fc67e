//! Messages without an answer that follow each other closely.

use std::io::Read;
use std::time::Instant;

use super::*;
use crate::rt::give_way;

/// Sends a message as if the last one had been sent just now, on the slowest machine.
fn notify_in_a_row(side: &Side, message: &Ask) {
    side.link.lock().last_notice = Some(Instant::now() + Duration::from_secs(3600));
    side.peer.notify(message).unwrap();
}

fn queued(side: &Side) -> usize {
    side.link.lock().outbox.unsent().len()
}

#[test]
fn one_is_sent_at_once_and_several_together() {
    on_local(async |rt| {
        let (here, mut there) = UnixStream::pair().unwrap();
        let side = Side::new(&rt, link(&rt, here), |ask| async move { Ok(ask.number) });
        side.peer.notify(Ask::new(1)).unwrap();
        assert_eq!(queued(&side), 0);
        for _ in 0..10 {
            notify_in_a_row(&side, &Ask::new(1));
        }
        let ten = queued(&side);
        let sent = async {
            while queued(&side) > 0 {
                give_way().await;
            }
        };
        within(&rt, sent).await;
        let large = Ask { filling: vec![7; 70_000], ..Ask::new(1) };
        notify_in_a_row(&side, &large);
        assert_eq!(queued(&side), 0, "much is sent at once");
        notify_in_a_row(&side, &Ask::new(1));
        assert_eq!(queued(&side), ten / 10);
        side.link.end(Ended::Here);
        let mut all = Vec::new();
        there.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), ten / 10 * 13 + 70_000 + 2, "the last one is sent before the end");
    });
}
