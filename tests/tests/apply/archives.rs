//! A checkpoint and archives that are not what they were: nothing of them is applied.

use std::fs;
use std::path::Path;

use syncdata_formats::signature::SigningKey;

use crate::bank::{ACCOUNTS, Bank, insert};

#[tokio::test]
async fn a_damaged_checkpoint_stops_the_pass() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[bank.transfer()]);
    for damage in [
        "CREATE TABLE kept AS SELECT * FROM data_sync_checkpoint; DELETE FROM data_sync_checkpoint",
        "ALTER TABLE data_sync_checkpoint DROP CONSTRAINT data_sync_checkpoint_pkey; \
         INSERT INTO data_sync_checkpoint SELECT * FROM kept UNION ALL SELECT * FROM kept",
        "DELETE FROM data_sync_checkpoint; INSERT INTO data_sync_checkpoint DEFAULT VALUES",
    ] {
        copy.server.execute(damage).await;
        let said = copy.sync(2).await;
        assert!(said.contains("checkpoint") && said.contains("hint:"), "{said}");
        assert_eq!(copy.rows("SELECT sum(balance) FROM accounts").await, "1000");
    }
}

#[tokio::test]
async fn archives_that_are_not_what_they_were_are_refused_and_nothing_is_applied() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    let second = copy.forge.segment(&[bank.transfer()]);
    copy.sync(0).await;
    let applied = bank.expected(0);
    let third = copy.forge.segment(&[bank.transfer()]);
    let fourth = copy.forge.segment(&[bank.transfer()]);
    let manifest = fs::read(&third.manifest).expect("forged");
    let file = fs::read(&third.file).expect("forged");
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let glued = [file.as_slice(), file.as_slice()].concat();
    for (path, bytes, words) in [
        (&third.manifest, flipped(&manifest, manifest.len() / 2), "refused"),
        (&third.manifest, Vec::new(), "refused"),
        (&third.file, flipped(&file, file.len() / 2), "SHA-256"),
        (&third.file, file[..file.len() - 1].to_vec(), "bytes"),
        (&third.file, glued, "longer than its manifest"),
        (&third.file, vec![0; file.len()], "SHA-256"),
        (&third.manifest, fs::read(&fourth.manifest).expect("forged"), "refused"),
    ] {
        let good = fs::read(path).expect("forged");
        fs::write(path, bytes).expect("ours");
        let said = copy.sync(2).await;
        assert!(said.contains(words) && said.contains("0000000003"), "{said}");
        assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, applied);
        fs::write(path, good).expect("ours");
    }
    // Missing where we are, in the middle, at the end.
    for (gone, code, words) in [
        (&second, 2, "rolled back"),
        (&third, 2, "segment 0000000003 is missing"),
        (&fourth, 1, "0000000004"),
    ] {
        let good = fs::read(&gone.manifest).expect("forged");
        fs::remove_file(&gone.manifest).expect("ours");
        let said = copy.sync(code).await;
        assert!(said.contains(words), "{said}");
        fs::write(&gone.manifest, good).expect("ours");
    }
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, bank.expected(0));
}

#[tokio::test]
async fn another_archive_and_a_rewritten_one_are_refused() {
    let (mut bank, mut copy) = Bank::open().await;
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    copy.sync(0).await;
    let own = copy.forge.segment(&[bank.transfer()]);
    copy.sync(0).await;
    let manifest = fs::read_to_string(&own.manifest).expect("forged");
    fs::write(&own.manifest, manifest.replace(r#""archiver":"forged""#, r#""archiver":"other!""#))
        .expect("ours");
    assert!(copy.sync(2).await.contains("rewritten"));
    fs::write(&own.manifest, manifest).expect("ours");
    fs::rename(copy.archive_dir(), copy.folder().join("aside")).expect("ours");
    copy.forge = syncdata_tests::Forge::new(&copy.archive_dir());
    copy.forge.relation("accounts", ACCOUNTS, &["id"]);
    copy.forge.segment(&[vec![insert("accounts", 70, "1")]]);
    let said = copy.sync(2).await;
    assert!(said.contains("holds archive"), "{said}");
    assert_eq!(copy.rows("SELECT count(*) FROM accounts WHERE id = 70").await, "0");
}

#[tokio::test]
async fn with_a_key_only_signed_manifests_are_applied() {
    let (mut bank, mut copy) = Bank::open().await;
    let (secret, public) = SigningKey::generate().expect("a key");
    let key = SigningKey::parse(&secret, None).expect("its own text");
    let public_file = copy.folder().join("key.pub");
    fs::write(&public_file, public).expect("ours");
    copy.set("SYNCDATA_VERIFY_KEY", public_file.to_str().expect("a plain name"));
    copy.applier(&["add-tables", "accounts", "savings"]).succeed().await;
    let said = copy.sync(2).await;
    assert!(said.contains("minisig is missing"), "{said}");
    let first = copy.archive_dir().join("segments/2026-02-05");
    let manifests = fs::read_dir(first).expect("the day").map(|entry| entry.expect("a file").path());
    for manifest in manifests.filter(|path| path.to_string_lossy().ends_with(".manifest.json")) {
        sign(&key, &manifest);
    }
    copy.sync(0).await;
    let forged = copy.forge.segment(&[bank.transfer()]);
    let (other, _) = SigningKey::generate().expect("a key");
    sign(&SigningKey::parse(&other, None).expect("its own text"), &forged.manifest);
    assert!(copy.sync(2).await.contains("signature"));
    assert_eq!(copy.rows("SELECT sum(balance) FROM accounts").await, "1000");
    sign(&key, &forged.manifest);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM accounts ORDER BY id").await, bank.expected(0));
}

fn sign(key: &SigningKey, manifest: &Path) {
    let name = manifest.file_name().and_then(|name| name.to_str()).expect("our own names");
    let signature = key.sign(&fs::read(manifest).expect("forged"), name).expect("a signature");
    fs::write(manifest.with_file_name(format!("{name}.minisig")), signature).expect("ours");
}
