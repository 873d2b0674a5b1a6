//! A copy of two tables between which money is transferred: whatever goes wrong, the sum is what it was.

use syncdata_tests::{LocalCopy, Prng};

pub(crate) const ACCOUNTS: &[&str] = &["id integer not null", "balance bigint"];

/// Transfers between two tables: the sum never changes.
pub(crate) struct Bank {
    pub(crate) balances: [[i64; 10]; 2],
    random: Prng,
}

impl Bank {
    pub(crate) const TABLES: [&'static str; 2] = ["accounts", "savings"];

    pub(crate) async fn open() -> (Bank, LocalCopy) {
        let schema = Bank::TABLES.map(|t| format!("CREATE TABLE {t} (id int PRIMARY KEY, balance bigint);"));
        let mut copy = LocalCopy::start(&schema.concat()).await;
        let mut opening = Vec::new();
        for table in Bank::TABLES {
            copy.forge.relation(table, ACCOUNTS, &["id"]);
            opening.extend((0..10).map(|id| insert(table, id, "100")));
        }
        copy.forge.segment(&[opening]);
        (Bank { balances: [[100; 10]; 2], random: Prng::new(7) }, copy)
    }

    pub(crate) fn transfer(&mut self) -> Vec<String> {
        let (from, to) = (self.random.below(10) as usize, self.random.below(10) as usize);
        let amount = self.random.below(50) as i64;
        self.balances[0][from] -= amount;
        self.balances[1][to] += amount;
        let update = |table: usize, id: usize| {
            let (name, balance) = (Bank::TABLES[table], self.balances[table][id]);
            format!(
                r#"{{"table":"{name}","op":"UPDATE","data":{{"id":{id},"balance":{balance}}},"old_keys":{{"id":{id}}}}}"#
            )
        };
        vec![update(0, from), update(1, to)]
    }

    pub(crate) async fn total(copy: &LocalCopy) -> String {
        copy.rows("SELECT coalesce(sum(b), 0) FROM (SELECT balance b FROM accounts UNION ALL SELECT balance FROM savings) x").await
    }

    pub(crate) fn expected(&self, table: usize) -> String {
        let rows = self.balances[table].iter().enumerate();
        rows.map(|(id, balance)| format!("{id},{balance}")).collect::<Vec<_>>().join(" ")
    }
}

pub(crate) fn insert(table: &str, id: usize, value: &str) -> String {
    format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"balance":{value}}}}}"#)
}
