//! What commands ask a running daemon to do, and how that travels over its socket: the command writes it, the daemon
//! reads it.

use serde_json::{Value, json};
use syncdata_formats::error::{Error, Result};
use syncdata_service::control;

use crate::operations::dead_letters::DeadLetters;
use crate::operations::resync::Resync;
use crate::operations::retry::Retry;

#[derive(Clone, Debug)]
pub(super) enum Request {
    /// Ends the daemon.
    Stop,
    Sync,
    /// Loads what waits for a base; nobody waits for the answer.
    Load,
    Retry(Retry),
    Resync(Resync),
    DeadLetters(DeadLetters),
}

impl Request {
    pub(super) fn path(&self) -> &'static str {
        match self {
            Request::Stop => "/stop",
            Request::Sync => "/sync",
            Request::Load => "/load",
            Request::Retry(_) => "/retry",
            Request::Resync(_) => "/resync",
            Request::DeadLetters(_) => "/dead-letters",
        }
    }

    pub(super) fn body(&self) -> Option<Value> {
        match self {
            Request::Stop | Request::Sync | Request::Load => None,
            Request::Retry(retry) => Some(json!(retry)),
            Request::Resync(resync) => Some(json!(resync)),
            Request::DeadLetters(order) => Some(json!(order)),
        }
    }

    /// `None`: there is no such request.
    pub(super) fn read(request: &control::Request) -> Result<Option<Request>, Error> {
        Ok(Some(match request.path.as_str() {
            "/stop" => Request::Stop,
            "/sync" => Request::Sync,
            "/load" => Request::Load,
            "/retry" => Request::Retry(request.json()?),
            "/resync" => Request::Resync(request.json()?),
            "/dead-letters" => Request::DeadLetters(request.json()?),
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let resync = Resync { tables: Vec::new(), all: true, adopt: true };
        let retry = Retry { tables: vec!["users".into()], accept_gap: true };
        let skip = DeadLetters::Skip { id: uuid::Uuid::from_u128(7), reason: "a test row".into() };
        let requests = [
            Request::Stop,
            Request::Sync,
            Request::Load,
            Request::Retry(retry),
            Request::Resync(resync),
            Request::DeadLetters(skip),
        ];
        for request in requests {
            let body = request.body().map(|body| body.to_string().into_bytes()).unwrap_or_default();
            let sent = control::Request {
                method: control::Method::Post,
                path: request.path().into(),
                body: body.into(),
            };
            let read = Request::read(&sent).expect("ours").expect("known");
            assert_eq!(format!("{read:?}"), format!("{request:?}"));
        }
    }
}
