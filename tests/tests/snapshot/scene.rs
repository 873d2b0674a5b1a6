//! A production server whose tables may be copied, and what its archive's snapshots say.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use futures_util::StreamExt as _;
use serde_json::Value;
use syncdata_archive::DirectoryArchive;
use syncdata_archive::snapshots;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::{self, PartName, SnapshotManifest};
use syncdata_tests::{Daemon, Finished, World, WorldOptions};

pub(crate) const SLOT: &str = "SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')";
/// What the role needs to read all rows of all tables.
pub(crate) const RIGHTS: &str = "GRANT pg_read_all_data TO syncdata_user; ALTER ROLE syncdata_user BYPASSRLS";

/// Without SFTP: these tests are not about the way.
pub(crate) async fn world(schema: &str) -> World {
    world_with(WorldOptions::default().without_sftp(), schema).await
}

pub(crate) async fn world_with(options: WorldOptions, schema: &str) -> World {
    let world = options.start().await;
    world.source.execute(RIGHTS).await;
    if !schema.is_empty() {
        world.source.execute(schema).await;
    }
    world.source.execute(SLOT).await;
    world
}

/// One snapshot that succeeds, and what it says of itself.
pub(crate) async fn take(world: &World) -> Value {
    take_with(world, &[]).await
}

pub(crate) async fn take_with(world: &World, options: &[&str]) -> Value {
    let arguments = ["snapshot", "--json"].iter().chain(options);
    world.archiver(arguments).succeed().await.json()
}

pub(crate) async fn refused(world: &World, options: &[&str]) -> Finished {
    world.archiver(["snapshot"].iter().chain(options)).run().await.expect_code(2)
}

/// A daemon that answers commands.
pub(crate) async fn daemon(world: &World) -> Daemon {
    let mut daemon = world.archiver(["run", "-v"]).spawn();
    daemon.says("started").await;
    daemon
}

/// Every snapshot that exists, from the oldest to the newest.
pub(crate) fn manifests(archive: &Path) -> Vec<SnapshotManifest> {
    let mut archive = DirectoryArchive::new(archive);
    let ids = snapshots::list(&mut archive).expect("the archive can be listed");
    ids.iter().map(|id| snapshots::read(&mut archive, id, None).expect("a sound manifest")).collect()
}

pub(crate) fn newest(archive: &Path) -> SnapshotManifest {
    manifests(archive).pop().expect("there is a snapshot")
}

/// The rows of a table as COPY printed them.
pub(crate) fn rows(archive: &Path, manifest: &SnapshotManifest, table: &str) -> Vec<u8> {
    let name: TableName = table.parse().expect("a name");
    let copy = &manifest.tables[&name];
    let mut content = Vec::new();
    for part in &copy.parts {
        let open = |file: &syncdata_formats::manifest::ChangeFile| {
            let name: PartName = file.file.parse()?;
            let bytes = std::fs::read(archive.join(name.path().as_str())).expect("the file is there");
            Ok(Cursor::new(bytes))
        };
        let take = |piece: &[u8]| {
            content.extend_from_slice(piece);
            Ok(())
        };
        snapshot::pour(part, open, take).expect("a sound part");
    }
    assert_eq!(content.len() as u64, copy.content_bytes);
    content
}

pub(crate) fn lines(archive: &Path, manifest: &SnapshotManifest, table: &str) -> Vec<String> {
    let text = String::from_utf8(rows(archive, manifest, table)).expect("UTF-8");
    text.lines().map(str::to_owned).collect()
}

/// What lies under `snapshots/`, by path.
pub(crate) fn files(archive: &Path) -> BTreeMap<String, u64> {
    let mut files = BTreeMap::new();
    let Ok(folders) = std::fs::read_dir(archive.join("snapshots")) else { return files };
    for folder in folders {
        let folder = folder.expect("an entry").path();
        for file in std::fs::read_dir(&folder).expect("a folder") {
            let file = file.expect("an entry");
            let name = format!(
                "{}/{}",
                folder.file_name().expect("a name").to_string_lossy(),
                file.file_name().to_string_lossy()
            );
            files.insert(name, file.metadata().expect("it is there").len());
        }
    }
    files
}

/// A commit of the stream, and the values of column `id` that its inserts brought.
#[derive(Debug)]
pub(crate) struct Commit {
    pub xid: u32,
    pub end_lsn: Lsn,
    pub ids: Vec<(String, u64)>,
}

/// All commits of the archive, in order.
pub(crate) fn commits(archive: &Path) -> Vec<Commit> {
    let all = "set -e; for file in $(ls segments/*/*.jsonl.zst | sort -t/ -k3); do zstdcat \"$file\"; done";
    let output = Command::new("sh").args(["-c", all]).current_dir(archive).output().expect("sh is there");
    assert!(output.status.success(), "{output:?}");
    let (mut commits, mut ids) = (Vec::new(), Vec::new());
    for line in String::from_utf8(output.stdout).expect("UTF-8").lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        match line["op"].as_str() {
            Some("INSERT") => {
                let table = line["table"].as_str().expect("a name").to_owned();
                ids.push((table, line["data"]["id"].as_u64().expect("a number")));
            }
            Some("COMMIT") => {
                let xid = line["xid"].as_u64().and_then(|xid| xid.try_into().ok()).expect("32 bits");
                let end_lsn = line["end_lsn"].as_str().expect("text").parse().expect("an LSN");
                commits.push(Commit { xid, end_lsn, ids: std::mem::take(&mut ids) });
            }
            op => panic!("{op:?} was not expected"),
        }
    }
    commits
}

/// The copy, with the changes over it that the format says, holds every row of the source exactly once. The tables
/// only take inserts, their first column is `id`, and the archive covers all of them.
pub(crate) async fn assert_exactly_once(world: &World, manifest: &SnapshotManifest, tables: &[&str]) {
    let commits = commits(world.archive_dir());
    for table in tables {
        let of_line = |line: String| line.split('\t').next().expect("a field").parse().expect("a number");
        let copied: Vec<u64> = lines(world.archive_dir(), manifest, table).into_iter().map(of_line).collect();
        let mut found = copied.clone();
        for commit in &commits {
            let is_seen = commit.end_lsn <= manifest.start_lsn
                || commit.end_lsn <= manifest.end_lsn && manifest.snapshot.has(commit.xid);
            let ids = commit.ids.iter().filter(|(name, _)| name == table).map(|(_, id)| *id);
            if !is_seen {
                found.extend(ids);
            } else {
                let missing: Vec<u64> = ids.filter(|id| copied.binary_search(id).is_err()).collect();
                assert_eq!(missing, [0_u64; 0], "{table}: {commit:?} is said to be in the copy {manifest:?}");
            }
        }
        found.sort_unstable();
        let wanted = world.source.query(&format!("SELECT id FROM {table} ORDER BY id")).await;
        let wanted: Vec<u64> =
            wanted.into_iter().flatten().flatten().map(|id| id.parse().expect("a number")).collect();
        let differ = found.iter().zip(&wanted).position(|(one, other)| one != other);
        assert_eq!(differ, None, "{table}: a row is missing or comes twice: {found:?} {wanted:?}");
        assert_eq!(found.len(), wanted.len(), "{table}");
    }
}

/// What COPY prints of a query, under the settings that the archive promises.
pub(crate) async fn copy_out(client: &tokio_postgres::Client, query: &str) -> Vec<u8> {
    let pinned = "SET DateStyle = 'ISO, MDY'; SET IntervalStyle = postgres; SET TimeZone = 'UTC';
        SET extra_float_digits = 3; SET bytea_output = hex; SET search_path = pg_catalog, public";
    client.batch_execute(pinned).await.expect("everybody may");
    let mut answer =
        Box::pin(client.copy_out(&format!("COPY ({query}) TO STDOUT")).await.expect("it copies"));
    let mut content = Vec::new();
    while let Some(piece) = answer.next().await {
        content.extend_from_slice(&piece.expect("a piece"));
    }
    content
}
