//! A network that fails on demand: a TCP relay on loopback which cuts a connection after so many bytes, or
//! lets it hang without a word.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// Relays until dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// Which of the two streams of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    Down,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The connection that carries `left` more bytes that way is cut, `again` more are after `bytes` each; then the
/// network is well.
#[derive(Clone, Copy, Debug)]
struct Cut {
    direction: Direction,
    bytes: u64,
    left: u64,
    again: u32,
}

#[derive(Debug, Default)]
struct State {
    cut: Option<Cut>,
    carried: [u64; 2],
    hangs: bool,
    ended: bool,
    sockets: Vec<TcpStream>,
}

impl Proxy {
    pub fn start(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.lock().ended {
                    return;
                }
                accepting.relay(client, server);
            }
        });
        Proxy { address, shared }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Cuts, once, the connection that carries the next byte after `bytes` more in that direction.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.cut_every(direction, bytes, 1);
    }

    /// The same, `times` over, each after `bytes` more.
    pub fn cut_every(&self, direction: Direction, bytes: u64, times: u32) {
        let again = times.saturating_sub(1);
        self.shared.lock().cut = Some(Cut { direction, bytes, left: bytes, again });
    }

    /// Whether a cut that was asked for is still to come.
    pub fn cut_is_due(&self) -> bool {
        self.shared.lock().cut.is_some()
    }

    /// Bytes carried so far.
    pub fn carried(&self, direction: Direction) -> u64 {
        self.shared.lock().carried[direction as usize]
    }

    /// Nothing passes any more, and nobody is told.
    pub fn hang(&self) {
        self.shared.lock().hangs = true;
    }

    pub fn heal(&self) {
        self.shared.lock().hangs = false;
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        state.hangs = false;
        state.close_all();
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the listener, which then sees that it is over.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no relay panics while it holds the state")
    }

    fn relay(self: &Arc<Self>, client: TcpStream, server: SocketAddr) {
        // A server that is away: the client sees its connection closed.
        let Ok(server) = TcpStream::connect(server) else { return };
        for socket in [&client, &server] {
            // A relay that waited to fill packets would be the slowest part of every test.
            socket.set_nodelay(true).expect("TCP has it");
        }
        let both = |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
        self.lock().sockets.extend([both(&client), both(&server)]);
        for (direction, from, to) in
            [(Direction::Up, both(&client), both(&server)), (Direction::Down, server, client)]
        {
            let shared = Arc::clone(self);
            thread::spawn(move || {
                shared.pump(direction, &from, &to);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    }

    fn pump(&self, direction: Direction, mut from: &TcpStream, mut to: &TcpStream) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(n) = from.read(&mut buffer)
            && n > 0
        {
            let passing = self.admit(direction, n);
            if to.write_all(&buffer[..passing]).is_err() || passing < n {
                return;
            }
        }
    }

    /// How many of these bytes get through before the cut.
    fn admit(&self, direction: Direction, bytes: usize) -> usize {
        let mut state = self.lock();
        while state.hangs {
            state = self.changed.wait(state).expect("no relay panics while it holds the state");
        }
        let passing = match &mut state.cut {
            Some(cut) if cut.direction == direction => {
                let passing = usize::try_from(cut.left).map_or(bytes, |left| left.min(bytes));
                cut.left -= passing as u64;
                if passing < bytes {
                    state.cut = state.cut.and_then(Cut::next);
                }
                passing
            }
            _ => bytes,
        };
        state.carried[direction as usize] += passing as u64;
        passing
    }
}

impl Cut {
    fn next(self) -> Option<Cut> {
        Some(Cut { left: self.bytes, again: self.again.checked_sub(1)?, ..self })
    }
}

impl State {
    fn close_all(&mut self) {
        for socket in self.sockets.drain(..) {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
