//! What is asked of a store: a method, a key, and what belongs to them, before it is signed.

use std::fmt::Write as _;

use bytes::Bytes;
use hyper::Method;
use syncdata_formats::digest::Digest;

/// One question. Names of headers are in lower case.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub method: Method,
    /// Below the bucket; `None`: about the bucket.
    pub key: Option<String>,
    pub query: Vec<(&'static str, String)>,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    pub sha256: Digest,
}

impl Request {
    pub(super) fn new(method: Method, key: Option<String>) -> Request {
        let body = Bytes::new();
        let sha256 = Digest::of(&body);
        Request { method, key, query: Vec::new(), headers: Vec::new(), body, sha256 }
    }

    pub(super) fn get(key: &str) -> Request {
        Request::new(Method::GET, Some(key.to_owned()))
    }

    #[must_use]
    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Request {
        self.query.push((name, value.into()));
        self
    }

    #[must_use]
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Request {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub(super) fn body(mut self, body: Bytes) -> Request {
        self.sha256 = Digest::of(&body);
        self.body = body;
        self
    }

    /// A body that the store is to hold against its digest before it keeps it.
    #[must_use]
    pub(super) fn with_checksum(self, body: Bytes) -> Request {
        let request = self.body(body);
        let checksum = request.checksum();
        request.header("x-amz-checksum-sha256", checksum)
    }

    /// Of the body, as stores write it.
    pub(super) fn checksum(&self) -> String {
        openssl::base64::encode_block(self.sha256.as_bytes())
    }

    /// As it stands behind the question mark, and as it is signed: in the order of the names.
    pub(super) fn query_text(&self) -> String {
        let mut pairs: Vec<String> = self
            .query
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name, false), encoded(value, false)))
            .collect();
        pairs.sort();
        pairs.join("&")
    }
}

/// Every byte that is not plain as `%` and two digits; the slashes of a path stay.
pub(super) fn encoded(text: &str, is_path: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~')
            || byte == b'/' && is_path
        {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes all");
        }
    }
    encoded
}

/// The other way round, as a listing has names; `None` where it is no text.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_again() {
        assert_eq!(encoded("a/b c+ü", false), "a%2Fb%20c%2B%C3%BC");
        assert_eq!(encoded("a/b c", true), "a/b%20c");
        for text in ["", "segments/2026-02-05/x.json", "a b+c%", "ü\n"] {
            assert_eq!(decoded(&encoded(text, false)).as_deref(), Some(text));
        }
        assert_eq!(decoded("a+b").as_deref(), Some("a b"));
        for text in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decoded(text), None, "{text}");
        }
    }

    #[test]
    fn a_query_is_in_the_order_of_its_names() {
        let request = Request::new(Method::GET, None)
            .query("prefix", "a/b")
            .query("list-type", "2")
            .query("delimiter", "/");
        assert_eq!(request.query_text(), "delimiter=%2F&list-type=2&prefix=a%2Fb");
    }
}
