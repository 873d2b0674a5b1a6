//! `verify`: proof that an archive is sound, without any database and without changing anything.
//!
//! ```text
//! listing ─▶ inventory ─▶ chain of manifests, signatures ─┬▶ contents, several files at once ─▶ report
//! head.json, floor.json, snapshots and their parts ───────┘
//! ```
//! Every problem is listed, not only the first: whoever repairs an archive wants to know how much is wrong.

mod chain;
mod contents;
mod files;
mod head;
mod inventory;
mod pipe;
mod range;
mod report;
mod snapshots;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::archive::{Archive, ArchiveSettings, Entry, EntryKind};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::identity::ArchiveIdentity;
use crate::layout::ArchivePath;
use crate::output::Output;
use crate::signature::VerifyKey;
use crate::time::Timestamp;

pub use head::Remembered;
pub use range::Bound;
pub use report::{Class, Missing, Problem, Report, Verdict};

use files::verify_files;
use head::Claims;
use inventory::Inventory;
use range::Range;
use snapshots::Snapshots;

/// A number in a file's name can be any: no more missing segments than this are named one by one.
const NAMED_MAX: usize = 1000;

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
    /// The archive must still hold this manifest: one that is remembered from elsewhere
    #[arg(long, value_name = "SEQ=SHA256")]
    pub holds: Option<Remembered>,
    /// Manifests on this machine, instead of the archive
    #[arg(value_name = "MANIFEST", conflicts_with_all = ["from", "to", "holds"])]
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
    let identity = identity(archive, &inventory, &mut report)?;
    let identity = identity.as_ref();
    let walk = chain::Walk { identity, range: &range, inventory: &inventory, verify_key };
    let mut walked = walk.run(archive, &mut report)?;
    let mut jobs = std::mem::take(&mut walked.jobs);
    let claims = Claims { identity, range: &range, inventory: &inventory, walked: &walked };
    claims.missing(&mut report);
    if let Some(remembered) = arguments.holds {
        claims.remembered(remembered, &mut report);
    }
    if !range.is_part() {
        claims.head(archive, Timestamp::now(), &mut report)?;
        let archive_id = identity.map(|identity| identity.archive_id);
        jobs.extend(Snapshots { archive_id, verify_key }.run(archive, &mut report)?);
    }
    if !arguments.quick {
        contents::check(settings, &jobs, &mut report)?;
    }
    Ok(report.finished())
}

/// Whose archive it is. Without archive.json the manifests must agree among themselves.
fn identity(
    archive: &mut dyn Archive,
    inventory: &Inventory,
    report: &mut Report,
) -> Result<Option<ArchiveIdentity>> {
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
        Ok(identity) => Ok(Some(identity)),
        Err(error) => {
            report.error(Verdict::Damaged, None, path.as_str(), &error);
            Ok(None)
        }
    }
}

/// What an error says of the archive; `None`: nothing, it could not be looked at.
fn verdict(error: &Error) -> Option<Verdict> {
    match error.kind() {
        Kind::Foreign => Some(Verdict::Foreign),
        Kind::NotFound => Some(Verdict::Lost),
        Kind::Corrupt | Kind::BadInput | Kind::Conflict => Some(Verdict::Damaged),
        Kind::Unreachable | Kind::Locked | Kind::Refused | Kind::NoSpace | Kind::Io => None,
    }
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
