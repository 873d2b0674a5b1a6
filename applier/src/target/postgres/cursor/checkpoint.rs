//! The checkpoint: how far the whole copy is.

use syncdata_formats::digest::Digest;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::head::Head;
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Link;
use syncdata_formats::time::Timestamp;
use syncdata_service::postgres::OwnTablesContext as _;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use crate::plan::group::GroupName;
use crate::plan::offer::CaptureSince;
use crate::plan::position::{Applied, Checkpoint};
use crate::target::postgres::kept;
use crate::target::postgres::meta::MetaSchema;

/// The checkpoint of one group, in the tables of one schema.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    meta: &'a MetaSchema,
    group: &'a GroupName,
}

static DEFAULT: GroupName = GroupName::DEFAULT;

impl<'a> Cursor<'a> {
    /// That of the group `default`.
    pub fn of(meta: &'a MetaSchema) -> Cursor<'a> {
        Cursor { meta, group: &DEFAULT }
    }

    /// That of another group.
    pub fn of_group(meta: &'a MetaSchema, group: &'a GroupName) -> Cursor<'a> {
        Cursor { meta, group }
    }

    /// Whose tables move with it.
    pub fn group(self) -> &'a GroupName {
        self.group
    }

    fn is_default(self) -> bool {
        *self.group == GroupName::DEFAULT
    }

    fn table(self) -> &'static str {
        if self.is_default() { "data_sync_checkpoint" } else { "data_sync_group_checkpoint" }
    }

    /// Where it is read, and which of its lines. (The name of a group is plain.)
    fn place(self) -> (String, String) {
        let line =
            if self.is_default() { "true".to_owned() } else { format!("group_name = '{}'", self.group) };
        (format!("{}.{}", self.meta, self.table()), line)
    }

    pub async fn read(self, client: &impl GenericClient) -> Result<Checkpoint> {
        self.select(client, "").await
    }

    /// Reads it and keeps everybody else from moving it until the end of the transaction. `Err`: it is not where
    /// it was when this pass looked; somebody else has applied.
    pub async fn claim(self, client: &impl GenericClient, known: &Checkpoint) -> Result<()> {
        let found = self.select(client, " FOR UPDATE").await?;
        if found == *known {
            return Ok(());
        }
        Err(Error::new(
            Kind::Locked,
            format!("the checkpoint moved from segment {} to {} meanwhile", known.seq(), found.seq()),
        ))
    }

    async fn select(self, client: &impl GenericClient, lock: &str) -> Result<Checkpoint> {
        let (place, line) = self.place();
        // The archive is that of the whole copy.
        let archive_id = match self.is_default() {
            true => "archive_id::text".to_owned(),
            false => format!("(SELECT c.archive_id::text FROM {}.data_sync_checkpoint c)", self.meta),
        };
        let select = format!(
            "SELECT {archive_id}, seq, manifest_sha256, end_lsn::text, day::text FROM {place} WHERE {line}{lock}"
        );
        let rows = client.query(&select, &[]).await.context(|| "reading the checkpoint".to_owned())?;
        match rows.as_slice() {
            [row] => {
                parse(row).map_err(|error| self.damaged("the checkpoint cannot be read").caused_by(error))
            }
            rows => {
                let rows = rows.len();
                Err(self.damaged(&match self.is_default() {
                    true => format!("data_sync_checkpoint has {rows} rows instead of one"),
                    false => {
                        format!("data_sync_group_checkpoint has {rows} rows of {} instead of one", self.group)
                    }
                }))
            }
        }
    }

    /// In the transaction of the rows.
    pub async fn write(
        self,
        client: &impl GenericClient,
        checkpoint: &Checkpoint,
        commit_time: Option<Timestamp>,
    ) -> Result<()> {
        let Some(Applied { link, end_lsn, day }) = checkpoint.segment else { return Ok(()) };
        let (place, line) = self.place();
        let update = format!(
            "UPDATE {place} SET seq = $1, manifest_sha256 = $2, end_lsn = $3::text::pg_lsn, day = $4::text::date, \
             commit_time = coalesce($5::text::timestamptz, commit_time), applied_at = clock_timestamp() WHERE {line}"
        );
        let seq = i64::try_from(link.seq.get()).expect("ten digits");
        let commit_time = commit_time.map(|time| time.to_string());
        let (sha256, end_lsn, day) = (link.sha256.to_string(), end_lsn.to_string(), day.to_string());
        let updated = client
            .execute(&update, &[&seq, &sha256, &end_lsn, &day, &commit_time])
            .await
            .context(|| "moving the checkpoint".to_owned())?;
        if updated == 1 { Ok(()) } else { Err(self.damaged(&format!("{} has not one row", self.table()))) }
    }

    /// Notes what a manifest says of it, in the transaction of its rows.
    pub async fn note_capture_since(self, client: &impl GenericClient, since: &CaptureSince) -> Result<()> {
        // Names that no table here has may have characters that the database has not.
        let text = kept::ascii(&serde_json::to_string(since).expect("names are its keys"));
        let (place, line) = self.place();
        let update = format!("UPDATE {place} SET capture_since = $1 WHERE {line}");
        client
            .execute(&update, &[&text])
            .await
            .context(|| "noting since when tables are captured".to_owned())?;
        Ok(())
    }

    /// What the manifests up to the checkpoint say of it; nothing where none of them did.
    pub async fn capture_since(self, client: &impl GenericClient) -> Result<CaptureSince> {
        let (place, line) = self.place();
        let select = format!("SELECT capture_since FROM {place} WHERE {line}");
        let row = client.query_one(&select, &[]).await.context(|| "reading the checkpoint".to_owned())?;
        let Some(text) = row.get::<_, Option<&str>>(0) else { return Ok(CaptureSince::new()) };
        serde_json::from_str(text).map_err(|error| {
            self.damaged(&format!("{}.capture_since cannot be read", self.table())).caused_by(error)
        })
    }

    /// Notes which archive this copy belongs to.
    pub async fn adopt(self, client: &impl GenericClient, archive_id: Uuid) -> Result<()> {
        let update = format!(
            "UPDATE {}.data_sync_checkpoint SET archive_id = $1::text::uuid WHERE archive_id IS NULL",
            self.meta
        );
        client
            .execute(&update, &[&archive_id.to_string()])
            .await
            .context(|| "noting the archive".to_owned())?;
        Ok(())
    }

    /// Notes how fresh the copy is: all of the archive is applied, and it covers all up to there.
    pub async fn note_covered(self, client: &impl GenericClient, head: &Head) -> Result<()> {
        let (place, line) = self.place();
        let update = format!(
            "UPDATE {place} SET covered_lsn = $1::text::pg_lsn, covered_at = $2::text::timestamptz \
             WHERE {line} AND covered_at IS DISTINCT FROM $2::text::timestamptz"
        );
        let (lsn, at) = (head.covered_lsn.to_string(), head.covered_at.to_string());
        client.execute(&update, &[&lsn, &at]).await.context(|| "noting the freshness".to_owned())?;
        Ok(())
    }

    /// All that was committed before is on the disk once this is committed.
    pub async fn be_durable(self, client: &impl GenericClient) -> Result<()> {
        let doing = || "bringing the checkpoint to the disk".to_owned();
        client.batch_execute("SET LOCAL synchronous_commit = on").await.context(doing)?;
        // A commit that changes nothing waits for nothing.
        let (place, line) = self.place();
        let touch = format!("UPDATE {place} SET seq = seq WHERE {line}");
        client.execute(&touch, &[]).await.context(doing)?;
        Ok(())
    }

    /// How fresh the head was that was noted last.
    pub async fn covered_at(self, client: &impl GenericClient) -> Result<Option<Timestamp>> {
        // As text of ours: PostgreSQL's has other digits.
        let (place, line) = self.place();
        let select =
            format!("SELECT (extract(epoch FROM covered_at) * 1000000)::int8 FROM {place} WHERE {line}");
        let row = client.query_one(&select, &[]).await.context(|| "reading the checkpoint".to_owned())?;
        row.get::<_, Option<i64>>(0).map(Timestamp::from_micros).transpose()
    }

    /// Up to where everything that committed is in the live tables.
    pub async fn reached(self, client: &impl GenericClient) -> Result<Lsn> {
        // `covered_lsn` was noted when all of the archive was applied: after the last segment nothing had happened.
        let (place, line) = self.place();
        let select =
            format!("SELECT greatest(end_lsn, coalesce(covered_lsn, '0/0'))::text FROM {place} WHERE {line}");
        let row = client.query_one(&select, &[]).await.context(|| "reading the checkpoint".to_owned())?;
        row.get::<_, &str>(0).parse()
    }

    fn damaged(self, what: &str) -> Error {
        Error::new(Kind::StateDamaged, what).hint(format!(
            "nothing was applied: without it nobody knows what the tables hold. Restore {} from a backup of the same \
             moment as the tables, or start over: syncdata-applier resync --all",
            self.table()
        ))
    }
}

fn parse(row: &Row) -> Result<Checkpoint> {
    let bad = |what: &str| Error::bad_input(what, "the checkpoint's");
    let archive_id: Option<&str> = row.get(0);
    let archive_id = archive_id.map(|text| text.parse().map_err(|_| bad("a uuid"))).transpose()?;
    let seq: i64 = row.get(1);
    if seq == 0 {
        return Ok(Checkpoint { archive_id, segment: None });
    }
    let seq = SegmentSeq::new(u64::try_from(seq).map_err(|_| bad("a segment number"))?)?;
    let sha256: Option<&str> = row.get(2);
    let sha256: Digest = sha256.ok_or_else(|| bad("a SHA-256"))?.parse()?;
    let end_lsn = row.get::<_, &str>(3).parse()?;
    let day: Option<&str> = row.get(4);
    let day = day.ok_or_else(|| bad("a day"))?.parse()?;
    Ok(Checkpoint { archive_id, segment: Some(Applied { link: Link { seq, sha256 }, end_lsn, day }) })
}
