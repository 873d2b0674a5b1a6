//! What can be asked of this daemon alone over HTTP: with what both answer, the table from which requests are matched and
//! openapi.json is made.

use syncdata_service::control::Method;
use syncdata_service::http::{Answer, Both, CURSOR_PARAMETER, LIMIT_PARAMETER, Parameter, Route, Site, Sort};
use syncdata_service::page;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Both(Both),
    CdcStatus,
    Tables,
    DeadLetters,
    DeadLetter,
    Consistency,
    Validate,
    Run,
    Full,
    Incremental,
    Retry,
    RetryDeadLetter,
    SkipDeadLetter,
    Check,
    DualWrite,
}

pub(super) const SITE: Site<Operation> = Site { both: Operation::Both, routes: ROUTES, assets: page::ASSETS };

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

const READ: Route<Operation> = Route::read(Operation::CdcStatus);

const LIST: Route<Operation> = Route::list(Operation::CdcStatus);

/// What is done soon, as an execution.
const ACTION: Route<Operation> = Route {
    method: Method::Post,
    answers: &[Answer::json(202, "Accepted")],
    problems: &[Sort::TooMany],
    ..READ
};

const ROUTES: &[Route<Operation>] = &[
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
