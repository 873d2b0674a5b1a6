//! Manifests that lie on this machine, named by hand: each with the change file beside it, no archive around.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::contents;
use super::report::{Report, Verdict};
use crate::chain::{ChainTip, Verified};
use crate::error::{Context as _, Error, Kind, Result};
use crate::manifest::Manifest;
use crate::signature::VerifyKey;
use crate::time::Day;

/// Those that follow each other by number must also follow each other in the chain.
pub(super) fn verify_files(manifests: &[PathBuf], quick: bool, verify_key: Option<&VerifyKey>) -> Report {
    let mut report = Report::new("files", quick);
    let mut read = Vec::new();
    for path in manifests {
        match read_one(path, verify_key) {
            Ok((manifest, bytes)) => read.push((path, manifest, bytes)),
            Err(error) => report.error(Verdict::Damaged, None, &path.to_string_lossy(), &error),
        }
    }
    read.sort_by_key(|(_, manifest, _)| manifest.seq);
    let mut tip: Option<ChainTip> = None;
    for (path, manifest, bytes) in &read {
        let seq = Some(manifest.seq.get());
        let file = path.to_string_lossy();
        let before = tip.filter(|tip| tip.next_seq() == manifest.seq);
        let start = before.unwrap_or_else(|| ChainTip::floor(manifest.archive_id, manifest.previous));
        // Files by hand may lie anywhere: no folder tells their day.
        match Verified::new(&start, Day::EPOCH, manifest.name(), bytes) {
            Ok(verified) => tip = Some(verified.tip()),
            Err(error) => report.error(Verdict::Foreign, seq, &file, &error),
        }
        if let Err(error) = check_changes(path, manifest, quick) {
            report.error(Verdict::Damaged, seq, &file, &error);
        }
        report.count(manifest);
    }
    report.finished()
}

fn read_one(path: &Path, verify_key: Option<&VerifyKey>) -> Result<(Manifest, Vec<u8>)> {
    let bytes = read(path, Manifest::BYTES_MAX)?;
    let manifest = Manifest::decode(&bytes)?;
    let name = manifest.name().manifest_name();
    if path.file_name().is_none_or(|found| found != name.as_str()) {
        return Err(Error::new(Kind::Foreign, format!("it describes {name}: the file was renamed")));
    }
    if let Some(key) = verify_key {
        let signature = read(&path.with_file_name(manifest.name().signature_name()), Manifest::BYTES_MAX)?;
        key.verify(&bytes, &name, &signature)?;
    }
    Ok((manifest, bytes))
}

fn check_changes(path: &Path, manifest: &Manifest, quick: bool) -> Result<()> {
    let Some(file) = &manifest.file else { return Ok(()) };
    let beside = path.with_file_name(&file.file);
    let opened = File::open(&beside).context(|| format!("opening {}", beside.display()))?;
    let bytes = opened.metadata().context(|| format!("looking at {}", beside.display()))?.len();
    if bytes != file.bytes {
        let message = format!("{} has {bytes} bytes, its manifest says {}", file.file, file.bytes);
        return Err(Error::new(Kind::Corrupt, message));
    }
    if quick { Ok(()) } else { contents::read_all(opened, manifest) }
}

fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).context(|| format!("opening {}", path.display()))?;
    file.take(bytes_max as u64 + 1)
        .read_to_end(&mut bytes)
        .context(|| format!("reading {}", path.display()))?;
    Ok(bytes)
}
