//! A store as one asks it: a request is signed, sent and answered, on a connection that is kept as long as it lasts.

use std::future::Future;

use hyper::Method;
use syncdata_formats::error::{Context as _, Error, Kind, Result};
use syncdata_formats::time::Timestamp;
use syncdata_service::config::{Endpoint, S3Keys, S3Settings};
use tokio::runtime::Runtime;

use super::connection::{Answer, Connection, Steps};
use super::refusal::Refusal;
use super::request::{Request, encoded};
use super::signature::Signer;
use crate::patience::Patience;

/// Stores allow fifteen minutes; beyond this nobody's clock is right by chance.
const CLOCKS_DIFFER_MICROS: i64 = 4 * 60 * 1_000_000;

/// See the module.
pub(super) struct Client {
    /// Where all requests go.
    endpoint: Endpoint,
    /// What stands before a key: the bucket, unless the endpoint is of the bucket alone.
    base: String,
    region: String,
    settings: S3Settings,
    pub(super) patience: Patience,
    /// Made with the first question: who only opens an archive needs none.
    runtime: Option<Runtime>,
    open: Option<Open>,
    /// Of the store's clock, in microseconds, once it was found to be another one.
    ahead: i64,
}

struct Open {
    connection: Connection,
    /// Those of the moment when it was opened.
    keys: S3Keys,
}

impl Client {
    pub(super) fn new(settings: &S3Settings, patience: Patience) -> Client {
        let (endpoint, base) = match settings.endpoint.of_bucket(&settings.place.bucket) {
            Some(endpoint) => (endpoint, String::new()),
            None => (settings.endpoint.clone(), format!("/{}", settings.place.bucket)),
        };
        Client {
            endpoint,
            base,
            region: settings.region.clone(),
            settings: settings.clone(),
            patience,
            runtime: None,
            open: None,
            ahead: 0,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.open.is_some()
    }

    /// What a success says, its body read to the end. The inner `Err` is a refusal of the store.
    pub(super) fn ask(&mut self, request: &Request) -> Result<Result<Said, Refusal>> {
        let mut answer = match self.begin(request)? {
            Ok(answer) => answer,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let document = self.wait(answer.document())?;
        let etag = answer.header("etag").map(str::to_owned);
        // What was kept has one.
        if request.method == Method::PUT && etag.as_ref().is_none_or(String::is_empty) {
            return Ok(Err(Refusal::of_a_stranger(answer.status().as_u16())));
        }
        Ok(Ok(Said { etag, document }))
    }

    /// The answer with its body still to come, or a refusal.
    pub(super) fn begin(&mut self, request: &Request) -> Result<Result<Answer, Refusal>> {
        match self.once(request)? {
            Err(refusal) if refusal.status == 403 && self.takes_clock_of(&refusal) => self.once(request),
            answered => Ok(answered),
        }
    }

    fn once(&mut self, request: &Request) -> Result<Result<Answer, Refusal>> {
        let mut answer = self.send(request)?;
        if answer.status().is_success() {
            return Ok(Ok(answer));
        }
        let document = self.wait(answer.document())?;
        let refusal = Refusal::read(answer.status().as_u16(), date(&answer), &document);
        if matches!(refusal.status, 401 | 403) || refusal.is_of_old_keys() {
            // New keys, if there are any, are read with the next connection.
            self.open = None;
        }
        if refusal.status == 404 && refusal.code.is_empty() && request.method != Method::HEAD {
            // A store says what is not there.
            return Ok(Err(Refusal::of_a_stranger(404)));
        }
        Ok(Err(refusal))
    }

    /// A store takes no request that was signed minutes ago, or will be. Its own clock is gone by then: changes that are not
    /// archived because a clock is wrong would be the worse trouble.
    fn takes_clock_of(&mut self, refusal: &Refusal) -> bool {
        let Some(date) = refusal.date else { return false };
        let ahead = date.as_micros() - Timestamp::now().as_micros();
        if (ahead - self.ahead).abs() < CLOCKS_DIFFER_MICROS {
            return false;
        }
        self.ahead = ahead;
        let (seconds, endpoint) = (ahead / 1_000_000, &self.endpoint);
        tracing::warn!(%endpoint, seconds, "the clock of this host is not that of the store; requests are signed by the store's");
        true
    }

    /// By the clock of the store, as far as it is known.
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_micros(now.as_micros() + self.ahead).unwrap_or(now)
    }

    /// Runs what waits for the connection; one that failed is given up.
    pub(super) fn wait<T>(&mut self, waiting: impl Future<Output = Result<T>>) -> Result<T> {
        let runtime = self.runtime.as_ref().expect("made before anything was asked");
        let waited = runtime.block_on(waiting);
        if waited.is_err() {
            self.open = None;
        }
        waited
    }

    /// The rest of an answer is not wanted: its connection is of no use any more.
    pub(super) fn hang_up(&mut self) {
        self.open = None;
    }

    fn send(&mut self, request: &Request) -> Result<Answer> {
        let was_open = self.open.is_some();
        match self.try_send(request) {
            // A store closes connections that were idle for long, which is seen only now.
            Err(error) if was_open && error.kind() == Kind::Unreachable => self.try_send(request),
            sent => sent,
        }
    }

    fn try_send(&mut self, request: &Request) -> Result<Answer> {
        if self.runtime.is_none() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
            self.runtime = Some(runtime.context(|| "starting the runtime of the archive".to_owned())?);
        }
        if self.open.is_none() {
            let keys = self.settings.keys.read()?;
            let endpoint = self.endpoint.clone();
            let (connect, answer) = (self.patience.connect, self.patience.answer);
            let connection = self.wait(Connection::open(&endpoint, connect, answer))?;
            self.open = Some(Open { connection, keys });
        }
        let open = self.open.as_ref().expect("opened above");
        let request = self.signed(request, &open.keys)?;
        let mut open = self.open.take().expect("opened above");
        let answer = self.wait(open.connection.send(request))?;
        self.open = Some(open);
        Ok(answer)
    }

    fn signed(&self, request: &Request, keys: &S3Keys) -> Result<hyper::Request<Steps>> {
        let path = match &request.key {
            Some(key) => format!("{}/{}", self.base, encoded(key, true)),
            None if self.base.is_empty() => "/".to_owned(),
            None => self.base.clone(),
        };
        let signer = Signer { keys, region: &self.region, at: self.now() };
        let headers = signer.sign(request, self.endpoint.authority(), &path)?;
        let query = request.query_text();
        let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
        let mut http = hyper::Request::builder()
            .method(request.method.clone())
            .uri(uri)
            .header("user-agent", concat!("syncdata/", env!("CARGO_PKG_VERSION")));
        if !matches!(request.method, hyper::Method::GET | hyper::Method::HEAD) {
            http = http.header("content-length", request.body.len());
        }
        for (name, value) in headers {
            http = http.header(name, value);
        }
        http.body(Steps::new(request.body.clone())).map_err(|error| {
            Error::new(Kind::BadInput, "the archive's keys or names cannot stand in a request")
                .caused_by(error)
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.open = None;
        if let Some(runtime) = self.runtime.take() {
            // Also where nobody may wait.
            runtime.shutdown_background();
        }
    }
}

/// What a success says.
#[derive(Debug)]
pub(super) struct Said {
    pub etag: Option<String>,
    pub document: Vec<u8>,
}

fn date(answer: &Answer) -> Option<Timestamp> {
    http_date(answer.header("date")?)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
pub(super) fn http_date(text: &str) -> Option<Timestamp> {
    let at = jiff::fmt::rfc2822::parse(text).ok()?;
    Timestamp::from_micros(at.timestamp().as_microsecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_answers_are_times() {
        let at = http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a time");
        assert_eq!(at.to_string(), "1994-11-06T08:49:37Z");
        assert_eq!(http_date("yesterday"), None);
    }
}
