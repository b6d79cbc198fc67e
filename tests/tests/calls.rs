//! Call mode under random schedules: callers that give up never put the others out of step.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use futures_util::future::{join_all, poll_fn};
use proptest::prelude::*;
use release_core::ipc::{CallError, Peer, Postcard, Refused, Request, connect};
use release_core::rt::{Driver, Rt, run};
use serde::{Deserialize, Serialize};

/// A question whose answer tells whether it is the right one.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ask {
    number: u32,
    /// How long the handler takes.
    delay_us: u32,
    /// How long the answer is beyond the number.
    padding: usize,
    /// Whether the handler asks back over the same connection first.
    asks_back: bool,
}

impl Request for Ask {
    type Response = (u32, Vec<u8>);
}

/// What a caller does with its question.
#[derive(Clone, Debug)]
enum Manner {
    Patient,
    /// Gives up after so many microseconds.
    TimesOut(u64),
    /// Is dropped after so many polls.
    Dropped(u32),
    /// Sends it as a notice, which has no answer.
    Notice,
}

fn asks() -> impl Strategy<Value = Vec<(Ask, Manner)>> {
    let manner = prop_oneof![
        3 => Just(Manner::Patient),
        2 => (0_u64..3000).prop_map(Manner::TimesOut),
        2 => (0_u32..4).prop_map(Manner::Dropped),
        1 => Just(Manner::Notice),
    ];
    let padding = prop_oneof![4 => 0_usize..100, 1 => 0_usize..400_000];
    let ask = (any::<u32>(), 0_u32..2000, padding, any::<bool>());
    let ask = ask.prop_map(|(number, delay_us, padding, asks_back)| Ask {
        number,
        delay_us: if number % 3 == 0 { 0 } else { delay_us },
        padding,
        asks_back,
    });
    prop::collection::vec((ask, manner), 1..40)
}

fn right_answer(ask: &Ask) -> (u32, Vec<u8>) {
    (ask.number, vec![7; ask.padding])
}

async fn answer(rt: Rt, back: Option<Peer<Ask>>, ask: Ask) -> Result<(u32, Vec<u8>), Refused> {
    if ask.delay_us > 0 {
        rt.sleep(Duration::from_micros(ask.delay_us.into())).await;
    }
    if let (true, Some(back)) = (ask.asks_back, back) {
        let plain = Ask { asks_back: false, delay_us: 0, ..ask.clone() };
        back.call(&plain).await?;
    }
    Ok(right_answer(&ask))
}

async fn ask_so(rt: &Rt, peer: &Peer<Ask>, ask: &Ask, manner: &Manner) {
    match manner {
        Manner::Patient => assert_eq!(peer.call(ask).await.expect("answered"), right_answer(ask)),
        Manner::TimesOut(us) => match peer.call_within(Duration::from_micros(*us), ask).await {
            Ok(answer) => assert_eq!(answer, right_answer(ask)),
            Err(CallError::TimedOut) => {}
            Err(error) => panic!("{error}"),
        },
        Manner::Dropped(polls) => {
            let mut call = Box::pin(peer.call(ask));
            for _ in 0..*polls {
                let polled = poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx))).await;
                if polled.is_ready() {
                    return;
                }
                rt.sleep(Duration::from_micros(50)).await;
            }
        }
        Manner::Notice => peer.notify(ask).expect("sent"),
    }
}

/// Random callers from both sides at once, then a thousand calls that must all be right.
fn schedule<D: Driver>(
    driver: fn() -> io::Result<D>,
    here: &[(Ask, Manner)],
    there: &[(Ask, Manner)],
) {
    let driver = driver().expect("a runtime");
    run(&driver, async {
        let rt = driver.handle();
        let (first, second) = UnixStream::pair().expect("a socket pair");
        let clock = rt.clone();
        let first = connect::<Ask, Ask, _, _, _>(&rt, first.into(), Postcard, move |ask| {
            answer(clock.clone(), None, ask)
        });
        let (first, _serving_first) = first.expect("a connection");
        let (clock, cell) = (rt.clone(), std::sync::Arc::new(std::sync::OnceLock::new()));
        let back = std::sync::Arc::clone(&cell);
        let second = connect::<Ask, Ask, _, _, _>(&rt, second.into(), Postcard, move |ask| {
            answer(clock.clone(), back.get().cloned(), ask)
        });
        let (second, _serving_second) = second.expect("a connection");
        let _ = cell.set(second.clone());

        let ours = here.iter().map(|(ask, manner)| ask_so(&rt, &first, ask, manner));
        let theirs = there.iter().map(|(ask, manner)| ask_so(&rt, &second, ask, manner));
        let all = async { futures_util::future::join(join_all(ours), join_all(theirs)).await };
        rt.timeout(Duration::from_secs(20), all).await.expect("nobody waits for ever");

        for number in 0..500 {
            let ask = Ask { number, delay_us: 0, padding: 5, asks_back: number % 50 == 0 };
            let call = Duration::from_secs(20);
            let answered = first.call_within(call, &ask).await;
            assert_eq!(answered.expect("answered"), right_answer(&ask));
            let answered = second.call_within(call, &ask).await;
            assert_eq!(answered.expect("answered"), right_answer(&ask));
        }
    });
}

/// Threads that block in their calls, while the runtime has other callers and serves both sides.
fn blocking<D: Driver>(driver: fn() -> io::Result<D>) {
    let driver = driver().expect("a runtime");
    run(&driver, async {
        let rt = driver.handle();
        let (here, there) = UnixStream::pair().expect("a socket pair");
        let clock = rt.clone();
        let there = connect::<Ask, Ask, _, _, _>(&rt, there.into(), Postcard, move |ask| {
            answer(clock.clone(), None, ask)
        });
        let (_, serving) = there.expect("a connection");
        let clock = rt.clone();
        let here = connect::<Ask, Ask, _, _, _>(&rt, here.into(), Postcard, move |ask| {
            answer(clock.clone(), None, ask)
        });
        let (peer, _task) = here.expect("a connection");
        let ask = |number: u32| Ask {
            number,
            delay_us: 0,
            padding: if number.is_multiple_of(50) { 300_000 } else { 5 },
            asks_back: false,
        };
        let asks = move |peer: &Peer<Ask>, first: u32| {
            for ask in (first..first + 100).map(ask) {
                let answered = peer.blocking_call(&ask).expect("answered");
                assert!(answered == right_answer(&ask), "{}", ask.number);
            }
        };
        let threads = (0..4).map(|number| {
            let peer = peer.clone();
            rt.unblock(move || asks(&peer, 1000 * number))
        });
        let own = async {
            for ask in (5000..5100).map(ask) {
                assert!(peer.call(&ask).await.expect("answered") == right_answer(&ask));
            }
        };
        let all = futures_util::future::join(join_all(threads), own);
        let (threads, ()) = rt.timeout(Duration::from_secs(20), all).await.expect("none hangs");
        assert!(threads.into_iter().all(|outcome| outcome.is_ok()));

        let slow = Ask { delay_us: 60_000_000, ..ask(1) };
        let other = peer.clone();
        let late = move || other.blocking_call_within(Duration::from_millis(20), &slow);
        let late = rt.unblock(late).await.expect("a thread");
        assert!(matches!(late, Err(CallError::TimedOut)), "{late:?}");

        assert!(matches!(peer.blocking_call(&ask(1)), Err(CallError::WouldDeadlock)));
        let other = peer.clone();
        let in_task = rt.spawn(async move { other.blocking_call(&ask(1)) }).await;
        let message = in_task.expect_err("refused").to_string();
        assert!(message.contains("await `call`, or run it in `Rt::unblock`"), "{message}");

        drop(serving);
        // Another thread may be running the task, and answer what has arrived.
        let until_it_fails = move || loop {
            if let Err(error) = peer.blocking_call(&ask(1)) {
                return error;
            }
        };
        let ended = rt.timeout(Duration::from_secs(20), rt.unblock(until_it_fails)).await;
        assert!(matches!(ended, Ok(Ok(CallError::Ended(_)))), "{ended:?}");
    });
}

macro_rules! on {
    ($name:ident, $blocking:ident, $driver:expr) => {
        #[test]
        fn $blocking() {
            blocking($driver);
        }

        proptest! {
            #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

            #[test]
            fn $name(here in asks(), there in asks()) {
                schedule($driver, &here, &there);
            }
        }
    };
}

on!(on_poll, blocking_on_poll, release_core::rt::local::Local::new);
on!(on_tokio, blocking_on_tokio, release_tokio::driver);
on!(on_tokio_multi_thread, blocking_on_tokio_multi_thread, release_tokio::Tokio::multi_thread);
on!(on_smol, blocking_on_smol, release_smol::driver);
on!(on_async_std, blocking_on_async_std, release_async_std::driver);
