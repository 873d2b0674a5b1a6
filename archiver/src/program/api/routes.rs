//! Everything that can be asked over HTTP: the one table from which requests are matched and openapi.json is made.

use syncdata_service::control::Method;
use syncdata_service::http::{Access, Answer, CURSOR_PARAMETER, LIMIT_PARAMETER, Route, Site, Sort};
use syncdata_service::page;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Status,
    Health,
    Metrics,
    OpenApi,
    SyncStatus,
    CdcStatus,
    Slot,
    Spool,
    Snapshots,
    Proofs,
    Executions,
    Execution,
    Dashboard,
    MonitoringHealth,
    Alerts,
    MonitoringMetrics,
}

pub(super) const SITE: Site<Operation> = Site { routes: ROUTES, assets: page::ASSETS };

/// Of a question that needs a token.
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

const LIST: Route<Operation> = Route { parameters: &[LIMIT_PARAMETER, CURSOR_PARAMETER], ..READ };

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
        operation: Operation::OpenApi,
        name: "openApi",
        path: "/api/v1/data-sync/openapi.json",
        summary: "This document",
        answers: &[Answer::json(200, "Any")],
        ..READ
    },
    Route {
        operation: Operation::SyncStatus,
        name: "getSyncStatus",
        path: "/api/v1/data-sync/sync/status",
        summary: "How far the archive is, and what is wrong",
        answers: &[Answer::json(200, "Status")],
        ..READ
    },
    Route {
        operation: Operation::CdcStatus,
        name: "getCdcStatus",
        path: "/api/v1/data-sync/cdc/status",
        summary: "Slot, spool and archive together",
        answers: &[Answer::json(200, "Cdc")],
        ..READ
    },
    Route {
        operation: Operation::Slot,
        name: "getSlot",
        path: "/api/v1/data-sync/cdc/slot",
        summary: "The replication slot, as of the last look at production",
        answers: &[Answer::json(200, "Slot")],
        ..READ
    },
    Route {
        operation: Operation::Spool,
        name: "getSpool",
        path: "/api/v1/data-sync/cdc/spool",
        summary: "What waits on this host",
        answers: &[Answer::json(200, "Spool")],
        ..READ
    },
    Route {
        operation: Operation::Snapshots,
        name: "getSnapshots",
        path: "/api/v1/data-sync/cdc/snapshots",
        summary: "The newest snapshot, and those that were made of late",
        answers: &[Answer::json(200, "Snapshots")],
        ..READ
    },
    Route {
        operation: Operation::Proofs,
        name: "getProofs",
        path: "/api/v1/data-sync/cdc/proofs",
        summary: "When a proof was made last, and those that were made of late",
        answers: &[Answer::json(200, "Proofs")],
        ..READ
    },
    Route {
        operation: Operation::Executions,
        name: "listExecutions",
        path: "/api/v1/data-sync/sync/executions",
        summary: "What was done, the newest first",
        answers: &[Answer::json(200, "ExecutionPage")],
        ..LIST
    },
    Route {
        operation: Operation::Execution,
        name: "getExecution",
        path: "/api/v1/data-sync/sync/executions/{id}",
        summary: "One of them",
        answers: &[Answer::json(200, "Execution")],
        problems: &[Sort::NotFound],
        ..READ
    },
    Route {
        operation: Operation::Dashboard,
        name: "dashboard",
        path: "/api/v1/data-sync/monitoring/dashboard",
        summary: "All that the page shows",
        answers: &[Answer::json(200, "Dashboard")],
        ..READ
    },
    Route {
        operation: Operation::MonitoringHealth,
        name: "getHealth",
        path: "/api/v1/data-sync/monitoring/health",
        summary: "Whether all is well: 200, or 503 with the reasons",
        answers: &[Answer::json(200, "Health"), Answer::json(503, "Health")],
        ..READ
    },
    Route {
        operation: Operation::Alerts,
        name: "listAlerts",
        path: "/api/v1/data-sync/monitoring/alerts",
        summary: "Alerts that are open",
        answers: &[Answer::json(200, "AlertPage")],
        ..LIST
    },
    Route {
        operation: Operation::MonitoringMetrics,
        name: "getPrometheusMetrics",
        path: "/api/v1/data-sync/monitoring/metrics/prometheus",
        summary: "Numbers for Prometheus",
        answers: &[Answer::METRICS],
        ..READ
    },
];
