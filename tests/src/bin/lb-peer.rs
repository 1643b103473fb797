// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server for tests that kill it: listens on the port given, says so, accepts one connection, sends the pattern of seed 1 until
//! the kernel takes no more, prints how many bytes it took, and waits to be killed.
#![forbid(unsafe_code)]

use std::net::{Ipv6Addr, TcpListener};
use std::time::Duration;

use lb_tests::stream::send_until_blocked;

fn main() -> anyhow::Result<()> {
    let port: u16 = std::env::args().nth(1).unwrap_or_default().parse()?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    println!("listening");
    let (stream, _) = listener.accept()?;
    println!("{}", send_until_blocked(&stream, 1, Duration::from_secs(1)));
    loop {
        std::thread::park();
    }
}
