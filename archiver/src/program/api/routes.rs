//! What can be asked of this daemon alone over HTTP: with what both answer, the table from which requests are matched and
//! openapi.json is made.

use syncdata_service::http::{Answer, Both, Route, Site};
use syncdata_service::page;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Both(Both),
    CdcStatus,
    Slot,
    Spool,
    Snapshots,
    Proofs,
}

pub(super) const SITE: Site<Operation> = Site { both: Operation::Both, routes: ROUTES, assets: page::ASSETS };

const READ: Route<Operation> = Route::read(Operation::CdcStatus);

const ROUTES: &[Route<Operation>] = &[
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
];
