//! What a proof asks of the process that reads the stream: to poll, and what to look for from then on.

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

/// One poll.
#[derive(Debug)]
pub(crate) struct Ask {
    step: Step,
    answer: oneshot::Sender<Result<()>>,
}

impl Ask {
    /// No poll is under way. Who is to be told what came of the one that follows.
    pub(crate) fn taken(self, watch: &Watch) -> oneshot::Sender<Result<()>> {
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
        self.answer
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
        let (answer, polled) = oneshot::channel();
        let stopping = || Error::new(Kind::Locked, "the archiver is stopping");
        self.0.send(Ask { step, answer }).await.map_err(|_| stopping())?;
        polled.await.map_err(|_| stopping())?
    }
}
