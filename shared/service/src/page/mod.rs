//! The page: how it all stands, for somebody with a browser. Its files are in the program; what it shows it asks the daemon
//! for, and nobody else.

use serde::Serialize;
use serde_json::Value;
use syncdata_formats::time::Timestamp;

use crate::config::Program;
use crate::control::Response;
use crate::log;
use crate::points::Point;

/// A file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asset {
    pub path: &'static str,
    pub content_type: &'static str,
    pub text: &'static str,
}

pub const ASSETS: [Asset; 7] = [
    Asset { path: "/", content_type: "text/html; charset=utf-8", text: include_str!("page.html") },
    Asset { path: "/page.css", content_type: "text/css; charset=utf-8", text: include_str!("page.css") },
    Asset { path: "/page.js", content_type: "text/javascript; charset=utf-8", text: include_str!("page.js") },
    Asset { path: "/show.js", content_type: "text/javascript; charset=utf-8", text: include_str!("show.js") },
    Asset { path: "/text.js", content_type: "text/javascript; charset=utf-8", text: include_str!("text.js") },
    Asset { path: "/plot.js", content_type: "text/javascript; charset=utf-8", text: include_str!("plot.js") },
    Asset { path: "/icon.svg", content_type: "image/svg+xml", text: include_str!("icon.svg") },
];

/// Headers of every answer. Nothing comes from elsewhere, nothing that stands in the data is run, nobody may put us in a
/// frame or is told where a reader came from.
pub const HEADERS: [(&str, &str); 3] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
];

/// The file of that path; `None`: the page has none.
pub fn asset(path: &str) -> Option<Response> {
    let asset = ASSETS.iter().find(|asset| asset.path == path)?;
    Some(Response {
        status: 200,
        content_type: asset.content_type.to_owned(),
        body: asset.text.as_bytes().into(),
    })
}

/// What the page asks for again and again. `S` is a program's own status.
#[derive(Clone, Debug, Serialize)]
pub struct Dashboard<S> {
    pub program: &'static str,
    /// By the daemon's clock: ages are reckoned from here.
    pub now: Timestamp,
    pub status: S,
    /// The newest first.
    pub executions: Vec<Value>,
    /// Those that are open first, then the newest.
    pub alerts: Vec<Value>,
    /// Those that are open, the oldest first, up to a limit.
    pub dead_letters: Vec<Value>,
    /// Minutes since 1970, seconds of lag, records, segments that wait.
    pub points: Vec<Point>,
    /// The newest lines of the log, the oldest first.
    pub log: Vec<log::Line>,
    /// Why some of it is missing.
    pub not_known: Vec<String>,
}

impl<S> Dashboard<S> {
    pub fn of(program: Program, status: S, points: Vec<Point>) -> Dashboard<S> {
        Dashboard {
            program: program.name(),
            now: Timestamp::now(),
            status,
            executions: Vec::new(),
            alerts: Vec::new(),
            dead_letters: Vec::new(),
            points,
            log: log::recent_lines(),
            not_known: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_for_files_that_are_there_and_for_nothing_elsewhere() {
        let page = ASSETS[0].text;
        for attribute in ["src=\"", "href=\""] {
            for link in page.split(attribute).skip(1) {
                let path = link.split('"').next().expect("it ends");
                let is_ours = asset(path).is_some() || ["/status", "/health", "/metrics"].contains(&path);
                assert!(path.starts_with('#') || is_ours, "{path}");
            }
        }
        for asset in ASSETS {
            let named = asset.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!named.contains("://"), "{} names another host", asset.path);
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacent",
                "document.write",
                "eval(",
                "style=\"",
                "onclick=",
            ] {
                assert!(!asset.text.contains(way), "{} has {way}", asset.path);
            }
        }
        assert_eq!(asset("/page.html"), None);
    }
}
