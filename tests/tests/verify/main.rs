//! `verify`, with the real program.

mod damage;
mod kinds;
mod scene;
