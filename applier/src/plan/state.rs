//! The life of a table of the whitelist. All its changes of state are here; what happens to the rows is elsewhere.
//!
//! ```text
//! pending ─ base found ─▶ loading ─ caught up ─▶ live ◀─ retry, caught up ─▶ quarantined
//!    ▲                                            │
//!    └────────── emptied, started over            └─ a gap cuts it off ─▶ stale (a new base: live)
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;

use crate::plan::GapName;
use crate::plan::group::GroupName;
use crate::table::{PairedColumns, SourceColumns};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// In the whitelist, but without the rows to begin with.
    Pending,
    /// Catching up from its base to the checkpoint.
    Loading,
    Live,
    Quarantined,
    /// Right as of its position; changes after that are lost.
    Stale,
}

/// An event that changes a table's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It begins without a base: with the archive's first segment, or with the rows that an operator vouches for.
    NeedsNoBase,
    /// Its first load begins.
    LoadBegins,
    /// There is no base for it yet, or none that can be used.
    WaitsForBase,
    /// Its base and all changes after it are there.
    Loaded,
    /// It cannot hold its base.
    LoadFails,
    /// An operator lets it go on from where it stopped.
    Retried,
    /// It has taken everything up to the checkpoint.
    CaughtUp,
    /// It cannot take a change.
    SetAside,
    /// Changes of it are lost.
    CutOff,
    /// An operator asked for its rows to be made anew, and it has none that count.
    ResyncAsked,
    /// An operator has emptied it.
    Emptied,
    /// What the tables hold is of another archive, or of a part that this one no longer has.
    StartedOver,
}

impl State {
    pub const ALL: [State; 5] =
        [State::Pending, State::Loading, State::Live, State::Quarantined, State::Stale];

    /// Where the event leads to. `Err`: it cannot happen to a table in this state, and nothing may be written.
    pub fn after(self, event: Event) -> Result<State> {
        use State::{Live, Loading, Pending, Quarantined, Stale};

        match (event, self) {
            (Event::NeedsNoBase, Pending | Loading | Live) => Ok(Live),
            (Event::NeedsNoBase, Quarantined | Stale) => Err(self.out_of_order(event)),

            (Event::LoadBegins, Pending | Loading) => Ok(Loading),
            (Event::LoadBegins, Live | Quarantined | Stale) => Err(self.out_of_order(event)),

            // A load that was interrupted waits again.
            (Event::WaitsForBase, Pending | Loading) => Ok(Pending),
            // Rows that are there stay right until a new base is.
            (Event::WaitsForBase, Live | Quarantined | Stale) => Ok(self),

            // Passes go on beside a load: whatever they did to the table, its rows are new now.
            (Event::Loaded, Pending | Loading | Live | Quarantined | Stale) => Ok(Live),
            (Event::LoadFails, Pending | Loading | Quarantined) => Ok(Quarantined),
            (Event::LoadFails, Live | Stale) => Err(self.out_of_order(event)),

            (Event::Retried, Loading | Quarantined | Stale) => Ok(Loading),
            (Event::Retried, Pending | Live) => Err(self.out_of_order(event)),

            (Event::CaughtUp, Loading | Live) => Ok(Live),
            (Event::CaughtUp, Pending | Quarantined | Stale) => Err(self.out_of_order(event)),

            (Event::SetAside, Loading | Live | Quarantined) => Ok(Quarantined),
            (Event::SetAside, Pending | Stale) => Err(self.out_of_order(event)),

            (Event::CutOff, Loading | Live | Stale) => Ok(Stale),
            (Event::CutOff, Pending | Quarantined) => Err(self.out_of_order(event)),

            (
                Event::ResyncAsked | Event::Emptied | Event::StartedOver,
                Pending | Loading | Live | Quarantined | Stale,
            ) => Ok(Pending),
        }
    }

    /// It takes nothing before an operator has done something.
    pub fn needs_operator(self) -> bool {
        match self {
            State::Quarantined | State::Stale => true,
            State::Pending | State::Loading | State::Live => false,
        }
    }

    /// Its rows follow the stream, or are on the way there.
    pub fn goes_on(self) -> bool {
        match self {
            State::Loading | State::Live => true,
            State::Pending | State::Quarantined | State::Stale => false,
        }
    }

    /// It is not live yet, and nobody has to do something.
    pub fn is_on_its_way(self) -> bool {
        match self {
            State::Pending | State::Loading => true,
            State::Live | State::Quarantined | State::Stale => false,
        }
    }

    /// It goes on from where it is. A stale table, and one without a base, go on from a snapshot.
    pub fn needs_changes(self) -> bool {
        match self {
            State::Loading | State::Live | State::Quarantined => true,
            State::Pending | State::Stale => false,
        }
    }

    fn out_of_order(self, event: Event) -> Error {
        let message = format!("a table that is {self} cannot be told {event:?}");
        Error::new(Kind::Conflict, message)
            .hint("nothing of this was written; run it again, and report it if it stays")
    }

    pub fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Loading => "loading",
            State::Live => "live",
            State::Quarantined => "quarantined",
            State::Stale => "stale",
        }
    }
}

/// The base that a table waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The newest snapshot that has it, or else everything since the archive's first segment.
    Auto,
    Snapshot,
    Start,
    /// As `Auto`, and then nothing else: rows that the base does not have go.
    Rebuild,
}

/// One table of the whitelist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableState {
    /// Whose checkpoint it moves with.
    pub group: GroupName,
    pub state: State,
    /// All that committed up to here is in the table.
    pub position: Option<Lsn>,
    pub reason: Option<String>,
    /// Gaps that an operator has accepted.
    pub accepted_gaps: Vec<GapName>,
    /// What was asked for and is still to be done.
    pub load: Option<Want>,
    /// How often something was asked for: a wish that is younger is another one.
    pub load_asked: i64,
    /// What it is held up with: one TRUNCATE named them all.
    pub held_with: Vec<TableName>,
    /// What the columns of the source were called when it took its last change, as far as that is known.
    pub source_columns: SourceColumns,
    /// Where they are here, as far as that is known.
    pub paired: PairedColumns,
    /// Columns that were here when somebody vouched for the rows, by their numbers here.
    pub vouched: Option<BTreeSet<i16>>,
    /// The key of the source by which its rows were taken last, as far as that is known.
    pub source_key: Option<Vec<String>>,
    /// Where the base copy began that its rows came with; `None`: it was made of changes alone, or nobody knows.
    pub base: Option<Lsn>,
}

impl TableState {
    /// Of a table of which nothing else is known.
    pub fn new(state: State) -> TableState {
        TableState {
            group: GroupName::DEFAULT,
            state,
            position: None,
            reason: None,
            accepted_gaps: Vec::new(),
            load: None,
            load_asked: 0,
            held_with: Vec::new(),
            source_columns: SourceColumns::default(),
            paired: PairedColumns::default(),
            vouched: None,
            source_key: None,
            base: None,
        }
    }

    /// The base that it waits for: one that was asked for, or its first.
    pub fn wants(&self) -> Option<Want> {
        match (self.state, self.position) {
            // Its base does not fit: somebody has to mend it and say `retry`.
            (State::Quarantined, None) => None,
            (State::Pending | State::Loading, None) => self.load.or(Some(Want::Auto)),
            _ => self.load,
        }
    }

    /// Whether a load of it that is under way is still for somebody. One of its first rows has made it `loading`: when it is
    /// pending again, somebody has let it go or emptied it since.
    pub fn takes_load(&self) -> bool {
        let begins_anew = self.state == State::Pending && self.position.is_none();
        self.wants().is_some() && !begins_anew
    }
}

impl Want {
    pub fn as_str(self) -> &'static str {
        match self {
            Want::Auto => "auto",
            Want::Snapshot => "snapshot",
            Want::Start => "start",
            Want::Rebuild => "rebuild",
        }
    }
}

impl FromStr for Want {
    type Err = Error;

    fn from_str(text: &str) -> Result<Want, Error> {
        let all = [Want::Auto, Want::Snapshot, Want::Start, Want::Rebuild];
        let found = all.into_iter().find(|want| want.as_str() == text);
        found.ok_or_else(|| Error::bad_input("a base that a table waits for", text))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = Error;

    fn from_str(text: &str) -> Result<State, Error> {
        let found = State::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| Error::bad_input("a state of a table", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_leads_every_state_somewhere_or_is_refused() {
        use State::{Live, Loading, Pending, Quarantined, Stale};

        let states = [Pending, Loading, Live, Quarantined, Stale];
        for (event, expected) in [
            (Event::NeedsNoBase, [Some(Live), Some(Live), Some(Live), None, None]),
            (Event::LoadBegins, [Some(Loading), Some(Loading), None, None, None]),
            (Event::WaitsForBase, [Some(Pending), Some(Pending), Some(Live), Some(Quarantined), Some(Stale)]),
            (Event::Loaded, [Some(Live); 5]),
            (Event::LoadFails, [Some(Quarantined), Some(Quarantined), None, Some(Quarantined), None]),
            (Event::Retried, [None, Some(Loading), None, Some(Loading), Some(Loading)]),
            (Event::CaughtUp, [None, Some(Live), Some(Live), None, None]),
            (Event::SetAside, [None, Some(Quarantined), Some(Quarantined), Some(Quarantined), None]),
            (Event::CutOff, [None, Some(Stale), Some(Stale), None, Some(Stale)]),
            (Event::ResyncAsked, [Some(Pending); 5]),
            (Event::Emptied, [Some(Pending); 5]),
            (Event::StartedOver, [Some(Pending); 5]),
        ] {
            for (state, expected) in states.into_iter().zip(expected) {
                assert_eq!(state.after(event).ok(), expected, "{state} {event:?}");
            }
        }
    }

    #[test]
    fn what_cannot_happen_is_said_with_the_state_and_the_event() {
        let refused = State::Pending.after(Event::CutOff).expect_err("it has no rows");
        assert_eq!(refused.kind(), Kind::Conflict);
        assert!(refused.to_string().contains("pending"), "{refused}");
    }
}
