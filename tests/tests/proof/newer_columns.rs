//! A column of which no change of its table has told yet: the proof's mark describes it, and that counts as much.

use syncdata_tests::world::WorldOptions;

use crate::scene::{self, assert_all_equal, prove, prove_differing};

const CLOCK: &str = "SELECT clock_timestamp()::text FROM pg_sleep(0.01)";

#[tokio::test]
async fn a_column_that_only_a_proof_has_described_is_compared_and_mended() {
    let world = scene::world(WorldOptions::default()).await;
    world.source.execute("ALTER TABLE accounts ADD mark int NOT NULL DEFAULT 7").await;
    world.target.execute("ALTER TABLE accounts ADD mark int NOT NULL DEFAULT 8").await;
    world.archiver(["proof"]).succeed().await;
    let found = world.applier(["sync"]).run().await.expect_code(1);
    let (_, statement) = found.stdout.split_once("run: ").unwrap_or_else(|| panic!("{found}"));
    let statement = statement.lines().next().expect("a line");
    assert!(statement.contains("SET \"mark\" = '7'"), "{found}");
    world.target.execute(statement).await;
    world.applier(["retry", "accounts"]).succeed().await;
    prove(&world).await;
    assert_all_equal(&world).await;

    world.target.execute("UPDATE accounts SET mark = 9 WHERE id = 5").await;
    prove_differing(&world).await;
    let rows = world.applier(["consistency", "rows", "accounts", "--json"]).run().await.expect_code(1).json();
    assert_eq!((&rows["differing"], &rows["blame"]), (&1.into(), &"local".into()), "{rows}");
    let repaired = world.applier(["consistency", "repair", "accounts", "--json"]).succeed().await.json();
    assert_eq!(repaired["repaired"], 1, "{repaired}");
    world.assert_same(&["accounts"]).await;
    // The base copy is older than the column.
    world.target.execute("UPDATE accounts SET mark = 9 WHERE id = 6").await;
    world.applier(["resync", "accounts"]).succeed().await;
    world.assert_same(&["accounts"]).await;
    let now = world.source.value(CLOCK).await;
    world.applier(["as-of", &now, "--into", "past", "--tables", "accounts"]).succeed().await;
    let marks = "SELECT array_agg(DISTINCT mark) FROM past.accounts";
    assert_eq!(world.target.value(marks).await, "{7}");

    // Production's catalog forgets what older rows have when they are written anew; the mark says nothing then.
    world.execute_on_both("ALTER TABLE accounts ADD kind text DEFAULT 'x'").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.source.execute("VACUUM FULL accounts").await;
    prove(&world).await;
    assert_all_equal(&world).await;
    world.applier(["resync", "accounts"]).succeed().await;
    world.assert_same(&["accounts"]).await;
    // Nobody says what they have, so nobody says that a copy which differs is right.
    world.target.execute("UPDATE accounts SET kind = 'y' WHERE id = 7").await;
    prove_differing(&world).await;
    let repaired = world.applier(["consistency", "repair", "accounts"]).run().await;
    assert!(
        repaired.stdout.contains("kind") && repaired.stdout.contains("syncdata-archiver snapshot"),
        "{repaired}"
    );
    world.applier(["consistency", "status"]).run().await.expect_code(1);
    world.archiver(["snapshot", "--tables", "accounts"]).succeed().await;
    world.applier(["sync"]).run().await;
    world.applier(["resync", "accounts"]).succeed().await;
    prove(&world).await;
    assert_all_equal(&world).await;
}
