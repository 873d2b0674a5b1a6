//! A process that applies an archive to a DuckDB file, from its start to its end or to the fault that strikes it:
//!
//! `duckdb_life FILE ARCHIVE CACHE [stop|quarantine] TABLE…`, where `TABLE@base` begins with the newest base copy of it.
//! `SYNCDATA_LIFE_BATCH` is how many records share a transaction, `SYNCDATA_LIFE_MEMORY` how many bytes DuckDB may take, and
//! `SYNCDATA_LIFE_TEXT` lists columns that are kept as text.
//! It prints each table with its state and reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use syncdata_applier::apply::lookahead::Ahead;
use syncdata_applier::apply::transaction::{self, Rules};
use syncdata_applier::archive::source::Source;
use syncdata_applier::plan::Scope;
use syncdata_applier::plan::group::GroupName;
use syncdata_applier::plan::position::{Checkpoint, Position};
use syncdata_applier::plan::state::{State, Want};
use syncdata_applier::target::Target as _;
use syncdata_applier::target::duckdb::{Duckdb, File, Options};
use syncdata_archive::{ArchiveHandle, DirectoryArchive};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::ChangeFile;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::{TableCopy, pour};
use syncdata_service::config::OnError;
use syncdata_service::own_files;

/// Room for files of the archive on this host.
const CACHE_BYTES: u64 = 64 << 20;

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stderr, clippy::print_stdout, reason = "a program for tests")]
async fn main() -> ExitCode {
    match life().await {
        Ok(said) => {
            print!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", error.one_line());
            ExitCode::from(2)
        }
    }
}

async fn life() -> Result<String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, archive, cache, on_error, tables @ ..] = arguments.as_slice() else {
        return Err(Error::new(Kind::BadInput, "duckdb_life FILE ARCHIVE CACHE stop|quarantine TABLE…"));
    };
    let variable = |name: &str| std::env::var(name).ok();
    let number =
        |name: &str, otherwise: u64| variable(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let batch = number("SYNCDATA_LIFE_BATCH", 100_000);
    let text = variable("SYNCDATA_LIFE_TEXT").unwrap_or_default();
    let on_error = if on_error == "stop" { OnError::Stop } else { OnError::Quarantine };
    let options = Options {
        path: PathBuf::from(file),
        memory_limit_bytes: number("SYNCDATA_LIFE_MEMORY", 1 << 30),
        threads: 2,
        text_columns: text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
    };
    let rules = Rules { apply_batch_changes: batch, on_error, metric_freq: Duration::from_secs(3600) };

    let archive = ArchiveHandle::spawn(Box::new(DirectoryArchive::new(archive)))?;
    let source = Source::new(archive, PathBuf::from(cache), CACHE_BYTES, None)?;
    let mut target = Duckdb::new(File::open(options)?, rules.metric_freq);
    let archive_id = source.identity().await?.archive_id;
    target.adopt(archive_id).await?;
    for table in tables {
        let (name, is_copied) = match table.strip_suffix("@base") {
            Some(name) => (name.parse::<TableName>()?, true),
            None => (table.parse::<TableName>()?, false),
        };
        target.add(vec![name.clone()], Want::Auto, Some("a test".to_owned())).await?;
        // Also where an earlier life has come no further.
        let states = target.table_states().await?;
        if states.get(&name).is_some_and(|state| state.state != State::Pending) {
            continue;
        }
        if is_copied {
            copy(&mut target, &source, &name).await?;
        } else {
            target.begin_without_base(name, Position { lsn: Lsn::ZERO, commit_time: None }).await?;
        }
    }
    apply_all(&mut target, &source, &rules).await?;
    say(&mut target).await
}

async fn apply_all(target: &mut Duckdb, source: &Source, rules: &Rules) -> Result<()> {
    let mut checkpoint = target.checkpoint().await?;
    let archive_id = source.identity().await?.archive_id;
    let listing = source.list(None).await?;
    let names = listing.names().filter(|(_, name)| name.seq.get() > checkpoint.seq()).collect();
    let states = target.states().await?;
    let live = states.iter().filter(|(_, state)| state.state == State::Live);
    let live: BTreeSet<TableName> = live.map(|(table, _)| table.clone()).collect();
    let stream = source.stream(checkpoint.tip(archive_id), names, None, live);
    let mut ahead = Ahead::new(stream, rules.apply_batch_changes, Duckdb::prepare).of_one_shape(true);
    while let Some(group) = ahead.group().await {
        let group = group?;
        transaction::apply(
            target,
            rules,
            &checkpoint,
            &Scope::Live(GroupName::DEFAULT),
            &group,
            Some(&mut ahead),
        )
        .await?;
        checkpoint = Checkpoint::after(&group.last().expect("it has one").segment);
        for fetched in &group {
            fetched.clean()?;
        }
    }
    Ok(())
}

/// The newest base copy of the table, which is live with it.
async fn copy(target: &mut Duckdb, source: &Source, table: &TableName) -> Result<()> {
    let archive_id = source.identity().await?.archive_id;
    let snapshots = source.snapshots(archive_id).await?;
    let snapshot = snapshots.iter().find(|snapshot| snapshot.tables.contains_key(table));
    let snapshot = snapshot.ok_or_else(|| Error::new(Kind::NotFound, format!("no base copy has {table}")))?;
    let copied = &snapshot.tables[table];
    target.begin().await?;
    let done = rows(target, source, table, copied).await;
    if done.is_err() {
        target.roll_back().await;
        return done;
    }
    let position = Position { lsn: snapshot.start_lsn, commit_time: Some(snapshot.taken_at) };
    target.end_base(table.clone(), position, position, i64::MAX).await?;
    target.commit_base().await
}

async fn rows(target: &mut Duckdb, source: &Source, table: &TableName, copied: &TableCopy) -> Result<()> {
    let refused = |words: String| Error::new(Kind::Rejected, words);
    // What has no line yet is noted with its first state.
    let begun = target.begin_base(table.clone(), copied.relation.clone()).await?;
    begun.map_err(|difference| refused(difference.to_string()))?;
    for part in &copied.parts {
        let fetched = source.part(part).await?;
        let mut next = fetched.files.iter();
        let mut lines = Vec::new();
        let open = |_: &ChangeFile| own_files::read_plain(next.next().expect("one for each file"));
        pour(part, open, |piece| {
            lines.extend_from_slice(piece);
            Ok(())
        })?;
        let appended = target.append_base(table.clone(), copied.columns.clone(), lines).await?;
        let appended = appended.map_err(|difference| refused(difference.to_string()))?;
        if appended != part.rows {
            return Err(Error::new(Kind::Corrupt, format!("a part of {} rows had {appended}", part.rows)));
        }
        fetched.clean()?;
    }
    Ok(())
}

/// A line for each table: name, state, reason.
async fn say(target: &mut Duckdb) -> Result<String> {
    let states: BTreeMap<_, _> = target.states().await?;
    let line = |(name, state): (&TableName, &syncdata_applier::plan::state::TableState)| {
        format!("{name}\t{}\t{}\n", state.state, state.reason.as_deref().unwrap_or_default())
    };
    Ok(states.iter().map(line).collect())
}
