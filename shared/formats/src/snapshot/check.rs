//! What a snapshot's manifest must fulfil by itself.

use super::{DELTA_CONTENT_MAX, DELTAS_MAX, Part, PartKind, PartName, SnapshotManifest, TableCopy};
use crate::error::{Error, Kind, Result};
use crate::relation::Generated;

impl SnapshotManifest {
    pub(super) fn check(&self) -> Result<()> {
        self.check_position().and_then(|()| self.check_tables()).map_err(|problem| {
            Error::new(Kind::Corrupt, format!("the manifest of snapshot {} contradicts itself", self.id))
                .caused_by(problem)
        })
    }

    fn check_position(&self) -> Result<(), String> {
        if self.id.start_lsn() != self.start_lsn {
            return Err(format!("its start_lsn is {}, not that of its name", self.start_lsn));
        }
        if self.start_lsn > self.end_lsn {
            return Err(format!("start_lsn {} is after end_lsn {}", self.start_lsn, self.end_lsn));
        }
        self.snapshot.check()
    }

    fn check_tables(&self) -> Result<(), String> {
        for (name, table) in &self.tables {
            table.check().map_err(|problem| format!("table {name}: {problem}"))?;
        }
        Ok(())
    }
}

impl TableCopy {
    fn check(&self) -> Result<(), String> {
        self.relation.check().map_err(|problem| format!("its relation: {problem}"))?;
        let travels = self.relation.columns.iter().filter(|c| c.generated != Some(Generated::Virtual));
        if !travels.map(|column| &column.name).eq(&self.columns) {
            return Err("columns are not those of its relation".into());
        }
        let (mut rows, mut bytes) = (0_u64, 0_u64);
        for part in &self.parts {
            part.check()?;
            rows = rows.saturating_add(part.rows);
            bytes = bytes.saturating_add(part.content_bytes);
        }
        if (rows, bytes) != (self.rows, self.content_bytes) {
            return Err(format!("its parts have {rows} rows and {bytes} bytes, not what it says"));
        }
        Ok(())
    }
}

impl Part {
    fn check(&self) -> Result<(), String> {
        let mut result = None;
        for (place, file) in self.files.iter().enumerate() {
            let name: PartName = file.file.parse().map_err(|error: Error| error.to_string())?;
            let kind = if place == 0 { PartKind::Whole } else { PartKind::Delta };
            if name.kind != kind {
                return Err(format!("{} stands where a {kind:?} belongs", file.file));
            }
            if kind == PartKind::Whole && name.content != file.content_sha256 {
                return Err(format!("{} is named by another digest than its content's", file.file));
            }
            result = Some(name.content);
        }
        if result != Some(self.content_sha256) {
            return Err(format!("the files of part {} do not lead to it", self.content_sha256));
        }
        if let [whole] = self.files.as_slice()
            && whole.content_bytes != self.content_bytes
        {
            return Err(format!("part {} and its only file have other sizes", self.content_sha256));
        }
        let deltas = self.files.len() - 1;
        let rebuilt = self.files.iter().map(|file| file.content_bytes).chain([self.content_bytes]).max();
        if deltas > DELTAS_MAX || deltas > 0 && rebuilt > Some(DELTA_CONTENT_MAX) {
            return Err(format!("part {} is made of too many or too large deltas", self.content_sha256));
        }
        Ok(())
    }
}
