//! What operators ask of tables: which are kept up, and what is to become of them.

use duckdb::params;
use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use uuid::Uuid;

use super::cursor::{self, json};
use super::database::Database;
use super::error::DuckdbContext as _;
use super::names;
use super::tables;
use crate::plan::position::Position;
use crate::plan::state::{Event, State, TableState, Want};

/// Puts tables on the whitelist; which of them are new there.
pub(super) fn add(database: &Database, names: &[TableName], creator: Option<&str>) -> Result<Vec<TableName>> {
    let doing = || "adding tables".to_owned();
    let insert = format!(
        "INSERT INTO {w} (id, table_name, creator) SELECT (SELECT coalesce(max(id), 0) + 1 FROM {w}), ?, ? \
         WHERE NOT EXISTS (FROM {w} WHERE table_name = ?)",
        w = database.own("tables_to_sync")
    );
    let mut added = Vec::new();
    for name in names {
        let text = name.to_string();
        if database.connection.execute(&insert, params![text, creator, text]).context(doing)? == 1 {
            added.push(name.clone());
        }
    }
    Ok(added)
}

/// Takes tables off the whitelist. They stay with their rows, and that they are ours is remembered: added again they begin
/// anew.
pub(super) fn remove(database: &Database, tables: &[TableName]) -> Result<()> {
    let delete = format!("DELETE FROM {} WHERE table_name = ?", database.own("tables_to_sync"));
    for table in tables {
        let deleted = database.connection.execute(&delete, [table.to_string()]);
        deleted.context(|| format!("removing {table} from the whitelist"))?;
        cursor::change(database, table, Event::StartedOver, None, None)?;
        forget(database, table)?;
        cursor::note(database, table, "load = NULL, captured_until = NULL, accepted_gaps = '[]'", &[])?;
        settle(database, table, "removed")?;
    }
    Ok(())
}

/// Whatever rows it has are of no position.
fn forget(database: &Database, table: &TableName) -> Result<()> {
    let set = "position_lsn = NULL, position_time = NULL, gap = NULL, nan_as_null = '[]', changed_lsn = NULL, \
        changed_at = NULL, incomplete_lsn = NULL, base_lsn = NULL, is_disowned = false, since = now()";
    cursor::note(database, table, set, &[])
}

/// What failed of the table is in nobody's way any more.
pub(super) fn settle(database: &Database, table: &TableName, resolution: &str) -> Result<()> {
    let update = format!(
        "UPDATE {} SET resolved_at = now(), resolution = ? WHERE table_name = ? AND resolved_at IS NULL",
        database.own("data_sync_quarantine")
    );
    let settled = database.connection.execute(&update, [resolution, &table.to_string()]);
    settled.context(|| format!("settling what failed of {table}"))?;
    Ok(())
}

/// Asks for a base. A table that nothing is known of yet gets its line.
pub(super) fn want(database: &Database, table: &TableName, want: Want) -> Result<()> {
    let doing = || format!("noting the base that {table} waits for");
    let states = database.own("data_sync_table_state");
    let insert = format!(
        "INSERT INTO {states} (table_name, state) SELECT ?, 'pending' \
         WHERE NOT EXISTS (FROM {states} WHERE table_name = ?)"
    );
    let text = table.to_string();
    database.connection.execute(&insert, [&text, &text]).context(doing)?;
    cursor::note(database, table, "load = ?, load_asked = load_asked + 1", &[&want.as_str()])
}

/// What was asked for cannot be had. A wish that has come since (`asked` is known) stays.
pub(super) fn grant_nothing(database: &Database, table: &TableName, asked: i64) -> Result<()> {
    let set = "load = CASE WHEN load_asked > ? THEN load END";
    cursor::note(database, table, set, &[&asked])
}

/// From here on tables go on from where they are, over the gap that keeps them back where that is accepted.
pub(super) fn retry(database: &Database, tables: &[TableName], accept_gap: bool) -> Result<()> {
    let states = cursor::tables(database)?;
    for table in tables {
        if accept_gap {
            let mut accepted: Vec<String> =
                states[table].state.accepted_gaps.iter().map(ToString::to_string).collect();
            accepted.extend(gap(database, table)?);
            let set = "accepted_gaps = ?, gap = NULL";
            cursor::note(database, table, set, &[&json(&accepted)])?;
        }
        cursor::change(database, table, Event::Retried, None, None)?;
    }
    Ok(())
}

fn gap(database: &Database, table: &TableName) -> Result<Option<String>> {
    let select =
        format!("SELECT max(gap) FROM {} WHERE table_name = ?", database.own("data_sync_table_state"));
    let found = database.connection.query_row(&select, [table.to_string()], |row| row.get(0));
    found.context(|| format!("reading the gap of {table}"))
}

/// Makes tables anew from a base: from then on every pass sees to it.
pub(super) fn resync(database: &Database, tables: &[(TableName, TableState)]) -> Result<()> {
    for (table, state) in tables {
        want(database, table, Want::Rebuild)?;
        if state.position.is_none() {
            cursor::change(database, table, Event::ResyncAsked, None, None)?;
        }
    }
    Ok(())
}

/// Forgets all positions: what the tables hold is of another archive, or of a part that this one no longer has. They keep
/// their rows and wait for a base.
pub(super) fn start_over(database: &Database, archive_id: Uuid, tables: &[TableName]) -> Result<()> {
    let doing = || "starting over".to_owned();
    let checkpoint = database.own("data_sync_checkpoint");
    let anew = format!(
        "CREATE OR REPLACE TEMPORARY TABLE syncdata_kept AS SELECT max(stale_after) AS stale_after FROM {checkpoint}; \
         DELETE FROM {checkpoint}; INSERT INTO {checkpoint} (seq, end_lsn, stale_after) \
         SELECT 0, 0, coalesce(stale_after, INTERVAL '30 minutes') FROM temp.main.syncdata_kept; \
         DROP TABLE temp.main.syncdata_kept"
    );
    database.connection.execute_batch(&anew).context(doing)?;
    cursor::adopt(database, archive_id)?;
    let reason = Some("waits for its base: the copy was started over");
    for table in tables {
        want(database, table, Want::Rebuild)?;
        cursor::change(database, table, Event::StartedOver, None, reason)?;
        forget(database, table)?;
    }
    Ok(())
}

/// Empties tables. Their positions stay, so that nothing fills them by itself.
pub(super) fn clear(database: &Database, tables: &[TableName]) -> Result<()> {
    let known = cursor::tables(database)?;
    let there = tables::load(database, &known, tables)?;
    for table in tables {
        if there.contains_key(table) {
            let delete = format!("DELETE FROM {}", tables::sql(database, table));
            database.connection.execute(&delete, []).context(|| format!("emptying {table}"))?;
        }
        let reason = Some("emptied by clear: it needs its rows again (resync)");
        cursor::change(database, table, Event::Emptied, None, reason)?;
        let set = "load = CASE WHEN position_lsn IS NULL THEN load END, load_asked = load_asked + 1";
        cursor::note(database, table, set, &[])?;
        settle(database, table, "cleared")?;
    }
    Ok(())
}

/// A table begins without a base.
pub(super) fn begin(database: &Database, table: &TableName, position: Position) -> Result<()> {
    cursor::change(database, table, Event::NeedsNoBase, Some(position), None)?;
    cursor::note(database, table, "load = NULL, load_asked = load_asked + 1", &[])
}

/// Those of the tables whose rows are no longer there, or were emptied by somebody.
pub(super) fn lost(database: &Database, asked: &[TableName]) -> Result<Vec<(TableName, String)>> {
    let known = cursor::tables(database)?;
    let there = tables::load(database, &known, asked)?;
    let mut lost = Vec::new();
    for table in asked {
        let Some(of_table) = known.get(table).filter(|known| known.state.state != State::Pending) else {
            continue;
        };
        let reason = if of_table.relation.is_some() && !there.contains_key(table) {
            format!("it is not in the file any more; only a new base makes it right: {}", resync_of(table))
        } else if of_table.is_disowned {
            format!(
                "its rows may be others than the source has; only a new base makes them right: {}",
                resync_of(table)
            )
        } else {
            continue;
        };
        lost.push((table.clone(), reason));
    }
    Ok(lost)
}

fn resync_of(table: &TableName) -> String {
    format!("syncdata-applier resync {}", table.shell_word())
}

/// Why no table of that name can be in the file, beside those of the whitelist.
pub(super) fn refused(database: &Database, table: &TableName) -> Result<Option<String>> {
    if let Some(reason) = names::refused(table, &database.stem) {
        return Ok(Some(reason));
    }
    let known = cursor::tables(database)?;
    let is_twin = |other: &&TableName| {
        *other != table
            && names::is_same(names::schema(other), names::schema(table))
            && names::is_same(other.name(), table.name())
    };
    let twin = known.keys().find(is_twin);
    Ok(twin.map(|twin| format!("{} and {} are one name to DuckDB", table.sql(), twin.sql())))
}
