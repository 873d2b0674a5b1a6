//! What every daemon of ours answers, whatever it does: the page, Prometheus and a client ask both in the same way.

use super::problem::Sort;
use super::routes::{Access, Answer, Route};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Both {
    Status,
    Health,
    Metrics,
    OpenApi,
    Executions,
    Execution,
    Dashboard,
    Alerts,
}

/// Where executions are told.
pub const EXECUTIONS: &str = "/api/v1/data-sync/sync/executions";

const READ: Route<Both> = Route::read(Both::Status);

const OPEN: Route<Both> = Route { access: Access::Open, ..READ };

const LIST: Route<Both> = Route::list(Both::Status);

pub(super) const OF_BOTH: &[Route<Both>] = &[
    Route {
        operation: Both::Status,
        name: "status",
        path: "/status",
        summary: "How far it is, and what is wrong",
        answers: &[Answer::json(200, "Status")],
        ..OPEN
    },
    Route {
        operation: Both::Health,
        name: "health",
        path: "/health",
        summary: "Whether all is well: 200, or 503 with the reasons",
        answers: &[Answer::json(200, "Health"), Answer::json(503, "Health")],
        ..OPEN
    },
    Route {
        operation: Both::Metrics,
        name: "metrics",
        path: "/metrics",
        summary: "Numbers for Prometheus",
        answers: &[Answer::METRICS],
        ..OPEN
    },
    Route {
        operation: Both::OpenApi,
        name: "openApi",
        path: "/api/v1/data-sync/openapi.json",
        summary: "This document",
        answers: &[Answer::json(200, "Any")],
        ..READ
    },
    Route {
        operation: Both::Status,
        name: "getSyncStatus",
        path: "/api/v1/data-sync/sync/status",
        summary: "How far it is, and what is wrong",
        answers: &[Answer::json(200, "Status")],
        ..READ
    },
    Route {
        operation: Both::Executions,
        name: "listExecutions",
        path: EXECUTIONS,
        summary: "What was done, the newest first",
        answers: &[Answer::json(200, "ExecutionPage")],
        ..LIST
    },
    Route {
        operation: Both::Execution,
        name: "getExecution",
        path: "/api/v1/data-sync/sync/executions/{id}",
        summary: "One of them",
        answers: &[Answer::json(200, "Execution")],
        problems: &[Sort::NotFound],
        ..READ
    },
    Route {
        operation: Both::Dashboard,
        name: "dashboard",
        path: "/api/v1/data-sync/monitoring/dashboard",
        summary: "All that the page shows",
        answers: &[Answer::json(200, "Dashboard")],
        ..READ
    },
    Route {
        operation: Both::Health,
        name: "getHealth",
        path: "/api/v1/data-sync/monitoring/health",
        summary: "Whether all is well: 200, or 503 with the reasons",
        answers: &[Answer::json(200, "Health"), Answer::json(503, "Health")],
        ..READ
    },
    Route {
        operation: Both::Alerts,
        name: "listAlerts",
        path: "/api/v1/data-sync/monitoring/alerts",
        summary: "Alerts that are open",
        answers: &[Answer::json(200, "AlertPage")],
        ..LIST
    },
    Route {
        operation: Both::Metrics,
        name: "getPrometheusMetrics",
        path: "/api/v1/data-sync/monitoring/metrics/prometheus",
        summary: "Numbers for Prometheus",
        answers: &[Answer::METRICS],
        ..READ
    },
];
