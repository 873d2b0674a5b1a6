//! A table as the source's catalog described it, and its fingerprint.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// A table as the source's catalog described it when the segment was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    pub columns: Vec<Column>,
    pub key: Vec<String>,
    /// The index of the key had stood from before the first change of the segment, and still did: no two rows had one key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub key_kept: bool,
    pub replica_identity: ReplicaIdentity,
    /// The labels, in their order, of the enum types that its columns have; a type by the name that columns have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<String, Vec<String>>,
    #[serde(default, skip_serializing_if = "FingerprintVersion::is_first")]
    pub fingerprint_version: FingerprintVersion,
    pub fingerprint: Digest,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub type_name: String,
    pub not_null: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<Generated>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The catalog's number of the column: a renamed one keeps it, one that was dropped and added again has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attnum: Option<u16>,
    /// What rows that are older than the column have in it; absent for NULL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// The default as an SQL expression, where it is a constant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// Which facts a fingerprint is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub enum FingerprintVersion {
    /// Without `attnum`, `missing`, `default` and the labels of types. Not written as a number.
    #[default]
    First,
    Second,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Generated {
    Stored,
    Virtual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    #[serde(rename = "always")]
    Always,
    #[serde(rename = "by default")]
    ByDefault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaIdentity {
    Default,
    Full,
    Index,
    Nothing,
}

impl Relation {
    /// A relation of which no more is known than fingerprints of the first version say.
    pub fn new(columns: Vec<Column>, key: Vec<String>, replica_identity: ReplicaIdentity) -> Relation {
        Relation {
            columns,
            key,
            key_kept: false,
            replica_identity,
            types: BTreeMap::new(),
            fingerprint_version: FingerprintVersion::First,
            fingerprint: Digest::of(b""),
        }
        .with_fingerprint()
    }

    /// A relation with all that the catalog says.
    pub fn described(
        columns: Vec<Column>,
        key: Vec<String>,
        replica_identity: ReplicaIdentity,
        types: BTreeMap<String, Vec<String>>,
    ) -> Relation {
        let version = FingerprintVersion::Second;
        let plain = Relation::new(columns, key, replica_identity);
        Relation { types, fingerprint_version: version, ..plain }.with_fingerprint()
    }

    fn with_fingerprint(self) -> Relation {
        Relation { fingerprint: self.fingerprint_of(), ..self }
    }

    /// SHA-256 over one line a fact, in which names, types and values are JSON strings, so that no name can look like
    /// another fact: `column "id" "bigint" not null identity always attnum 1`, `key "id"`, `replica identity default`.
    pub fn fingerprint_of(&self) -> Digest {
        let mut text = String::new();
        for column in &self.columns {
            self.push_column(&mut text, column);
        }
        for (name, labels) in &self.types {
            text.push_str("type ");
            push_json(&mut text, name);
            for label in labels {
                text.push(' ');
                push_json(&mut text, label);
            }
            text.push('\n');
        }
        for name in &self.key {
            text.push_str("key ");
            push_json(&mut text, name);
            text.push('\n');
        }
        writeln!(text, "replica identity {}", self.replica_identity).expect("a String takes all");
        Digest::of(text.as_bytes())
    }

    fn push_column(&self, text: &mut String, column: &Column) {
        text.push_str("column ");
        push_json(text, &column.name);
        text.push(' ');
        push_json(text, &column.type_name);
        text.push_str(if column.not_null { " not null" } else { "" });
        text.push_str(match column.generated {
            None => "",
            Some(Generated::Stored) => " generated stored",
            Some(Generated::Virtual) => " generated virtual",
        });
        text.push_str(match column.identity {
            None => "",
            Some(Identity::Always) => " identity always",
            Some(Identity::ByDefault) => " identity by default",
        });
        if let Some(attnum) = column.attnum {
            write!(text, " attnum {attnum}").expect("a String takes all");
        }
        for (fact, value) in [("missing", &column.missing), ("default", &column.default)] {
            if let Some(value) = value {
                write!(text, " {fact} ").expect("a String takes all");
                push_json(text, value);
            }
        }
        text.push('\n');
    }

    /// Whether it fits its fingerprint, and says nothing that this does not cover.
    pub(crate) fn check(&self) -> Result<(), String> {
        let is_more =
            |column: &Column| column.attnum.is_some() || column.missing.is_some() || column.default.is_some();
        let says_more = !self.types.is_empty() || self.columns.iter().any(is_more);
        if says_more && self.fingerprint_version.is_first() {
            return Err("says more than a fingerprint of the first version covers".into());
        }
        if self.fingerprint != self.fingerprint_of() {
            return Err("the fingerprint does not fit its columns".into());
        }
        Ok(())
    }
}

impl FingerprintVersion {
    fn is_first(&self) -> bool {
        *self == FingerprintVersion::First
    }
}

impl TryFrom<u64> for FingerprintVersion {
    type Error = String;

    /// The first one is not written.
    fn try_from(version: u64) -> Result<FingerprintVersion, String> {
        match version {
            2 => Ok(FingerprintVersion::Second),
            other => Err(format!(
                "fingerprint_version {other}: this program knows 2; install a newer version of syncdata"
            )),
        }
    }
}

impl From<FingerprintVersion> for u64 {
    fn from(version: FingerprintVersion) -> u64 {
        match version {
            FingerprintVersion::First => 1,
            FingerprintVersion::Second => 2,
        }
    }
}

fn push_json(text: &mut String, name: &str) {
    text.push_str(&serde_json::to_string(name).expect("a string is JSON"));
}

impl fmt::Display for ReplicaIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReplicaIdentity::Default => "default",
            ReplicaIdentity::Full => "full",
            ReplicaIdentity::Index => "index",
            ReplicaIdentity::Nothing => "nothing",
        })
    }
}
