//! Proofs that cannot be believed, and digests that were lost.

use std::fs;

use syncdata_tests::world::WorldOptions;

use crate::scene::{self, assert_all_equal, proofs, prove, status};

#[tokio::test]
async fn a_damaged_proof_is_refused_by_name_and_alarms_nobody() {
    let world = scene::world(WorldOptions::default()).await;
    prove(&world).await;
    assert_all_equal(&world).await;
    world.source.execute("INSERT INTO accounts VALUES (7000, 'new', 1, NULL)").await;
    world.archiver(["proof"]).succeed().await;
    let folder = proofs(&world).pop().expect("a proof");
    let id = folder.file_name().expect("a name").to_str().expect("plain").to_owned();
    for name in ["1.buckets.zst", "proof.manifest.json"] {
        let file = folder.join(name);
        let sound = fs::read(&file).expect("there");
        let mut damaged = sound.clone();
        damaged[sound.len() / 2] ^= 1;
        fs::write(&file, &damaged).expect("ours");
        // It never changes what a sync says.
        world.applier(["sync"]).run().await.expect_code(0);
        let (tables, code) = status(&world).await;
        assert_eq!(code, Some(2), "{tables:?}");
        for table in &tables {
            assert_eq!(table["verdict"], "not_proved", "{table}");
            let detail = table["detail"].as_str().expect("said");
            assert!(detail.contains("refused") && detail.contains(&id), "{detail}");
        }
        let verified = world.applier(["verify"]).run().await.expect_code(1);
        assert!(verified.stdout.contains(name), "{}", verified.stdout);
        fs::write(&file, &sound).expect("ours");
    }
    // Brought back from a sound copy, it is compared.
    world.applier(["sync"]).succeed().await;
    assert_all_equal(&world).await;
}

#[tokio::test]
async fn a_kill_at_any_step_leaves_no_half_proof_and_no_alarm() {
    let world = scene::world(WorldOptions::default()).await;
    for fault in ["proof.snapshot_taken", "proof.marked", "proof.digested", "proof.before_manifest"] {
        let killed = world.archiver(["proof"]).fault(&format!("{fault}=kill")).run().await;
        assert!(killed.was_killed(), "{fault}: {}", killed.stderr);
        world.applier(["sync"]).succeed().await;
        let (tables, _) = status(&world).await;
        assert!(tables.iter().all(|table| table["verdict"] != "differs"), "{fault}: {tables:?}");
    }
    for fault in ["proof.begun", "proof.digested"] {
        world.archiver(["proof"]).succeed().await;
        let killed = world.applier(["sync"]).fault(&format!("{fault}=kill")).run().await;
        assert!(killed.was_killed(), "{fault}: {}", killed.stderr);
        // The copy still stands at the cut: its digests are begun again.
        world.applier(["sync"]).succeed().await;
        assert_all_equal(&world).await;

        world.source.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 3").await;
        world.archiver(["proof"]).succeed().await;
        let killed = world.applier(["sync"]).fault(&format!("{fault}=kill")).run().await;
        assert!(killed.was_killed(), "{fault}: {}", killed.stderr);
        world.source.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 3").await;
        world.carry().await;
        let (tables, _) = status(&world).await;
        let is_sound = |verdict: &str| matches!(verdict, "equal" | "not_proved");
        assert!(tables.iter().all(|table| table["verdict"].as_str().is_some_and(is_sound)), "{tables:?}");
    }
    prove(&world).await;
    assert_all_equal(&world).await;
}
