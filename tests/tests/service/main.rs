//! What surrounds the work of both programs: settings, and connections to servers.

mod connections;
mod found;
mod packages;
mod settings;
