//! The way of a row as three hops, and what is in its way: both daemons say it so in their status, and the page draws it.

use serde::{Deserialize, Serialize};
use syncdata_formats::time::Timestamp;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HopState {
    Ok,
    /// It works, and is late.
    Slow,
    Broken,
    /// Nobody here can see it, or not now.
    #[default]
    Unknown,
}

/// From one place to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// What others call it by: `archiver`, `fetch`, `apply`.
    pub name: String,
    pub from: String,
    pub to: String,
    pub state: HopState,
    /// How much older its end is than its beginning.
    pub lag_seconds: Option<u64>,
    /// Since when it is not as it should be.
    pub since: Option<Timestamp>,
    /// What is seen of it.
    pub words: Option<String>,
    /// What to do.
    pub remedy: Option<String>,
}

impl Hop {
    pub fn new(name: &str, from: &str, to: &str) -> Hop {
        Hop { name: name.into(), from: from.into(), to: to.into(), ..Hop::default() }
    }

    #[must_use]
    pub fn is(self, state: HopState, words: impl Into<String>) -> Hop {
        Hop { state, words: Some(words.into()), ..self }
    }

    #[must_use]
    pub fn since(self, since: Option<Timestamp>) -> Hop {
        Hop { since, ..self }
    }

    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Hop {
        Hop { remedy: Some(remedy.into()), ..self }
    }
}

/// What a click on the page, or a call of the API, may do about a trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Run,
    Retry,
    Resync,
    Check,
}

/// One problem, in parts: where, since when, what, and what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// The name of a hop.
    pub hop: Option<String>,
    pub table: Option<String>,
    pub since: Option<Timestamp>,
    /// As `problems` has it.
    pub words: String,
    pub remedy: Option<String>,
    /// For a shell on the daemon's host.
    pub command: Option<String>,
    pub action: Option<Action>,
}

impl Trouble {
    pub fn new(words: impl Into<String>) -> Trouble {
        Trouble { words: words.into(), ..Trouble::default() }
    }

    #[must_use]
    pub fn of_hop(self, hop: &str) -> Trouble {
        Trouble { hop: Some(hop.into()), ..self }
    }

    #[must_use]
    pub fn since(self, since: Option<Timestamp>) -> Trouble {
        Trouble { since, ..self }
    }

    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Trouble {
        Trouble { remedy: Some(remedy.into()), ..self }
    }
}
