//! `history`: every change of one row, from the archive alone.

use std::process::ExitCode;

use syncdata_formats::chain::Verified;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::manifest::{Manifest, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::time::Moment;
use syncdata_service::config::Config;
use syncdata_service::output::Output;
use syncdata_service::progress::{Progress, Unit};
use tokio::sync::mpsc;

use crate::apply::reader;
use crate::archive::hand_files::HandFiles;
use crate::archive::range::TimeRange;
use crate::archive::trail::Trail;
use crate::history::row::{Change, History};

/// Changes on their way from the reading thread.
const CHANGES_AHEAD: usize = 1024;

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The table, as the archive names it
    pub table: TableName,
    /// The row's key: a value for each of its columns, in their order
    #[arg(required = true, value_name = "KEY", allow_negative_numbers = true)]
    pub key: Vec<String>,
    /// From this day (its midnight UTC) or time of commit on
    #[arg(long, value_name = "T")]
    pub from: Option<Moment>,
    /// Up to, and without, this day or time
    #[arg(long, value_name = "T")]
    pub to: Option<Moment>,
}

pub async fn run(config: &Config, arguments: Arguments, output: Output) -> Result<ExitCode> {
    let range = TimeRange::new(arguments.from, arguments.to)?;
    let mut files = HandFiles::open(config)?;
    let source = files.source.clone();
    let archive_id = source.identity().await?.archive_id;
    let mut trail = Trail::open(&source, archive_id, None, None).await?;
    trail.reach(range.first_day()).await?;
    let counted = |segment: &&Verified| segment.manifest().tables.contains_key(&arguments.table);
    let meets = |segment: &&Verified| range.meets(segment.manifest());
    let segments: Vec<&Verified> = trail.manifests().iter().filter(meets).filter(counted).collect();
    check_key(&arguments, &segments)?;
    let chain: Vec<&Manifest> = trail.manifests().iter().map(Verified::manifest).collect();
    let lost = range.lost(&chain, &arguments.table, None);
    let bytes = segments.iter().filter_map(|segment| segment.manifest().file.as_ref()).map(|f| f.bytes).sum();
    let mut progress = Progress::start("reading the archive", Unit::Bytes, Some(bytes));
    let mut told = Told::begin(&arguments, output);
    let mut history = History::new(arguments.table.to_string(), arguments.key.clone());
    let mut relation = segments.iter().find_map(|segment| relation(segment, &arguments.table));
    for segment in &segments {
        relation = self::relation(segment, &arguments.table).or(relation);
        let (Some(file), Some(relation)) = (files.get(segment).await?, relation.clone()) else { continue };
        let (changes, mut found) = mpsc::channel::<Change>(CHANGES_AHEAD);
        let read = Verified::clone(segment);
        let reading = tokio::task::spawn_blocking(move || {
            let seq = read.manifest().seq.get();
            reader::rows(&read, &file, |row, _| {
                if range.has(row.ts)
                    && let Some(change) = history.take(row, &relation, seq)
                {
                    // Whoever does not listen has an error of his own.
                    let _ = changes.blocking_send(change);
                }
                Ok(())
            })?;
            Ok::<_, Error>(history)
        });
        while let Some(change) = found.recv().await {
            told.tell(&change);
        }
        history = reading.await.expect("reading does not panic")?;
        progress.add(segment.manifest().file.as_ref().map_or(0, |file| file.bytes));
    }
    progress.finish();
    told.end(segments.len(), trail.manifests().len(), lost.as_deref());
    Ok(ExitCode::from(u8::from(lost.is_some())))
}

fn relation(segment: &Verified, table: &TableName) -> Option<Relation> {
    segment.manifest().relations.get(table).cloned()
}

/// That the table is there, and has as many key columns as values were given.
fn check_key(arguments: &Arguments, segments: &[&Verified]) -> Result<()> {
    let Arguments { table, key, .. } = arguments;
    if segments.is_empty() {
        return Err(Error::new(Kind::NotFound, format!("the archive has no changes of {table} there"))
            .hint("names are those of the archive: users, sales.orders, \"Odd.Name\""));
    }
    let mut relations = segments.iter().rev().filter_map(|segment| segment.manifest().relations.get(table));
    let Some(relation) = relations.next() else {
        let message = format!("the archive does not describe {table}: it was dropped before it was read");
        return Err(Error::new(Kind::NotFound, message));
    };
    if relation.key.is_empty() {
        let message = format!("{table} has no key: its rows cannot be told apart");
        return Err(Error::new(Kind::BadInput, message)
            .hint("docs/archive-format.md shows how to search change files with zstdcat and jq"));
    }
    if relation.key.len() != key.len() {
        let message = format!("the key of {table} is ({}): one value for each", relation.key.join(", "));
        return Err(Error::new(Kind::BadInput, message));
    }
    Ok(())
}

/// The answer, as it comes: a row may have changed more often than memory holds.
struct Told {
    output: Output,
    changes: u64,
}

impl Told {
    fn begin(arguments: &Arguments, output: Output) -> Told {
        if output.is_json() {
            let (table, key) = (arguments.table.to_string(), &arguments.key);
            let head = serde_json::json!({"table": table, "key": key}).to_string();
            let open = head.strip_suffix('}').expect("an object");
            output.raw(format!("{open},\"changes\":[").as_bytes());
        }
        Told { output, changes: 0 }
    }

    fn tell(&mut self, change: &Change) {
        if self.output.is_json() {
            let comma = if self.changes > 0 { "," } else { "" };
            self.output.raw(format!("{comma}{}", change.json()).as_bytes());
        } else {
            self.output.line(&change.line());
        }
        self.changes += 1;
    }

    fn end(self, read: usize, all: usize, lost: Option<&str>) {
        let skipped = all - read;
        if self.output.is_json() {
            let lost = serde_json::json!(lost);
            self.output.line(&format!(
                "],\"segments_read\":{read},\"segments_skipped\":{skipped},\"lost\":{lost}}}"
            ));
        } else {
            if let Some(lost) = lost {
                self.output.line(&format!("not all of it: {lost}"));
            }
            let words = format!("{} changes, in {read} segments; {skipped} were skipped", self.changes);
            self.output.words(&words);
        }
    }
}
