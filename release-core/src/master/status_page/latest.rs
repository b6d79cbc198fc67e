//! `Latest`: an answer of the master, for all that want the same at the same time.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

/// How long an answer is as good as a new one.
const FRESH: Duration = Duration::from_millis(200);

/// The answer of a busy master is used for so many times as long as it took, at most for a second.
const TIMES: u32 = 10;
const LONGEST: Duration = Duration::from_secs(1);

/// Time limit for an answer. After that, it is asked for again.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// An answer and the time that it took, or the reason why there is none.
type Answered<T> = Result<(T, Duration), String>;

/// The latest request of one kind. A caller that goes away does not stop it: the next one finds it
/// under way, so that the master is asked no more often however many callers come and go.
pub(super) struct Latest<T: Clone>(Mutex<Option<Asked<T>>>);

struct Asked<T: Clone> {
    at: Instant,
    answer: Shared<BoxFuture<'static, Answered<T>>>,
}

impl<T: Clone> Default for Latest<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone + Send + Sync + 'static> Latest<T> {
    /// Returns the answer that is fresh or on its way, or asks for another one.
    pub(super) fn get<A, F>(
        &self,
        now: Instant,
        ask: A,
    ) -> impl Future<Output = Result<T, String>> + Send + use<T, A, F>
    where
        A: FnOnce() -> F,
        F: Future<Output = Answered<T>> + Send + 'static,
    {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = latest.as_ref().filter(|asked| now < asked.at + asked.good_for());
        let answer = fresh.map(|asked| asked.answer.clone());
        let answer = answer.unwrap_or_else(|| {
            let answer = ask().boxed().shared();
            *latest = Some(Asked { at: now, answer: answer.clone() });
            answer
        });
        answer.map(|answered| answered.map(|(answer, _)| answer))
    }
}

impl<T: Clone> Asked<T> {
    fn good_for(&self) -> Duration {
        match self.answer.peek() {
            None => PATIENCE,
            Some(Err(_)) => FRESH,
            Some(Ok((_, took))) => (*took * TIMES).clamp(FRESH, LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::{pending, ready};

    use super::*;

    #[test]
    fn callers_at_the_same_time_share_an_answer() {
        let (latest, asked) = (Latest::default(), Arc::new(AtomicU32::new(0)));
        let start = Instant::now();
        let get = |millis, took| {
            let asked = Arc::clone(&asked);
            let ask = move || {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                ready(Ok((number, Duration::from_millis(took))))
            };
            latest.get(start + Duration::from_millis(millis), ask).now_or_never()
        };
        // The second answer took long, and is used for longer.
        let times = [(0, 0), (199, 0), (200, 50), (699, 0), (700, 0)];
        let heard = times.map(|(millis, took)| get(millis, took));
        assert_eq!(heard, [0, 0, 1, 1, 2].map(|number| Some(Ok(number))));
    }

    #[test]
    fn callers_that_go_away_do_not_ask_again() {
        let (latest, start) = (Latest::<u32>::default(), Instant::now());
        let mut asked = 0;
        for millis in 0..1000 {
            let ask = || {
                asked += 1;
                pending()
            };
            drop(latest.get(start + Duration::from_millis(millis), ask));
        }
        assert_eq!(asked, 1);
        // It is late, and may have been forgotten.
        let late = latest.get(start + PATIENCE, || ready(Ok((7, Duration::ZERO))));
        assert_eq!(late.now_or_never(), Some(Ok(7)));
    }
}
