//! Set by set is the same as row by row: random histories of a table with a key, a unique column, NULLs and a
//! column that is not always sent, cut into random batches, against what the source ends with.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use syncdata_applier::batch::{Batch, Place, TxPlace};
use syncdata_applier::table::{self, Fit};
use syncdata_applier::target::postgres::apply::{Outcome, Writer};
use syncdata_applier::target::postgres::local::Local;
use syncdata_applier::target::postgres::schema;
use syncdata_applier::target::postgres::step::Prepared;
use syncdata_formats::change::{Op, Record};
use syncdata_formats::manifest::{Column, Relation, ReplicaIdentity};
use syncdata_formats::name::TableName;
use syncdata_service::config::{Config, Overrides};
use syncdata_tests::PostgresServer;

/// What production does next, if it can.
#[derive(Clone, Debug)]
enum Step {
    Insert {
        key: usize,
        unique: Option<u8>,
        text: Option<u8>,
    },
    Update {
        key: usize,
        unique: Option<u8>,
        text: Option<u8>,
    },
    /// The large column stays as it is and is not sent.
    UpdateSmall {
        key: usize,
        unique: Option<u8>,
    },
    Move {
        key: usize,
        to: usize,
    },
    Delete {
        key: usize,
    },
    /// Through a third value, as a transaction does it where the constraint is immediate.
    SwapUnique {
        key: usize,
        with: usize,
    },
    Truncate,
}

fn step() -> impl Strategy<Value = Step> {
    let (key, small) = (0..8_usize, proptest::option::weighted(0.7, 0..6_u8));
    prop_oneof![
        6 => (key.clone(), small.clone(), small.clone()).prop_map(|(key, unique, text)| Step::Insert { key, unique, text }),
        5 => (key.clone(), small.clone(), small.clone()).prop_map(|(key, unique, text)| Step::Update { key, unique, text }),
        3 => (key.clone(), small).prop_map(|(key, unique)| Step::UpdateSmall { key, unique }),
        2 => (key.clone(), key.clone()).prop_map(|(key, to)| Step::Move { key, to }),
        4 => key.clone().prop_map(|key| Step::Delete { key }),
        2 => (key.clone(), key).prop_map(|(key, with)| Step::SwapUnique { key, with }),
        1 => Just(Step::Truncate),
    ]
}

/// The source's table, and the lines that its changes leave.
#[derive(Default)]
struct Production {
    rows: BTreeMap<usize, (Option<u8>, Option<u8>)>,
    lines: Vec<String>,
    /// How the key of a row is spelt: one spelling for each kind of key.
    spell: Option<fn(usize, usize) -> String>,
    spellings: usize,
    /// The keys as they are in the table: an old key is said as it was written.
    spelt: BTreeMap<usize, String>,
}

impl Production {
    fn new(spell: fn(usize, usize) -> String) -> Production {
        Production { spell: Some(spell), ..Production::default() }
    }

    fn key(&mut self, key: usize) -> String {
        self.spellings += 1;
        let spelt = self.spell.expect("set at the start")(key, self.spellings);
        self.spelt.insert(key, spelt.clone());
        spelt
    }

    fn is_free(&self, unique: Option<u8>, but_for: Option<usize>) -> bool {
        unique.is_none() || self.rows.iter().all(|(key, row)| Some(*key) == but_for || row.0 != unique)
    }

    fn image(&mut self, key: usize, with_text: bool) -> String {
        let (unique, text) = self.rows[&key];
        let key = self.key(key);
        let value = |value: Option<u8>| value.map_or("null".to_owned(), |value| value.to_string());
        let text = if with_text {
            format!(r#","big":"{}""#, text.map_or(String::new(), |t| format!("text\\t{t}")))
        } else {
            String::new()
        };
        let text = text.replace(r#":"""#, ":null");
        format!(r#"{{{key},"u":{}{text}}}"#, value(unique))
    }

    fn write(&mut self, op: &str, old: Option<usize>, new: Option<(usize, bool)>) {
        let old = old.map(|key| format!(r#","old_keys":{{{}}}"#, self.spelt[&key])).unwrap_or_default();
        let new = new
            .map(|(key, with_text)| format!(r#","data":{}"#, self.image(key, with_text)))
            .unwrap_or_default();
        self.lines.push(format!(
            r#"{{"table":"t","op":"{op}"{new}{old},"lsn":"0/1","ts":"2026-02-05T10:30:00Z"}}"#
        ));
    }

    fn set_unique(&mut self, key: usize, unique: Option<u8>) {
        self.rows.get_mut(&key).expect("it is there").0 = unique;
        self.write("UPDATE", Some(key), Some((key, false)));
    }

    /// Does it if the source would allow it.
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Insert { key, unique, text }
                if !self.rows.contains_key(&key) && self.is_free(unique, None) =>
            {
                self.rows.insert(key, (unique, text));
                self.write("INSERT", None, Some((key, true)));
            }
            Step::Update { key, unique, text }
                if self.rows.contains_key(&key) && self.is_free(unique, Some(key)) =>
            {
                self.rows.insert(key, (unique, text));
                self.write("UPDATE", Some(key), Some((key, true)));
            }
            Step::UpdateSmall { key, unique }
                if self.rows.contains_key(&key) && self.is_free(unique, Some(key)) =>
            {
                self.set_unique(key, unique);
            }
            Step::Move { key, to } if self.rows.contains_key(&key) && !self.rows.contains_key(&to) => {
                let row = self.rows.remove(&key).expect("it is there");
                self.rows.insert(to, row);
                self.write("UPDATE", Some(key), Some((to, false)));
            }
            Step::Delete { key } if self.rows.remove(&key).is_some() => {
                self.write("DELETE", Some(key), None);
            }
            Step::SwapUnique { key, with }
                if key != with && self.rows.contains_key(&key) && self.rows.contains_key(&with) =>
            {
                let (one, other) = (self.rows[&key].0, self.rows[&with].0);
                self.set_unique(key, None);
                self.set_unique(with, one);
                self.set_unique(key, other);
            }
            Step::Truncate => {
                self.rows.clear();
                self.write("TRUNCATE", None, None);
            }
            _ => {}
        }
    }
}

/// A kind of key: its columns, and how a row's key is written.
struct Kind {
    columns: &'static [(&'static str, &'static str)],
    spell: fn(usize, usize) -> String,
}

const KINDS: &[Kind] = &[
    Kind { columns: &[("id", "integer")], spell: |key, _| format!(r#""id":{key}"#) },
    Kind {
        columns: &[("a", "text"), ("b", "bigint")],
        spell: |key, _| format!(r#""a":"k{}","b":{}"#, key / 3, key % 3),
    },
    // One value, spelt differently from time to time: equal to the server, never to a comparison of texts.
    Kind {
        columns: &[("id", "numeric")],
        spell: |key, n| format!(r#""id":{key}{}"#, ["", ".0", ".00"][n % 3]),
    },
    Kind { columns: &[("id", "citext")], spell: |key, n| format!(r#""id":"{}{key}""#, ["k", "K"][n % 2]) },
];

#[derive(Clone, Copy)]
enum Way {
    Sets { copy_rows_min: usize },
    RowByRow,
}

struct Bench {
    server: PostgresServer,
    local: Local,
    target: Arc<Fit>,
    relation: Arc<Relation>,
}

impl Bench {
    async fn start(kind: &Kind) -> Bench {
        let server = PostgresServer::start().await;
        let columns: Vec<String> = kind.columns.iter().map(|(name, ty)| format!("{name} {ty}")).collect();
        let key: Vec<&str> = kind.columns.iter().map(|column| column.0).collect();
        server
            .execute(&format!(
                "CREATE EXTENSION citext; CREATE TABLE t ({}, u int UNIQUE, big text, PRIMARY KEY ({}))",
                columns.join(", "),
                key.join(", ")
            ))
            .await;
        let (port, host, user) = (server.port().to_string(), server.host(), server.user());
        let env = move |name: &str| match name {
            "PG_HOST" => Some(host.to_owned()),
            "PG_PORT" => Some(port.clone()),
            "PG_USER_NAME" => Some(user.to_owned()),
            "PG_DB_NAME" => Some("postgres".to_owned()),
            _ => None,
        };
        let config = Config::load(None, env, &Overrides::default()).expect("settings");
        let local = Local::open(&config).await.expect("a session");
        let name: TableName = "t".parse().expect("a name");
        let mut tables =
            schema::load(local.session.client(), std::slice::from_ref(&name)).await.expect("the catalog");
        let table = Arc::new(tables.remove(&name).expect("the table"));
        let source = |(name, ty): (&str, &str)| Column {
            name: name.into(),
            type_name: if ty == "citext" { "public.citext".into() } else { ty.into() },
            not_null: false,
            ..Column::default()
        };
        let columns =
            kind.columns.iter().copied().chain([("u", "integer"), ("big", "text")]).map(source).collect();
        let key = key.into_iter().map(str::to_owned).collect();
        let relation = Relation::new(columns, key, ReplicaIdentity::Default);
        let target = Arc::new(table::fit(&relation, &table).expect("it fits"));
        Bench { server, local, target, relation: Arc::new(relation) }
    }

    /// The rows of the table after the lines in batches of these sizes, or the rejection.
    async fn apply(&self, lines: &[String], sizes: &[usize], way: Way) -> Result<String, String> {
        let client = self.local.session.client();
        let mut writer = Writer::new(true);
        client.batch_execute("TRUNCATE public.t; BEGIN").await.expect("a transaction");
        writer.begin(client).await.expect("settings");
        let mut rest = lines;
        let mut sizes = sizes.iter().cycle();
        while !rest.is_empty() {
            let (lines, after) = rest.split_at(rest.len().min(*sizes.next().expect("a cycle")));
            rest = after;
            let batch = self.batch(lines);
            let prepared = match way {
                Way::RowByRow => Prepared::row_by_row(batch),
                Way::Sets { copy_rows_min } => Prepared::new(batch, copy_rows_min),
            };
            match writer.apply(&self.local.session, &prepared).await {
                Ok(Outcome::Applied(_)) => {}
                other => {
                    client.batch_execute("ROLLBACK").await.expect("a rollback");
                    return Err(format!("{other:?}"));
                }
            }
        }
        client.batch_execute("COMMIT").await.expect("a commit");
        let rows = self.server.query("SELECT t::text FROM t ORDER BY 1").await;
        Ok(rows.into_iter().flatten().flatten().collect::<Vec<_>>().join(" "))
    }

    fn batch(&self, lines: &[String]) -> Batch {
        let mut batch = Batch::default();
        for (line, text) in (1..).zip(lines) {
            let Ok(Record::Row(row)) = Record::parse(text.as_bytes()) else { panic!("{text} is no row") };
            assert!(matches!(row.op, Op::Insert | Op::Update | Op::Delete | Op::Truncate));
            let place = Place { tx: TxPlace { seq: 1, index: 0 }, line };
            batch.push(&row, &self.target, &self.relation, place).expect("it has all columns");
        }
        batch
    }
}

/// Values without the spelling of the key.
fn expected(production: &Production) -> Vec<(Option<u8>, Option<u8>)> {
    let mut rows: Vec<_> = production.rows.values().copied().collect();
    rows.sort_unstable();
    rows
}

fn check(kind: &Kind) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bench = runtime.block_on(Bench::start(kind));
    let sizes = proptest::collection::vec(1..20_usize, 1..5);
    // Arrays only, COPY only, and both.
    let history = (proptest::collection::vec(step(), 1..60), sizes, 1..6_usize);
    let mut runner = TestRunner::new(Cases { cases: 48, failure_persistence: None, ..Cases::default() });
    let result = runner.run(&history, |(steps, sizes, copy_rows_min)| {
        let mut production = Production::new(kind.spell);
        steps.iter().for_each(|step| production.take(step));
        let lines = &production.lines;
        let set_wise = runtime.block_on(bench.apply(lines, &sizes, Way::Sets { copy_rows_min }));
        let rows = runtime.block_on(bench.server.query("SELECT u, big FROM t"));
        let number = |text: &Option<String>| {
            text.as_ref().map(|text| {
                text.rsplit('\t').next().expect("a part").replace("text", "").parse::<u8>().expect("a number")
            })
        };
        let mut found: Vec<_> = rows.iter().map(|row| (number(&row[0]), number(&row[1]))).collect();
        found.sort_unstable();
        prop_assert_eq!(&found, &expected(&production), "{:#?} {:?}", lines, set_wise);
        let row_by_row = runtime.block_on(bench.apply(lines, &[7], Way::RowByRow));
        prop_assert_eq!(set_wise, row_by_row, "{:#?}", lines);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn integer_keys() {
    check(&KINDS[0]);
}

#[test]
fn keys_of_two_columns() {
    check(&KINDS[1]);
}

#[test]
fn numeric_keys_in_several_spellings() {
    check(&KINDS[2]);
}

#[test]
fn citext_keys_in_several_spellings() {
    check(&KINDS[3]);
}
