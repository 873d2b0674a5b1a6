//! Connections to PostgreSQL that hide nothing: the server's notices can be read, the settings that change
//! its output are pinned and read back, and an error tells whether to try again.

pub mod drop_role;
mod failure;
mod foreign_keys;
pub mod new_password;
mod notice;
mod password;
mod pinned;
mod question;
pub mod replication;
mod session;
mod settings;
mod tls;
mod wire;
mod words;

pub use self::failure::{
    OwnTablesContext, ServerContext, db_error, failure, parameter, server_words, sqlstate, wants_password,
};
pub use self::foreign_keys::CatalogKey;
pub use self::notice::{Notice, Notices};
pub use self::pinned::PinnedSettings;
pub use self::question::Question;
pub use self::session::{Canceller, Listener, ServerVersion, Session, lets_others_read};
pub use self::settings::{PostgresSettings, SslFiles, SslMode};
