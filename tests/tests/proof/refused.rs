//! Proofs that cannot be believed, and digests that were lost.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use syncdata_formats::digest::Digest;
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::proof::ProofManifest;
use syncdata_formats::signature::SigningKey;
use syncdata_tests::world::WorldOptions;

use crate::scene::{self, TABLES, assert_all_equal, proofs, prove, status};

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

/// What is wrong with a proof, and what is said of it.
struct Forgery {
    says: &'static str,
    make: fn(&mut ProofManifest),
    /// Whoever made it has the key.
    is_signed: bool,
}

const FORGERIES: &[Forgery] = &[
    Forgery { says: "signature", make: |proof| rows_are(proof, 7), is_signed: false },
    Forgery {
        says: "belongs to archive",
        make: |proof| proof.archive_id = uuid::Uuid::from_u128(7),
        is_signed: true,
    },
    Forgery {
        says: "its mark stands in segment",
        make: |proof| proof.cut.seq = SegmentSeq::FIRST,
        is_signed: true,
    },
    Forgery {
        says: "its mark stands in segment",
        make: |proof| proof.cut.sha256 = Digest::of(b"another history"),
        is_signed: true,
    },
    Forgery { says: "refused", make: |proof| rows_are(proof, 7), is_signed: true },
    Forgery { says: "otherwise than its mark says", make: columns_are_others, is_signed: true },
];

fn rows_are(proof: &mut ProofManifest, rows: u64) {
    proof.tables.values_mut().for_each(|table| table.rows = rows);
}

fn columns_are_others(proof: &mut ProofManifest) {
    proof.tables.values_mut().for_each(|table| table.relation = Digest::of(b"another table"));
}

/// Files of a proof, by name.
fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let file = |entry: fs::DirEntry| {
        (entry.file_name().into_string().expect("plain"), fs::read(entry.path()).expect("there"))
    };
    entries.map(file).collect()
}

fn put(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).expect("ours");
    }
}

#[tokio::test]
async fn a_forged_swapped_or_foreign_proof_is_refused_by_name_and_alarms_nobody() {
    let (secret, public) = SigningKey::generate().expect("a key");
    let keys = tempfile::tempdir().expect("a folder");
    let secret_file = keys.path().join("key.sec");
    fs::write(&secret_file, &secret).expect("ours");
    fs::set_permissions(&secret_file, fs::Permissions::from_mode(0o600)).expect("ours");
    let options = WorldOptions::default()
        .archiver_setting("signing_key", secret_file.to_str().expect("plain"))
        .applier_setting("verify_key", public.lines().nth(1).expect("a key"));
    let world = scene::world(options).await;
    prove(&world).await;
    let earlier = files_of(&proofs(&world).pop().expect("a proof"));
    world.source.execute("INSERT INTO accounts VALUES (7000, 'new', 1, NULL)").await;
    world.archiver(["proof"]).succeed().await;
    let folder = proofs(&world).pop().expect("a proof");
    let sound = files_of(&folder);
    let key = SigningKey::parse(&secret, None).expect("our key");

    let mut cases = vec![("is the manifest of proof", earlier)];
    for Forgery { says, make, is_signed } in FORGERIES {
        let mut proof = ProofManifest::decode(&sound[ProofManifest::FILE]).expect("sound");
        make(&mut proof);
        let (mut files, bytes) = (sound.clone(), proof.encode());
        files.insert("proof.manifest.json.sha256".into(), ProofManifest::digest_file(&bytes));
        if *is_signed {
            let signature = key.sign(&bytes, ProofManifest::FILE).expect("signed");
            files.insert("proof.manifest.json.minisig".into(), signature);
        }
        files.insert(ProofManifest::FILE.into(), bytes);
        cases.push((*says, files));
    }
    let mut swapped = sound.clone();
    let (first, second) = (sound["1.buckets.zst"].clone(), sound["2.buckets.zst"].clone());
    swapped.extend([("1.buckets.zst".to_owned(), second), ("2.buckets.zst".to_owned(), first)]);
    cases.push(("1.buckets.zst is refused", swapped));
    let id = folder.file_name().expect("a name").to_str().expect("plain").to_owned();
    for (says, files) in cases {
        put(&folder, &files);
        world.applier(["sync"]).run().await.expect_code(0);
        let (tables, code) = status(&world).await;
        assert_eq!(code, Some(2), "{says}: {tables:?}");
        for table in &tables {
            let detail = table["detail"].as_str().unwrap_or_default();
            assert_eq!(
                (&table["verdict"], &table["differs"]),
                (&"not_proved".into(), &false.into()),
                "{table}"
            );
            assert!(detail.contains(says) && detail.contains(&id), "{says}: {table}");
        }
        put(&folder, &sound);
    }
    world.applier(["sync"]).succeed().await;
    assert_all_equal(&world).await;
}

/// One that is under way is nobody's business; the second one says so and hurts nothing.
#[tokio::test]
async fn two_proofs_at_once_are_one_and_a_word_to_the_second() {
    let world = scene::world(WorldOptions::default()).await;
    let rows = "INSERT INTO log SELECT repeat('x', 200), NULL FROM generate_series(1, 20000)";
    world.source.execute(rows).await;
    let mut running = world.archiver(["-v", "proof", "--rate", "1MiB", "--json"]).spawn();
    running.says("proof begun").await;
    let second = world.archiver(["proof"]).run().await.expect_code(1);
    assert!(second.stderr.contains("error: "), "{second}");
    running.ended().await.expect_code(0);
    world.applier(["sync"]).succeed().await;
    assert_all_equal(&world).await;
}

/// What was prepared before the snapshot is in it or not, and nobody could tell: it is waited for and named.
#[tokio::test]
async fn a_prepared_transaction_is_waited_for_and_is_no_alarm_whenever_it_commits() {
    let options = WorldOptions::default().source(|source| source.setting("max_prepared_transactions", "5"));
    let world = scene::world(options).await;
    let prepare =
        "BEGIN; UPDATE accounts SET balance = balance + 1 WHERE id < 10; PREPARE TRANSACTION 'of the till'";
    world.source.execute(prepare).await;
    let refused = world.archiver(["proof", "--wait", "2s"]).run().await.expect_code(1);
    assert!(refused.stderr.contains("of the till"), "{refused}");
    let mut running = world.archiver(["-v", "proof", "--wait", "60s", "--json"]).spawn();
    running.says("older transactions").await;
    world.source.execute("COMMIT PREPARED 'of the till'").await;
    running.ended().await.expect_code(0);
    world.applier(["sync"]).succeed().await;
    assert_all_equal(&world).await;
    // One that is rolled back was never there.
    world.source.execute(prepare).await;
    let mut running = world.archiver(["-v", "proof", "--wait", "60s", "--json"]).spawn();
    running.says("older transactions").await;
    world.source.execute("ROLLBACK PREPARED 'of the till'").await;
    running.ended().await.expect_code(0);
    world.applier(["sync"]).succeed().await;
    assert_all_equal(&world).await;
    world.assert_same(&TABLES).await;
}
