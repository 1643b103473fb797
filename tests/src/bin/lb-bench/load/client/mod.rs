// SPDX-License-Identifier: MIT OR Apache-2.0
//! The load client. Whatever is not as it should be (a wrong server, a missing PROXY header, a byte too few) ends it with an
//! error: a number from a balancer that does something else is worth nothing.

mod bulk;
mod connections;
mod https;
mod messages;
mod paced;
mod turns;

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use super::preface::Request;
use super::{MESSAGE_SIZE, Outcome, READY, ROUTES, Task, Work, hello, route_name};

/// No flow of a working balancer stands still for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does what standard input says (see [`super`]).
///
/// # Errors
/// The balancer failed in any way, or standard input is not a task.
pub fn run() -> Result<()> {
    let mut input = io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    let task: Task = serde_json::from_str(&line).context("standard input is not a task")?;
    let flows = match task.work {
        Work::PingPong { flows, size, .. } | Work::Paced { flows, size, .. } => {
            messages::open(&task, flows, size)?
        }
        _ => Vec::new(),
    };
    println!("{READY}");
    if input.read_line(&mut line)? == 0 {
        return Ok(());
    }
    let (outcome, held) = work(&task, flows)?;
    println!("{}", serde_json::to_string(&outcome)?);
    io::stdout().flush()?;
    input.read_to_end(&mut Vec::new())?;
    drop(held);
    Ok(())
}

/// The outcome, and the flows that stay open.
fn work(task: &Task, flows: Vec<TcpStream>) -> Result<(Outcome, Vec<TcpStream>)> {
    let outcome = match task.work {
        Work::Connections { total, concurrent, names } => connections::run(task, total, concurrent, names)?,
        Work::Download { flows, bytes } => bulk::run(task, flows, bytes, bulk::download)?,
        Work::Upload { flows, bytes } => bulk::run(task, flows, bytes, bulk::upload)?,
        Work::Turns { total, concurrent, errand } => turns::run(task, total, concurrent, errand)?,
        Work::Https { tool, bytes, connections } => https::run(task, tool, bytes, connections)?,
        Work::PingPong { size, exchanges, .. } => {
            return Ok((messages::ping_pong(&flows, size, exchanges)?, flows));
        }
        Work::Paced { size, rate, exchanges, .. } => {
            return Ok((paced::run(&flows, size, rate, exchanges)?, flows));
        }
        Work::Idle { flows } => {
            let start = std::time::Instant::now();
            let count = flows;
            let flows = messages::open(task, flows, MESSAGE_SIZE)?;
            // With this one those leave lb that can.
            messages::ping_pong(&flows, MESSAGE_SIZE, count)?;
            let seconds = start.elapsed().as_secs_f64();
            return Ok((Outcome { seconds, units: flows.len() as u64, ..Outcome::default() }, flows));
        }
    };
    Ok((outcome, Vec::new()))
}

/// A connection that has sent its ClientHello.
fn open(task: &Task, route: usize, request: Request) -> Result<TcpStream> {
    begin(task, route, request, |target| TcpStream::connect_timeout(target, PATIENCE))
}

/// The same from another address of the client.
fn open_from(source: Ipv4Addr, task: &Task, route: usize, request: Request) -> Result<TcpStream> {
    begin(task, route, request, |target| {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddr::from((source, 0)))?;
        connect(&socket, target)?;
        Ok(TcpStream::from(socket))
    })
}

fn begin(
    task: &Task,
    route: usize,
    request: Request,
    connect: impl FnOnce(&SocketAddr) -> io::Result<TcpStream>,
) -> Result<TcpStream> {
    let target = task.targets[route % ROUTES];
    let mut stream = connect(&target).with_context(|| format!("cannot connect {target}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&hello::client_hello(&route_name(route % ROUTES), request))?;
    Ok(stream)
}

/// Whether an answer begins as the right server begins it.
fn check_signature(task: &Task, route: usize, answer: &[u8]) -> Result<()> {
    let expected = [task.header.byte(), u8::try_from(route % ROUTES)?];
    ensure!(
        answer.starts_with(&expected),
        "an answer for route {route} begins with {:?} instead of {expected:?}: wrong server, or wrong PROXY header",
        &answer[..answer.len().min(2)]
    );
    Ok(())
}
