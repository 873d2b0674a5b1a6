//! Connections, and what of a request is looked at before the program is asked.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use super::connections::{Connections, Ticket};
use super::gate::one;
use super::percent::encoded;
use super::problem::{Problem, Sort};
use super::routes::{Access, Call, Route};
use super::site::{Found, Site};
use super::{Gate, Http};
use crate::control::{Method, Response};

/// An order is small and comes at once.
const BODY_BYTES_MAX: usize = 64 * 1024;
const HEAD_BYTES_MAX: usize = 16 * 1024;
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// What takes longer than this to answer is an action, and no question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// From the first byte to the last: who reads slower than this does not read.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);

const CONNECTIONS_MAX: usize = 64;

/// An address that could not be opened is tried again.
const BETWEEN_TRIES: Duration = Duration::from_secs(5);

const KEY_BYTES_MAX: usize = 255;

impl Http {
    /// Answers until the future is dropped. When this returns, the address is open if it can be.
    pub async fn serve<O, H, F>(self: Arc<Self>, site: Site<O>, handler: H) -> impl Future<Output = ()> + Send
    where
        O: Copy + Send + Sync + 'static,
        H: Fn(Call<O>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let mut opened = self.open().await;
        async move {
            let connections = Connections::new(CONNECTIONS_MAX);
            loop {
                match opened.take() {
                    Some(listener) => self.accept(&listener, site, &handler, &connections).await,
                    None => {
                        let pause = tokio::time::sleep(BETWEEN_TRIES);
                        tokio::select! {
                            () = pause => {}
                            () = self.changed.notified() => {}
                        }
                    }
                }
                opened = self.open().await;
            }
        }
    }

    /// Until settings say that the address has to be closed.
    async fn accept<O, H, F>(
        self: &Arc<Self>,
        listener: &TcpListener,
        site: Site<O>,
        handler: &H,
        connections: &Arc<Connections>,
    ) where
        O: Copy + Send + Sync + 'static,
        H: Fn(Call<O>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let address = self.gate().address;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.changed.notified() => {
                    let gate = self.gate();
                    if gate.address == address && gate.may_listen().is_ok() {
                        continue;
                    }
                    return;
                }
            };
            match accepted {
                Ok((stream, _)) => {
                    let (http, handler) = (Arc::clone(self), handler.clone());
                    connections.admit(move |ticket| serve_connection(stream, http, site, handler, ticket));
                }
                Err(error) => {
                    // Too many open files is the usual reason; without the pause, the loop would burn a core.
                    warn!(%error, "connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn serve_connection<O, H, F>(
    stream: TcpStream,
    http: Arc<Http>,
    site: Site<O>,
    handler: H,
    ticket: Ticket,
) where
    O: Copy + Send + Sync + 'static,
    H: Fn(Call<O>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let ticket = Arc::new(ticket);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (gate, handler, ticket) = (http.gate(), handler.clone(), Arc::clone(&ticket));
        async move {
            let response = match understand(request, &gate, &site).await {
                Ok(Asked::Asset(response)) => response,
                Ok(Asked::Call(call)) => {
                    ticket.is_worked_on(true);
                    let answered = tokio::time::timeout(ANSWER_TIMEOUT, handler(call)).await;
                    ticket.is_worked_on(false);
                    answered.unwrap_or_else(|_| too_slow())
                }
                Err(problem) => problem.into(),
            };
            Ok::<_, Infallible>(to_http(response))
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "connection ended early"),
        Err(_) => debug!("connection took too long"),
    }
}

fn too_slow() -> Response {
    let words = format!("no answer was found within {} s", ANSWER_TIMEOUT.as_secs());
    Problem::new(Sort::NotNow, words)
        .hint("look into the status: a server that does not answer is named there")
        .into()
}

enum Asked<O> {
    Asset(Response),
    Call(Call<O>),
}

/// What costs least is looked at first; a body is read of those only who may send one.
async fn understand<O: Copy>(
    request: hyper::Request<Incoming>,
    gate: &Gate,
    site: &Site<O>,
) -> Result<Asked<O>, Problem> {
    let (head, body) = request.into_parts();
    gate.let_in(&head)?;
    let path = head.uri.path();
    let (route, arguments) = match site.find(&head.method, path)? {
        Found::Asset(asset) => return Ok(Asked::Asset(asset.answer())),
        Found::Route(route, arguments) => (route, arguments),
        Found::OtherMethod(allowed) => {
            let allowed = allowed.join(", ");
            return Err(Problem::new(Sort::MethodNotAllowed, format!("{path} takes {allowed}"))
                .header("allow", allowed));
        }
        Found::Nothing => {
            return Err(Problem::new(Sort::NotFound, format!("there is no {path} here"))
                .hint("/api/v1/data-sync/openapi.json lists what there is"));
        }
    };
    if route.access == Access::Token {
        gate.check_token(&head.headers)?;
    }
    let parameters = route.parameters(head.uri.query())?;
    let idempotency_key = idempotency_key(&head)?;
    let body = if route.method == Method::Post { read(&head, body).await? } else { Bytes::new() };
    let path = canonical(&route, &arguments);
    Ok(Asked::Call(Call { operation: route.operation, arguments, parameters, path, body, idempotency_key }))
}

fn canonical<O>(route: &Route<O>, arguments: &[String]) -> String {
    let mut arguments = arguments.iter();
    let segment = |part: &str| match part.starts_with('{') {
        true => encoded(arguments.next().map_or("", String::as_str)),
        false => part.to_owned(),
    };
    route.path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

fn idempotency_key(head: &Parts) -> Result<Option<String>, Problem> {
    const NAME: HeaderName = HeaderName::from_static("idempotency-key");
    let key = one(&head.headers, &NAME)?;
    match key {
        Some(key) if !is_key(key) => Err(Problem::new(
            Sort::BadRequest,
            format!("an Idempotency-Key has 1 to {KEY_BYTES_MAX} characters of ASCII, and no blanks"),
        )),
        key => Ok(key.map(str::to_owned)),
    }
}

/// As openapi.json says it.
fn is_key(key: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

async fn read(head: &Parts, body: Incoming) -> Result<Bytes, Problem> {
    let content_type = one(&head.headers, &CONTENT_TYPE)?;
    let media =
        content_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let is_json = |media: &str| media == "application/json" || media.ends_with("+json");
    let is_empty = body.size_hint().exact() == Some(0);
    if !is_empty && !media.as_deref().is_some_and(is_json) {
        let what = media.unwrap_or_else(|| "without a type".to_owned());
        return Err(Problem::new(Sort::NotJson, format!("the body is {what}"))
            .hint("send JSON, and say so: Content-Type: application/json"));
    }
    let too_large = || {
        Problem::new(
            Sort::TooLarge,
            format!("a body has at most {BODY_BYTES_MAX} bytes; this one has more, or broke off"),
        )
    };
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let body = Limited::new(body, BODY_BYTES_MAX).collect();
    match tokio::time::timeout(READ_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(Problem::new(Sort::TookTooLong, "the body did not come in time")),
    }
}

/// Whatever is answered is for whoever asked, now, and is nothing but what it says it is.
const ALWAYS: [(&str, &str); 5] = [
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
];

fn to_http(response: Response) -> hyper::Response<Full<Bytes>> {
    let mut answer = hyper::Response::new(Full::new(response.body));
    *answer.status_mut() =
        hyper::StatusCode::from_u16(response.status).expect("handlers answer with a status of HTTP");
    let headers = answer.headers_mut();
    for (name, value) in ALWAYS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let own = [("content-type", response.content_type)].into_iter().chain(response.headers);
    for (name, value) in own {
        // A value that no header can have says less than nothing.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    answer
}
