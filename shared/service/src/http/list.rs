//! Lists in pages: `{"items": […], "next_cursor": …}`.

use serde_json::{Value, json};

use super::problem::{Problem, Sort};
use super::routes::{Call, Parameter, Route};

const LIMIT: u16 = 50;
const LIMIT_MAX: u16 = 500;

pub const LIMIT_PARAMETER: Parameter = Parameter {
    name: "limit",
    is_needed: false,
    is_list: false,
    schema: r#"{"type": "integer", "minimum": 1, "maximum": 500, "default": 50}"#,
    meaning: "how many at most",
};
pub const CURSOR_PARAMETER: Parameter = Parameter {
    name: "cursor",
    is_needed: false,
    is_list: false,
    schema: r#"{"type": "string"}"#,
    meaning: "the next_cursor of the page before",
};

impl<O: Copy> Route<O> {
    /// A question that needs a token and is answered in pages.
    pub const fn list(operation: O) -> Route<O> {
        Route { parameters: &[LIMIT_PARAMETER, CURSOR_PARAMETER], ..Route::read(operation) }
    }
}

impl<O> Call<O> {
    pub fn limit(&self) -> Result<u16, Problem> {
        let Some(text) = self.parameter(LIMIT_PARAMETER.name) else { return Ok(LIMIT) };
        let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let limit = text.parse().ok().filter(|limit| is_digits && (1..=LIMIT_MAX).contains(limit));
        limit.ok_or_else(|| {
            Problem::new(Sort::NotUnderstood, format!("limit is a number from 1 to {LIMIT_MAX}"))
        })
    }

    pub fn cursor(&self) -> Option<&str> {
        self.parameter(CURSOR_PARAMETER.name)
    }

    /// A page of what is known as a whole, in the order of its keys, each of which is one item's own.
    pub fn page(&self, items: impl IntoIterator<Item = (String, Value)>) -> Result<Value, Problem> {
        let (limit, cursor) = (usize::from(self.limit()?), self.cursor());
        let mut items: Vec<(String, Value)> =
            items.into_iter().filter(|(key, _)| cursor.is_none_or(|cursor| key.as_str() > cursor)).collect();
        items.sort_by(|one, other| one.0.cmp(&other.0));
        let has_more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| has_more).map(|(key, _)| key.clone());
        let items: Vec<Value> = items.into_iter().map(|(_, item)| item).collect();
        Ok(json!({"items": items, "next_cursor": next}))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn call(query: &[(&'static str, &str)]) -> Call<()> {
        let parameters = query.iter().map(|(name, value)| (*name, vec![(*value).to_owned()])).collect();
        Call {
            operation: (),
            arguments: Vec::new(),
            parameters,
            path: String::new(),
            body: Bytes::new(),
            idempotency_key: None,
        }
    }

    #[test]
    fn pages_follow_each_other_and_end() {
        let all = || ["c", "a", "b"].map(|key| (key.to_owned(), json!(key)));
        let first = call(&[("limit", "2")]).page(all()).expect("a page");
        assert_eq!(first, json!({"items": ["a", "b"], "next_cursor": "b"}));
        let last = call(&[("limit", "2"), ("cursor", "b")]).page(all()).expect("a page");
        assert_eq!(last, json!({"items": ["c"], "next_cursor": null}));
        for wrong in ["0", "501", "-1", "+5", "1e2", "", "99999999999"] {
            assert!(call(&[("limit", wrong)]).limit().is_err(), "{wrong}");
        }
    }
}
