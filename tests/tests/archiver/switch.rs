//! A running archive goes on with another output plugin: whatever is killed on the way, nothing is missing, and the copy
//! equals production.

use syncdata_tests::world::{Plugin, World, WorldOptions};

use crate::reader;

/// Every durable step of a switch.
const STEPS: [&str; 5] =
    ["switch.published", "switch.drained", "switch.copied", "switch.dropped", "switch.renamed"];

const SCHEMA: &str =
    "CREATE TABLE a (id int PRIMARY KEY, n numeric); CREATE TABLE full_ones (id int, t text);
    ALTER TABLE full_ones REPLICA IDENTITY FULL;
    CREATE TABLE orders (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
    CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (1000);
    CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (1000) TO (2000);
    CREATE TABLE made (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED)";
const COPIES: [&str; 4] = ["a", "full_ones", "orders", "made"];

struct Moving {
    world: World,
    round: u32,
}

impl Moving {
    async fn start() -> Moving {
        let world = WorldOptions::default().without_sftp().plugin(Plugin::Wal2json).start().await;
        for server in [&world.source, &world.target] {
            server.execute(SCHEMA).await;
        }
        world.make_slot().await;
        world.archiver(["run", "--once"]).succeed().await;
        world.archiver(["snapshot"]).succeed().await;
        world.applier(["add-tables"].iter().chain(&COPIES)).succeed().await;
        let mut moving = Moving { world, round: 0 };
        moving.write().await;
        moving
    }

    async fn write(&mut self) {
        self.round += 1;
        let n = self.round;
        self.world
            .source
            .execute(&format!(
                "BEGIN; INSERT INTO a VALUES ({n}, {n}.50); UPDATE a SET n = n + 1 WHERE id < {n}; INSERT INTO full_ones VALUES ({n}, 'x');
                 UPDATE full_ones SET t = 'y' WHERE id = {n} - 1; INSERT INTO orders VALUES ({n}, 1); UPDATE orders SET id = {n} + 1000 WHERE id = {n} - 1;
                 DELETE FROM a WHERE id = {n} - 3; INSERT INTO made VALUES ({n}, {n}); UPDATE made SET n = n + 1 WHERE id = {n} - 1; COMMIT"
            ))
            .await;
    }

    /// The command, killed at that step; then again, until it is done. The archiver of the old settings goes on where it can.
    async fn switch(&mut self, to: &str, step: &str) {
        let arguments = ["setup", "--switch-source", to];
        let open = self.world.source.connect().await;
        open.batch_execute(&format!("BEGIN; INSERT INTO a VALUES (-{}, 0)", self.round))
            .await
            .expect("production goes on");
        let (killed, ()) =
            tokio::join!(self.world.archiver(arguments).fault(&format!("{step}=kill")).run(), async {
                // A switch to a publication waits for it.
                open.batch_execute("INSERT INTO full_ones VALUES (0, 'open'); COMMIT")
                    .await
                    .expect("production goes on");
            });
        assert!(killed.was_killed(), "{step}: {killed}");
        self.write().await;
        let polled = self.world.archiver(["run", "--once"]).run().await;
        let is_half = matches!(step, "switch.dropped");
        if is_half {
            let said = polled.expect_code(2).to_string();
            assert!(
                said.contains(&format!("`syncdata-archiver setup --switch-source {to}` again")),
                "{said}"
            );
            self.world.archiver(["setup", "--create-slot"]).run().await.expect_code(1);
        } else if step == "switch.renamed" {
            polled.expect_code(2);
        } else {
            polled.expect_code(0);
        }
        if !is_half {
            assert_eq!(
                self.slots().await.split(' ').next(),
                Some("syncdata_slot"),
                "{step}: the copy is gone"
            );
            assert!(!self.slots().await.contains(','), "{step}: the copy is gone");
        }
        self.write().await;
        let done = self.world.archiver(arguments).run().await;
        assert!(matches!(done.code(), Some(0 | 1)), "{done}");
        assert!(done.to_string().contains(&format!("set source = \"{to}\"")), "{done}");
        // The settings of before are refused, and nothing is read.
        let refused = self.world.archiver(["run", "--once"]).run().await.expect_code(2).to_string();
        assert!(refused.contains(&format!("set source = \"{to}\"")), "{refused}");
        self.world.set_archiver("source", to);
        self.write().await;
        self.world.carry().await;
        self.world.assert_same(&COPIES).await;
        assert_eq!(self.slots().await, format!("syncdata_slot {to}"));
    }

    async fn slots(&self) -> String {
        slots(&self.world).await
    }
}

async fn slots(world: &World) -> String {
    let sql = "SELECT string_agg(concat(slot_name, ' ', plugin), ', ' ORDER BY slot_name) FROM pg_replication_slots";
    world.source.value(sql).await
}

#[tokio::test]
async fn an_archive_moves_to_another_plugin_and_back_whatever_is_killed() {
    let mut moving = Moving::start().await;
    // What our role may not is printed, and run by a superuser.
    let refused = moving
        .world
        .archiver(["setup", "--switch-source", "pgoutput"])
        .run()
        .await
        .expect_code(1)
        .to_string();
    assert!(refused.contains("as superuser"), "{refused}");
    // There is a slot: no other command makes what is missing.
    assert!(!refused.contains("--create-slot"), "{refused}");
    assert!(refused.contains("then `syncdata-archiver setup --switch-source pgoutput` again"), "{refused}");
    moving.world.run_as_told(["setup", "--switch-source", "pgoutput"]).await;
    moving.world.carry().await;
    for step in STEPS {
        moving.switch("pgoutput", step).await;
        moving
            .world
            .source
            .execute("INSERT INTO a VALUES (-1000, 'NaN') ON CONFLICT (id) DO UPDATE SET n = 'NaN'")
            .await;
        moving.world.carry().await;
        moving.world.assert_same(&COPIES).await;
        // Not every wal2json can say it.
        moving.world.source.execute("DELETE FROM a WHERE n = 'NaN'").await;
        moving.switch("wal2json", step).await;
    }
    let segments = reader::segments(moving.world.archive_dir());
    let gaps = segments.iter().filter(|segment| !segment.manifest["gaps"].is_null()).count();
    assert_eq!(gaps, 0, "nothing was missing at any time");
    let kinds: std::collections::BTreeSet<String> =
        segments.iter().map(|segment| segment.manifest["source"]["kind"].to_string()).collect();
    assert_eq!(kinds.len(), 2, "{kinds:?}");
}

/// It would keep production's WAL for ever: ours is dropped by the next poll, and one that may be somebody's is named.
#[tokio::test]
async fn the_copy_of_a_switch_that_nobody_finishes_is_dropped_or_named() {
    const COPY: &str = "syncdata_slot_switch";
    let mut world = WorldOptions::default().without_sftp().plugin(Plugin::Wal2json).start().await;
    world.source.execute("CREATE TABLE a (id int PRIMARY KEY, n numeric)").await;
    world.make_slot().await;
    world.archiver(["run", "--once"]).succeed().await;
    world.source.execute("ALTER ROLE syncdata_user SUPERUSER").await;
    let arguments = ["setup", "--switch-source", "pgoutput"];
    let killed = world.archiver(arguments).fault("switch.copied=kill").run().await;
    assert!(killed.was_killed(), "{killed}");
    assert!(slots(&world).await.contains(COPY), "it is left");
    for command in ["check", "status"] {
        let told = world.archiver([command]).run().await.expect_code(1);
        assert!(told.stdout.contains(&format!("the slot {COPY} keeps")), "{told}");
    }
    let polled = world.archiver(["run", "--once"]).succeed().await;
    assert!(polled.stderr.contains(COPY), "{polled}");
    assert_eq!(slots(&world).await, "syncdata_slot wal2json");
    assert!(!world.archiver(["check"]).run().await.stdout.contains(COPY));

    // Another archiver's perhaps: nothing says that we made it.
    world
        .source
        .execute("SELECT pg_create_logical_replication_slot('syncdata_slot_switch', 'wal2json')")
        .await;
    world.archiver(["run", "--once"]).run().await;
    assert!(slots(&world).await.contains(COPY), "it stays");
    let statement = format!("SELECT pg_drop_replication_slot('{COPY}');");
    let checked = world.archiver(["check"]).run().await.expect_code(1);
    assert!(checked.stdout.contains(&statement), "{checked}");
    world.source.execute(&statement).await;

    let killed = world.archiver(arguments).fault("switch.renamed=kill").run().await;
    assert!(killed.was_killed(), "{killed}");
    assert!(slots(&world).await.contains(COPY), "it is left");
    world.set_archiver("source", "pgoutput");
    world.archiver(["run", "--once"]).succeed().await;
    assert_eq!(slots(&world).await, "syncdata_slot pgoutput");
}
