//! The test world: real PostgreSQL servers, a real sshd, and the real programs between them. A missing
//! server is a failed test that says which script installs it, never a skipped one.

pub mod browser;
pub mod differential;
pub mod disk;
pub mod forge;
pub mod installation;
pub mod local_copy;
mod matrix;
mod ports;
pub mod postgres;
pub mod process;
pub mod program;
pub mod proxy;
pub mod record;
mod scratch;
pub mod sshd;
pub mod store;
pub mod store_proxy;
pub mod workload;
pub mod world;

pub use browser::{Browser, Scheme};
pub use disk::Disk;
pub use forge::Forge;
pub use installation::Installation;
pub use local_copy::LocalCopy;
pub use matrix::cases;
pub use ports::{free_address, free_port};
pub use postgres::{PostgresOptions, PostgresServer, StopMode};
pub use program::{Daemon, Finished, Program};
pub use sshd::Sshd;
pub use store::Place;
pub use workload::{Prng, Workload};
pub use world::{World, WorldOptions};
