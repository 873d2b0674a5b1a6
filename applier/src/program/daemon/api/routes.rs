//! Everything that can be asked over HTTP: the one table from which requests are matched and openapi.json is made.

use syncdata_service::control::Method;
use syncdata_service::http::{
    Access, Answer, CURSOR_PARAMETER, LIMIT_PARAMETER, Parameter, Route, Site, Sort,
};
use syncdata_service::page;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Status,
    Health,
    Metrics,
    OpenApi,
    SyncStatus,
    CdcStatus,
    Tables,
    Executions,
    Execution,
    DeadLetters,
    DeadLetter,
    Consistency,
    Validate,
    Dashboard,
    MonitoringHealth,
    Alerts,
    MonitoringMetrics,
    Run,
    Full,
    Incremental,
    Retry,
    RetryDeadLetter,
    SkipDeadLetter,
    Check,
    DualWrite,
}

pub(super) const SITE: Site<Operation> = Site { routes: ROUTES, assets: page::ASSETS };

/// Where executions are told.
pub(super) const EXECUTIONS: &str = "/api/v1/data-sync/sync/executions";

const TABLE: Parameter = Parameter {
    name: "table",
    is_needed: false,
    is_list: false,
    schema: r#"{"type": "string"}"#,
    meaning: "of this table alone",
};
const ALL: Parameter = Parameter {
    name: "all",
    is_needed: false,
    is_list: false,
    schema: r#"{"type": "boolean", "default": false}"#,
    meaning: "also those that are settled",
};
const PRIMARY_KEY: Parameter = Parameter {
    name: "primary_key",
    is_needed: true,
    is_list: true,
    schema: r#"{"type": "string"}"#,
    meaning: "a value of the key, once for each of its columns; of a whole table: syncdata-applier consistency rows TABLE",
};
const BATCH_SIZE: Parameter = Parameter {
    name: "batch_size",
    is_needed: false,
    is_list: false,
    schema: r#"{"type": "integer", "minimum": 1, "maximum": 4294967295}"#,
    meaning: "taken for the sake of earlier callers: rows come as a stream",
};

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

/// What is done soon, as an execution.
const ACTION: Route<Operation> = Route {
    method: Method::Post,
    answers: &[Answer::json(202, "Accepted")],
    problems: &[Sort::TooMany],
    ..READ
};

const ROUTES: &[Route<Operation>] = &[
    Route {
        operation: Operation::Status,
        name: "status",
        path: "/status",
        summary: "How far the copy is, and what is wrong",
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
        summary: "How far the copy is, and what is wrong",
        answers: &[Answer::json(200, "Status")],
        ..READ
    },
    Route {
        operation: Operation::CdcStatus,
        name: "getCdcStatus",
        path: "/api/v1/data-sync/cdc/status",
        summary: "How far the archive is by its head, and how far the copy is after it",
        answers: &[Answer::json(200, "Cdc")],
        ..READ
    },
    Route {
        operation: Operation::Tables,
        name: "listTables",
        path: "/api/v1/data-sync/sync/tables",
        summary: "The tables of the whitelist, each with its state",
        answers: &[Answer::json(200, "TablePage")],
        ..LIST
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
        operation: Operation::DeadLetters,
        name: "listDeadLetters",
        path: "/api/v1/data-sync/sync/dead-letter-queue",
        summary: "Records that no table would take",
        answers: &[Answer::json(200, "DeadLetterPage")],
        parameters: &[LIMIT_PARAMETER, CURSOR_PARAMETER, TABLE, ALL],
        ..READ
    },
    Route {
        operation: Operation::DeadLetter,
        name: "getDeadLetter",
        path: "/api/v1/data-sync/sync/dead-letter-queue/{operation_id}",
        summary: "One of them, with its record",
        answers: &[Answer::json(200, "DeadLetter")],
        problems: &[Sort::NotFound],
        ..READ
    },
    Route {
        operation: Operation::Consistency,
        name: "getConsistency",
        path: "/api/v1/data-sync/consistency/status",
        summary: "What the newest proof says of each table",
        answers: &[Answer::json(200, "Consistency")],
        ..READ
    },
    Route {
        operation: Operation::Validate,
        name: "validateRow",
        path: "/api/v1/data-sync/consistency/validate/{table}",
        summary: "One row, now, against the archive",
        answers: &[Answer::json(200, "Rows")],
        parameters: &[PRIMARY_KEY],
        problems: &[Sort::NotFound, Sort::StateForbids],
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
    Route {
        operation: Operation::Run,
        name: "run",
        path: "/api/v1/data-sync/sync/run",
        summary: "A pass, now",
        body: Some("Nothing"),
        ..ACTION
    },
    Route {
        operation: Operation::Full,
        name: "resyncTable",
        path: "/api/v1/data-sync/sync/table/{table}/full",
        summary: "The table made anew from a base of the archive",
        body: Some("Nothing"),
        parameters: &[BATCH_SIZE],
        problems: &[Sort::NotFound, Sort::StateForbids, Sort::TooMany],
        ..ACTION
    },
    Route {
        operation: Operation::Incremental,
        name: "replayTable",
        path: "/api/v1/data-sync/sync/table/{table}/incremental",
        summary: "The rows that changed since a time, brought back to what the archive says of them",
        body: Some("Since"),
        problems: &[Sort::NotFound, Sort::StateForbids, Sort::TooMany],
        ..ACTION
    },
    Route {
        operation: Operation::Retry,
        name: "retryTable",
        path: "/api/v1/data-sync/sync/table/{table}/retry",
        summary: "The table let out of quarantine",
        body: Some("Nothing"),
        problems: &[Sort::NotFound, Sort::StateForbids, Sort::TooMany],
        ..ACTION
    },
    Route {
        operation: Operation::RetryDeadLetter,
        name: "retryDeadLetter",
        path: "/api/v1/data-sync/sync/dead-letter-queue/{operation_id}/retry",
        summary: "The record tried again",
        body: Some("Nothing"),
        problems: &[Sort::NotFound, Sort::StateForbids, Sort::TooMany],
        ..ACTION
    },
    Route {
        operation: Operation::SkipDeadLetter,
        name: "skipDeadLetter",
        path: "/api/v1/data-sync/sync/dead-letter-queue/{operation_id}/skip",
        summary: "The transaction of the record passed over, for a reason that is kept for ever; a resync undoes it",
        body: Some("Skip"),
        problems: &[Sort::NotFound, Sort::StateForbids, Sort::TooMany],
        ..ACTION
    },
    Route {
        operation: Operation::Check,
        name: "checkConsistency",
        path: "/api/v1/data-sync/consistency/check",
        summary: "What can be checked now, and what the newest proofs say, counted",
        body: Some("WhatToCheck"),
        problems: &[Sort::NotFound, Sort::StateForbids, Sort::TooMany],
        ..ACTION
    },
    Route {
        operation: Operation::DualWrite,
        name: "writeOperation",
        path: "/api/v1/data-sync/sync/operation",
        summary: "Not offered: rows are written at production",
        answers: &[],
        body: Some("Any"),
        problems: &[Sort::ReadOnlyCopy],
        ..ACTION
    },
];
