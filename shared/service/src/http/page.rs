//! Files inside the program: the page and what it loads. They need no token.

use bytes::Bytes;

use crate::control::Response;

/// One of them, by its path: `/` is the page.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    pub path: &'static str,
    pub content_type: &'static str,
    pub body: &'static [u8],
}

/// Nothing but what comes from here: no other site's scripts, no frame around it, and no text that becomes a script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

impl Asset {
    pub(super) fn answer(&self) -> Response {
        Response {
            status: 200,
            content_type: self.content_type.into(),
            body: Bytes::from_static(self.body),
            headers: vec![("content-security-policy", POLICY.into())],
        }
    }
}
