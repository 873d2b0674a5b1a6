//! Tables as they were at a moment, beside the live ones.

use syncdata_tests::World;
use syncdata_tests::world::ARCHIVER_ROLE;

const TABLES: &str = "
    CREATE SCHEMA sales;
    CREATE TABLE users (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE, big text,
        twice int GENERATED ALWAYS AS (id * 2) STORED);
    CREATE TABLE sales.keyless (a int, b json);
    ALTER TABLE sales.keyless REPLICA IDENTITY FULL; ALTER TABLE users ALTER big SET STORAGE EXTERNAL";

const IMAGES: [(&str, &str); 2] = [
    ("users", "SELECT coalesce(string_agg(u::text, ' ' ORDER BY id), '') FROM users u"),
    (
        "sales.keyless",
        "SELECT coalesce(string_agg(k::text, ' ' ORDER BY a, b::text), '') FROM sales.keyless k",
    ),
];

/// A moment, and what the tables held then.
struct Moment {
    time: String,
    images: Vec<String>,
}

struct Story {
    world: World,
    moments: Vec<Moment>,
}

impl Story {
    /// Changes, a poll, and a look at what is there then.
    async fn goes_on(&mut self, sql: &str) {
        self.world.source.execute(sql).await;
        self.world.archiver(["run", "--once"]).succeed().await;
        let clock = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM pg_sleep(0.01)";
        let time = self.world.source.value(clock).await;
        self.world.source.query("SELECT pg_sleep(0.01)").await;
        let mut images = Vec::new();
        for (_, image) in IMAGES {
            images.push(self.world.source.value(image).await);
        }
        self.moments.push(Moment { time, images });
    }

    async fn told() -> Story {
        let world = World::start().await;
        world.execute_on_both(TABLES).await;
        world.source.execute(&format!("GRANT pg_read_all_data TO {ARCHIVER_ROLE}")).await;
        world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')").await;
        let mut story = Story { world, moments: Vec::new() };
        let big = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) n)";
        story
            .goes_on(&format!(
                "INSERT INTO users (name, big) SELECT 'n' || i, {big} || i FROM generate_series(1, 30) i;
                 INSERT INTO sales.keyless SELECT i / 2, '{{\"x\": 1}}' FROM generate_series(1, 20) i"
            ))
            .await;
        story.goes_on("UPDATE users SET name = 'second ' || id WHERE id < 10; DELETE FROM sales.keyless WHERE a = 3").await;
        story.world.archiver(["snapshot"]).succeed().await;
        story.goes_on("UPDATE users SET name = 'third ' || id WHERE id < 5; INSERT INTO sales.keyless VALUES (99, 'null')").await;
        story.goes_on("DELETE FROM users WHERE id % 2 = 0; TRUNCATE sales.keyless").await;
        story.world.applier(["add-tables", "public.users", "sales.*"]).succeed().await;
        story.world.applier(["sync"]).succeed().await;
        story.world.assert_same(&["users", "sales.keyless"]).await;
        story
    }

    async fn as_of(&self, moment: usize, schema: &str) -> serde_json::Value {
        let time = self.moments[moment].time.as_str();
        self.world.applier(["as-of", time, "--into", schema, "--json"]).succeed().await.json()
    }
}

#[tokio::test]
async fn tables_are_made_as_they_were_from_a_base_copy_or_from_the_beginning() {
    let story = Story::told().await;
    let live = "SELECT string_agg(xmin || ' ' || u::text, ' ' ORDER BY id) FROM users u";
    let before = story.world.target.value(live).await;
    for (moment, base) in ["segment 1", "segment 1", "snapshot", "snapshot"].iter().enumerate() {
        let schema = format!("then_{moment}");
        let past = story.as_of(moment, &schema).await;
        for ((table, image), wanted) in IMAGES.iter().zip(&story.moments[moment].images) {
            let made = past["tables"][table]["base"].as_str().unwrap_or_default();
            assert!(made.starts_with(base), "{moment}: {past}");
            let copy = format!("{schema}.{}", table.rsplit('.').next().expect("a name"));
            let image = image.replace(table, &copy);
            assert_eq!(&story.world.target.value(&image).await, wanted, "{copy}");
        }
    }
    assert_eq!(story.world.target.value(live).await, before);
    let keys = "SELECT count(*) FROM pg_index WHERE indisunique AND indrelid = 'then_2.users'::regclass";
    assert_eq!(story.world.target.value(keys).await, "2");
    let logged = "SELECT count(*) FROM data_sync_logs WHERE archive_ref LIKE 'as of % into then_%'";
    assert_eq!(story.world.target.value(logged).await, "8");
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_or_named() {
    let story = Story::told().await;
    let time = story.moments[2].time.clone();
    story.world.target.execute("CREATE SCHEMA there; CREATE TABLE there.users ()").await;
    let refused = story.world.applier(["as-of", &time, "--into", "there"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("there.users exists already"), "{refused}");
    assert_eq!(story.world.target.value("SELECT to_regclass('there.keyless') IS NULL").await, "t");
    // Who may make no schema is told what allows it.
    story
        .world
        .target
        .execute("CREATE ROLE plain LOGIN; GRANT pg_read_all_data, pg_write_all_data TO plain")
        .await;
    let arguments = ["as-of", time.as_str(), "--into", "allowed", "--tables", "users"];
    let plain = || story.world.applier(arguments).env("SYNCDATA_PG_USER", "plain").run();
    let refused = plain().await.expect_code(2);
    let allows = refused.stderr.split_once("hint: run as the database's owner: ").expect("a hint").1;
    assert!(allows.starts_with("GRANT CREATE ON DATABASE "), "{refused}");
    story.world.target.execute(allows.lines().next().expect("a statement")).await;
    plain().await.expect_code(0);
    // Before everything: nobody knows what was in the tables.
    let early = story.world.applier(["as-of", "2001-01-01", "--into", "early"]).run().await.expect_code(1);
    assert!(
        early.stdout.contains("users: left alone: the archive has no change of it up to then"),
        "{early}"
    );
    // As words and as lists, like everywhere.
    for (schema, tables) in [("words", &["users", "sales.*"][..]), ("lists", &["users, sales.keyless"][..])] {
        let arguments = [&["as-of", time.as_str(), "--into", schema, "--tables"][..], tables].concat();
        let made = story.world.applier(arguments).succeed().await;
        assert!(made.stdout.contains(&format!("2 tables are in schema {schema}")), "{made}");
    }
    // Later than what the archive covers.
    let late =
        story.world.applier(["as-of", "2100-01-01", "--into", "late", "--tables", "users"]).succeed().await;
    assert!(late.stdout.contains("the archive covers all up to"), "{late}");
    assert_eq!(
        story.world.target.value("SELECT string_agg(u::text, ' ' ORDER BY id) FROM late.users u").await,
        story.moments[3].images[0]
    );
    // A snapshot whose changes were pruned, and that is still there itself, is no table as it was.
    let mut story = story;
    story.world.source.execute("INSERT INTO users (name) VALUES ('fourth')").await;
    story.world.archiver(["run", "--once"]).succeed().await;
    story.world.archiver(["snapshot"]).succeed().await;
    story.world.carry().await;
    story.world.set_archiver("keep_days", 0);
    story.world.archiver(["prune"]).fault("prune.floor_raised=kill").run().await;
    let pruned = story.world.applier(["as-of", &time, "--into", "pruned"]).run().await.expect_code(1);
    assert!(pruned.stdout.contains("users: left alone: the archive begins after snapshot"), "{pruned}");
    // The copy is made like the live table, and what that forbids by now it forbids too.
    let live = "ALTER TABLE users ADD CHECK (name NOT LIKE 'second%') NOT VALID";
    story.world.target.execute(live).await;
    let clock = "SELECT clock_timestamp()::text FROM pg_sleep(0.01)";
    let time = &story.world.source.value(clock).await;
    let live = "ALTER TABLE users ADD CHECK (id < 0) NOT VALID";
    story.world.target.execute(live).await;
    let forbidden = story.world.applier(["as-of", time, "--into", "forbidden"]).run().await.expect_code(2);
    assert!(forbidden.stderr.contains("error: users cannot be made as it was:"), "{forbidden}");
    assert!(forbidden.stderr.contains("violates check constraint"), "{forbidden}");
    assert!(forbidden.stderr.contains("hint: nothing was made; leave it out with --tables"), "{forbidden}");
    assert_eq!(story.world.target.value("SELECT to_regnamespace('forbidden') IS NULL").await, "t");
}
