// SPDX-License-Identifier: MIT OR Apache-2.0
//! The HTTP/1.1 part of a check, through hyper's client.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::outcome::Outcome;

/// Most bytes of a response's head; a longer one is not HTTP.
const RESPONSE_HEAD_MAX: usize = 16 * 1024;

/// What is asked, and what is expected.
#[derive(Debug)]
pub(super) struct HttpProbe {
    request: Request<Empty<Bytes>>,
    /// Inclusive ranges.
    expect: Vec<(u16, u16)>,
}

impl HttpProbe {
    /// A request to `target`, which is also the host unless there is one.
    ///
    /// # Errors
    /// If method, path or host cannot be written in an HTTP request.
    pub(super) fn new(
        method: &str,
        path: &str,
        host: Option<&str>,
        expect: &[(u16, u16)],
        target: SocketAddr,
    ) -> Result<Self, hyper::http::Error> {
        let host = host.map_or_else(|| target.to_string(), str::to_owned);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("lb-health-check/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Empty::new())?;
        Ok(Self { request, expect: expect.to_vec() })
    }

    fn judge(&self, status: u16) -> Outcome {
        let is_expected = self.expect.iter().any(|(first, last)| (*first..=*last).contains(&status));
        if is_expected { Outcome::Status(status) } else { Outcome::BadStatus(status) }
    }
}

/// Sends the request and waits for the head of the response. What follows stays unread in the connection that comes back; the
/// server was asked to close it.
///
/// # Errors
/// The outcome, if no response came.
pub(super) async fn ask(stream: TcpStream, probe: &HttpProbe) -> Result<(Outcome, TcpStream), Outcome> {
    let (mut sender, mut connection) = http1::Builder::new()
        .max_buf_size(RESPONSE_HEAD_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Outcome::of_http(&error))?;
    let response = {
        let mut response = pin!(sender.send_request(probe.request.clone()));
        let end = poll_fn(|context| connection.poll_without_shutdown(context));
        tokio::select! {
            biased;
            response = &mut response => response,
            // The connection may end in the very step that brings the response (or the error).
            _ = end => response.await,
        }
    };
    let status = response.map_err(|error| Outcome::of_http(&error))?.status();
    Ok((probe.judge(status.as_u16()), connection.into_parts().io.into_inner()))
}
