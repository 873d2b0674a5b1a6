//! Types of the copy that somebody alters beside the tables.

use std::collections::BTreeMap;

use syncdata_formats::manifest::{Column, Relation, ReplicaIdentity};
use syncdata_tests::LocalCopy;

const KINDS: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN moods AS mood[];
    CREATE TABLE kinds (id int PRIMARY KEY, mood mood, moods moods, pair pair)";

fn insert(id: u32, mood: &str) -> String {
    format!(
        r#"{{"table":"kinds","op":"INSERT","data":{{"id":{id},"mood":"{mood}","moods":"{{ok}}","pair":"({id},x)"}}}}"#
    )
}

/// The table as the source has it.
fn kinds() -> Relation {
    let column = |name: &str, type_name: &str| Column {
        name: name.into(),
        type_name: type_name.into(),
        not_null: name == "id",
        ..Column::default()
    };
    let columns = vec![
        column("id", "integer"),
        column("mood", "public.mood"),
        column("moods", "public.moods"),
        column("pair", "public.pair"),
    ];
    let labels = ["sad", "ok"].map(str::to_owned).to_vec();
    let types = BTreeMap::from([("public.mood".to_owned(), labels)]);
    Relation::described(columns, vec!["id".into()], ReplicaIdentity::Default, types)
}

async fn synced() -> LocalCopy {
    let mut copy = LocalCopy::start(KINDS).await;
    copy.forge.describe("kinds", kinds());
    copy.forge.segment(&[vec![insert(1, "ok"), insert(2, "sad")]]);
    copy.applier(&["add-tables", "kinds"]).succeed().await;
    copy.sync(0).await;
    copy
}

const ROWS: &str = "SELECT id, mood, moods FROM kinds ORDER BY id";

#[tokio::test]
async fn a_label_that_got_another_name_here_alone_is_noticed() {
    for by_resync in [false, true] {
        let mut copy = synced().await;
        copy.server.execute("ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'").await;
        let said = copy.sync(1).await;
        assert!(
            said.contains("kinds: quarantined: label \"ok\" of public.mood has another name here"),
            "{said}"
        );
        copy.forge.segment(&[vec![insert(3, "sad")]]);
        copy.sync(1).await;
        if by_resync {
            // Both names are there now: the rows get the right ones.
            copy.server.execute("ALTER TYPE mood ADD VALUE 'ok'").await;
            copy.applier(&["resync", "kinds"]).succeed().await;
        } else {
            copy.applier(&["retry", "kinds"]).run().await.expect_code(1);
            copy.server.execute("ALTER TYPE public.mood RENAME VALUE 'fine' TO 'ok'").await;
            copy.applier(&["retry", "kinds"]).succeed().await;
        }
        copy.sync(0).await;
        assert_eq!(copy.rows(ROWS).await, "1,ok,{ok} 2,sad,{ok} 3,sad,{ok}");
    }
}

#[tokio::test]
async fn labels_that_have_changed_names_here_are_noticed() {
    let copy = synced().await;
    copy.server
        .execute(
            "ALTER TYPE mood RENAME VALUE 'ok' TO 'x'; ALTER TYPE mood RENAME VALUE 'sad' TO 'ok'; \
             ALTER TYPE mood RENAME VALUE 'x' TO 'sad'",
        )
        .await;
    copy.sync(1).await;
    copy.applier(&["resync", "kinds"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows(ROWS).await, "1,ok,{ok} 2,sad,{ok}");
}

#[tokio::test]
async fn a_composite_that_is_altered_here_is_noticed() {
    for alter in ["ADD ATTRIBUTE c int", "DROP ATTRIBUTE b", "DROP ATTRIBUTE b, ADD ATTRIBUTE b text"] {
        let copy = synced().await;
        copy.server.execute(&format!("ALTER TYPE pair {alter}")).await;
        let said = copy.sync(1).await;
        assert!(said.contains("has other attributes than before"), "{alter}: {said}");
        copy.applier(&["retry", "kinds"]).run().await.expect_code(1);
    }
    let copy = synced().await;
    copy.server.execute("ALTER TYPE pair RENAME ATTRIBUTE b TO z; ALTER TYPE mood ADD VALUE 'new'").await;
    copy.sync(0).await;
}
