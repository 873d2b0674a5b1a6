//! What a proof asks of the process that reads the stream: to poll, and what to look for from then on.

use std::time::Duration;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::proof::Mark;
use syncdata_formats::snapshot::Seen;
use syncdata_formats::{Error, Kind, Result};
use tokio::sync::{mpsc, oneshot};

use crate::segment::cut::Watch;

/// What is done before a poll. It is done by who polls: a poll that is under way would take it back.
#[derive(Debug, Default)]
pub(crate) enum Step {
    #[default]
    None,
    /// Commits are remembered from now on. First: one that nobody remembers could be one that the snapshot does not see.
    Begin,
    /// The place of a snapshot is looked for, and what contradicts it.
    Want(Box<(Seen, Mark, Lsn)>),
}

/// Nobody waits longer for a snapshot that is taken between two polls.
const QUIET_MAX: Duration = Duration::from_secs(5);

/// One poll.
#[derive(Debug)]
pub(crate) struct Ask {
    step: Step,
    answer: oneshot::Sender<Result<()>>,
    quiet: oneshot::Receiver<()>,
}

/// After a poll there is none until this is dropped, the next one is asked for, or some seconds have gone: what commits
/// after a snapshot and is published before anybody looks for its place would make it void.
pub(crate) type Quiet = oneshot::Sender<()>;

/// Its end, for who polls.
#[derive(Debug)]
pub(crate) struct UntilQuietEnds(oneshot::Receiver<()>);

impl UntilQuietEnds {
    /// What is asked for before it ends.
    pub(crate) async fn next(self, asked: &mut mpsc::Receiver<Ask>) -> Option<Ask> {
        tokio::select! {
            biased;
            ask = asked.recv() => ask,
            _ = self.0 => None,
            () = tokio::time::sleep(QUIET_MAX) => None,
        }
    }
}

impl Ask {
    /// No poll is under way. Who is to be told what came of the one that follows, and when others may follow that.
    pub(crate) fn taken(self, watch: &Watch) -> (oneshot::Sender<Result<()>>, UntilQuietEnds) {
        // Whoever has given up wants nothing any more.
        if !self.answer.is_closed() {
            match self.step {
                Step::None => {}
                Step::Begin => watch.begin(),
                Step::Want(wanted) => {
                    let (seen, mark, upto) = *wanted;
                    watch.want(seen, mark, upto);
                }
            }
        }
        (self.answer, UntilQuietEnds(self.quiet))
    }
}

/// Has the archiver that holds the watch poll once, and answers what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Asks(mpsc::Sender<Ask>);

impl Asks {
    pub(crate) fn new() -> (Asks, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(1);
        (Asks(asks), asked)
    }

    pub(super) async fn poll(&self, step: Step) -> Result<()> {
        self.poll_and_wait(step).await.map(drop)
    }

    /// One poll, and then none for a while.
    pub(super) async fn poll_and_wait(&self, step: Step) -> Result<Quiet> {
        let ((answer, polled), (quiet, ends)) = (oneshot::channel(), oneshot::channel());
        let stopping = || Error::new(Kind::Locked, "the archiver is stopping");
        self.0.send(Ask { step, answer, quiet: ends }).await.map_err(|_| stopping())?;
        polled.await.map_err(|_| stopping())??;
        Ok(quiet)
    }
}
