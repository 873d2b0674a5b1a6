//! Everything that can be asked over HTTP: the one table from which requests are matched and openapi.json is made.

use syncdata_service::control::Method;
use syncdata_service::http::{Access, Answer, Route, Site};
use syncdata_service::page;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Status,
    Health,
    Metrics,
    Dashboard,
}

pub(super) const SITE: Site<Operation> = Site { routes: ROUTES, assets: page::ASSETS };

const READ: Route<Operation> = Route {
    operation: Operation::Status,
    name: "",
    method: Method::Get,
    path: "",
    access: Access::Token,
    summary: "",
    parameters: &[],
    body: None,
    answers: &[],
    problems: &[],
};

const OPEN: Route<Operation> = Route { access: Access::Open, ..READ };

const ROUTES: &[Route<Operation>] = &[
    Route {
        operation: Operation::Status,
        name: "status",
        path: "/status",
        summary: "How far the archive is, and what is wrong",
        answers: &[Answer::json(200, "Status")],
        ..OPEN
    },
    Route {
        operation: Operation::Health,
        name: "health",
        path: "/health",
        summary: "Whether all is well: 200, or 503 with the reasons",
        answers: &[Answer::json(200, "Health"), Answer::json(503, "Health")],
        ..OPEN
    },
    Route {
        operation: Operation::Metrics,
        name: "metrics",
        path: "/metrics",
        summary: "Numbers for Prometheus",
        answers: &[Answer::METRICS],
        ..OPEN
    },
    Route {
        operation: Operation::Dashboard,
        name: "dashboard",
        path: "/api/v1/data-sync/monitoring/dashboard",
        summary: "All that the page shows",
        answers: &[Answer::json(200, "Dashboard")],
        ..READ
    },
];
