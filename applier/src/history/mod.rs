//! What operators do with the archive by hand: repair the rows of a stretch of time, look at that stretch in copies, make
//! tables as they were at a moment, read every change of one row, try whether a table can be restored.

mod as_of;
mod drill;
mod into;
mod keys;
mod repair;
mod report;
pub mod row;
mod schemas;

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::manifest::Link;
use syncdata_formats::name::{TableName, TablePattern};
use syncdata_service::config::split_list;
use uuid::Uuid;

use crate::archive::range::TimeRange;
use crate::archive::source::Source;
use crate::plan::group::GroupName;
use crate::plan::state::TableState;
use crate::target::postgres::cursor::{self, Checkpoint, Cursor};
use crate::target::postgres::local::Local;

pub use self::as_of::{AsOf, Past, PastTable, as_of};
pub use self::drill::{Drill, drill};
pub use self::into::look;
pub use self::repair::{Known, Plan, TablePlan, repair};
pub use self::report::{Changed, NotRebuilt, Report, TableReport};

/// One batch is made while the one before is written.
pub(super) const BATCHES_AHEAD: usize = 1;

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct Order {
    pub range: TimeRange,
    /// Names and patterns, separated by commas; all of the whitelist otherwise.
    pub tables: Option<String>,
    pub dry_run: bool,
}

/// Where the copy stands, and the tables that were asked for.
#[derive(Debug)]
struct Standing {
    archive_id: Uuid,
    applied: Link,
    states: BTreeMap<TableName, TableState>,
    /// Which all of these tables are in.
    group: GroupName,
    checkpoint: Checkpoint,
}

impl Standing {
    async fn read(local: &Local, source: &Source, tables: Option<&str>) -> Result<Standing> {
        let (client, meta) = (local.session.client(), &local.meta);
        let states = chosen(cursor::table_states(client, meta).await?, tables)?;
        let group = group_of(&states)?;
        let checkpoint = Cursor::of_group(meta, &group).read(client).await?;
        let (Some(archive_id), Some(applied)) = (checkpoint.archive_id, checkpoint.segment) else {
            return Err(Error::new(Kind::NotFound, "nothing was applied here yet")
                .hint("syncdata-applier sync applies what the archive has"));
        };
        let found = source.identity().await?.archive_id;
        if found != archive_id {
            let message =
                format!("{} holds archive {found}, this copy belongs to {archive_id}", source.location());
            return Err(Error::new(Kind::Foreign, message).hint("nothing was changed; check archive_dir"));
        }
        Ok(Standing { archive_id, applied: applied.link, states, group, checkpoint })
    }

    fn seq(&self) -> SegmentSeq {
        self.applied.seq
    }
}

/// The group that the tables are in. Those of several stand at several places of the archive.
fn group_of(states: &BTreeMap<TableName, TableState>) -> Result<GroupName> {
    let groups: BTreeSet<&GroupName> = states.values().map(|state| &state.group).collect();
    match groups.len() {
        0 | 1 => Ok(groups.into_iter().next().cloned().unwrap_or_default()),
        _ => {
            let names: Vec<&str> = groups.into_iter().map(GroupName::as_str).collect();
            let message = format!(
                "these tables are of several groups ({}), and each has a checkpoint of its own",
                names.join(", ")
            );
            Err(Error::new(Kind::BadInput, message)
                .hint("one group at a time: --tables, with those of one group"))
        }
    }
}

/// Those of the whitelist that are meant. A name that matches nothing is a mistake.
fn chosen(
    states: BTreeMap<TableName, TableState>,
    tables: Option<&str>,
) -> Result<BTreeMap<TableName, TableState>> {
    let Some(tables) = tables else { return Ok(states) };
    let items = split_list(tables)
        .ok_or_else(|| Error::bad_input("a list of tables (users,sales.orders,audit.*)", tables))?;
    let patterns = items.iter().map(|item| Ok((item, item.parse::<TablePattern>()?)));
    let patterns: Vec<(&String, TablePattern)> = patterns.collect::<Result<_, Error>>()?;
    let unknown = patterns.iter().find(|(_, pattern)| !states.keys().any(|table| pattern.matches(table)));
    if let Some((item, _)) = unknown {
        let error = Error::new(Kind::NotFound, format!("{item} is not in the whitelist"));
        return Err(error.hint("syncdata-applier list-tables shows what is"));
    }
    let is_meant = |table: &TableName| patterns.iter().any(|(_, pattern)| pattern.matches(table));
    Ok(states.into_iter().filter(|(table, _)| is_meant(table)).collect())
}
