//! Proofs across what changes the archive or the copy beside the stream: a prune on both sides of it, a replay, and two
//! copies of one archive.

use std::ffi::OsStr;
use std::fs;

use syncdata_tests::Program;
use syncdata_tests::world::{World, WorldOptions};

use crate::scene::{self, TABLES, assert_all_equal, proofs, prove, prove_differing};

/// Changes of every table.
async fn write(world: &World, round: u32) {
    world
        .source
        .execute(&format!(
            "UPDATE accounts SET balance = balance + {round}, big = repeat('{round}', 3000) WHERE id % 50 = {round};
             INSERT INTO entries (account, amount) VALUES ({round}, {round}); DELETE FROM entries WHERE id = {round};
             INSERT INTO log VALUES ('round {round}', NULL); UPDATE parts SET v = NULL WHERE id = {round}"
        ))
        .await;
}

/// Numbers of the segments that the archive has.
fn segments(world: &World) -> Vec<u64> {
    let mut found = Vec::new();
    for day in fs::read_dir(world.archive_dir().join("segments")).expect("segments") {
        for entry in fs::read_dir(day.expect("a day").path()).expect("a day") {
            let name = entry.expect("a file").file_name().into_string().expect("plain");
            let number = name.strip_suffix(".manifest.json").and_then(|stem| stem.split('-').next());
            found.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
    }
    found.sort_unstable();
    found
}

/// What a proof rests on stays as long as the proof does, and one that is made after a prune needs nothing of what is gone:
/// whether the copy has the cut already, or meets it in an archive that was pruned meanwhile.
#[tokio::test]
async fn proofs_hold_across_a_prune_before_and_after_their_cut() {
    let world = scene::world(WorldOptions::default().archiver_setting("keep_days", 0)).await;
    for round in 1..4 {
        write(&world, round).await;
        world.carry().await;
    }
    prove(&world).await;
    assert_all_equal(&world).await;
    let prune = async || world.archiver(["prune", "--json"]).succeed().await.json();
    // A newer base lets go of what lies before it: that of the proof, with its segments, stays for a drill.
    world.archiver(["snapshot"]).succeed().await;
    write(&world, 4).await;
    world.carry().await;
    prune().await;
    assert_all_equal(&world).await;
    for table in TABLES {
        world.applier(["drill", table]).succeed().await;
    }

    // Marked and digested before a prune, compared after it.
    write(&world, 5).await;
    world.archiver(["proof"]).succeed().await;
    write(&world, 6).await;
    world.archiver(["run", "--once"]).succeed().await;
    prune().await;
    world.applier(["sync"]).succeed().await;
    assert_all_equal(&world).await;

    // Three newer ones: now the first goes, and all that only it needed.
    let before = segments(&world);
    for round in 7..10 {
        write(&world, round).await;
        world.archiver(["snapshot"]).succeed().await;
        world.carry().await;
        prove(&world).await;
    }
    let kept = proofs(&world);
    prune().await;
    assert!(proofs(&world).len() <= 4, "{kept:?} became {:?}", proofs(&world));
    assert!(segments(&world).first() > before.first(), "{before:?} became {:?}", segments(&world));
    assert_all_equal(&world).await;
    world.archiver(["verify"]).run().await.expect_code(0);

    // A copy that was spoilt meanwhile is found by the next proof, told row by row, and mended from what is left.
    world.target.execute("UPDATE accounts SET owner = 'Mallory' WHERE id = 42").await;
    prove_differing(&world).await;
    let rows = world.applier(["consistency", "rows", "accounts", "--json"]).run().await.expect_code(1).json();
    assert_eq!((&rows["differing"], &rows["blame"]), (&1.into(), &"local".into()), "{rows}");
    world.applier(["consistency", "repair", "accounts"]).succeed().await;
    world.assert_same(&TABLES).await;
    prove(&world).await;
    assert_all_equal(&world).await;
    for table in TABLES {
        world.applier(["drill", table]).succeed().await;
    }
}

/// A replay writes old changes once more, beside the stream: at a cut that is not applied yet, at one that is, and where it
/// mends what a proof has found.
#[tokio::test]
async fn a_replay_before_at_or_after_the_cut_gives_no_false_alarm_and_clears_nothing_by_itself() {
    let world = scene::world(WorldOptions::default()).await;
    // In a table without a key no row can be found again afterwards.
    let whole = [
        "replay",
        "--from",
        "2020-01-01",
        "--to",
        "2126-01-01",
        "--yes",
        "--tables",
        "accounts,entries,parts",
    ];
    for round in 1..4 {
        write(&world, round).await;
        world.carry().await;
    }
    // Before a cut that waits in the archive.
    write(&world, 4).await;
    world.archiver(["proof"]).succeed().await;
    write(&world, 5).await;
    world.archiver(["run", "--once"]).succeed().await;
    world.applier(whole).succeed().await;
    world.applier(["sync"]).succeed().await;
    assert_all_equal(&world).await;
    // After the one that is the newest.
    world.applier(whole).succeed().await;
    assert_all_equal(&world).await;
    world.assert_same(&TABLES).await;

    // A row that the stretch has written is mended by it; the proof says so when it is made again, not before.
    world.target.execute("UPDATE accounts SET balance = 0 WHERE id = 4").await;
    prove_differing(&world).await;
    world.applier(whole).succeed().await;
    world.assert_same(&TABLES).await;
    world.applier(["consistency", "status"]).run().await.expect_code(1);
    prove(&world).await;
    assert_all_equal(&world).await;
    // One that it never wrote stays wrong, and is found after it.
    world.target.execute("UPDATE accounts SET balance = -1 WHERE id = 1000").await;
    world.applier(whole).succeed().await;
    prove_differing(&world).await;
    let differs =
        world.applier(["consistency", "rows", "accounts", "--json"]).run().await.expect_code(1).json();
    assert_eq!(differs["differing"], 1, "{differs}");
}

/// The applier of another copy, of the same archive: a database, a folder and a socket of its own.
struct Second {
    database: &'static str,
}

impl Second {
    async fn start(world: &World) -> Second {
        let second = Second { database: "second" };
        let postgres = world.target.connect_to("postgres").await;
        let made = format!("CREATE DATABASE {} TEMPLATE {}", second.database, world.target.database());
        postgres.batch_execute(&made).await.expect("nobody is connected to the first");
        second
    }

    fn applier<A: AsRef<OsStr>>(&self, world: &World, arguments: impl IntoIterator<Item = A>) -> Program {
        let folder = world.folder().join(self.database);
        fs::create_dir_all(folder.join("state")).expect("ours");
        fs::create_dir_all(folder.join("run")).expect("ours");
        world
            .applier(arguments)
            .env("PG_DB_NAME", self.database)
            .env("STATE_DIRECTORY", folder.join("state"))
            .env("RUNTIME_DIRECTORY", folder.join("run"))
    }

    /// `table verdict` of the newest proof.
    async fn verdicts(&self, world: &World, code: i32) -> String {
        let status =
            self.applier(world, ["consistency", "status", "--json"]).run().await.expect_code(code).json();
        let tables = status["tables"].as_array().expect("tables");
        let text = |table: &serde_json::Value, key: &str| table[key].as_str().unwrap_or_default().to_owned();
        let said = tables.iter().map(|table| format!("{} {}", text(table, "table"), text(table, "verdict")));
        let mut said: Vec<String> = said.collect();
        said.sort();
        said.join(", ")
    }
}

/// One proof of production serves every copy, each at its own pace; what one of them has spoilt is its own.
#[tokio::test]
async fn one_proof_is_compared_by_every_copy_of_the_archive_and_each_speaks_for_itself() {
    const EQUAL: &str = "accounts equal, entries equal, log equal, parts equal";
    let world = scene::world(WorldOptions::default()).await;
    let second = Second::start(&world).await;
    write(&world, 1).await;
    prove(&world).await;
    assert_all_equal(&world).await;
    // The other one is behind: nothing is said before it gets there, and then the same.
    write(&world, 2).await;
    world.carry().await;
    second.applier(&world, ["sync"]).succeed().await;
    assert_eq!(second.verdicts(&world, 0).await, EQUAL);

    let client = world.target.connect_to(second.database).await;
    client.batch_execute("DELETE FROM entries WHERE id = 7").await.expect("ours");
    world.archiver(["proof"]).succeed().await;
    // Both at once.
    let (ours, theirs) = tokio::join!(world.applier(["sync"]).run(), second.applier(&world, ["sync"]).run());
    assert!(!ours.expect_code(0).stderr.contains("differs"));
    assert!(theirs.expect_code(0).stderr.contains("differs from production"));
    assert_all_equal(&world).await;
    assert_eq!(second.verdicts(&world, 1).await, EQUAL.replace("entries equal", "entries differs"));
    let rows = second
        .applier(&world, ["consistency", "rows", "entries", "--json"])
        .run()
        .await
        .expect_code(1)
        .json();
    assert_eq!((&rows["differing"], &rows["blame"]), (&1.into(), &"local".into()), "{rows}");
    second.applier(&world, ["consistency", "repair", "entries"]).succeed().await;
    write(&world, 3).await;
    prove(&world).await;
    second.applier(&world, ["sync"]).succeed().await;
    assert_all_equal(&world).await;
    assert_eq!(second.verdicts(&world, 0).await, EQUAL);
}
