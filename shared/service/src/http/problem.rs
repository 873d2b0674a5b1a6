//! What is answered instead of what was asked for: RFC 9457's documents, the hint beside them.

use serde_json::json;
use syncdata_formats::error::{Error, Kind};

use crate::control::Response;

/// What kind of problem it is; each has its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    BadRequest,
    NoToken,
    FromElsewhere,
    NotFound,
    MethodNotAllowed,
    TookTooLong,
    StateForbids,
    TooLarge,
    NotJson,
    OtherHost,
    NotUnderstood,
    TooMany,
    Failed,
    ReadOnlyCopy,
    NotNow,
}

impl Sort {
    pub const fn status(self) -> u16 {
        self.facts().0
    }

    pub(super) const fn title(self) -> &'static str {
        self.facts().2
    }

    const fn facts(self) -> (u16, &'static str, &'static str) {
        match self {
            Sort::BadRequest => (400, "bad-request", "This is no request"),
            Sort::NoToken => (401, "no-token", "A token is needed"),
            Sort::FromElsewhere => (403, "from-elsewhere", "Another site may not ask"),
            Sort::NotFound => (404, "not-found", "There is no such thing"),
            Sort::MethodNotAllowed => (405, "method-not-allowed", "This method is not offered here"),
            Sort::TookTooLong => (408, "took-too-long", "The request did not come in time"),
            Sort::StateForbids => (409, "state-forbids", "Not in the state that things are in"),
            Sort::TooLarge => (413, "too-large", "The request is too large"),
            Sort::NotJson => (415, "not-json", "Only JSON is read"),
            Sort::OtherHost => (421, "other-host", "This is not the host that was asked for"),
            Sort::NotUnderstood => (422, "not-understood", "The request cannot be carried out as it is"),
            Sort::TooMany => (429, "too-many", "Enough is waiting already"),
            Sort::Failed => (500, "failed", "It failed"),
            Sort::ReadOnlyCopy => (501, "read-only-copy", "This is a read-only copy"),
            Sort::NotNow => (503, "not-now", "Not at the moment"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    sort: Sort,
    detail: String,
    hint: Option<String>,
    headers: Vec<(&'static str, String)>,
}

impl Problem {
    pub fn new(sort: Sort, detail: impl Into<String>) -> Problem {
        Problem { sort, detail: detail.into(), hint: None, headers: Vec::new() }
    }

    pub fn sort(&self) -> Sort {
        self.sort
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Problem {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let sort = match error.kind() {
            Kind::NotFound => Sort::NotFound,
            Kind::BadInput => Sort::NotUnderstood,
            Kind::Conflict | Kind::Foreign | Kind::StateDamaged | Kind::Rejected => Sort::StateForbids,
            Kind::Unreachable | Kind::Locked | Kind::NoSpace => Sort::NotNow,
            Kind::Refused | Kind::Corrupt | Kind::Io => Sort::Failed,
        };
        let hint = error.hint_text().map(str::to_owned);
        Problem { hint, ..Problem::new(sort, error.one_line()) }
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Response {
        let Problem { sort, detail, hint, mut headers } = problem;
        let (status, name, title) = sort.facts();
        let mut document = json!({
            "type": format!("urn:syncdata:problem:{name}"), "title": title, "status": status, "detail": detail,
        });
        if let Some(hint) = hint {
            document["hint"] = hint.into();
        }
        if sort == Sort::NoToken {
            headers.push(("www-authenticate", "Bearer realm=\"syncdata\"".into()));
        }
        let mut response = Response::json(status, &document);
        response.content_type = "application/problem+json".into();
        response.headers.extend(headers);
        response
    }
}
