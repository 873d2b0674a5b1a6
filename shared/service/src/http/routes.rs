//! What can be asked: the lines of a table of routes, and a request that was understood.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::percent::decoded;
use super::problem::{Problem, Sort};
use crate::control::Method;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Open,
    Token,
}

/// One of the things that can be asked. `O` is the program's list of them.
#[derive(Clone, Copy, Debug)]
pub struct Route<O> {
    pub operation: O,
    /// As clients made from openapi.json call it.
    pub name: &'static str,
    pub method: Method,
    /// Parts in braces are arguments: `/sync/executions/{id}`.
    pub path: &'static str,
    pub access: Access,
    pub summary: &'static str,
    pub parameters: &'static [Parameter],
    /// The schema of what is sent with it, by its name.
    pub body: Option<&'static str>,
    /// What is answered that is no problem.
    pub answers: &'static [Answer],
    /// Answers of its own beside those that every route may give.
    pub problems: &'static [Sort],
}

#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    /// By its name.
    pub schema: &'static str,
}

impl Answer {
    /// Prometheus' text format.
    pub const METRICS: Answer =
        Answer { status: 200, content_type: "text/plain; version=0.0.4; charset=utf-8", schema: "Text" };

    pub const fn json(status: u16, schema: &'static str) -> Answer {
        Answer { status, content_type: "application/json", schema }
    }
}

/// Of a query.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    pub name: &'static str,
    pub is_needed: bool,
    /// It may be said several times.
    pub is_list: bool,
    /// Its JSON schema.
    pub schema: &'static str,
    pub meaning: &'static str,
}

/// A request that was understood.
#[derive(Clone, Debug)]
pub struct Call<O> {
    pub operation: O,
    /// Of the path, in its order.
    pub arguments: Vec<String>,
    pub parameters: BTreeMap<&'static str, Vec<String>>,
    /// As it was asked for, decoded and encoded again: the same for everybody who means the same.
    pub path: String,
    pub body: Bytes,
    pub idempotency_key: Option<String>,
}

impl<O> Call<O> {
    /// The body, which has to be an object; an empty one is an empty object.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let refused = |why: String| {
            Problem::new(Sort::NotUnderstood, format!("the body is not what is expected: {why}"))
        };
        let body = if self.body.trim_ascii().is_empty() { b"{}" } else { &*self.body };
        let value: Value = serde_json::from_slice(body).map_err(|error| refused(error.to_string()))?;
        if !value.is_object() {
            return Err(refused("it is no object".into()));
        }
        serde_json::from_value(value).map_err(|error| refused(error.to_string()))
    }

    /// Of a parameter that is said once.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).and_then(|values| values.first()).map(String::as_str)
    }
}

pub(super) fn name_of(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Post => "POST",
    }
}

impl<O: Copy> Route<O> {
    /// A question that needs a token, of which the rest has to be said yet.
    pub const fn read(operation: O) -> Route<O> {
        Route {
            operation,
            name: "",
            method: Method::Get,
            path: "",
            access: Access::Token,
            summary: "",
            parameters: &[],
            body: None,
            answers: &[],
            problems: &[],
        }
    }
}

impl<O> Route<O> {
    /// The same, as somebody else calls it.
    pub(super) fn asked_as<P>(&self, operation: P) -> Route<P> {
        let &Route { name, method, path, access, summary, parameters, body, answers, problems, .. } = self;
        Route { operation, name, method, path, access, summary, parameters, body, answers, problems }
    }

    /// The query, of which only what is in the table is taken.
    pub(super) fn parameters(
        &self,
        query: Option<&str>,
    ) -> Result<BTreeMap<&'static str, Vec<String>>, Problem> {
        let mut found: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decoded(name, true), decoded(value, true)) else {
                return Err(Problem::new(Sort::BadRequest, "the query is not percent-encoded UTF-8"));
            };
            match self.parameters.iter().find(|known| known.name == name) {
                Some(known) => found.entry(known.name).or_default().push(value),
                // Whoever adds something to be sure of a fresh answer gets one all the same.
                None if self.access == Access::Open => {}
                None => {
                    let known: Vec<&str> = self.parameters.iter().map(|known| known.name).collect();
                    let known = if known.is_empty() { "no parameter".to_owned() } else { known.join(", ") };
                    return Err(Problem::new(
                        Sort::NotUnderstood,
                        format!("there is no parameter {name:?} here"),
                    )
                    .hint(format!("it takes {known}")));
                }
            }
        }
        for known in self.parameters {
            let said = found.get(known.name).map_or(0, Vec::len);
            if said > 1 && !known.is_list {
                return Err(Problem::new(Sort::NotUnderstood, format!("{} is said twice", known.name)));
            }
            if said == 0 && known.is_needed {
                return Err(Problem::new(Sort::NotUnderstood, format!("{} is missing", known.name))
                    .hint(known.meaning));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Route<u8> = Route {
        operation: 1,
        name: "one",
        method: Method::Get,
        path: "/t/{table}/rows/{id}",
        access: Access::Token,
        summary: "",
        parameters: &[
            Parameter { name: "key", is_needed: true, is_list: true, schema: "{}", meaning: "a key" },
            Parameter { name: "limit", is_needed: false, is_list: false, schema: "{}", meaning: "how many" },
        ],
        body: None,
        answers: &[Answer::json(200, "Any")],
        problems: &[],
    };

    #[test]
    fn a_query_has_what_the_table_says() {
        let read = |query: &str| ROUTE.parameters(Some(query)).map_err(|problem| problem.sort());
        let found = read("key=a+b&limit=5&key=%2B&").expect("right");
        assert_eq!(
            (&found["key"], &found["limit"]),
            (&vec!["a b".to_owned(), "+".into()], &vec!["5".to_owned()])
        );
        for (query, sort) in [
            ("", Sort::NotUnderstood),
            ("key=1&other=2", Sort::NotUnderstood),
            ("key=1&limit=1&limit=2", Sort::NotUnderstood),
            ("key=%ff", Sort::BadRequest),
        ] {
            assert_eq!(read(query).err(), Some(sort), "{query}");
        }
        let open = Route { access: Access::Open, parameters: &[], ..ROUTE };
        assert!(open.parameters(Some("x=1")).is_ok_and(|found| found.is_empty()));
    }
}
