//! Requests with a response type each, on one connection.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use release_core::ipc::{
    CallError, Ended, Never, OneOf, Peer, Postcard, Refused, Request, connect,
};
use release_core::requests;
use release_core::rt::{Rt, Task};
use release_tests::{on_every_backend, run_on};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Length(String);

#[derive(Serialize, Deserialize)]
struct Halves {
    text: String,
}

#[derive(Serialize, Deserialize)]
struct Forget;

requests! {
    #[derive(Serialize, Deserialize)]
    enum Ask {
        Length(Length) -> usize,
        Halves(Halves) -> (String, String),
        Forget(Forget) -> (),
    }
    #[derive(Debug, Serialize, Deserialize)]
    enum Answer;
}

/// What a program of another version has in the place of `Ask`.
#[derive(Serialize, Deserialize)]
struct Number(u8);

impl Request for Number {
    type Response = u8;
}

/// Answers, and counts what it is to forget.
async fn answer(ask: Ask, forgotten: Arc<AtomicUsize>) -> Result<Answer, Refused> {
    match ask {
        Ask::Length(it) => it.respond(async |Length(text)| Ok(text.len())).await,
        Ask::Halves(it) => it.respond(halves).await,
        Ask::Forget(it) => {
            forgotten.fetch_add(1, Ordering::Relaxed);
            it.respond(async |Forget| Ok(())).await
        }
    }
}

async fn halves(Halves { text }: Halves) -> Result<(String, String), Refused> {
    let (first, second) = text.split_at_checked(text.len() / 2).ok_or("not in the middle of é")?;
    Ok((first.to_owned(), second.to_owned()))
}

/// A peer that answers with this handler.
fn peer<Q, R, H, F>(rt: &Rt, handler: H) -> (Peer<Q>, [Task<Ended>; 2])
where
    Q: Request + Serialize + serde::de::DeserializeOwned,
    Q::Response: Serialize + serde::de::DeserializeOwned,
    R: Request + Serialize + serde::de::DeserializeOwned,
    R::Response: Serialize + serde::de::DeserializeOwned,
    H: Fn(R) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
{
    let start = || -> io::Result<_> {
        let (here, there) = UnixStream::pair()?;
        let (_, serving) = connect::<Never, R, _, _, _>(rt, there.into(), Postcard, handler)?;
        let never = |never: Never| async move { match never {} };
        let (peer, calling) = connect::<Q, Never, _, _, _>(rt, here.into(), Postcard, never)?;
        Ok((peer, [calling, serving]))
    };
    start().expect("a connection")
}

on_every_backend! {
    fn each_request_has_its_own_response(backend: Backend) {
        run_on(backend, |rt| async move {
            let forgotten = Arc::<AtomicUsize>::default();
            let count = Arc::clone(&forgotten);
            let (peer, _tasks) = peer::<Ask, Ask, _, _>(&rt, move |ask| answer(ask, Arc::clone(&count)));
            let length: usize = peer.call(Length("four".into())).await.expect("an answer");
            assert_eq!(length, 4);
            let (first, second) = peer.call(Halves { text: "four".into() }).await.expect("an answer");
            assert_eq!((first.as_str(), second.as_str()), ("fo", "ur"));
            // All requests together are a request, too, by value and by reference.
            let ask = Ask::Length(Length("four".into()));
            assert!(matches!(peer.call(&ask).await, Ok(Answer::Length(4))));
            assert!(matches!(peer.call(ask).await, Ok(Answer::Length(4))));
            peer.notify(Forget).expect("queued");
            peer.call(Forget).await.expect("an answer");
            assert_eq!(forgotten.load(Ordering::Relaxed), 2);
            let other = peer.clone();
            let blocking = move || other.blocking_call(Length("five!".into()));
            assert_eq!(rt.unblock(blocking).await.expect("a thread").expect("an answer"), 5);
            let refused = peer.call(Halves { text: "é".into() }).await;
            assert!(matches!(refused, Err(CallError::Refused(why)) if why == "not in the middle of é"));
        });
    }

    fn a_response_to_another_request_is_an_error_of_its_own(backend: Backend) {
        run_on(backend, |rt| async move {
            let (peer, _tasks) = peer::<Ask, Ask, _, _>(&rt, async |_| Ok(Answer::Length(1)));
            let halves = peer.call(Halves { text: String::new() }).await;
            let error = halves.expect_err("of another request");
            assert!(matches!(&error, CallError::Codec(why)
                if why.to_string().contains("response to another request")), "{error:?}");
            assert_eq!(peer.call(Length(String::new())).await.expect("it goes on"), 1);
        });
    }

    fn what_is_not_understood_is_not_refused(backend: Backend) {
        run_on(backend, |rt| async move {
            let even = async |Number(number)| {
                if number % 2 == 1 { Err(Refused::new("odd")) } else { Ok(number) }
            };
            let (peer, _tasks) = peer::<String, Number, _, _>(&rt, even);
            let error = peer.call("two bytes".to_owned()).await.expect_err("no number");
            assert!(matches!(error, CallError::NotUnderstood(_)), "{error:?}");
            assert!(error.to_string().contains("does not understand the request"), "{error}");
            // An empty text is the number 0, and its answer is one again.
            assert_eq!(peer.call(String::new()).await.expect("it goes on"), "");
        });
    }
}
