//! The page: how it all stands, for somebody with a browser. Its files are in the program; what it shows it asks the daemon
//! for, and nobody else.

use serde::Serialize;
use serde_json::Value;
use syncdata_formats::time::Timestamp;

use crate::config::Program;
use crate::control::Response;
use crate::http::Asset;
use crate::log;
use crate::points::Point;

/// Its files, by their paths.
pub const ASSETS: &[Asset] = &[
    Asset { path: "/", content_type: "text/html; charset=utf-8", body: include_bytes!("page.html") },
    Asset { path: "/page.css", content_type: "text/css; charset=utf-8", body: include_bytes!("page.css") },
    Asset { path: "/page.js", content_type: SCRIPT, body: include_bytes!("page.js") },
    Asset { path: "/show.js", content_type: SCRIPT, body: include_bytes!("show.js") },
    Asset { path: "/text.js", content_type: SCRIPT, body: include_bytes!("text.js") },
    Asset { path: "/plot.js", content_type: SCRIPT, body: include_bytes!("plot.js") },
    Asset { path: "/icon.svg", content_type: "image/svg+xml", body: include_bytes!("icon.svg") },
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

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

impl<S: Serialize> Dashboard<S> {
    /// Not by way of a tree of values: it may be long, and is asked for often.
    pub fn answer(&self) -> Response {
        let body = serde_json::to_vec(self).expect("a dashboard is JSON").into();
        Response { status: 200, content_type: "application/json".into(), body, headers: Vec::new() }
    }

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

    fn text_of(asset: &Asset) -> &str {
        std::str::from_utf8(asset.body).expect("text")
    }

    #[test]
    fn the_page_asks_for_files_that_are_there_and_for_nothing_elsewhere() {
        let is_ours = |path: &str| {
            ASSETS.iter().any(|asset| asset.path == path)
                || ["/status", "/health", "/metrics"].contains(&path)
        };
        for (file, marks) in [(0, &["src=\"", "href=\""][..]), (2, &["from \""]), (3, &["from \""])] {
            let text = text_of(&ASSETS[file]);
            for link in marks.iter().flat_map(|mark| text.split(mark).skip(1)) {
                let path = link.split('"').next().expect("it ends");
                assert!(path.starts_with('#') || is_ours(path), "{path}");
            }
        }
        for asset in ASSETS {
            let text = text_of(asset).replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("://"), "{} names another host", asset.path);
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacent",
                "document.write",
                "eval(",
                "style=\"",
                "onclick=\"",
            ] {
                assert!(!text.contains(way), "{} has {way}", asset.path);
            }
        }
    }
}
