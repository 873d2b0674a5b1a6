//! One answer for many who ask at once.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

/// Who asks while an answer is being found waits for the next one, together with all who came meanwhile. Nobody is told
/// what was found before they asked; and however many ask, one at a time is at work.
#[derive(Debug)]
pub(super) struct OneAnswer<T> {
    asked: AtomicU64,
    last: Mutex<Option<Found<T>>>,
}

#[derive(Debug)]
struct Found<T> {
    /// Who asked before this is answered by it.
    answers_before: u64,
    answer: T,
}

impl<T> Default for OneAnswer<T> {
    fn default() -> OneAnswer<T> {
        OneAnswer { asked: AtomicU64::new(0), last: Mutex::new(None) }
    }
}

impl<T: Clone> OneAnswer<T> {
    /// What `find` said when it was asked last, which was after this call.
    pub(super) async fn get<F: Future<Output = T>>(&self, find: impl FnOnce() -> F) -> T {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some(found) = last.as_ref().filter(|found| number < found.answers_before) {
            return found.answer.clone();
        }
        let answers_before = self.asked.load(Ordering::SeqCst);
        let answer = find().await;
        *last = Some(Found { answers_before, answer: answer.clone() });
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn who_asks_during_a_look_shares_the_next_one() {
        let (shared, count) = (OneAnswer::default(), &Cell::new(0));
        let find = move || async move {
            let number = count.get() + 1;
            count.set(number);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            number
        };
        let came = join_all((0..100).map(|_| shared.get(find))).await;
        assert_eq!((came[0], came.iter().filter(|number| **number == 2).count()), (1, 99));
        // What was found before somebody asked does not answer them.
        assert_eq!(shared.get(find).await, 3);
    }
}
