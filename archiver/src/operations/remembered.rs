//! What the spool remembers, for commands that only look.

use syncdata_formats::Result;
use syncdata_service::config::{Config, Program};
use syncdata_service::control::{self, Method, Response};
use syncdata_service::own_files;

use crate::spool::{Spool, State};

/// Where the daemon says it.
pub(crate) const PATH: &str = "/remembered";

/// From the spool itself, or, where that is closed to us, from the daemon that works in it; `None` when nobody ever did.
pub(crate) async fn remembered(config: &Config) -> Result<Option<State>> {
    let refused = match Spool::peek_state(&config.spool_dir) {
        Err(error) if own_files::is_of_another(&config.spool_dir) => error,
        read => return read,
    };
    let sockets = config.sockets(Program::Archiver);
    match control::call_first(&sockets, Method::Post, PATH, None).await?.filter(Response::is_success) {
        Some(response) => response.read_json(),
        None => Err(refused.hint(
            "start the daemon (systemctl start syncdata-archiver), which tells it to members of its group, or run this \
             command with sudo",
        )),
    }
}
