//! Production, its archive and a copy, and what a story does with them: whatever happens, the copy equals production, or
//! exactly the table that differs has its gap.

use std::collections::BTreeSet;

use syncdata_tests::world::{World, WorldOptions};
use toml::Value;

use crate::reader;
use crate::scene;

pub(crate) const PARTITION: &str = "partition changed";
pub(crate) const ANOTHER: &str = "another table of this name";
pub(crate) const NOT_CAPTURED: &str = "not captured meanwhile";
pub(crate) const REWRITTEN: &str = "rewritten by ALTER TABLE";

/// Production, its archive and a copy of some tables, all in step at the start.
pub(crate) struct Story {
    pub(crate) world: World,
    pub(crate) copied: Vec<String>,
    gaps_seen: usize,
    /// The setting.
    tables: Vec<String>,
    /// A poll may be refused: by settings that do not fit production any more.
    pub(crate) tolerant: bool,
}

impl Story {
    pub(crate) async fn start(tables: &[&str], schema: &str, copied: &[&str]) -> Story {
        let listed: Vec<Value> = tables.iter().map(|&table| table.into()).collect();
        let options = WorldOptions::default().without_sftp().archiver_setting("tables", listed);
        let world = scene::world_with(options, schema).await;
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let (copied_names, tables) = (owned(copied), owned(tables));
        let story = Story { world, copied: copied_names, gaps_seen: 0, tables, tolerant: false };
        for table in copied {
            let shape = "(id int, day int, note text, PRIMARY KEY (id, day))";
            if let Some((schema, _)) = table.split_once('.') {
                story.world.target.execute(&format!("CREATE SCHEMA IF NOT EXISTS {schema}")).await;
            }
            story.world.target.execute(&format!("CREATE TABLE {table} {shape}")).await;
        }
        story.world.archiver(["run", "--once"]).succeed().await;
        story.world.archiver(["snapshot"]).succeed().await;
        story.world.applier(["add-tables"].iter().chain(copied)).succeed().await;
        story.world.applier(["sync"]).succeed().await;
        story
    }

    /// Runs the statements, each in a transaction of its own, then a poll and a pass: the gaps that came of it.
    pub(crate) async fn after(&mut self, statements: &[&str]) -> BTreeSet<String> {
        for statement in statements {
            self.world.source.execute(statement).await;
        }
        self.carry().await
    }

    pub(crate) async fn carry(&mut self) -> BTreeSet<String> {
        let ran = self.world.archiver(["run", "--once"]).run().await;
        let gaps = gaps(&self.world);
        let new: BTreeSet<String> = gaps[self.gaps_seen..].iter().cloned().collect();
        self.gaps_seen = gaps.len();
        if self.tolerant && ran.code() == Some(2) {
            return new;
        }
        // A snapshot of before may have polled, and told gaps of its own.
        let expected = Some(i32::from(!new.is_empty()));
        assert!(self.tolerant || ran.code() == expected, "{new:?} {ran}");
        let synced = self.world.applier(["sync"]).run().await;
        assert!(matches!(synced.code(), Some(0 | 1)), "{synced}");
        self.never_unequal_and_live().await;
        new
    }

    /// Whether production has a table of that name that is captured as itself.
    pub(crate) async fn is_captured(&self, table: &str) -> bool {
        if !self.tables.iter().any(|listed| listed == table || listed == "*" || listed == "public.*") {
            return false;
        }
        let exists = format!(
            "SELECT count(*) FROM pg_class WHERE oid = to_regclass('{table}') AND relkind IN ('r', 'p')
               AND relpersistence = 'p' AND NOT relispartition"
        );
        self.world.source.value(&exists).await == "1"
    }

    pub(crate) async fn never_unequal_and_live(&self) {
        for table in &self.copied {
            if self.state(table).await != "live" || !self.is_captured(table).await {
                continue;
            }
            if let Some(difference) = self.world.difference(table).await {
                panic!("live and unequal: {difference}\ngaps: {:?}", gaps(&self.world));
            }
        }
    }

    pub(crate) async fn state(&self, table: &str) -> String {
        let state = format!("SELECT state FROM data_sync_table_state WHERE table_name = '{table}'");
        self.world.target.value(&state).await
    }

    /// What the documents say to do about a gap: afterwards all is in step.
    pub(crate) async fn mend(&mut self) {
        self.log_partitions().await;
        let told_before = gaps(&self.world).len();
        self.world.archiver(["snapshot"]).succeed().await;
        self.world.archiver(["run", "--once"]).run().await;
        self.gaps_seen = gaps(&self.world).len();
        let mut there = Vec::new();
        for table in &self.copied {
            if self.is_captured(table).await {
                there.push(table.as_str());
            }
        }
        // Others may be stale: those that production does not have any more.
        let resynced = self.world.applier(["resync"].iter().chain(&there)).run().await;
        assert!(matches!(resynced.code(), Some(0 | 1)), "{resynced}");
        let synced = self.world.applier(["sync"]).run().await;
        for table in there {
            let gaps = &gaps(&self.world)[told_before..];
            assert_eq!(self.state(table).await, "live", "{table}: {gaps:?}\n{resynced}\n{synced}");
        }
        self.never_unequal_and_live().await;
    }

    /// With an unlogged partition there is no copy of its table.
    async fn log_partitions(&self) {
        let set_logged = "DO $$ DECLARE name regclass; BEGIN
            FOR name IN SELECT oid FROM pg_class WHERE relispartition AND relkind = 'r' AND relpersistence = 'u' LOOP
              EXECUTE format('ALTER TABLE %s SET LOGGED', name);
            END LOOP; END $$";
        self.world.source.execute(set_logged).await;
        // What that is a gap of is told before the copy is made: with the next row, where the story writes some.
        let write = "DO $$ BEGIN
            IF to_regclass('written') IS NOT NULL THEN INSERT INTO written DEFAULT VALUES; END IF; END $$";
        self.world.source.execute(write).await;
        self.world.archiver(["run", "--once"]).run().await;
    }

    pub(crate) fn set_tables(&mut self, tables: &[&str]) {
        self.tables = tables.iter().map(ToString::to_string).collect();
        self.world.set_archiver("tables", tables.iter().map(|&table| table.into()).collect::<Vec<Value>>());
    }
}

/// Every gap of the archive: `orders: partition changed`.
pub(crate) fn gaps(world: &World) -> Vec<String> {
    let segments = reader::segments(world.archive_dir());
    let gaps = segments.iter().filter_map(|segment| segment.manifest["gaps"].as_array()).flatten();
    let words = |gap: &serde_json::Value| {
        let tables = gap["tables"].as_array().map(|tables| {
            tables.iter().map(|table| table.as_str().expect("a name")).collect::<Vec<_>>().join(" ")
        });
        format!("{}: {}", tables.unwrap_or("all".into()), gap["reason"].as_str().expect("a reason"))
    };
    gaps.map(words).collect()
}

pub(crate) fn only(table: &str, reason: &str) -> BTreeSet<String> {
    [format!("{table}: {reason}")].into()
}

pub(crate) const NONE: BTreeSet<String> = BTreeSet::new();
