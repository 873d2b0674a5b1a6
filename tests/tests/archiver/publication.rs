//! The source pgoutput: what its publication brings into the stream, since when, and that production's statements go on.

use std::collections::BTreeSet;

use syncdata_tests::world::{Plugin, World, WorldOptions};

use crate::reader;
use crate::scene;

const NOT_CAPTURED: &str = "not captured meanwhile";

pub(crate) async fn world(schema: &str) -> World {
    let options = WorldOptions::default().without_sftp().plugin(Plugin::Pgoutput);
    scene::world_with(options, schema).await
}

/// A poll after one more commit of a table that is always published.
pub(crate) async fn poll(world: &World) -> BTreeSet<String> {
    let before = gaps(world).len();
    world.source.execute("INSERT INTO steady VALUES (DEFAULT)").await;
    let ran = world.archiver(["run", "--once"]).run().await;
    let new: BTreeSet<String> = gaps(world).split_off(before).into_iter().collect();
    assert_eq!(ran.code(), Some(i32::from(!new.is_empty())), "{new:?} {ran}");
    new
}

pub(crate) fn gaps(world: &World) -> Vec<String> {
    let segments = reader::segments(world.archive_dir());
    let gaps = segments.iter().filter_map(|segment| segment.manifest["gaps"].as_array()).flatten();
    gaps.map(|gap| format!("{} {}", gap["tables"], gap["reason"]))
        .map(|text| text.replace(['"', '[', ']'], ""))
        .collect()
}

pub(crate) fn missed(table: &str) -> BTreeSet<String> {
    [format!("{table} {NOT_CAPTURED}")].into()
}

pub(crate) const STEADY: &str = "CREATE TABLE steady (id serial PRIMARY KEY)";

#[tokio::test]
async fn what_was_there_before_its_publication_is_a_gap_and_nothing_after_it() {
    let world = world(&format!(
        "{STEADY}; CREATE TABLE orders (id int, day int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
         CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10)"
    ))
    .await;
    assert_eq!(poll(&world).await, [].into(), "what setup published, is in the stream from the first");
    world.source.execute("CREATE TABLE late (id int PRIMARY KEY)").await;
    world.source.execute("INSERT INTO late VALUES (1)").await;
    assert_eq!(poll(&world).await, missed("late"));
    world.source.execute("INSERT INTO late VALUES (2)").await;
    assert_eq!(poll(&world).await, [].into());
    let manifests = reader::manifests(world.archive_dir());
    let since = manifests.iter().rev().map(|path| reader::json(path)["capture_since"]["late"].clone());
    let since = since.into_iter().find(|since| !since.is_null()).expect("told");
    assert_eq!(since["empty"], false);

    // A partition from birth is published with its parent.
    world
        .source
        .execute("BEGIN; CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20); INSERT INTO orders VALUES (1, 11); COMMIT")
        .await;
    assert_eq!(poll(&world).await, [].into());
    // One that is attached in the transaction that made and filled it has rows that were published nowhere.
    world
        .source
        .execute(
            "BEGIN; CREATE TABLE orders_3 (LIKE orders INCLUDING ALL); INSERT INTO orders_3 VALUES (1, 21);
            ALTER TABLE orders ATTACH PARTITION orders_3 FOR VALUES FROM (20) TO (30); COMMIT",
        )
        .await;
    assert_eq!(poll(&world).await, missed("orders"));
    assert_eq!(poll(&world).await, [].into());
}

#[tokio::test]
async fn a_transaction_that_was_open_when_its_table_was_published_is_in_the_gap() {
    let world = world(STEADY).await;
    assert_eq!(poll(&world).await, [].into());
    world.source.execute("CREATE TABLE late (id int PRIMARY KEY)").await;
    let open = world.source.connect().await;
    open.batch_execute("BEGIN; INSERT INTO late VALUES (1)").await.expect("production goes on");
    assert_eq!(poll(&world).await, missed("late"));
    assert_eq!(poll(&world).await, missed("late"), "what it wrote before was published nowhere");
    open.batch_execute("INSERT INTO late VALUES (2); COMMIT").await.expect("production goes on");
    assert_eq!(poll(&world).await, missed("late"));
    assert_eq!(poll(&world).await, [].into());
}

#[tokio::test]
async fn a_publication_that_was_bent_and_put_back_is_a_gap_of_its_tables() {
    let schema =
        format!("{STEADY}; CREATE TABLE a (id int PRIMARY KEY, n int); CREATE TABLE b (id int PRIMARY KEY)");
    let world = world(&schema).await;
    assert_eq!(poll(&world).await, [].into());
    let publication = "ALTER PUBLICATION syncdata_slot_pub";
    for (there, back, bent) in [
        ("DROP TABLE a", "ADD TABLE a", &["a"][..]),
        (
            "SET (publish = 'insert')",
            "SET (publish = 'insert, update, delete, truncate')",
            &["a", "b", "steady"],
        ),
    ] {
        world.source.execute(&format!("{publication} {there}")).await;
        world.source.execute("INSERT INTO a VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = a.n + 1").await;
        world.source.execute(&format!("{publication} {back}")).await;
        assert_eq!(poll(&world).await, bent.iter().flat_map(|table| missed(table)).collect(), "{there}");
        assert_eq!(poll(&world).await, [].into());
    }
    // A filter stays until somebody takes it away, and so does the gap.
    world
        .source
        .execute(&format!("{publication} DROP TABLE a; {publication} ADD TABLE a WHERE (id > 5)"))
        .await;
    assert_eq!(poll(&world).await, missed("a"));
    assert_eq!(poll(&world).await, missed("a"));
    world.source.execute(&format!("{publication} DROP TABLE a")).await;
    assert_eq!(poll(&world).await, missed("a"));
    assert_eq!(poll(&world).await, [].into());
}

/// What is lost, of which table, and how. Every way in which PostgreSQL refuses an UPDATE of what is published.
const LOSSES: &[(&str, &str, &str)] = &[
    ("a", "CREATE TABLE a (id int PRIMARY KEY, n int)", "ALTER TABLE a DROP CONSTRAINT a_pkey"),
    ("col", "CREATE TABLE col (id int PRIMARY KEY, n int)", "ALTER TABLE col DROP COLUMN id"),
    ("f", "CREATE TABLE f (id int, n int); ALTER TABLE f REPLICA IDENTITY FULL", "ALTER TABLE f REPLICA IDENTITY NOTHING"),
    ("later", "CREATE TABLE later (id int PRIMARY KEY, n int)",
     "ALTER TABLE later DROP CONSTRAINT later_pkey, ADD PRIMARY KEY (id) DEFERRABLE"),
    ("idx", "CREATE TABLE idx (id int NOT NULL, n int); CREATE UNIQUE INDEX idx_a ON idx (id); ALTER TABLE idx REPLICA IDENTITY USING INDEX idx_a",
     "DROP INDEX idx_a"),
    ("dom", "CREATE DOMAIN key AS int; CREATE TABLE dom (id key PRIMARY KEY, n int)", "DROP DOMAIN key CASCADE"),
    ("rowed", "CREATE TYPE pair AS (x int, y int); CREATE TABLE rowed (id pair PRIMARY KEY, n int)", "DROP TYPE pair CASCADE"),
    ("typed", "CREATE TYPE shape AS (id int, n int); CREATE TABLE typed OF shape (PRIMARY KEY (id))", "ALTER TYPE shape DROP ATTRIBUTE id CASCADE"),
    ("viewed", "CREATE VIEW v AS SELECT 1 AS x; CREATE TABLE viewed (id v PRIMARY KEY, n int)", "DROP VIEW v CASCADE"),
    ("sorted", "CREATE COLLATION mine FROM \"C\"; CREATE TABLE sorted (id text COLLATE mine PRIMARY KEY, n int)", "DROP COLLATION mine CASCADE"),
    ("schemed", "CREATE SCHEMA types; CREATE DOMAIN types.key AS int; CREATE TABLE schemed (id types.key PRIMARY KEY, n int)",
     "DROP SCHEMA types CASCADE"),
    ("leafs", "CREATE TABLE leafs (id int PRIMARY KEY, n int) PARTITION BY RANGE (id); CREATE TABLE leafs_1 PARTITION OF leafs FOR VALUES FROM (0) TO (10)",
     "ALTER TABLE leafs_1 REPLICA IDENTITY NOTHING"),
    ("joined", "CREATE TABLE joined (id int PRIMARY KEY, n int) PARTITION BY RANGE (id); CREATE TABLE joined_1 PARTITION OF joined FOR VALUES FROM (0) TO (10)",
     "CREATE TABLE joined_2 (id int NOT NULL, n int); ALTER TABLE joined_2 REPLICA IDENTITY NOTHING;
      ALTER TABLE joined ATTACH PARTITION joined_2 FOR VALUES FROM (10) TO (20); INSERT INTO joined VALUES (11, 1)"),
    ("born", "CREATE TABLE born (id int, n int) PARTITION BY RANGE (id); ALTER TABLE born REPLICA IDENTITY FULL;
      CREATE TABLE born_1 PARTITION OF born FOR VALUES FROM (0) TO (10); ALTER TABLE born_1 REPLICA IDENTITY FULL",
     "CREATE TABLE born_2 PARTITION OF born FOR VALUES FROM (10) TO (20); INSERT INTO born VALUES (11, 1)"),
    ("dynamic", "CREATE TABLE dynamic (id int PRIMARY KEY, n int)",
     "DO $$ BEGIN EXECUTE 'ALTER TABLE ' || 'dynamic' || ' DROP CONSTRAINT dynamic_pkey'; END $$"),
    ("owned", "CREATE ROLE plain; GRANT ALL ON SCHEMA public TO plain; CREATE TABLE owned (id int PRIMARY KEY, n int); ALTER TABLE owned OWNER TO plain",
     "SET LOCAL ROLE plain; ALTER TABLE owned DROP CONSTRAINT owned_pkey"),
    ("replica", "CREATE TABLE replica (id int PRIMARY KEY, n int)",
     "SET LOCAL session_replication_role = replica; ALTER TABLE replica DROP CONSTRAINT replica_pkey"),
    ("pathless", "CREATE TABLE pathless (id int PRIMARY KEY, n int)",
     "SET LOCAL search_path = ''; ALTER TABLE public.pathless DROP CONSTRAINT pathless_pkey; SET LOCAL search_path = public"),
    ("unlogged", "CREATE TABLE unlogged (id int PRIMARY KEY, n int)", "ALTER TABLE unlogged SET UNLOGGED"),
    ("\"Un \"\"l\\ogged\"", "CREATE TABLE \"Un \"\"l\\ogged\" (id int PRIMARY KEY, n int)", "ALTER TABLE \"Un \"\"l\\ogged\" SET /* ! */ UNLOGGED"),
];

/// From 18 on.
const VIRTUAL: (&str, &str, &str) = (
    "virtual",
    "CREATE TABLE virtual (id int, n int); ALTER TABLE virtual REPLICA IDENTITY FULL",
    "ALTER TABLE virtual ADD COLUMN twice int GENERATED ALWAYS AS (n * 2) VIRTUAL",
);

/// The tables of gaps that came with a poll.
fn tables(gaps: &BTreeSet<String>) -> BTreeSet<String> {
    const REASONS: [&str; 4] =
        [NOT_CAPTURED, "rewritten by ALTER TABLE", "another table of this name", "partition changed"];
    let table = |gap: &String| {
        let table = REASONS.iter().find_map(|reason| gap.strip_suffix(reason));
        table.unwrap_or_else(|| panic!("{gap}")).trim_end().to_owned()
    };
    gaps.iter().map(table).collect()
}

#[tokio::test]
async fn no_statement_of_production_fails_because_a_table_lost_its_identity() {
    let world = WorldOptions::default().without_sftp().plugin(Plugin::Pgoutput).start().await;
    let is_18 = world.source.installation().major() >= 18;
    let losses = || LOSSES.iter().chain(is_18.then_some(&VIRTUAL));
    world.source.execute(&format!("{STEADY}; CREATE TABLE kept (id int PRIMARY KEY, n int)")).await;
    for (table, schema, _) in losses() {
        world.source.execute(schema).await;
        if *table != "rowed" && *table != "viewed" {
            world.source.execute(&format!("INSERT INTO {table} VALUES ('1', 1)")).await;
        }
    }
    world.make_slot().await;
    assert_eq!(poll(&world).await, [].into());
    for (table, _, loses) in losses() {
        // In the same transaction, and after it.
        world.source.execute(&format!("BEGIN; {loses}; UPDATE {table} SET n = 2; COMMIT")).await;
        world.source.execute(&format!("UPDATE {table} SET n = 3; DELETE FROM {table} WHERE n = 4")).await;
    }
    // What is taken back, was not lost.
    world
        .source
        .execute("BEGIN; SAVEPOINT s; ALTER TABLE kept DROP CONSTRAINT kept_pkey; ROLLBACK TO s; INSERT INTO kept VALUES (1, 1); COMMIT")
        .await;
    world.source.execute("UPDATE kept SET n = 2").await;
    let missed = poll(&world).await;
    let expected = losses().map(|(table, ..)| table.replace(['"', '[', ']'], ""));
    assert_eq!(tables(&missed).len(), losses().count(), "{missed:?}");
    for table in expected.filter(|table| !table.contains('\\')) {
        assert!(tables(&missed).contains(&table), "{table}: {missed:?}");
    }
    for (table, ..) in losses() {
        world.source.execute(&format!("UPDATE {table} SET n = 5")).await;
    }
    // A table without one is made, and written to.
    world
        .source
        .execute("CREATE TABLE bare (n int); INSERT INTO bare VALUES (1); UPDATE bare SET n = 2")
        .await;
    poll(&world).await;
    world.source.execute("UPDATE bare SET n = 3; UPDATE kept SET n = 4").await;
    let checked = world.archiver(["check"]).run().await.to_string();
    assert!(checked.contains("bare has none that can be published"), "{checked}");
    // Nor does whoever may call our function get such a table in.
    let refused = world.source.connect().await;
    let refused = refused
        .batch_execute("SET ROLE syncdata_user; SELECT public.syncdata_slot_pub_change('ADD', 'public.bare')")
        .await;
    assert!(refused.is_err(), "an UPDATE of it would fail");
    world.source.execute("UPDATE bare SET n = 4").await;
}

#[tokio::test]
async fn a_role_without_rights_has_all_that_it_needs_printed() {
    let world = WorldOptions::default().without_sftp().plugin(Plugin::Pgoutput).start().await;
    world.source.execute(STEADY).await;
    // Nothing is made that could harm production.
    let told = world.archiver(["setup", "--create-slot"]).run().await.expect_code(1);
    assert!(told.to_string().contains("say --accept-publication-rule"), "{told}");
    assert_eq!(
        world
            .source
            .value(
                "SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots)"
            )
            .await,
        "0"
    );
    world.make_slot().await;
    assert_eq!(poll(&world).await, [].into());
    let again = world.archiver(["setup", "--create-slot"]).succeed().await;
    assert_eq!(again.stdout, "", "nothing is left to do");
    // What comes later needs nobody.
    world.source.execute("CREATE TABLE late (id int PRIMARY KEY)").await;
    assert_eq!(poll(&world).await, missed("late"));
    world.source.execute("INSERT INTO late VALUES (2); TRUNCATE late, steady").await;
    assert_eq!(poll(&world).await, [].into());
    let checked = world.archiver(["check"]).succeed().await;
    assert!(checked.stdout.contains("pgoutput 1"), "{checked}");
    // Somebody takes away what a superuser has made.
    let unguard = "CREATE TABLE later (id int PRIMARY KEY);
        DO $$ DECLARE name text; BEGIN
          FOR name IN SELECT evtname FROM pg_event_trigger LOOP EXECUTE format('DROP EVENT TRIGGER %I', name); END LOOP;
          FOR name IN SELECT oid::regprocedure FROM pg_proc WHERE proname = 'syncdata_slot_pub_change' LOOP
            EXECUTE format('DROP FUNCTION %s', name); END LOOP; END $$";
    world.source.execute(unguard).await;
    let checked = world.archiver(["check"]).run().await.to_string();
    for words in [
        "syncdata_slot_pub has not just what is captured",
        "SET UNLOGGED is refused",
        "tables that are made later cannot be published by our role",
    ] {
        assert!(checked.contains(words), "{words}: {checked}");
    }
    world.run_as_told(["setup"]).await;
    assert_eq!(poll(&world).await, missed("later"));
    world.archiver(["check"]).succeed().await;
    // One command takes the slot away, and prints what a superuser made beside it until somebody has run that.
    let dropped = world.archiver(["drop-slot", "--force"]).succeed().await;
    assert!(dropped.stderr.contains("run the statements as superuser"), "{dropped}");
    assert!(dropped.stderr.contains("nobody needs any more what a superuser made"), "{dropped}");
    let again = world.archiver(["drop-slot", "--json"]).succeed().await.json();
    assert_eq!(
        (&again["dropped"], &again["findings"][0]["level"]),
        (&false.into(), &"warn".into()),
        "{again}"
    );
    let statements = again["findings"][0]["statements"].as_array().expect("statements");
    let statements: Vec<&str> = statements.iter().filter_map(|statement| statement.as_str()).collect();
    assert_eq!(dropped.stdout.lines().collect::<Vec<_>>(), statements);
    world.run_as_told(["drop-slot"]).await;
    assert_eq!(world.source.value(BESIDE).await, "0");
    let last = world.archiver(["drop-slot", "--json"]).succeed().await.json();
    assert_eq!(last["findings"], serde_json::json!([]), "{last}");
}

/// What is there of ours beside tables and roles.
const BESIDE: &str = "SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_event_trigger)
    + (SELECT count(*) FROM pg_proc WHERE proname LIKE 'syncdata%') + (SELECT count(*) FROM pg_replication_slots)";

/// The role that is connected can remove neither itself nor what a superuser has made.
#[tokio::test]
async fn one_command_prints_all_that_takes_us_away_from_production() {
    let world = WorldOptions::default().without_sftp().plugin(Plugin::Pgoutput).start().await;
    world.source.execute(STEADY).await;
    world.make_slot().await;
    let told = world.archiver(["drop-slot", "--all", "--force", "--yes"]).run().await.expect_code(1);
    assert!(told.stderr.contains("a role cannot drop itself"), "{told}");
    for statement in told.stdout.lines() {
        world.source.execute(statement).await;
    }
    assert_eq!(world.source.value(BESIDE).await, "0");
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname = 'syncdata_user'";
    assert_eq!(world.source.value(roles).await, "0");
}

/// Killed wherever something is gone for good, the same command goes on with the rest.
#[tokio::test]
async fn drop_slot_that_is_killed_at_any_step_leaves_nothing_when_it_is_run_again() {
    let world = WorldOptions::default().without_sftp().plugin(Plugin::Pgoutput).start().await;
    world.source.execute(STEADY).await;
    world.source.execute("ALTER ROLE syncdata_user SUPERUSER").await;
    world.make_slot().await;
    let made = world.source.value(BESIDE).await;
    let trace = world.folder().join("trace");
    world.archiver(["drop-slot"]).trace(&trace).succeed().await;
    assert_eq!(world.source.value(BESIDE).await, "0");
    let steps = std::fs::read_to_string(&trace).expect("a trace");
    let parts = steps.lines().filter(|step| *step == "publication.part_removed").count();
    assert_eq!(parts, 6, "two triggers with their functions, the other function, the publication: {steps}");
    let mut visits = std::collections::BTreeMap::new();
    for step in steps.lines() {
        let visit = visits.entry(step).and_modify(|visit| *visit += 1).or_insert(1);
        world.make_slot().await;
        assert_eq!(world.source.value(BESIDE).await, made, "{step}@{visit}");
        let killed = world.archiver(["drop-slot"]).fault(&format!("{step}=kill@{visit}")).run().await;
        assert!(killed.was_killed(), "{step}@{visit}: {killed}");
        let again = world.archiver(["drop-slot"]).succeed().await;
        assert_eq!(
            (world.source.value(BESIDE).await, again.stdout.as_str()),
            ("0".to_owned(), ""),
            "{step}@{visit}"
        );
    }
    assert_eq!(visits.keys().copied().collect::<Vec<_>>(), DROP_STEPS, "a step was added or went: list it");
}

/// Every durable step of `drop-slot`.
const DROP_STEPS: [&str; 3] =
    ["drop_slot.aside_dropped", "drop_slot.slot_dropped", "publication.part_removed"];

#[tokio::test]
async fn setup_that_was_killed_before_the_slot_goes_on() {
    let options = WorldOptions::default().without_sftp().plugin(Plugin::Pgoutput);
    let world = options.start().await;
    world.source.execute(STEADY).await;
    world.source.execute("ALTER ROLE syncdata_user SUPERUSER").await;
    let killed = world.archiver(["setup", "--create-slot"]).fault("setup.publication_made=kill").run().await;
    assert!(killed.was_killed(), "{killed}");
    world.source.execute("CREATE TABLE between (id int PRIMARY KEY)").await;
    world.make_slot().await;
    world.source.execute("INSERT INTO between VALUES (1)").await;
    assert_eq!(poll(&world).await, [].into());
    // The slot was made for one plugin.
    let other = scene::settings(&world, "other.toml", &[("source", "wal2json")]);
    let refused = world.archiver(["run", "--once"]).env("DATA_SYNC_CONFIG", other).run().await.expect_code(2);
    assert!(refused.to_string().contains("set source = \"pgoutput\""), "{refused}");
}

#[tokio::test]
async fn without_its_publication_what_was_written_meanwhile_is_missing() {
    let world = world(STEADY).await;
    assert_eq!(poll(&world).await, [].into());
    world.source.execute("DROP PUBLICATION syncdata_slot_pub").await;
    world.source.execute("INSERT INTO steady VALUES (DEFAULT)").await;
    let checked = world.archiver(["check"]).run().await.expect_code(1).to_string();
    assert!(checked.contains("syncdata_slot_pub does not exist"), "{checked}");
    // Our role may not make it.
    world.run_as_told(["setup"]).await;
    let ran = world.archiver(["run", "--once"]).run().await;
    match world.source.installation().major() {
        // Its rows are passed over with a warning.
        18.. => assert_eq!(ran.code(), Some(1), "{ran}"),
        _ => {
            let said = ran.expect_code(2).to_string();
            let (_, upto) = said.split_once("--upto ").expect("a command");
            let upto: String = upto.chars().take_while(|c| !c.is_whitespace()).collect();
            world.archiver(["declare-gap", "--upto", &upto, "--reason", "no publication"]).succeed().await;
        }
    }
    assert!(!gaps(&world).is_empty());
    poll(&world).await;
    assert_eq!(poll(&world).await, [].into());
}

/// What both print alike, on every version.
const SCHEMA: &str = r#"CREATE TYPE mood AS ENUM ('sad', 'it''s \ fine'); CREATE DOMAIN small AS int;
    CREATE TABLE kinds (id bigint PRIMARY KEY, b bool, i2 int2, i4 int4, o oid, n numeric, f4 float4, f8 float8, t text, v varchar(9),
      c char(4), by bytea, j json, jb jsonb, ts timestamptz, tt timestamp, d date, iv interval, u uuid, a int[], ta text[], m mood, s small,
      r int4range, x xml, ip inet, bits bit(3));
    CREATE TABLE full_ones (id int, n int, t text); ALTER TABLE full_ones REPLICA IDENTITY FULL;
    CREATE TABLE indexed (a int NOT NULL, b text NOT NULL, c text); CREATE UNIQUE INDEX by_b ON indexed (b);
    ALTER TABLE indexed REPLICA IDENTITY USING INDEX by_b;
    CREATE TABLE long (id text PRIMARY KEY, big text, n int); ALTER TABLE long ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE orders (id int, day int, n int, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
    CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
    CREATE TABLE orders_2 (n int, day int NOT NULL, id int NOT NULL); ALTER TABLE orders ATTACH PARTITION orders_2 FOR VALUES FROM (10) TO (20);
    CREATE SCHEMA other; CREATE TABLE other.users (id int PRIMARY KEY); CREATE TABLE steady (id serial PRIMARY KEY);
    CREATE SCHEMA "My ""Schema"; CREATE TABLE "My ""Schema"."We'ird.t\" (id int PRIMARY KEY, "Co""l,\1" text);
    CREATE TABLE reshaped (gone int, id int PRIMARY KEY, b text); ALTER TABLE reshaped DROP COLUMN gone"#;

const WORK: &[&str] = &[
    r#"INSERT INTO kinds VALUES (1, true, -1, 2147483647, 4294967295, 1.10, 1e-30, 0.1, E'a"b\\c\n\t\x01\x7fü', 'v', 'c', '\x00ff', '{"a": 1}',
       '{"b": [1, 2]}', '2026-02-05 10:30:00.5+02', '2026-02-05', 'infinity', '1 day 2 hours', gen_random_uuid(), '{1,NULL}', '{"a b",c}',
       'it''s \ fine', 7, '[1,5)', '<a>b</a>', '10.0.0.1/8', B'101')"#,
    "INSERT INTO kinds (id) VALUES (2); UPDATE kinds SET id = 3, t = '' WHERE id = 2; UPDATE kinds SET t = 'x' WHERE id = 1",
    "INSERT INTO full_ones VALUES (1, NULL, 'x'), (1, NULL, 'x'); UPDATE full_ones SET n = 1; DELETE FROM full_ones",
    "INSERT INTO indexed VALUES (1, 'b', NULL); UPDATE indexed SET c = 'c'; UPDATE indexed SET b = 'bb'; DELETE FROM indexed",
    "INSERT INTO long VALUES (repeat('k', 2000), repeat('x', 9000), 1); UPDATE long SET n = 2; UPDATE long SET id = 'k'; DELETE FROM long",
    "BEGIN; INSERT INTO orders SELECT i, i, i FROM generate_series(1, 19) i; UPDATE orders SET day = 15 WHERE id = 1; SAVEPOINT s;
     DELETE FROM orders; ROLLBACK TO s; INSERT INTO other.users VALUES (1); COMMIT",
    "TRUNCATE full_ones, orders, other.users; INSERT INTO orders VALUES (1, 1, 1)",
    "BEGIN; INSERT INTO other.users VALUES (5); PREPARE TRANSACTION 'p'",
    "INSERT INTO other.users VALUES (6)",
    "COMMIT PREPARED 'p'",
    r#"INSERT INTO "My ""Schema"."We'ird.t\" VALUES (1, E'\\'); UPDATE "My ""Schema"."We'ird.t\" SET id = 2; TRUNCATE "My ""Schema"."We'ird.t\""#,
    "BEGIN; INSERT INTO reshaped VALUES (1, 'b'); ALTER TABLE reshaped REPLICA IDENTITY FULL; UPDATE reshaped SET b = 'c'; DELETE FROM reshaped; COMMIT",
];

/// From 18 on both know these as well.
const NEWER: &[&str] = &[
    "CREATE TABLE made (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)",
    "INSERT INTO kinds (id, n, f4, f8) VALUES (10, 'NaN', 'Infinity', '-Infinity')",
    "INSERT INTO made VALUES (1); UPDATE made SET id = 2",
];

#[tokio::test]
async fn both_plugins_make_the_same_lines_of_the_same_work() {
    let options = WorldOptions::default()
        .without_sftp()
        .plugin(Plugin::Pgoutput)
        .source(|options| options.setting("max_prepared_transactions", "5"));
    let world = options.start().await;
    world.source.execute(SCHEMA).await;
    let is_newer = world.source.installation().major() >= 18;
    if is_newer {
        world.source.execute(NEWER[0]).await;
    }
    world.make_slot().await;
    world.source.execute("SELECT pg_create_logical_replication_slot('other_slot', 'wal2json')").await;
    let folder = world.folder().join("other");
    std::fs::create_dir_all(folder.join("archive")).expect("the world's folder is writable");
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let other = scene::settings(
        &world,
        "other.toml",
        &[
            ("source", "wal2json"),
            ("slot_name", "other_slot"),
            ("spool_dir", &path("spool")),
            ("archive_dir", &path("archive")),
        ],
    );
    let open = world.source.connect().await;
    open.batch_execute("BEGIN; INSERT INTO steady VALUES (DEFAULT)").await.expect("production goes on");
    for sql in WORK.iter().chain(NEWER.iter().skip(1).filter(|_| is_newer)) {
        world.source.execute(sql).await;
    }
    open.batch_execute("COMMIT").await.expect("production goes on");
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["run", "--once"]).env("DATA_SYNC_CONFIG", &other).succeed().await;
    let lines = |archive: &std::path::Path| -> Vec<String> {
        reader::segments(archive).into_iter().flat_map(|segment| segment.lines).collect()
    };
    let (ours, theirs) = (lines(world.archive_dir()), lines(&folder.join("archive")));
    assert!(ours.len() > 40, "{} lines", ours.len());
    for (our, their) in ours.iter().zip(&theirs) {
        assert_eq!(our, their);
    }
    assert_eq!(ours.len(), theirs.len());
    let manifest = reader::last_manifest(world.archive_dir()).expect("a segment");
    assert_eq!(manifest["source"]["kind"], "pgoutput");
}
