//! How commands ask a running daemon: HTTP/1.1 over a unix socket. Small, bounded and without state: what an answer means
//! is the caller's. What others may ask over TCP is in `http`.

mod client;
mod earlier;
mod metrics;
mod server;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use self::client::{call, call_first};
pub use self::earlier::EarlierKeys;
pub use self::metrics::{Durations, Metrics, Sort, seconds};
pub use self::server::ControlSocket;
use syncdata_formats::error::{Error, Kind, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
}

/// A question or a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// Without the query: `/status`.
    pub path: String,
    pub body: Bytes,
}

impl Request {
    /// The body as JSON; an empty one is `null`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        read_json(&self.body)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub content_type: String,
    pub body: Bytes,
    /// Others, names in lower case. Only over TCP.
    pub headers: Vec<(&'static str, String)>,
}

impl Response {
    pub fn json(status: u16, body: &Value) -> Response {
        let body = format!("{body}\n").into();
        Response { status, content_type: "application/json".into(), body, headers: Vec::new() }
    }

    /// Prometheus' text format.
    pub fn metrics(metrics: Metrics) -> Response {
        let content_type = "text/plain; version=0.0.4; charset=utf-8".into();
        Response { status: 200, content_type, body: metrics.into_text().into(), headers: Vec::new() }
    }

    /// 200 or 503.
    pub fn health(healthy: bool, body: &Value) -> Response {
        Response::json(if healthy { 200 } else { 503 }, body)
    }

    pub fn error(status: u16, message: &str) -> Response {
        Response::json(status, &json!({"error": message}))
    }

    pub fn not_found(path: &str) -> Response {
        Response::error(404, &format!("there is no {path} here"))
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON; an empty one is `null`.
    pub fn read_json<T: DeserializeOwned>(&self) -> Result<T> {
        read_json(&self.body)
    }
}

fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let body = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| Error::new(Kind::BadInput, "the message is not what was expected").caused_by(error))
}
