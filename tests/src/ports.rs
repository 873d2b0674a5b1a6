//! Ports for servers that are stopped and started again on the same one.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that kernels give to connections (Linux: 32768 and up): while a server is down, no connection of
/// another test takes its port.
const FIRST: u16 = 10_240;
const COUNT: u16 = 22_000;

/// Each process begins elsewhere, and never hands out the same port twice.
static NEXT: AtomicU16 = AtomicU16::new(0);

pub fn free_port() -> u16 {
    let begin = u16::try_from(std::process::id().wrapping_mul(7_919) % u32::from(COUNT)).unwrap_or_default();
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (begin + step % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("loopback has no free ports")
}

pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}
