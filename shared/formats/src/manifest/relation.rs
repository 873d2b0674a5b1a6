//! A table as the source's catalog described it, and its fingerprint.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// A table as the source's catalog described it when the segment was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    pub columns: Vec<Column>,
    pub key: Vec<String>,
    pub replica_identity: ReplicaIdentity,
    pub fingerprint: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub type_name: String,
    pub not_null: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<Generated>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
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
    /// With its fingerprint.
    pub fn new(columns: Vec<Column>, key: Vec<String>, replica_identity: ReplicaIdentity) -> Relation {
        let fingerprint = Relation::fingerprint_of(&columns, &key, replica_identity);
        Relation { columns, key, replica_identity, fingerprint }
    }

    /// SHA-256 over one line a fact, in which names and types are JSON strings, so that no name can look like
    /// another fact: `column "id" "bigint" not null identity always`, `key "id"`, `replica identity default`.
    pub fn fingerprint_of(columns: &[Column], key: &[String], replica_identity: ReplicaIdentity) -> Digest {
        let mut text = String::new();
        for column in columns {
            text.push_str("column ");
            push_json(&mut text, &column.name);
            text.push(' ');
            push_json(&mut text, &column.type_name);
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
            text.push('\n');
        }
        for name in key {
            text.push_str("key ");
            push_json(&mut text, name);
            text.push('\n');
        }
        writeln!(text, "replica identity {replica_identity}").expect("a String takes all");
        Digest::of(text.as_bytes())
    }

    pub(crate) fn has_its_fingerprint(&self) -> bool {
        self.fingerprint == Relation::fingerprint_of(&self.columns, &self.key, self.replica_identity)
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
