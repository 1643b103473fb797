// SPDX-License-Identifier: MIT OR Apache-2.0
//! WebSockets (RFC 6455): Debian's python3-websockets at both ends, or a browser at one.

use std::net::SocketAddr;
use std::process::Command;

use rustix::process::Signal;

use crate::authority::Authority;
use crate::net::Namespace;
use crate::process::Process;
use crate::wait::until_some;

/// Debian's own, for which the package is.
const PYTHON: &str = "/usr/bin/python3";

/// The port of its own host at which the server listens, without TLS.
pub const SOCKET_PORT: u16 = 8_001;

/// Says one message after another, the next when the one before has come back, and prints how many bytes each had. At the end it prints why.
const SERVER: &str = r#"
import asyncio, sys, websockets

async def talk(socket, path=None):
    number = 0
    try:
        while True:
            message = f"{number} " * (1 + number % 97 * 7)
            await socket.send(message)
            if await socket.recv() != message:
                print("wrong", number, flush=True)
            print(len(message), flush=True)
            number += 1
            await asyncio.sleep(0.01)
    except websockets.ConnectionClosed as end:
        print("closed", end.rcvd.code if end.rcvd else None, flush=True)

async def main():
    async with websockets.serve(talk, "127.0.0.1", int(sys.argv[1]), compression=None):
        await asyncio.Future()

asyncio.run(main())
"#;

/// Gives every message back, and closes when it is told to end. Prints why it has ended.
const CLIENT: &str = r#"
import asyncio, signal, ssl, sys, websockets

async def main():
    name, host, port, authority = sys.argv[1:]
    trust = ssl.create_default_context(cafile=authority)
    at = {"host": host, "port": int(port), "ssl": trust, "server_hostname": name}
    async with websockets.connect(f"wss://{name}/socket", compression=None, **at) as socket:
        end = lambda: asyncio.ensure_future(socket.close())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
        try:
            async for message in socket:
                await socket.send(message)
        finally:
            print("closed", socket.close_code, flush=True)

asyncio.run(main())
"#;

/// The page of a browser that does what the client does. It asks where it comes from.
pub const PAGE: &str = r#"<!doctype html><title>socket</title><script>
const socket = new WebSocket(`wss://${location.host}/socket`);
socket.onmessage = message => socket.send(message.data);
</script>"#;

/// A server of WebSockets, which leads the talk.
#[derive(Debug)]
pub struct SocketServer(Process);

/// What it has heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Messages that came back as they were sent.
    pub messages: usize,
    /// Their bytes, without what goes round them.
    pub bytes: u64,
}

impl SocketServer {
    /// Starts one in a namespace.
    #[track_caller]
    pub fn start(place: &Namespace) -> Self {
        let port = SOCKET_PORT.to_string();
        let mut process = place.spawn(Command::new(PYTHON).args(["-c", SERVER, &port]));
        let address = SocketAddr::from(([127, 0, 0, 1], SOCKET_PORT));
        crate::servers::until_listening(place, address, &mut process);
        Self(process)
    }

    /// All that came back so far, of one client after another.
    ///
    /// # Panics
    /// If something did not come back as it was sent.
    #[track_caller]
    pub fn heard(&self) -> Heard {
        let mut heard = Heard::default();
        for line in self.0.stdout() {
            if line.starts_with("closed") {
                continue;
            }
            heard.messages += 1;
            heard.bytes +=
                line.parse::<u64>().unwrap_or_else(|_| panic!("a message is not what it was: {line}"));
        }
        heard
    }

    /// Waits until so many more messages have come back.
    #[track_caller]
    pub fn until_more(&self, messages: usize) {
        let before = self.heard().messages;
        until_some(&format!("{messages} messages more than {before}; {:?}", self.0.stderr()), || {
            (self.heard().messages >= before + messages).then_some(())
        });
    }

    /// How its client has ended, once it has: the status of its close frame (RFC 6455 section 7.4.1), as text.
    #[track_caller]
    pub fn until_closed(&self) -> String {
        until_some("the end of a WebSocket", || {
            self.0.stdout().iter().find_map(|line| line.strip_prefix("closed ").map(str::to_owned))
        })
    }
}

/// Connects to `wss://name/socket` at an address.
#[track_caller]
pub fn connect(place: &Namespace, authority: &Authority, name: &str, server: SocketAddr) -> Process {
    let (host, port) = (server.ip().to_string(), server.port().to_string());
    let mut command = Command::new(PYTHON);
    command.args(["-c", CLIENT, name, &host, &port]).arg(authority.certificate());
    place.spawn(&mut command)
}

/// Has a client close its WebSocket, and waits until it says how that went.
#[track_caller]
pub fn close(client: &mut Process) -> Vec<String> {
    client.signal(Signal::TERM);
    client.wait();
    client.stdout()
}
