//! Manifests that lie on this machine, named by hand: each with the change file beside it, no archive around.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::contents;
use super::report::{Report, Verdict};
use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::document::Document;
use syncdata_formats::error::{Context as _, Error, Kind, Result};
use syncdata_formats::manifest::{ChangeFile, Manifest};
use syncdata_formats::signature::VerifyKey;
use syncdata_formats::time::Day;
use syncdata_service::small_file;

/// Those that follow each other by number must also follow each other in the chain.
pub(super) fn verify_files(manifests: &[PathBuf], quick: bool, verify_key: Option<&VerifyKey>) -> Report {
    let mut report = Report::new("files", quick);
    let mut read = Vec::new();
    for path in manifests {
        match read_one(path) {
            Ok((manifest, bytes)) => read.push((path, manifest, bytes)),
            // It was named, and it is not there: nothing can be said of it.
            Err(error) if error.kind() == Kind::NotFound => {
                add(Verdict::Unreadable, None, path, &error, &mut report)
            }
            Err(error) => add(verdict(&error), None, path, &error, &mut report),
        }
    }
    read.sort_by_key(|(_, manifest, _)| manifest.seq);
    let mut tip: Option<ChainTip> = None;
    let mut last = None;
    for (path, manifest, bytes) in &read {
        let seq = Some(manifest.seq.get());
        if last == seq {
            let error = Error::new(Kind::Foreign, "there is another manifest of that number");
            add(Verdict::Foreign, seq, path, &error, &mut report);
            continue;
        }
        last = seq;
        let before = tip.filter(|tip| tip.next_seq() == manifest.seq);
        let start = before.unwrap_or_else(|| ChainTip::floor(manifest.archive_id, manifest.previous));
        // Files by hand may lie anywhere: no folder tells their day.
        match Verified::new(&start, Day::EPOCH, manifest.name(), bytes) {
            Ok(verified) => tip = Some(verified.tip()),
            Err(error) => add(verdict(&error), seq, path, &error, &mut report),
        }
        if let Err(error) = check_signature(path, manifest, bytes, verify_key) {
            add(Verdict::Unsigned, seq, path, &error, &mut report);
        }
        if let Err((file, error)) = check_changes(path, manifest, quick) {
            add(verdict(&error), seq, &file, &error, &mut report);
        }
        report.count(manifest);
    }
    report.finished()
}

fn add(verdict: Verdict, seq: Option<u64>, path: &Path, error: &Error, report: &mut Report) {
    report.error(verdict, seq, &path.to_string_lossy(), error);
}

/// Errors of our own file system are of one file each.
fn verdict(error: &Error) -> Verdict {
    super::verdict(error).unwrap_or(Verdict::Unreadable)
}

fn read_one(path: &Path) -> Result<(Manifest, Vec<u8>)> {
    let bytes = small_file::read(path, Document::Manifest.bytes_max())?;
    let manifest = Manifest::decode(&bytes)?;
    let name = manifest.name().manifest_name();
    if path.file_name().is_none_or(|found| found != name.as_str()) {
        return Err(Error::new(Kind::Foreign, format!("it describes {name}: the file was renamed")));
    }
    Ok((manifest, bytes))
}

fn check_signature(path: &Path, manifest: &Manifest, bytes: &[u8], key: Option<&VerifyKey>) -> Result<()> {
    let Some(key) = key else { return Ok(()) };
    let beside = path.with_file_name(manifest.name().signature_name());
    let signature = small_file::read(&beside, Document::Signature.bytes_max())?;
    key.verify(bytes, &manifest.name().manifest_name(), &signature)
}

/// `Err`: with the file that it is about.
fn check_changes(path: &Path, manifest: &Manifest, quick: bool) -> Result<(), (PathBuf, Error)> {
    let Some(file) = &manifest.file else { return Ok(()) };
    let beside = path.with_file_name(&file.file);
    check_file(&beside, file, manifest, quick).map_err(|error| (beside, error))
}

fn check_file(beside: &Path, file: &ChangeFile, manifest: &Manifest, quick: bool) -> Result<()> {
    let opened = File::open(beside).context(|| format!("opening {}", beside.display()))?;
    let bytes = opened.metadata().context(|| format!("looking at {}", beside.display()))?.len();
    if bytes != file.bytes {
        let message = format!("{} has {bytes} bytes, its manifest says {}", file.file, file.bytes);
        return Err(Error::new(Kind::Corrupt, message));
    }
    if quick { Ok(()) } else { contents::read_all(opened, manifest) }
}
