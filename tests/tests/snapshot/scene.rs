//! A production server whose tables may be copied, and what its archive's snapshots say.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use syncdata_shared::archive::DirectoryArchive;
use syncdata_shared::name::TableName;
use syncdata_shared::snapshot::{self, PartName, SnapshotManifest};
use syncdata_tests::{Finished, World, WorldOptions};

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
pub(crate) async fn take(world: &World) -> serde_json::Value {
    take_with(world, &[]).await
}

pub(crate) async fn take_with(world: &World, options: &[&str]) -> serde_json::Value {
    let arguments = ["snapshot", "--json"].iter().chain(options);
    world.archiver(arguments).succeed().await.json()
}

pub(crate) async fn refused(world: &World, options: &[&str]) -> Finished {
    world.archiver(["snapshot"].iter().chain(options)).run().await.expect_code(2)
}

/// Every snapshot that exists, from the oldest to the newest.
pub(crate) fn manifests(archive: &Path) -> Vec<SnapshotManifest> {
    let mut archive = DirectoryArchive::new(archive);
    let ids = snapshot::list(&mut archive).expect("the archive can be listed");
    ids.iter().map(|id| snapshot::read(&mut archive, id, None).expect("a sound manifest")).collect()
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
        let open = |file: &syncdata_shared::manifest::ChangeFile| {
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
