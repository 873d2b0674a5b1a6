//! One connection to a store: a request at a time. Each step has a bound, and a body that is sent or received is waited for
//! as long as it moves.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::config::Endpoint;
use syncdata_service::web::{self, Failure};
use tokio::time::timeout;

/// So much is handed to the connection at a time, so that it can be seen moving.
const STEP_BYTES: usize = 64 * 1024;
/// Answers that are read whole; a listing has a thousand names.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;

/// A request's body, in steps.
#[derive(Debug)]
pub(super) struct Steps {
    left: Bytes,
    taken: Arc<AtomicU64>,
}

impl Steps {
    pub(super) fn new(bytes: Bytes) -> Steps {
        Steps { left: bytes, taken: Arc::default() }
    }
}

impl Body for Steps {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let step = self.left.len().min(STEP_BYTES);
        self.taken.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(step)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

/// See the module.
pub(super) struct Connection {
    sender: SendRequest<Steps>,
    endpoint: Endpoint,
    answer: Duration,
}

impl Connection {
    /// `connect` bounds the way there, `answer` every wait after that.
    pub(super) async fn open(endpoint: &Endpoint, connect: Duration, answer: Duration) -> Result<Connection> {
        let reached = timeout(connect, web::connect(&endpoint.host, endpoint.port, endpoint.is_tls)).await;
        let stream =
            reached.map_err(|_| silent(endpoint, connect))?.map_err(|failure| failed(endpoint, failure))?;
        let broken = |error: hyper::Error| {
            Error::new(Kind::Unreachable, format!("{endpoint} hung up")).caused_by(error)
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // How it ends, whoever waits for an answer hears.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, endpoint: endpoint.clone(), answer })
    }

    /// The head of the answer.
    pub(super) async fn send(&mut self, request: hyper::Request<Steps>) -> Result<Answer> {
        let taken = Arc::clone(&request.body().taken);
        let mut answered = pin!(self.sender.send_request(request));
        let mut seen = 0;
        let answer = loop {
            match timeout(self.answer, &mut answered).await {
                Ok(answer) => break answer,
                Err(_) => {
                    let now = taken.load(Ordering::Relaxed);
                    if now == seen {
                        return Err(silent(&self.endpoint, self.answer));
                    }
                    seen = now;
                }
            }
        };
        let response = answer.map_err(|error| hung_up(&self.endpoint, error))?;
        Ok(Answer { response, endpoint: self.endpoint.clone(), patience: self.answer })
    }
}

/// An answer whose body is still to come.
pub(super) struct Answer {
    response: Response<Incoming>,
    endpoint: Endpoint,
    patience: Duration,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The next bytes of the body; `None` at its end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = timeout(self.patience, self.response.body_mut().frame()).await;
            match frame.map_err(|_| silent(&self.endpoint, self.patience))? {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(error)) => return Err(hung_up(&self.endpoint, error)),
            }
        }
    }

    /// All of it.
    pub(super) async fn document(&mut self) -> Result<Vec<u8>> {
        let mut document = Vec::new();
        while let Some(piece) = self.piece().await? {
            if document.len() + piece.len() > DOCUMENT_BYTES_MAX {
                let message = format!("{} answers with more than any answer can have", self.endpoint);
                return Err(Error::new(Kind::Io, message));
            }
            document.extend_from_slice(&piece);
        }
        Ok(document)
    }
}

fn silent(endpoint: &Endpoint, patience: Duration) -> Error {
    Error::new(Kind::Unreachable, format!("{endpoint} did not answer within {patience:?}"))
        .hint("check archive_endpoint, the network, and whether the store is well; nothing is lost meanwhile")
}

fn hung_up(endpoint: &Endpoint, error: hyper::Error) -> Error {
    Error::new(Kind::Unreachable, format!("{endpoint} hung up")).caused_by(error)
}

fn failed(endpoint: &Endpoint, failure: Failure) -> Error {
    match failure {
        Failure::OutOfReach(error) => {
            Error::new(Kind::Unreachable, format!("{endpoint} is out of reach")).caused_by(error).hint(
                "check archive_endpoint, the network, and whether the store is well; nothing is lost meanwhile",
            )
        }
        Failure::Tls(error) => Error::new(Kind::Refused, format!("{endpoint}: TLS failed: {error}")).hint(
            "its certificate has to be signed by an authority that this machine trusts, or by one of the file that \
             SSL_CERT_FILE in the environment names; and made out to the host of archive_endpoint",
        ),
    }
}
