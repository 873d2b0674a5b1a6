//! The API over TCP (`http_listen`): who may ask what, in which form, and how much of it at once. What is answered is
//! the program's: it gives a table of routes, one place from which requests are matched and openapi.json is made.
//!
//! ```text
//! accept ─▶ connections (a cap) ─▶ gate (Host, Origin, token) ─▶ routes ─▶ body ─▶ the program
//! ```

mod both;
mod connections;
mod gate;
mod hosts;
mod list;
mod openapi;
mod page;
mod percent;
mod problem;
mod routes;
mod server;
mod site;
mod tokens;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use syncdata_formats::error::{Error, Kind, Result};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tracing::{info, warn};

pub use self::both::{Both, EXECUTIONS};
use self::gate::Gate;
pub use self::list::{CURSOR_PARAMETER, LIMIT_PARAMETER};
pub use self::page::Asset;
pub use self::percent::encoded;
pub use self::problem::{Problem, Sort};
pub use self::routes::{Access, Answer, Call, Parameter, Route};
pub use self::site::Site;
use crate::config::{Config, Program};

/// What a daemon listens on, and what is wrong with it. Settings may change while it listens.
#[derive(Debug)]
pub struct Http {
    program: Program,
    state: Mutex<State>,
    /// Settings have changed.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    gate: Arc<Gate>,
    /// Why the address is closed.
    closed: Option<String>,
    /// Why no token is taken.
    no_tokens: Option<String>,
}

impl Http {
    pub fn new(program: Program, config: &Config) -> Http {
        let (gate, no_tokens) = Gate::of(program, config);
        let state = Mutex::new(State { gate: Arc::new(gate), closed: None, no_tokens });
        Http { program, state, changed: Notify::new() }
    }

    /// Takes new settings, and the tokens as their file has them now. One that cannot be read lets nobody in: whoever was
    /// taken out of it must not stay.
    pub fn configured(&self, config: &Config) {
        let (gate, no_tokens) = Gate::of(self.program, config);
        let mut state = self.state();
        (state.gate, state.no_tokens) = (Arc::new(gate), no_tokens);
        drop(state);
        self.changed.notify_one();
    }

    /// For the status.
    pub fn problems(&self) -> Vec<String> {
        let state = self.state();
        state.closed.iter().chain(&state.no_tokens).cloned().collect()
    }

    fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.state().gate)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address, opened; else why not is kept and said, once.
    async fn open(&self) -> Option<TcpListener> {
        let gate = self.gate();
        let address = gate.address?;
        let opened = match gate.may_listen() {
            Ok(()) => bind(address).await,
            Err(error) => Err(error),
        };
        let (opened, closed) = match opened {
            Ok(listener) => (Some(listener), None),
            Err(error) => (None, Some(error.with_hint())),
        };
        let was = std::mem::replace(&mut self.state().closed, closed.clone());
        match (&opened, closed) {
            (Some(listener), _) => {
                let address = listener.local_addr().unwrap_or(address);
                info!(%address, "listening");
            }
            (None, closed) if closed != was => {
                warn!(%address, reason = closed, "http_listen stays closed, it is tried again");
            }
            (None, _) => {}
        }
        opened
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let kind = if error.kind() == std::io::ErrorKind::AddrInUse { Kind::Locked } else { Kind::Io };
        Error::new(kind, format!("http_listen {address} cannot be opened"))
            .caused_by(error)
            .hint("ss -ltnp shows who has it; it is tried again by itself")
    })
}
