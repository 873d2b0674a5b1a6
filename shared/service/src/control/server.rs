//! The daemon's side.

use std::convert::Infallible;
use std::fs::{self, DirBuilder, Permissions};
use std::future::Future;
use std::io;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use super::{Method, Request, Response};
use crate::small_file;
use syncdata_formats::error::{Context, Error, Kind, Result};

/// A question is small and comes at once.
const BODY_BYTES_MAX: usize = 64 * 1024;
const HEAD_BYTES_MAX: usize = 16 * 1024;
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Whoever is in this group may ask and command the daemons that are in it too.
const OPERATORS: &str = "syncdata";

/// More at once are made to wait in the listen queue.
const CONNECTIONS_MAX: usize = 32;

/// The daemon's own socket. The file goes with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Takes the place of a file that a killed daemon left, never that of a daemon that answers.
    pub fn bind(path: &Path) -> Result<ControlSocket> {
        let doing = || format!("opening the control socket {}", path.display());
        let folder =
            path.parent().ok_or_else(|| Error::bad_input("a path for a socket", &path.to_string_lossy()))?;
        DirBuilder::new().recursive(true).mode(0o700).create(folder).context(doing)?;
        refuse_if_taken(path)?;
        // Bound under another name, so that nobody can connect before the mode is right.
        let unfinished = folder.join(format!(".{}.sock", std::process::id()));
        remove_if_there(&unfinished).context(doing)?;
        let listener = UnixListener::bind(&unfinished).context(doing).map_err(|error| {
            error.hint(
                "a socket's path may have 107 bytes; the folder follows RUNTIME_DIRECTORY or XDG_RUNTIME_DIR",
            )
        })?;
        let mode = if hand_to_operators(&unfinished).context(doing)? { 0o660 } else { 0o600 };
        fs::set_permissions(&unfinished, Permissions::from_mode(mode)).context(doing)?;
        fs::rename(&unfinished, path).context(doing)?;
        Ok(ControlSocket { listener, path: path.to_owned() })
    }

    /// Answers until the future is dropped. A command may take long: its connection waits for it, the others
    /// go on. When the asker hangs up, the handler's future is dropped.
    pub async fn serve<H, F>(self, handler: H)
    where
        H: Fn(Request) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    spawn_answer(stream, handler.clone(), slot);
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = remove_if_there(&self.path) {
            warn!(path = %self.path.display(), %error, "control socket not removed");
        }
    }
}

/// The slot is free again when the connection is done with.
fn spawn_answer<S, H, F>(stream: S, handler: H, slot: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    tokio::spawn(async move {
        answer(stream, handler).await;
        drop(slot);
    });
}

async fn answer<S, H, F>(stream: S, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let handler = handler.clone();
        async move {
            let response = match understand(request).await {
                Ok(request) => handler(request).await,
                Err(refusal) => refusal,
            };
            Ok::<_, Infallible>(to_http(response))
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "control connection ended early");
    }
}

async fn understand(request: hyper::Request<Incoming>) -> Result<Request, Response> {
    let method = match *request.method() {
        hyper::Method::GET => Method::Get,
        hyper::Method::POST => Method::Post,
        _ => return Err(Response::error(405, "this method is not offered here")),
    };
    let path = request.uri().path().to_owned();
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    match tokio::time::timeout(READ_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(Request { method, path, body: body.to_bytes() }),
        Ok(Err(_)) => Err(Response::error(413, "the message is too large or broke off")),
        Err(_) => Err(Response::error(408, "the message did not come in time")),
    }
}

fn to_http(response: Response) -> hyper::Response<Full<Bytes>> {
    let built = hyper::Response::builder()
        .status(response.status)
        .header(CONTENT_TYPE, response.content_type)
        .header(CACHE_CONTROL, "no-store")
        .body(Full::new(response.body));
    built.expect("handlers answer with a status and a type that HTTP has")
}

fn refuse_if_taken(path: &Path) -> Result<()> {
    let message = |what: &str| format!("{} {what}", path.display());
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(message("cannot be looked at"), error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(Error::new(Kind::Conflict, message("is in the way and no socket"))
                .hint("move it away, then start again"));
        }
        Ok(_) => {}
    }
    match BlockingStream::connect(path) {
        Ok(_) => Err(Error::new(Kind::Locked, message("is answered by a running daemon"))
            .hint("stop that one first, or leave it running")),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(Error::io(message("may belong to a running daemon"), error)),
    }
}

/// The socket belongs to the operators' group, if we are in it ourselves: the units are. `false`: to us alone.
fn hand_to_operators(socket: &Path) -> io::Result<bool> {
    let groups = small_file::read_text(Path::new("/etc/group")).ok();
    let Some(group) = groups.and_then(|groups| number_of(OPERATORS, &groups)) else {
        return Ok(false);
    };
    let ours = rustix::process::getegid().as_raw() == group
        || rustix::process::getgroups()?.iter().any(|gid| gid.as_raw() == group);
    if ours {
        std::os::unix::fs::chown(socket, None, Some(group))?;
    }
    Ok(ours)
}

/// The number of a group: `syncdata:x:995:anna,otto`.
fn number_of(group: &str, groups: &str) -> Option<u32> {
    let line = groups.lines().find_map(|line| line.strip_prefix(group)?.strip_prefix(':'))?;
    line.split(':').nth(1)?.parse().ok()
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Too many open files is the usual reason; without the pause, the loop would burn a core.
async fn pause_after(error: &std::io::Error) {
    warn!(%error, "control connection not accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::call;

    async fn echo(request: Request) -> Response {
        match (request.method, request.path.as_str()) {
            (Method::Post, "/sync") => Response::json(200, &request.json().expect("the test sends JSON")),
            (Method::Get, "/health") => Response::health(false, &json!({"state": "stale"})),
            (_, path) => Response::not_found(path),
        }
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[tokio::test]
    async fn a_command_reaches_the_daemon_and_its_answer_comes_back() {
        let folder = folder();
        let path = folder.path().join("run/d.sock");
        let socket = ControlSocket::bind(&path).expect("a free path");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder.path().join("run"))), (0o600, 0o700));
        let serving = tokio::spawn(socket.serve(echo));

        let body = json!({"tables": ["users"]});
        let answer = call(&path, Method::Post, "/sync", Some(&body)).await;
        let answer = answer.expect("it answers").expect("it runs");
        assert!(answer.is_success());
        assert_eq!(answer.read_json::<serde_json::Value>().expect("JSON"), body);
        let health = call(&path, Method::Get, "/health?x=1", None).await.expect("it answers");
        assert_eq!(health.expect("it runs").status, 503);

        serving.abort();
        assert!(serving.await.is_err_and(|error| error.is_cancelled()));
        assert!(!path.exists(), "the file goes with the socket");
        assert_eq!(call(&path, Method::Get, "/status", None).await.expect("no error"), None);
    }

    #[test]
    fn the_operators_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nsyncdata2:x:7:\nsyncdata:x:995:anna,otto\nbroken\n";
        assert_eq!(number_of("syncdata", groups), Some(995));
        assert_eq!(number_of("sync", groups), None);
        assert_eq!(number_of("broken", groups), None);
    }

    #[tokio::test]
    async fn replaces_what_a_killed_daemon_left_and_nothing_else() {
        let folder = folder();
        let path = folder.path().join("d.sock");
        // A socket whose listener is gone, as after kill -9.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a free path"));
        assert_eq!(call(&path, Method::Get, "/status", None).await.expect("no error"), None);
        let socket = ControlSocket::bind(&path).expect("nobody listens");
        let second = ControlSocket::bind(&path).expect_err("somebody listens");
        assert_eq!(second.kind(), Kind::Locked);
        drop(socket);
        fs::write(&path, "a file").expect("writable");
        let in_the_way = ControlSocket::bind(&path).expect_err("not a socket");
        assert_eq!(in_the_way.kind(), Kind::Conflict);
    }

    #[tokio::test]
    async fn a_message_has_a_limit() {
        let folder = folder();
        let path = folder.path().join("d.sock");
        let socket = ControlSocket::bind(&path).expect("a free path");
        let serving = tokio::spawn(socket.serve(echo));
        let body = json!("x".repeat(BODY_BYTES_MAX));
        let answer = call(&path, Method::Post, "/sync", Some(&body)).await;
        // The refusal may arrive, or the connection close while we still send.
        assert!(answer.map_or(true, |answer| answer.is_some_and(|answer| answer.status == 413)));
        serving.abort();
    }
}
