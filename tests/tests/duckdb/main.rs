//! The DuckDB file as a target: a process of its own applies archives to it (`examples/duckdb_life`), and DuckDB's Python says
//! what is there then.

mod base;
mod changes;
mod commands;
mod file;
mod forged;
mod kills;
mod names;
mod publish;
mod schema;
mod stops;
mod types;
mod world;
