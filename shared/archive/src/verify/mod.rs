//! `verify`: proof that an archive is sound, without any database and without changing anything.
//!
//! ```text
//! listing ─▶ inventory ─▶ chain of manifests, signatures ─┬▶ contents, several files at once ─▶ report
//! head.json, floor.json, roll-ups, snapshots and parts ────┘
//! ```
//! Every problem is listed, not only the first: whoever repairs an archive wants to know how much is wrong.

mod chain;
mod contents;
mod files;
mod head;
mod inventory;
mod pipe;
mod proofs;
mod range;
mod report;
mod rollups;
mod snapshots;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::{Archive, Prefer, small};
use syncdata_formats::document::Document;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::floor::Floor;
use syncdata_formats::head::Head;
use syncdata_formats::identity::ArchiveIdentity;
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::manifest::Manifest;
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::time::Timestamp;
use syncdata_service::config::ArchiveSettings;
use syncdata_service::config::Config;
use syncdata_service::output::Output;

pub use head::Remembered;
pub use range::Bound;
pub use report::{Class, LastVerify, Missing, Problem, Report, Verdict};

use files::verify_files;
use head::{Claims, HeadFile};
use inventory::Inventory;
use proofs::Proofs;
use range::Range;
use rollups::RollUps;
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

/// What came of the command.
#[derive(Debug)]
pub struct Ran {
    pub exit_code: ExitCode,
    /// Of the whole archive, when everything in it was looked at.
    pub whole: Option<LastVerify>,
}

/// The command, the same in both programs: 0 sound, 1 problems found, 2 when not everything could be looked at.
pub fn run(config: &Config, arguments: &Arguments, output: Output) -> Result<Ran> {
    let at = Timestamp::now();
    let verify_key = config.verify_key()?;
    let report = if arguments.manifests.is_empty() {
        verify_archive(config.archive()?, arguments, verify_key.as_ref())?
    } else {
        verify_files(&arguments.manifests, arguments.quick, verify_key.as_ref())
    };
    output.document(&serde_json::json!(report), &report.text());
    let exit_code = match (report.sound, report.is_incomplete()) {
        (true, _) => 0,
        (false, false) => 1,
        (false, true) => 2,
    };
    let is_whole = arguments.is_whole() && !report.is_incomplete();
    let whole = is_whole.then_some(LastVerify { at, problems: report.problems.len() as u64 });
    Ok(Ran { exit_code: ExitCode::from(exit_code), whole })
}

impl Arguments {
    /// Nothing is left out.
    fn is_whole(&self) -> bool {
        !self.quick && self.manifests.is_empty() && self.from.is_none() && self.to.is_none()
    }
}

fn verify_archive(
    settings: &ArchiveSettings,
    arguments: &Arguments,
    verify_key: Option<&VerifyKey>,
) -> Result<Report> {
    let mut archive = crate::open_preferring(settings, Prefer::Singles)?;
    let archive = archive.as_mut();
    let range = Range::new(arguments.from, arguments.to)?;
    let mut report = Report::new(archive.location(), arguments.quick);
    // What it says is of no concern to a part, but for what must be there.
    let mut aside = Report::new(archive.location(), arguments.quick);
    let head_file = HeadFile::read(archive, if range.is_part() { &mut aside } else { &mut report })?;
    let inventory = Inventory::take(archive, &range, &mut report)?;
    let identity = identity(archive, &inventory, head_file.sound(), &mut report)?;
    let identity = identity.as_ref();
    let is_ours = |head: &&Head| identity.is_none_or(|ours| ours.archive_id == head.archive_id);
    let head = head_file.sound().filter(is_ours);
    let walk = chain::Walk { identity, range: &range, inventory: &inventory, head, verify_key };
    let mut walked = walk.run(archive, &mut report)?;
    let mut jobs = std::mem::take(&mut walked.jobs);
    let claims = Claims { identity, range: &range, inventory: &inventory, head, walked: &walked };
    claims.missing(&mut report);
    let rollups = RollUps {
        archive_id: identity.map(|identity| identity.archive_id),
        verify_key,
        quick: arguments.quick,
        range: &range,
        inventory: &inventory,
        walked: &walked,
        jobs: &jobs,
    };
    rollups.run(archive, &mut report)?;
    if let Some(remembered) = arguments.holds {
        claims.remembered(remembered, &mut report);
    }
    let snapshots = Snapshots { archive_id: identity.map(|identity| identity.archive_id), verify_key };
    if !range.is_part() {
        claims.head(&head_file, Timestamp::now(), &mut report);
        jobs.extend(snapshots.run(archive, &mut report)?);
        let archive_id = snapshots.archive_id;
        Proofs { archive_id, verify_key, quick: arguments.quick }.run(archive, &mut report)?;
    }
    if !arguments.quick {
        contents::check(settings, &jobs, &mut report)?;
    }
    // A prune raises the floor before it removes anything.
    if !report.problems.is_empty() {
        let floor = small_file(archive, &ArchivePath::floor(), Document::Floor, &mut aside)?;
        if let Some(floor) = floor.and_then(|bytes| Floor::decode(&bytes).ok()) {
            report.pruned_meanwhile(floor.seq.get());
        }
        snapshots.forget_removed(archive, &mut report)?;
    }
    Ok(report.finished())
}

/// Whose archive it is. Without archive.json the manifests must agree among themselves.
fn identity(
    archive: &mut dyn Archive,
    inventory: &Inventory,
    head: Option<&Head>,
    report: &mut Report,
) -> Result<Option<ArchiveIdentity>> {
    let path = ArchivePath::identity();
    let found = small_file(archive, &path, Document::Identity, report)?;
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
        Ok(identity) => agreed(archive, inventory, head, identity, report).map(Some),
        Err(error) => {
            report.error(Verdict::Damaged, None, path.as_str(), &error);
            Ok(None)
        }
    }
}

/// Where head.json and the first manifest are of one archive, and archive.json is of another, that one is wrong.
fn agreed(
    archive: &mut dyn Archive,
    inventory: &Inventory,
    head: Option<&Head>,
    identity: ArchiveIdentity,
    report: &mut Report,
) -> Result<ArchiveIdentity> {
    let Some(head) = head.filter(|head| head.archive_id != identity.archive_id) else { return Ok(identity) };
    let Some(first) = inventory.manifests.values().next() else { return Ok(identity) };
    let mut aside = Report::new("", true);
    let bytes = small_file(archive, &first.name.manifest(first.day), Document::Manifest, &mut aside)?;
    match bytes.and_then(|bytes| Manifest::decode(&bytes).ok()) {
        Some(manifest) if manifest.archive_id == head.archive_id => {
            let what = format!(
                "it says {}, and head.json and the segments are of archive {}",
                identity.archive_id, head.archive_id
            );
            report.problem(Verdict::Foreign, None, ArchivePath::identity().as_str(), what);
            Ok(ArchiveIdentity { archive_id: head.archive_id, ..identity })
        }
        _ => Ok(identity),
    }
}

/// What an error says of the archive; `None`: nothing, it could not be looked at.
fn verdict(error: &Error) -> Option<Verdict> {
    match error.kind() {
        Kind::Foreign => Some(Verdict::Foreign),
        Kind::NotFound => Some(Verdict::Lost),
        Kind::Corrupt | Kind::BadInput | Kind::Conflict => Some(Verdict::Damaged),
        Kind::Unreachable
        | Kind::Locked
        | Kind::Refused
        | Kind::NoSpace
        | Kind::StateDamaged
        | Kind::Rejected
        | Kind::Io => None,
    }
}

/// Whether others may still be read.
fn is_of_one_file(error: &Error) -> bool {
    matches!(error.kind(), Kind::Refused | Kind::Io)
}

/// `None` when there is none, or what is there cannot be such a file, which is noted as a problem.
fn small_file(
    archive: &mut dyn Archive,
    path: &ArchivePath,
    document: Document,
    report: &mut Report,
) -> Result<Option<Vec<u8>>> {
    let error = match small::read(archive, path, document) {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    let verdict = match error.kind() {
        // No file at all, or one that is too long.
        Kind::Corrupt | Kind::Foreign => Verdict::Damaged,
        _ if is_of_one_file(&error) => Verdict::Unreadable,
        _ => return Err(error),
    };
    report.error(verdict, None, path.as_str(), &error);
    Ok(None)
}
