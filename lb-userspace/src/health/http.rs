// SPDX-License-Identifier: MIT OR Apache-2.0
//! The HTTP/1.1 part of a check, through hyper's client.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::outcome::Outcome;
use crate::config::{BytePattern, Probe};

/// Most bytes of a response's head; a longer one is not HTTP.
const RESPONSE_HEAD_MAX: usize = 16 * 1024;

/// Most bytes of a body that are searched; what is expected must be within them.
const BODY_MAX: usize = 64 * 1024;

/// What is asked, and what is expected.
#[derive(Debug)]
pub(super) struct HttpProbe {
    request: Request<Empty<Bytes>>,
    /// Inclusive ranges.
    expect: Vec<(u16, u16)>,
    body: Option<BytePattern>,
}

impl HttpProbe {
    /// The request of a check to `target`, which is also the host unless there is one; `None` if the check has none.
    ///
    /// # Errors
    /// If a part cannot be written in an HTTP request.
    pub(super) fn new(probe: &Probe, target: SocketAddr) -> Result<Option<Self>, hyper::http::Error> {
        let Probe::Http { method, path, host, headers, expect, body } = probe else { return Ok(None) };
        let host = host.as_ref().map_or_else(|| target.to_string(), Clone::clone);
        let mut request = Request::builder()
            .method(&**method)
            .uri(path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("lb-health-check/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Empty::new())?;
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes())?;
            // In place of the one above, if it is the user agent.
            request.headers_mut().insert(name, HeaderValue::from_str(value)?);
        }
        Ok(Some(Self { request, expect: expect.clone(), body: body.clone() }))
    }

    fn judge(&self, status: u16) -> Outcome {
        let is_expected = self.expect.iter().any(|(first, last)| (*first..=*last).contains(&status));
        if is_expected { Outcome::Status(status) } else { Outcome::BadStatus(status) }
    }

    /// Judges the answer: its status, and then as much of its body as is needed.
    async fn judge_body(&self, outcome: Outcome, body: Incoming) -> Outcome {
        match (&self.body, outcome) {
            (Some(pattern), Outcome::Status(_)) if !holds(body, pattern).await => Outcome::BadBody,
            _ => outcome,
        }
    }
}

/// Sends the request and waits for the answer, for its body only if something is expected of it. What follows stays unread in the
/// connection that comes back; the server was asked to close it.
///
/// # Errors
/// The outcome, if no response came.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    probe: &HttpProbe,
) -> Result<(Outcome, S), Outcome> {
    let (mut sender, mut connection) = http1::Builder::new()
        .max_buf_size(RESPONSE_HEAD_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Outcome::of_http(&error))?;
    let outcome = {
        let mut answer = pin!(async {
            let response = sender.send_request(probe.request.clone()).await?;
            let outcome = probe.judge(response.status().as_u16());
            Ok(probe.judge_body(outcome, response.into_body()).await)
        });
        let end = poll_fn(|context| connection.poll_without_shutdown(context));
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            // The connection may end in the very step that brings the answer (or the error).
            _ = end => answer.await,
        }
    };
    let outcome = outcome.map_err(|error: hyper::Error| Outcome::of_http(&error))?;
    Ok((outcome, connection.into_parts().io.into_inner()))
}

/// Whether the first [`BODY_MAX`] bytes of a body hold the pattern; a body that is cut off counts as far as it came.
async fn holds(mut body: Incoming, pattern: &BytePattern) -> bool {
    let mut bytes = Vec::new();
    while bytes.len() < BODY_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Some(data) = frame.data_ref() {
            let (before, room) = (bytes.len(), BODY_MAX - bytes.len());
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            // Some bodies never end.
            if pattern.is_text_in(&bytes, before) {
                return true;
            }
        }
    }
    pattern.find_end(&bytes).is_some()
}
