//! How the tables of the whitelist are: set aside, stale, waiting, proved to differ. And what is captured without being in it.

use std::collections::BTreeSet;

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_service::finding::Finding;

use super::archive::Newest;
use crate::operations::status::{Found, TableStatus};
use crate::plan::state::State;
use crate::target::postgres::local::Local;

pub(super) async fn look(local: &Local, findings: &mut Vec<Finding>) -> Result<()> {
    let found = Found::read(local).await?;
    findings.extend(found.tables.iter().flat_map(of_table));
    Ok(())
}

pub(super) fn of_table(table: &TableStatus) -> Vec<Finding> {
    let (name, word) = (&table.table, TableName::word_of(&table.table));
    let because = table.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let command = |command: &str| format!("syncdata-applier {command} {word}");
    let mut findings = Vec::new();
    match table.state {
        State::Live if table.stale => findings.push(
            Finding::warn("state", format!("{name} is not fresh within stale_after, as of {}", as_of(table)))
                .remedy("look at syncdata-applier status, and at syncdata-archiver status on the production host"),
        ),
        State::Live => {}
        State::Quarantined => findings.push(
            Finding::fail("state", format!("{name} is quarantined{because}"))
                .remedy(format!("mend what the reason says, then: {}; or make it anew: {}", command("retry"), command("resync"))),
        ),
        State::Stale => findings.push(
            Finding::fail("state", format!("{name} is stale, changes after {} are lost{because}", as_of(table)))
                .remedy(format!("when a snapshot after the gap is there: {}", command("resync"))),
        ),
        State::Pending if table.lsn.is_some() => findings.push(
            Finding::fail("state", format!("{name} was emptied and waits for its rows{because}")).remedy(command("resync")),
        ),
        State::Pending | State::Loading => findings.push(
            Finding::warn("state", format!("{name} is {}{because}", table.state)).remedy(
                "it comes with the next pass; where it waits for a base copy: syncdata-archiver snapshot on the production host",
            ),
        ),
    }
    if table.differs {
        let remedy = match table.differs_in_rows() {
            true => {
                let (rows, repair) = (command("consistency rows"), command("consistency repair"));
                format!("which rows: {rows}; mend them: {repair}")
            }
            false => format!("by what: {}", command("consistency check")),
        };
        findings.push(Finding::fail("proof", format!("{name} differs from production")).remedy(remedy));
    }
    findings.extend(table.incomplete_warning().map(|warning| {
        Finding::warn("incomplete", warning)
            .remedy(format!("make it anew: {}; or wait for the next proof", command("resync")))
    }));
    findings.extend(table.nan_warning().map(|warning| {
        Finding::warn("NaN", warning)
            .remedy(format!("after an upgrade of wal2json and a snapshot: {}", command("resync")))
    }));
    findings
}

fn as_of(table: &TableStatus) -> String {
    table.data_as_of.map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
}

/// No fault: who captures all need not copy all. The reverse is.
pub(super) fn not_listed(newest: &Newest, names: &[TableName]) -> Option<Finding> {
    const SHOWN: usize = 5;
    let listed: BTreeSet<&TableName> = names.iter().collect();
    let captured = newest.capture.as_ref()?;
    let others: Vec<String> =
        captured.iter().filter(|table| !listed.contains(table)).map(|table| table.shell_word()).collect();
    if others.is_empty() {
        return Some(Finding::ok("whitelist", "all captured tables are in it"));
    }
    let shown = others[..others.len().min(SHOWN)].join(" ");
    let more =
        if others.len() > SHOWN { format!(" and {} more", others.len() - SHOWN) } else { String::new() };
    Some(Finding::ok(
        "whitelist",
        format!(
            "captured and not copied here: {shown}{more}; who wants them: syncdata-applier add-tables {shown}"
        ),
    ))
}
