//! `verify`: proof that an archive is sound, without any database and without changing anything.
//!
//! ```text
//! listing ─▶ inventory ─▶ chain of manifests, signatures ─▶ contents, several files at once ─▶ report
//! ```
//! Every problem is listed, not only the first: whoever repairs an archive wants to know how much is wrong.

mod chain;
mod contents;
mod files;
mod inventory;
mod range;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::archive::{Archive, ArchiveSettings, Entry, EntryKind};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::head::Head;
use crate::identity::ArchiveIdentity;
use crate::layout::ArchivePath;
use crate::output::Output;
use crate::signature::VerifyKey;

pub use range::Bound;
pub use report::{Problem, Report, Verdict};

use files::verify_files;
use inventory::Inventory;
use range::Range;

/// The command's arguments, the same in both programs.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// From this segment, day or time on
    #[arg(long, value_name = "T")]
    pub from: Option<Bound>,
    /// Up to, and without, this segment, day or time
    #[arg(long, value_name = "T")]
    pub to: Option<Bound>,
    /// Manifests and sizes only
    #[arg(long)]
    pub quick: bool,
    /// Manifests on this machine, instead of the archive
    #[arg(value_name = "MANIFEST", conflicts_with_all = ["from", "to"])]
    pub manifests: Vec<PathBuf>,
}

/// The command, the same in both programs: 0 sound, 1 problems found.
pub fn run(config: &Config, arguments: &Arguments, output: Output) -> Result<ExitCode> {
    let verify_key = config.verify_key()?;
    let report = if arguments.manifests.is_empty() {
        verify_archive(config.archive()?, arguments, verify_key.as_ref())?
    } else {
        verify_files(&arguments.manifests, arguments.quick, verify_key.as_ref())
    };
    output.document(&serde_json::json!(report), &report.text());
    Ok(ExitCode::from(u8::from(!report.sound)))
}

fn verify_archive(
    settings: &ArchiveSettings,
    arguments: &Arguments,
    verify_key: Option<&VerifyKey>,
) -> Result<Report> {
    let mut archive = crate::archive::open(settings)?;
    let archive = archive.as_mut();
    let range = Range::new(arguments.from, arguments.to)?;
    let mut report = Report::new(archive.location(), arguments.quick);
    let inventory = Inventory::take(archive, &range, &mut report)?;
    let archive_id = identity(archive, &inventory, &mut report)?;
    let walk = chain::Walk { archive_id, range: &range, inventory: &inventory, verify_key };
    let sound = walk.run(archive, &mut report)?;
    if !range.is_part() {
        check_head(archive, &inventory, &mut report)?;
    }
    if !arguments.quick {
        contents::check(settings, &sound, &mut report)?;
    }
    Ok(report.finished())
}

/// Whose archive it is. Without archive.json the manifests must agree among themselves.
fn identity(
    archive: &mut dyn Archive,
    inventory: &Inventory,
    report: &mut Report,
) -> Result<Option<uuid::Uuid>> {
    let path = ArchivePath::identity();
    let found = small_file(archive, &path, ArchiveIdentity::BYTES_MAX, report)?;
    let Some(bytes) = found else {
        if inventory.is_empty() {
            let message = format!("there is no archive in {}", archive.location());
            return Err(Error::new(Kind::NotFound, message).hint("check archive_host and archive_dir"));
        }
        report.problem(
            Verdict::Lost,
            None,
            path.as_str(),
            "it is missing: nobody can say whose archive this is",
        );
        return Ok(None);
    };
    match ArchiveIdentity::decode(&bytes) {
        Ok(identity) => Ok(Some(identity.archive_id)),
        Err(error) => {
            report.error(Verdict::Damaged, None, path.as_str(), &error);
            Ok(None)
        }
    }
}

/// A hint that is missing or old is no problem; one that names more than there is is.
fn check_head(archive: &mut dyn Archive, inventory: &Inventory, report: &mut Report) -> Result<()> {
    let path = ArchivePath::head();
    let Some(bytes) = small_file(archive, &path, Head::BYTES_MAX, report)? else {
        report.note("head.json is missing: the next poll writes it");
        return Ok(());
    };
    let head = match Head::decode(&bytes) {
        Ok(head) => head,
        Err(error) => {
            report.error(Verdict::Damaged, None, path.as_str(), &error);
            return Ok(());
        }
    };
    let newest = inventory.newest();
    let Some(named) = head.newest else { return Ok(()) };
    if newest.is_none_or(|newest| newest < named.name.seq) {
        let first = newest.map_or(1, |newest| newest.get() + 1);
        for seq in first..=named.name.seq.get() {
            report.problem(
                Verdict::Lost,
                Some(seq),
                path.as_str(),
                "head.json names it or a later one, but it is not there",
            );
        }
    } else if newest > Some(named.name.seq) {
        report.note("head.json is older than the newest segment: the next poll replaces it");
    }
    Ok(())
}

/// `None` when there is none, or what is there cannot be such a file, which is noted as a problem.
fn small_file(
    archive: &mut dyn Archive,
    path: &ArchivePath,
    bytes_max: usize,
    report: &mut Report,
) -> Result<Option<Vec<u8>>> {
    match archive.stat(path)? {
        None => Ok(None),
        Some(Entry { kind: EntryKind::File, bytes, .. }) if bytes <= bytes_max as u64 => {
            let mut content = Vec::new();
            archive.read(path, 0, &mut content)?;
            Ok(Some(content))
        }
        Some(entry) => {
            let what = format!("it is no file of at most {bytes_max} bytes ({} bytes)", entry.bytes);
            report.problem(Verdict::Damaged, None, path.as_str(), what);
            Ok(None)
        }
    }
}
