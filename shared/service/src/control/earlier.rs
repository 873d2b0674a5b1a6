//! What a status says once more under the names of an earlier tool, whose users ask for them.

use serde::{Deserialize, Serialize};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::time::Timestamp;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierKeys {
    /// Up to where everything that committed has come.
    #[serde(default)]
    pub last_lsn: Option<Lsn>,
    #[serde(default)]
    pub last_sync_time: Option<Timestamp>,
    #[serde(default)]
    pub records_replicated: u64,
    #[serde(default)]
    pub error_count: u64,
    #[serde(default)]
    pub last_error: Option<String>,
    #[serde(default)]
    pub is_running: bool,
}
