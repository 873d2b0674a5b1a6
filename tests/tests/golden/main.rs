//! What both programs print, held against files: whoever changes a word sees every place where it shows.
//!
//! `UPDATE_EXPECT=1 cargo test --workspace --test golden` writes the files anew; read the difference before it is
//! committed.

mod archiver_outputs;
mod help;
mod outputs;
mod steady;
