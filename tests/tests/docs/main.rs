//! Pages of docs/, tried.

mod archive_format;
mod doctor;
mod faults;
mod fidelity;
mod links;
mod pages;
mod play;
mod trouble;
mod upgrading;
