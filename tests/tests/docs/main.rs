//! Pages of docs/, tried.

mod archive_format;
mod faults;
mod fidelity;
mod pages;
mod trouble;
mod upgrading;
