//! All that one program answers: from its table requests are matched, and openapi.json is made.

use super::both::{Both, OF_BOTH};
use super::page::Asset;
use super::percent::decoded;
use super::problem::{Problem, Sort};
use super::routes::{Route, name_of};

/// Everything that a program answers over HTTP.
#[derive(Clone, Copy, Debug)]
pub struct Site<O: 'static> {
    /// How the program calls what every daemon of ours answers.
    pub both: fn(Both) -> O,
    /// What it alone answers.
    pub routes: &'static [Route<O>],
    /// The page and what it loads, without a token.
    pub assets: &'static [Asset],
}

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Found<'a, O> {
    Asset(&'a Asset),
    Route(Route<O>, Vec<String>),
    /// The path is ours, and can be asked by these.
    OtherMethod(Vec<&'static str>),
    Nothing,
}

impl<O: Copy> Site<O> {
    /// What every daemon answers, then what this one does.
    pub(super) fn all_routes(&self) -> impl Iterator<Item = Route<O>> + use<'_, O> {
        let both = OF_BOTH.iter().map(|route| route.asked_as((self.both)(route.operation)));
        both.chain(self.routes.iter().copied())
    }

    pub(super) fn find(&self, method: &hyper::Method, path: &str) -> Result<Found<'_, O>, Problem> {
        // What answers GET answers HEAD, without the body.
        let asked = if method == hyper::Method::HEAD { &hyper::Method::GET } else { method };
        if let Some(asset) = self.assets.iter().find(|asset| asset.path == path) {
            let found = Found::Asset(asset);
            return Ok(if asked == hyper::Method::GET {
                found
            } else {
                Found::OtherMethod(vec!["GET", "HEAD"])
            });
        }
        let mut others = Vec::new();
        for route in self.all_routes() {
            let Some(arguments) = arguments(route.path, path) else { continue };
            if name_of(route.method) != asked.as_str() {
                others.push(name_of(route.method));
                continue;
            }
            let decoded = arguments.iter().map(|argument| decoded(argument, false));
            let arguments: Option<Vec<String>> = decoded.collect();
            let arguments = arguments
                .ok_or_else(|| Problem::new(Sort::BadRequest, "the path is not percent-encoded UTF-8"))?;
            return Ok(Found::Route(route, arguments));
        }
        if others.contains(&"GET") {
            others.push("HEAD");
        }
        Ok(if others.is_empty() { Found::Nothing } else { Found::OtherMethod(others) })
    }
}

/// What stands in a path where a template has braces; `None` where they do not fit. Each is one segment.
fn arguments<'a>(template: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    let mut found = Vec::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(found),
            (Some(wanted), Some(given)) if wanted.starts_with('{') && !given.is_empty() => found.push(given),
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::routes::Answer;
    use super::*;
    use crate::control::Method;

    const ROUTE: Route<u8> = Route {
        name: "one",
        path: "/t/{table}/rows/{id}",
        answers: &[Answer::json(200, "Any")],
        ..Route::read(1)
    };

    const ROUTES: &[Route<u8>] = &[ROUTE, Route { operation: 2, path: "/t", method: Method::Post, ..ROUTE }];

    fn found(method: &str, path: &str) -> String {
        let site = Site {
            both: |_| 0,
            routes: ROUTES,
            assets: &[Asset { path: "/", content_type: "text/html", body: b"x" }],
        };
        let method = method.parse().expect("a method");
        match site.find(&method, path) {
            Ok(Found::Route(route, arguments)) => format!("{} {arguments:?}", route.operation),
            Ok(Found::Asset(asset)) => format!("asset {}", asset.path),
            Ok(Found::OtherMethod(allowed)) => format!("only {allowed:?}"),
            Ok(Found::Nothing) => "nothing".into(),
            Err(problem) => format!("{}", problem.sort().status()),
        }
    }

    #[test]
    fn a_path_leads_to_one_route_and_its_parts_are_decoded_once() {
        assert_eq!(found("GET", "/t/a%2Fb/rows/%25"), r#"1 ["a/b", "%"]"#);
        assert_eq!(found("HEAD", "/t/a/rows/b"), r#"1 ["a", "b"]"#);
        assert_eq!(found("POST", "/t/a/rows/b"), r#"only ["GET", "HEAD"]"#);
        assert_eq!(found("GET", "/t"), r#"only ["POST"]"#);
        assert_eq!(found("GET", "/health"), "0 []");
        assert_eq!(found("GET", "/"), "asset /");
        assert_eq!(found("POST", "/"), r#"only ["GET", "HEAD"]"#);
        for other in
            ["/t/", "//", "", "*", "/t/a/rows", "/t//rows/b", "/t/a/rows/", "/t/a/rows/b/", "/T/a/rows/b"]
        {
            assert_eq!(found("GET", other), "nothing", "{other}");
        }
        assert_eq!(found("GET", "/t/%zz/rows/b"), "400");
    }
}
