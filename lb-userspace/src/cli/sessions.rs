// SPDX-License-Identifier: MIT OR Apache-2.0
//! `lb sessions`: asks the agent's admin surface.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use serde::Deserialize;

use super::output;
use crate::exit;

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `lb sessions`.
#[derive(Debug, Args)]
pub(super) struct SessionsArgs {
    /// The configuration of the agent, which says where its admin surface is.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// A user of the admin surface, whose password is read from standard input.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// How it is printed: for people, or as JSON.
    #[arg(long, value_enum, default_value_t)]
    format: super::Format,
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the configuration has no [admin], which is what is asked")]
    NoSurface,
    #[error("no lb answers at {address}: {error}")]
    Silent { address: SocketAddr, error: io::Error },
    #[error("the admin surface wants a user: give --user, and the password on standard input")]
    Denied,
    #[error("the admin surface answers with {0}")]
    Refused(String),
    #[error("cannot read the password: {0}")]
    Password(io::Error),
}

/// What the agent says. See README for the fields.
#[derive(Debug, Deserialize)]
struct Sessions {
    sessions: Vec<Session>,
    further_sessions: usize,
}

#[derive(Debug, Deserialize)]
struct Session {
    id: u64,
    client: Option<String>,
    frontend: String,
    backend: String,
    server: String,
    path: String,
    state: String,
    age_seconds: f64,
    idle_seconds: f64,
    received_bytes: u64,
    sent_bytes: u64,
    client_rtt_seconds: Option<f64>,
    client_rtt_min_seconds: Option<f64>,
    server_rtt_seconds: Option<f64>,
    server_rtt_min_seconds: Option<f64>,
}

/// Lists the open connections of path `packet`.
pub(super) fn run(args: &SessionsArgs) -> ExitCode {
    let loaded = match super::load(&args.config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let surface = loaded.config.admin.as_ref().map(|admin| admin.bind).ok_or(AskError::NoSurface);
    let answer = surface.and_then(|address| ask(address, credentials(args.user.as_deref())?.as_deref()));
    let said = answer.and_then(|body| match args.format {
        super::Format::Json => Ok(body),
        super::Format::Human => {
            let sessions =
                serde_json::from_str(&body).map_err(|error| AskError::Refused(error.to_string()))?;
            Ok(table(&sessions))
        }
    });
    match said {
        Ok(text) => {
            output::line(text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            output::error_line(format_args!("error: {error}"));
            exit::UNAVAILABLE.into()
        }
    }
}

/// HTTP basic authentication (RFC 7617), if there is a user.
fn credentials(user: Option<&str>) -> Result<Option<String>, AskError> {
    let Some(user) = user else { return Ok(None) };
    let mut password = String::new();
    io::stdin().read_line(&mut password).map_err(AskError::Password)?;
    let password = password.trim_end_matches(['\r', '\n']);
    Ok(Some(BASE64_STANDARD.encode(format!("{user}:{password}"))))
}

/// Asks for the list; returns it as it came.
fn ask(address: SocketAddr, credentials: Option<&str>) -> Result<String, AskError> {
    let answer = exchange(address, credentials).map_err(|error| AskError::Silent { address, error })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status =
        head.lines().next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).unwrap_or("something else");
    match status {
        "200 OK" => Ok(body.to_owned()),
        "401 Unauthorized" => Err(AskError::Denied),
        status => Err(AskError::Refused(status.to_owned())),
    }
}

fn exchange(address: SocketAddr, credentials: Option<&str>) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let authorization =
        credentials.map(|text| format!("Authorization: Basic {text}\r\n")).unwrap_or_default();
    write!(
        stream,
        "GET /api/v1/sessions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{authorization}\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A line each, for people.
fn table(all: &Sessions) -> String {
    let heads = [
        "id",
        "client",
        "frontend",
        "server",
        "path",
        "state",
        "age",
        "idle",
        "received",
        "sent",
        "client-rtt",
        "server-rtt",
    ];
    let mut rows = vec![heads.map(str::to_owned)];
    rows.extend(all.sessions.iter().map(|session| {
        [
            session.id.to_string(),
            session.client.clone().unwrap_or_else(|| "-".to_owned()),
            session.frontend.clone(),
            format!("{}/{}", session.backend, session.server),
            session.path.clone(),
            session.state.clone(),
            format!("{:.0}s", session.age_seconds),
            format!("{:.0}s", session.idle_seconds),
            session.received_bytes.to_string(),
            session.sent_bytes.to_string(),
            round_trip(session.client_rtt_seconds, session.client_rtt_min_seconds),
            round_trip(session.server_rtt_seconds, session.server_rtt_min_seconds),
        ]
    }));
    let widths: [usize; 12] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())
            .expect("a String takes all text");
    }
    match all.further_sessions {
        0 => {}
        further => writeln!(text, "and {further} more").expect("as above"),
    }
    text.trim_end().to_owned()
}

/// The smoothed round trip and the shortest, in milliseconds; `-`: none was measured.
fn round_trip(smoothed_seconds: Option<f64>, shortest_seconds: Option<f64>) -> String {
    match smoothed_seconds.zip(shortest_seconds) {
        Some((smoothed, shortest)) => format!("{:.3}/{:.3}ms", smoothed * 1e3, shortest * 1e3),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_get_a_table() {
        let json = r#"{"sessions":[{"id":12,"client":"192.0.2.1:5","local":"x","frontend":"in","backend":"out",
            "server":"only","server_address":null,"path":"packet","state":"open","age_seconds":61.4,"idle_seconds":0.2,
            "received_bytes":5,"sent_bytes":6000,"received_packets":1,"sent_packets":2,
            "client_rtt_seconds":0.0205,"client_rtt_min_seconds":0.02,"server_rtt_seconds":null,"server_rtt_min_seconds":null}],"further_sessions":3}"#;
        let sessions = serde_json::from_str(json).expect("as README says");
        let expected = "id  client       frontend  server    path    state  age  idle  received  sent  client-rtt       server-rtt\n\
                        12  192.0.2.1:5  in        out/only  packet  open   61s  0s    5         6000  20.500/20.000ms  -\n\
                        and 3 more";
        assert_eq!(table(&sessions), expected);
    }
}
