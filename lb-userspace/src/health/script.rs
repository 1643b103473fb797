// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scripts: bytes to send, and bytes that must come.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::outcome::Outcome;
use crate::config::{BytePattern, ScriptStep};

/// Most bytes that a server may send before what is expected of it.
const ANSWER_MAX: usize = 16 * 1024;

/// Follows the steps until the last one or until `deadline`.
///
/// # Errors
/// The outcome, if a step did not come true.
pub(super) async fn follow<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    steps: &[ScriptStep],
    deadline: Instant,
) -> Result<Outcome, Outcome> {
    // What came and no step has matched.
    let mut answer = Vec::new();
    for (number, step) in (1..).zip(steps) {
        match step {
            ScriptStep::Send(bytes) => send(stream, bytes).await?,
            ScriptStep::Expect(pattern) => expect(stream, pattern, &mut answer, number, deadline).await?,
        }
    }
    Ok(Outcome::Scripted)
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), Outcome> {
    let sent = async {
        stream.write_all(bytes).await?;
        // TLS keeps bytes back until then.
        stream.flush().await
    };
    sent.await.map_err(|error| Outcome::of_io(&error))
}

/// Waits for a match and takes everything up to its end out of `answer`.
async fn expect<S: AsyncRead + Unpin>(
    stream: &mut S,
    pattern: &BytePattern,
    answer: &mut Vec<u8>,
    step: u8,
    deadline: Instant,
) -> Result<(), Outcome> {
    loop {
        if let Some(end) = pattern.find_end(answer) {
            answer.drain(..end);
            return Ok(());
        }
        if answer.len() >= ANSWER_MAX {
            return Err(Outcome::Unexpected { step });
        }
        let read = timeout_at(deadline, stream.read_buf(answer)).await;
        let is_silent = answer.is_empty();
        match read {
            Ok(Ok(1..)) => {}
            Ok(Ok(0)) if is_silent => return Err(Outcome::Closed),
            Ok(Err(error)) if is_silent => return Err(Outcome::of_io(&error)),
            Err(_) if is_silent => return Err(Outcome::Timeout),
            // Whatever ended the wait, what came before is the better reason.
            _ => return Err(Outcome::Unexpected { step }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use regex::bytes::Regex;

    use super::*;

    fn expected(text: &str) -> ScriptStep {
        ScriptStep::Expect(BytePattern::Bytes(text.into()))
    }

    fn sent(text: &str) -> ScriptStep {
        ScriptStep::Send(text.into())
    }

    fn matching(regex: &str) -> ScriptStep {
        ScriptStep::Expect(BytePattern::Regex(Regex::new(regex).unwrap()))
    }

    /// A server that says these things, one after the other, and then closes.
    async fn check(steps: &[ScriptStep], said: &'static [&'static [u8]], expected: Outcome) {
        let (mut client, mut server) = tokio::io::duplex(64);
        let saying = async {
            for bytes in said {
                if server.write_all(bytes).await.is_err() {
                    return;
                }
            }
            drop(server);
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        let (outcome, ()) = tokio::join!(
            async {
                let outcome = follow(&mut client, steps, deadline).await;
                drop(client);
                outcome
            },
            saying
        );
        assert_eq!(outcome.unwrap_or_else(|outcome| outcome), expected, "{steps:?} {said:?}");
    }

    #[tokio::test]
    async fn steps_consume_what_they_match() {
        check(&[expected("+PONG")], &[b"+PO", b"NG\r\n"], Outcome::Scripted).await;
        check(&[expected("ab"), expected("ab")], &[b"abab"], Outcome::Scripted).await;
        check(&[expected("ab"), expected("ab")], &[b"ab", b"b"], Outcome::Unexpected { step: 2 }).await;
        check(&[sent("x"), matching("^[SN]")], &[b"N"], Outcome::Scripted).await;
        check(&[matching("^[SN]")], &[b"E", b"N"], Outcome::Unexpected { step: 1 }).await;
        check(&[matching(r"(?s-u)^...\x00\x0a")], &[b"\xff\x00\x00\x00", b"\x0a8.0"], Outcome::Scripted)
            .await;
    }

    #[tokio::test]
    async fn what_does_not_come_has_a_reason() {
        check(&[sent("x"), expected("ok")], &[], Outcome::Closed).await;
        check(&[expected("ok")], &[b"no"], Outcome::Unexpected { step: 1 }).await;
    }

    #[tokio::test]
    async fn an_endless_answer_ends() {
        check(&[expected("ok")], &[&[b'x'; 1 << 20]], Outcome::Unexpected { step: 1 }).await;
    }

    #[tokio::test]
    async fn a_server_that_goes_silent_is_told_from_one_that_says_another_thing() {
        let silent = |bytes: &'static [u8]| async move {
            let (mut client, mut server) = tokio::io::duplex(64);
            server.write_all(bytes).await.unwrap();
            follow(&mut client, &[expected("ok")], Instant::now() + Duration::from_millis(50)).await
        };
        assert_eq!(silent(b"").await, Err(Outcome::Timeout));
        assert_eq!(silent(b"-ERR").await, Err(Outcome::Unexpected { step: 1 }));
    }
}
