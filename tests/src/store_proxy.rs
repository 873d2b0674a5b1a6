//! What stands before a store and plays tricks: it reads whole requests of HTTP and answers, changes, or forgets them.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trick {
    Pass,
    /// The store does it, and nobody hears so.
    LoseAnswer,
    /// Answered here; the store sees nothing of it.
    Answer(u16, &'static str),
    /// The store does it, and says this instead.
    SayInstead(u16),
    /// Answered here with that body, and nothing that a store would say.
    Say(u16, &'static str),
    /// A bit of the body is another one when it arrives.
    Corrupt,
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    /// With the query.
    pub path: String,
    head: String,
}

impl Asked {
    /// The value of a header; its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let is_it =
            |line: &&str| line.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name));
        self.head.lines().find(is_it).and_then(|line| Some(line.split_once(':')?.1.trim()))
    }

    /// Whether it is about the file of that name.
    pub fn is_of(&self, name: &str) -> bool {
        self.path.split('?').next().is_some_and(|path| path.ends_with(name))
    }
}

type Plan = Box<dyn FnMut(&Asked) -> Trick + Send>;

/// Relays until the process ends.
pub struct StoreProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    store: SocketAddr,
    plan: Mutex<Plan>,
    asked: Mutex<Vec<Asked>>,
}

impl StoreProxy {
    pub fn start(store: SocketAddr) -> StoreProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let plan: Plan = Box::new(|_| Trick::Pass);
        let shared = Arc::new(Shared { store, plan: Mutex::new(plan), asked: Mutex::default() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&accepting);
                // Either end hangs up when it likes.
                thread::spawn(move || drop(shared.relay(&client)));
            }
        });
        StoreProxy { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What becomes of requests from now on.
    pub fn plan(&self, plan: impl FnMut(&Asked) -> Trick + Send + 'static) {
        *self.shared.plan.lock().expect("no plan panics") = Box::new(plan);
    }

    /// What was asked since the last call of this.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.asked.lock().expect("no plan panics"))
    }
}

impl Shared {
    fn relay(&self, client: &TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut from_client = BufReader::new(client.try_clone()?);
        let store = TcpStream::connect(self.store)?;
        store.set_nodelay(true)?;
        let mut from_store = BufReader::new(store.try_clone()?);
        loop {
            let head = read_head(&mut from_client)?;
            let mut words = head.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let asked = Asked { method: method.to_owned(), path: path.to_owned(), head: head.clone() };
            let mut body = read_body(&mut from_client, &asked.head)?;
            let trick = (self.plan.lock().expect("no plan panics"))(&asked);
            let is_head = asked.method == "HEAD";
            self.asked.lock().expect("no plan panics").push(asked);
            if let Trick::Answer(status, code) = trick {
                let said =
                    format!("<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>");
                answer(client, status, "", if is_head { "" } else { &said })?;
                continue;
            }
            if let Trick::Say(status, said) = trick {
                answer(client, status, "", said)?;
                continue;
            }
            if trick == Trick::Corrupt
                && let Some(last) = body.last_mut()
            {
                *last ^= 1;
            }
            (&store).write_all(head.as_bytes())?;
            (&store).write_all(&body)?;
            let said = read_head(&mut from_store)?;
            let status = said.split(' ').nth(1).unwrap_or_default();
            let has_body = !is_head && !matches!(status, "204" | "304");
            let document = if has_body { read_body(&mut from_store, &said)? } else { Vec::new() };
            match trick {
                Trick::LoseAnswer => return Ok(()),
                Trick::SayInstead(status) => answer(client, status, "ETag: \"told\"\r\n", "")?,
                Trick::Pass | Trick::Corrupt | Trick::Answer(..) | Trick::Say(..) => {
                    let mut client = client;
                    client.write_all(said.as_bytes())?;
                    client.write_all(&document)?;
                }
            }
        }
    }
}

fn answer(mut client: &TcpStream, status: u16, headers: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: {length}\r\n\r\n");
    client.write_all(format!("{head}{body}").as_bytes())
}

/// Up to the empty line; an error at the end.
fn read_head(from: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// As long as the head says, or in chunks, which are kept as they are.
fn read_body(from: &mut BufReader<TcpStream>, head: &str) -> io::Result<Vec<u8>> {
    let head = head.to_ascii_lowercase();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name).map(str::trim));
    if let Some(length) = header("content-length:") {
        let mut body = vec![0; length.parse().map_err(|_| io::ErrorKind::InvalidData)?];
        from.read_exact(&mut body)?;
        return Ok(body);
    }
    let mut body = Vec::new();
    if header("transfer-encoding:") != Some("chunked") {
        return Ok(body);
    }
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let bytes = usize::from_str_radix(line.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
        body.extend_from_slice(line.as_bytes());
        let begin = body.len();
        body.resize(begin + bytes + 2, 0);
        from.read_exact(&mut body[begin..])?;
        if bytes == 0 {
            return Ok(body);
        }
    }
}

impl std::fmt::Debug for StoreProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreProxy").field("address", &self.address).finish_non_exhaustive()
    }
}
