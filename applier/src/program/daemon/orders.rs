//! What is asked of the daemon's loop.

use syncdata_service::control::Response;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::operations::dead_letters::DeadLetters;
use crate::operations::resync::Resync;
use crate::operations::retry::Retry;

/// What the loop does between two passes.
#[derive(Debug)]
pub(super) enum Order {
    Sync,
    Retry(Retry),
    Resync(Resync),
    DeadLetters(DeadLetters),
}

/// An order, who waits for its answer, and the execution that it is noted as where somebody asked over HTTP.
#[derive(Debug)]
pub(super) struct Ordered {
    pub(super) order: Order,
    pub(super) to: oneshot::Sender<Response>,
    pub(super) execution: Option<Uuid>,
}

pub(super) type Orders = mpsc::Sender<Ordered>;
