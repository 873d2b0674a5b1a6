//! What a record does to which keys.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use syncdata_formats::change::{Fields, Op, Row, Value};
use syncdata_formats::manifest::{Generated, Relation, ReplicaIdentity};

use crate::batch::net::canonical;
use crate::table::{Table, TextEquality};

/// A key in 16 bytes. Among ten thousand million keys two that share them are less likely than a broken disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct KeyHash(u64, u64);

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touch {
    /// The row at `new` is known whole from here on. `from`: the other key that it had before.
    Image {
        new: KeyHash,
        from: Option<KeyHash>,
    },
    /// Some values of a row did not change and are not told.
    Part {
        old: KeyHash,
        new: KeyHash,
    },
    Gone(KeyHash),
    /// All rows are gone.
    Emptied,
}

impl Touch {
    /// The keys that it is about.
    pub(super) fn keys(self) -> impl Iterator<Item = KeyHash> {
        let (one, other) = match self {
            Touch::Image { new, from } => (Some(new), from),
            Touch::Part { old, new } => (Some(old), Some(new)),
            Touch::Gone(key) => (Some(key), None),
            Touch::Emptied => (None, None),
        };
        one.into_iter().chain(other)
    }
}

/// Hashes keys; the same for a whole replay.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyHasher(RandomState, RandomState);

/// How the records of one table in one segment are read.
#[derive(Debug)]
pub(super) struct Shape {
    pub table: Arc<Table>,
    key: Vec<(String, TextEquality)>,
    relation: Relation,
    hasher: KeyHasher,
    forms: Vec<Form>,
    /// Column lists that were noted.
    told: Vec<Form>,
}

/// Which columns records tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Records that tell a row whole, as their segment had it.
    pub whole: BTreeSet<Vec<String>>,
    /// Records that tell a part of a row.
    pub part: BTreeSet<Vec<String>>,
}

impl Told {
    pub(super) fn add(&mut self, other: &Told) {
        self.whole.extend(other.whole.iter().cloned());
        self.part.extend(other.part.iter().cloned());
    }
}

/// Records with the same columns.
#[derive(Debug)]
struct Form {
    data: Vec<String>,
    old_keys: Vec<String>,
    is_whole: bool,
}

impl Shape {
    pub(super) fn new(table: &Arc<Table>, key: &[usize], relation: &Relation, hasher: &KeyHasher) -> Shape {
        let column = |&column: &usize| {
            let column = &table.columns[column];
            (column.name.clone(), column.shared_equality())
        };
        Shape {
            table: Arc::clone(table),
            key: key.iter().map(column).collect(),
            relation: relation.clone(),
            hasher: hasher.clone(),
            forms: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Notes which columns the record tells.
    pub(super) fn note(&mut self, row: &Row<'_>, told: &mut Told) {
        let is_whole = match row.op {
            Op::Insert => true,
            Op::Update => self.is_whole(row),
            Op::Delete | Op::Truncate => return,
        };
        let same = |names: &[String], fields: &Fields<'_>| {
            names.len() == fields.len() && names.iter().zip(fields).all(|(a, (b, _))| a == b)
        };
        let is_known = |form: &Form| {
            form.is_whole == is_whole && same(&form.data, &row.data) && same(&form.old_keys, &row.old_keys)
        };
        if self.told.iter().any(is_known) {
            return;
        }
        let names = |fields: &Fields<'_>| fields.iter().map(|(name, _)| name.clone().into_owned()).collect();
        self.told.push(Form { data: names(&row.data), old_keys: names(&row.old_keys), is_whole });
        let names = self.values(row).iter().map(|(name, _)| name.clone().into_owned()).collect();
        if is_whole {
            told.whole.insert(names)
        } else {
            told.part.insert(names)
        };
    }

    /// `None`: it does not say its key.
    pub(super) fn touch(&mut self, row: &Row<'_>) -> Option<Touch> {
        match row.op {
            Op::Truncate => Some(Touch::Emptied),
            Op::Insert => Some(Touch::Image { new: self.key(&row.data, None)?, from: None }),
            Op::Delete => Some(Touch::Gone(self.key(&row.old_keys, None)?)),
            Op::Update => {
                let old = self.key(&row.old_keys, None)?;
                let new = self.key(&row.data, Some(&row.old_keys))?;
                Some(if self.is_whole(row) {
                    Touch::Image { new, from: (old != new).then_some(old) }
                } else {
                    Touch::Part { old, new }
                })
            }
        }
    }

    /// The columns of a record that have a place here. What did not change is the old value, where that is told.
    pub(super) fn values<'r>(&self, row: &Row<'r>) -> Fields<'r> {
        let mut values: Fields<'r> = row.data.iter().filter(|field| self.takes(&field.0)).cloned().collect();
        if row.op == Op::Update && self.relation.replica_identity == ReplicaIdentity::Full {
            let untold =
                |field: &&(Cow<'r, str>, Value<'r>)| row.data.iter().all(|(name, _)| *name != field.0);
            values.extend(row.old_keys.iter().filter(untold).filter(|field| self.takes(&field.0)).cloned());
        }
        values
    }

    /// The key before the change.
    pub(super) fn old_key<'r>(&self, row: &Row<'r>) -> Fields<'r> {
        let is_key = |field: &&(Cow<'r, str>, Value<'r>)| self.key.iter().any(|(name, _)| *name == field.0);
        row.old_keys.iter().filter(is_key).cloned().collect()
    }

    fn key(&self, fields: &Fields<'_>, otherwise: Option<&Fields<'_>>) -> Option<KeyHash> {
        let find = |fields: &Fields<'_>, name: &str| fields.iter().position(|field| field.0 == name);
        let mut bytes = Vec::with_capacity(64);
        for (name, equality) in &self.key {
            let value = match find(fields, name) {
                Some(at) => &fields[at].1,
                None => &otherwise?[find(otherwise?, name)?].1,
            };
            let text = value.as_text()?;
            // What only the server can compare is told apart by its spelling: a row keeps it until an UPDATE says so.
            let text = if *equality == TextEquality::Unknown { text } else { canonical(*equality, text) };
            bytes.extend_from_slice(text.as_bytes());
            bytes.extend_from_slice(&text.len().to_le_bytes());
        }
        Some(KeyHash(self.hasher.0.hash_one(&bytes), self.hasher.1.hash_one(&bytes)))
    }

    fn is_whole(&mut self, row: &Row<'_>) -> bool {
        let same = |names: &[String], fields: &Fields<'_>| {
            names.len() == fields.len() && names.iter().zip(fields).all(|(a, (b, _))| a == b)
        };
        let known = |form: &Form| same(&form.data, &row.data) && same(&form.old_keys, &row.old_keys);
        if let Some(form) = self.forms.iter().find(|form| known(form)) {
            return form.is_whole;
        }
        let values = self.values(row);
        let told = |name: &str| values.iter().any(|field| field.0 == name);
        let mut columns = self.relation.columns.iter().filter(|column| self.takes(&column.name));
        let is_whole = columns.all(|column| told(&column.name));
        let names = |fields: &Fields<'_>| fields.iter().map(|(name, _)| name.clone().into_owned()).collect();
        self.forms.push(Form { data: names(&row.data), old_keys: names(&row.old_keys), is_whole });
        is_whole
    }

    /// Whether values of that column are written here. A virtual one is sent as NULL, whatever it is.
    fn takes(&self, name: &str) -> bool {
        let here = self.table.columns.iter().any(|column| column.name == name && !column.generated);
        let source = self.relation.columns.iter().find(|column| column.name == name);
        here && source.is_none_or(|column| column.generated != Some(Generated::Virtual))
    }
}
