//! What any of our programs needs around its work: settings, logs, output, sessions with PostgreSQL, signals, a
//! control socket, an API over HTTP, patience, and named stops for tests.

pub mod alerts;
mod authorities;
pub mod backoff;
pub mod checks;
pub mod circuit;
pub mod config;
pub mod confirm;
pub mod control;
pub mod daemon;
pub mod disk;
pub mod faults;
pub mod finding;
pub mod hmac;
pub mod hops;
pub mod http;
pub mod log;
pub mod manual;
pub mod output;
pub mod own_files;
pub mod page;
pub mod points;
pub mod postgres;
pub mod progress;
pub mod secret;
pub mod service_account;
pub mod small_file;
pub mod web;
pub mod webhook;
