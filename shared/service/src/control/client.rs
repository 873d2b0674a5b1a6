//! The command's side.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{Method, Response};
use syncdata_formats::error::{Context, Error, Kind, Result};

/// A status with thousands of tables is about a megabyte.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The daemon accepts at once or is stuck. The answer itself may take as long as the command.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the daemon that listens on `socket`; `None` when there is none.
pub async fn call(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Option<Response>> {
    let Some(stream) = connect(socket).await? else { return Ok(None) };
    let doing = || format!("asking the daemon at {}", socket.display());
    exchange(stream, method, path, body).await.map(Some).context(doing)
}

/// Asks the first daemon that answers on one of these sockets.
pub async fn call_first(
    sockets: &[PathBuf],
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Option<Response>> {
    for socket in sockets {
        if let Some(response) = call(socket, method, path, body).await? {
            return Ok(Some(response));
        }
    }
    Ok(None)
}

async fn connect(socket: &Path) -> Result<Option<UnixStream>> {
    let doing = || format!("connecting to the daemon at {}", socket.display());
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await;
    match connected {
        Ok(Ok(stream)) => Ok(Some(stream)),
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => {
            Err(Error::io(doing(), error).hint("run the command as the daemon's user, or with sudo"))
        }
        Ok(Err(error)) => Err(Error::io(doing(), error)),
        Err(_) => Err(Error::new(Kind::Unreachable, doing()).hint("the daemon is stuck; look into its log")),
    }
}

async fn exchange(stream: UnixStream, method: Method, path: &str, body: Option<&Value>) -> Result<Response> {
    let broken = |error: hyper::Error| Error::new(Kind::Unreachable, "the daemon hung up").caused_by(error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = to_http(method, path, body)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body =
            body.map_err(|error| Error::new(Kind::Unreachable, "the answer broke off").caused_by(error))?;
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Ok(Response {
            status: head.status.as_u16(),
            content_type: content_type.unwrap_or_default().to_owned(),
            body: body.to_bytes(),
            headers: Vec::new(),
        })
    };
    // The connection has to be driven while the answer is awaited; how it ends, the answer says.
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}

fn to_http(method: Method, path: &str, body: Option<&Value>) -> Result<hyper::Request<Full<Bytes>>> {
    let method = match method {
        Method::Get => hyper::Method::GET,
        Method::Post => hyper::Method::POST,
    };
    let body = body.map(Value::to_string).unwrap_or_default();
    hyper::Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "syncdata")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body.into()))
        .map_err(|error| Error::bad_input("a path to ask for", path).caused_by(error))
}
