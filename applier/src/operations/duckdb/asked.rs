//! What a command asks the owner of the file to do; it may travel to another process.

use serde::{Deserialize, Serialize};

use crate::operations::resync::Resync;
use crate::operations::retry::Retry;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Asked {
    Sync,
    AddTables {
        tables: Vec<String>,
        /// As [`Want`](crate::plan::state::Want) is written.
        from: String,
        /// Loads them at once.
        waits: bool,
    },
    RemoveTables {
        tables: Vec<String>,
    },
    Resync(Resync),
    Retry(Retry),
    Clear,
}
