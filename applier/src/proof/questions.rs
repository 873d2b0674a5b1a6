//! What the copy is asked beside its digests, at the same place: which rows refer to nothing, and which break a rule of
//! the operator. Production is asked the same; only what it does not have counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use syncdata_formats::name::TableName;
use syncdata_formats::proof::{ForeignKey, Layout, Mark, MarkedTable, RowHash, RuleAnswer, Violators};
use syncdata_service::config::Rule;
use syncdata_service::postgres::CatalogKey;

use crate::table::Table;

/// What became of the questions about one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answers {
    pub keys: Vec<KeyAnswer>,
    pub rules: BTreeMap<String, RuleAnswer>,
    /// Columns that production computes, and that may print otherwise here: no digest has them.
    #[serde(default, alias = "plain_here")]
    pub not_summed: Vec<String>,
    /// Sums of columns that both sides compute and that do not travel.
    #[serde(default)]
    pub computed: BTreeMap<String, RowHash>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyAnswer {
    /// With its orphans here; without any it was not answered.
    pub key: ForeignKey,
    /// Why it was not looked at, or not answered.
    pub reason: Option<String>,
    /// Nobody expects an answer: the key promises nothing that could be looked at.
    pub is_skipped: bool,
}

/// A question that is to be asked.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub about: About,
    pub sql: String,
}

#[derive(Clone, Debug)]
pub(super) enum About {
    Key(ForeignKey),
    Rule { name: String, rule: Rule },
}

/// A table that may be asked about.
#[derive(Debug)]
pub(super) struct Ready<'a> {
    pub table: &'a Table,
    pub marked: &'a MarkedTable,
}

/// What the questions come from.
pub(super) struct Asked<'a> {
    pub mark: &'a Mark,
    pub keys: &'a [CatalogKey],
    pub rules: &'a BTreeMap<String, Rule>,
    /// All that are on the whitelist.
    pub whitelist: &'a dyn Fn(&TableName) -> bool,
    pub ready: &'a BTreeMap<TableName, Ready<'a>>,
}

impl Asked<'_> {
    /// The questions about a table that is ready, and what needs none.
    pub(super) fn of(&self, name: &TableName) -> (Vec<Open>, Answers) {
        let (mut open, mut answers) = (Vec::new(), Answers::default());
        let own: Vec<&CatalogKey> = self.keys.iter().filter(|key| key.table == *name).collect();
        let of_production = self.mark.tables.get(name).map_or(&[][..], |marked| &marked.foreign_keys);
        for key in of_production {
            let local = own.iter().copied().find(|own| is_same(&own.key, key));
            match self.orphans(name, key, local) {
                Ok(sql) => open.push(Open { about: About::Key(key.clone()), sql }),
                Err(why) => answers.keys.push(why.answer(key)),
            }
        }
        for local in own.iter().filter(|own| !of_production.iter().any(|key| is_same(&own.key, key))) {
            let asked = match local.is_skipped() {
                Some(reason) => Err(Unasked::Skipped(reason.to_owned())),
                None => self.orphans(name, &local.key, Some(local)),
            };
            match asked {
                Ok(sql) => open.push(Open { about: About::Key(local.key.clone()), sql }),
                Err(why) => answers.keys.push(why.answer(&local.key)),
            }
        }
        for (rule_name, rule) in self.rules.iter().filter(|(_, rule)| rule.table == *name) {
            let about = About::Rule { name: rule_name.clone(), rule: rule.clone() };
            open.push(Open { about, sql: rule.sql.clone() });
        }
        (open, answers)
    }

    fn orphans(
        &self,
        name: &TableName,
        key: &ForeignKey,
        local: Option<&CatalogKey>,
    ) -> Result<String, Unasked> {
        let parent = &key.references;
        let (Some(child), Some(parent)) = (self.ready.get(name), self.ready.get(parent)) else {
            return Err(match (self.whitelist)(parent) {
                true => Unasked::NotAnswered(format!("{parent} does not stand at the same place")),
                false => Unasked::Skipped(format!("{parent} is not synced")),
            });
        };
        let told = Layout::of(&child.marked.relation).columns_of_reference(&key.columns);
        let columns = key.key.iter().map(|column| parent.table.column(column));
        let columns: Option<Vec<usize>> = columns.collect();
        let refers = key.columns.iter().all(|column| child.table.column(column).is_some());
        let (Some(columns), true, false) = (columns, refers, told.is_empty()) else {
            return Err(Unasked::NotAnswered("its columns are not here".to_owned()));
        };
        let operators = match local {
            Some(local) => local.operators.clone(),
            None => columns.iter().map(|column| parent.table.columns[*column].equality.clone()).collect(),
        };
        let asked = CatalogKey {
            table: name.clone(),
            key: key.clone(),
            operators,
            is_enforced: true,
            has_period: false,
        };
        Ok(asked.orphans(&child.table.sql(), &parent.table.sql(), &told))
    }
}

enum Unasked {
    Skipped(String),
    NotAnswered(String),
}

impl Unasked {
    fn answer(self, key: &ForeignKey) -> KeyAnswer {
        let (reason, is_skipped) = match self {
            Unasked::Skipped(reason) => (reason, true),
            Unasked::NotAnswered(reason) => (reason, false),
        };
        KeyAnswer { key: ForeignKey { orphans: None, ..key.clone() }, reason: Some(reason), is_skipped }
    }
}

impl Answers {
    pub(super) fn take(&mut self, about: About, answer: Result<Violators, String>) {
        match about {
            About::Key(key) => {
                let (orphans, reason) = match answer {
                    Ok(orphans) => (Some(orphans), None),
                    Err(reason) => (None, Some(reason)),
                };
                let key = ForeignKey { orphans, ..key };
                self.keys.push(KeyAnswer { key, reason, is_skipped: false });
            }
            About::Rule { name, rule } => {
                self.rules.insert(name, RuleAnswer::new(rule.sha256(), answer));
            }
        }
    }
}

/// Whatever they are called, they say the same.
pub(super) fn is_same(one: &ForeignKey, other: &ForeignKey) -> bool {
    let pairs = |key: &ForeignKey| -> BTreeMap<String, String> {
        key.columns.iter().cloned().zip(key.key.iter().cloned()).collect()
    };
    one.references == other.references && pairs(one) == pairs(other)
}
