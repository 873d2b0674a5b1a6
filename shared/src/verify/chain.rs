//! The chain of manifests, walked to its end even where it is broken.

use uuid::Uuid;

use super::inventory::{Inventory, Listed};
use super::range::Range;
use super::report::{Report, Verdict};
use crate::archive::Archive;
use crate::chain::{ChainTip, Verified};
use crate::error::{Error, Kind, Result};
use crate::layout::{ArchivePath, SegmentSeq};
use crate::manifest::Manifest;
use crate::signature::{SIGNATURE_BYTES_MAX, VerifyKey};

pub(super) struct Walk<'a> {
    /// `None`: archive.json cannot tell, the first manifest does.
    pub archive_id: Option<Uuid>,
    pub range: &'a Range,
    pub inventory: &'a Inventory,
    pub verify_key: Option<&'a VerifyKey>,
}

impl Walk<'_> {
    /// The segments whose manifests are sound; everything else is in the report.
    pub(super) fn run(&self, archive: &mut dyn Archive, report: &mut Report) -> Result<Vec<Verified>> {
        let mut sound = Vec::new();
        let mut expected = self.first_seq();
        let mut tip = None;
        for listed in self.inventory.manifests.values() {
            let seq = listed.name.seq;
            if let Some(expected) = expected
                && seq > expected
            {
                lost(expected, seq, report);
                tip = None;
            }
            expected = Some(seq.next());
            let path = listed.name.manifest(listed.day);
            let Some(bytes) = super::small_file(archive, &path, Manifest::BYTES_MAX, report)? else {
                tip = None;
                continue;
            };
            self.check_signature(archive, listed, &bytes, report)?;
            let start = tip.or_else(|| self.start(seq, &bytes));
            tip = None;
            match start.map(|start| Verified::new(&start, listed.day, listed.name, &bytes)) {
                Some(Ok(verified)) => {
                    tip = Some(verified.tip());
                    if self.range.has(verified.manifest()) {
                        check_size(listed, verified.manifest(), report);
                        report.count(verified.manifest());
                        sound.push(verified);
                    }
                }
                Some(Err(error)) => report.error(verdict(&error), Some(seq.get()), path.as_str(), &error),
                None => {
                    let error = Manifest::decode(&bytes).expect_err("only what cannot be read has no start");
                    report.error(Verdict::Damaged, Some(seq.get()), path.as_str(), &error);
                }
            }
        }
        Ok(sound)
    }

    /// Where the archive must begin; `None` for a part of it, which may begin anywhere.
    fn first_seq(&self) -> Option<SegmentSeq> {
        match &self.inventory.floor {
            _ if self.range.is_part() => None,
            Some(floor) => Some(floor.seq),
            None => Some(SegmentSeq::FIRST),
        }
    }

    /// What a manifest without a known predecessor has to follow: what it says itself, or the floor.
    fn start(&self, seq: SegmentSeq, bytes: &[u8]) -> Option<ChainTip> {
        let manifest = Manifest::decode(bytes).ok()?;
        let archive_id = self.archive_id.unwrap_or(manifest.archive_id);
        match &self.inventory.floor {
            Some(floor) if floor.seq == seq => Some(floor.tip()),
            _ => Some(ChainTip::floor(archive_id, manifest.previous)),
        }
    }

    fn check_signature(
        &self,
        archive: &mut dyn Archive,
        listed: &Listed,
        manifest: &[u8],
        report: &mut Report,
    ) -> Result<()> {
        let Some(key) = self.verify_key else { return Ok(()) };
        let seq = Some(listed.name.seq.get());
        let path: ArchivePath = listed.name.signature(listed.day);
        if !listed.is_signed {
            report.problem(Verdict::Unsigned, seq, path.as_str(), "the signature is missing");
            return Ok(());
        }
        if let Some(signature) = super::small_file(archive, &path, SIGNATURE_BYTES_MAX, report)?
            && let Err(error) = key.verify(manifest, &listed.name.manifest_name(), &signature)
        {
            report.error(Verdict::Unsigned, seq, path.as_str(), &error);
        }
        Ok(())
    }
}

fn lost(from: SegmentSeq, to: SegmentSeq, report: &mut Report) {
    for seq in from.get()..to.get() {
        let file = format!("segment {seq}");
        report.problem(
            Verdict::Lost,
            Some(seq),
            &file,
            "it is missing, and later ones are there: it was lost",
        );
    }
}

fn check_size(listed: &Listed, manifest: &Manifest, report: &mut Report) {
    let Some(file) = &manifest.file else { return };
    let (seq, path) = (Some(manifest.seq.get()), listed.name.file(listed.day));
    match listed.changes {
        None => report.problem(Verdict::Lost, seq, path.as_str(), "the change file is missing"),
        Some(bytes) if bytes != file.bytes => {
            let what = format!("it has {bytes} bytes, its manifest says {}", file.bytes);
            report.problem(Verdict::Damaged, seq, path.as_str(), what);
        }
        Some(_) => {}
    }
}

fn verdict(error: &Error) -> Verdict {
    match error.kind() {
        Kind::Foreign => Verdict::Foreign,
        Kind::NotFound => Verdict::Lost,
        _ => Verdict::Damaged,
    }
}
