//! What surrounds the work of both programs: settings, and connections to servers.

mod connections;
mod found;
mod install;
mod json;
mod monitoring;
mod packages;
mod portable;
mod secrets;
mod settings;
mod settings_file;
mod tls;
mod verified;
mod webhook;
