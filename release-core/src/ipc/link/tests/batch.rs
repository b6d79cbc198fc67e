//! Requests that arrive together.

use std::future::{Ready, pending, ready};
use std::io::Write;
use std::sync::Mutex;

use super::*;
use crate::ipc::Codec;
use crate::ipc::limits::MAX_IN_FLIGHT;
use crate::ipc::wire::header::Header;
use crate::ipc::wire::outbox::Outbox;

fn frames<R>(requests: &[(Header, Option<R>)]) -> Vec<u8>
where
    Postcard: Codec<R>,
{
    let mut outbox = Outbox::new(u32::MAX);
    for (header, request) in requests {
        let pushed = outbox.push::<_, crate::ipc::FrameTooLong>(|payload| {
            header.write(payload);
            if let Some(request) = request {
                Postcard.encode(request, payload).unwrap();
            }
            Ok(())
        });
        pushed.unwrap();
    }
    outbox.unsent().to_vec()
}

fn request<R>(number: u32, request: R) -> (Header, Option<R>) {
    (Header::Request { number, timeout: None }, Some(request))
}

async fn until(rt: &Rt, is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            crate::rt::give_way().await;
        }
    };
    within(rt, so).await;
}

#[test]
fn a_cancelled_request_makes_room_for_another_one_behind_it() {
    on_local(async |rt| {
        let (here, mut there) = UnixStream::pair().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let side = Side::new(&rt, link(&rt, here), move |ask| {
            noted.lock().unwrap().push(ask.number);
            pending()
        });
        let most = u32::try_from(MAX_IN_FLIGHT).unwrap();
        let mut all: Vec<_> = (0..most).map(|number| request(number, Ask::new(number))).collect();
        for number in 0..3 {
            all.push((Header::Cancel { number }, None));
            all.push(request(most + number, Ask::new(most + number)));
        }
        there.write_all(&frames(&all)).unwrap();
        until(&rt, || seen.lock().unwrap().len() == MAX_IN_FLIGHT + 3).await;
        assert!(seen.lock().unwrap().iter().copied().eq(0..most + 3));
        assert!(side.link.ended().is_none());
        there.write_all(&frames(&[request(most + 3, Ask::new(0))])).unwrap();
        until(&rt, || side.link.ended().is_some()).await;
        assert!(side.link.ended().unwrap().to_string().contains("unanswered"));
    });
}

#[test]
fn what_is_behind_a_forbidden_request_is_not_handled() {
    on_local(async |rt| {
        let (here, mut there) = UnixStream::pair().unwrap();
        let link = Arc::new(link(&rt, here));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let guard = move |ask: Ask| -> Result<Ready<Result<u32, Refused>>, &'static str> {
            noted.lock().unwrap().push(ask.number);
            if ask.number == 1 { Err("forbidden") } else { Ok(ready(Ok(0))) }
        };
        let serving = rt.spawn(serve(Arc::clone(&link), Postcard, guard, |_| {}));
        let all: Vec<_> = (0..5).map(|number| request(number, Ask::new(number))).collect();
        there.write_all(&frames(&all)).unwrap();
        assert!(within(&rt, serving).await.to_string().contains("forbidden"));
        assert_eq!(*seen.lock().unwrap(), [0, 1]);
    });
}

#[test]
fn no_more_is_answered_than_there_is_room_for() {
    on_local(async |rt| {
        let (here, mut there) = UnixStream::pair().unwrap();
        let link = Arc::new(link(&rt, here));
        let count = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&count);
        let answer = move |_: String| {
            *counted.lock().unwrap() += 1;
            Ok(ready(Ok("x".repeat(limits().unsent))))
        };
        let _serving = rt.spawn(serve(Arc::clone(&link), Postcard, answer, |_| {}));
        let all: Vec<_> = (0..50).map(|number| request(number, String::new())).collect();
        there.write_all(&frames(&all)).unwrap();
        until(&rt, || link.deadline().is_some()).await;
        for _ in 0..20 {
            crate::rt::give_way().await;
        }
        // One is partly sent, and one is over the limit.
        assert!((1..=3).contains(&*count.lock().unwrap()), "{}", count.lock().unwrap());
    });
}
