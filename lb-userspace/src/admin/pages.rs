// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is at which path.

use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;

use super::auth::Gate;
use super::{Surface, api, sessions};
use crate::observe::metrics::Exposition;

const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

const INDEX: &str = "\
lb

/metrics  what is counted, for Prometheus
/healthz  200 while the agent runs
/readyz   200 while it takes connections and every backend has a server that is up, else 503 and why
/api/v1/servers  servers, their states and last checks, as JSON
/api/v1/sessions  open connections of path packet, as JSON
/api/v1/warnings  certificates that cover names of other backends, as JSON
";

/// A page, of the closed list of what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Index,
    Metrics,
    Health,
    Readiness,
    Servers,
    Sessions,
    Warnings,
}

impl Page {
    fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Index,
            "/metrics" => Self::Metrics,
            "/healthz" => Self::Health,
            "/readyz" => Self::Readiness,
            "/api/v1/servers" => Self::Servers,
            "/api/v1/sessions" => Self::Sessions,
            "/api/v1/warnings" => Self::Warnings,
            _ => return None,
        })
    }

    /// Whether load balancers and supervisors, which have no password, may ask for it.
    fn is_public(self) -> bool {
        matches!(self, Self::Health | Self::Readiness)
    }
}

/// The answer to a request; `is_answered` is set as soon as it is let in. Its body, if any, is not looked at.
pub(super) async fn answer<B>(
    request: &Request<B>,
    surface: &Surface,
    gate: &Gate,
    is_answered: &AtomicBool,
) -> Response<Full<Bytes>> {
    let page = Page::at(request.uri().path());
    // Without a password, nobody learns even which pages there are.
    if !page.is_some_and(Page::is_public) && !gate.admits(request.headers().get(header::AUTHORIZATION)).await
    {
        let challenge = HeaderValue::from_static("Basic realm=\"lb\", charset=\"UTF-8\"");
        let response = text(StatusCode::UNAUTHORIZED, "a user's name and password are needed\n");
        return with_header(response, header::WWW_AUTHENTICATE, challenge);
    }
    is_answered.store(true, Ordering::Relaxed);
    let Some(page) = page else {
        return text(StatusCode::NOT_FOUND, "there is no such page; / lists them\n");
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n");
        return with_header(response, header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    match page {
        Page::Index => text(StatusCode::OK, INDEX),
        Page::Health => text(StatusCode::OK, "ok\n"),
        Page::Readiness => readiness(surface),
        Page::Servers => {
            let backends = surface.backends.clone();
            let servers = aside(move || api::servers(backends.iter().map(|backend| &**backend)));
            report("application/json", servers.await)
        }
        Page::Sessions => {
            let kernel = surface.packet.clone();
            report("application/json", aside(move || sessions::sessions(kernel.as_deref())).await)
        }
        Page::Warnings => {
            let warnings = api::warnings(&surface.findings.all(), &surface.backends);
            respond(StatusCode::OK, "application/json", warnings)
        }
        Page::Metrics => {
            let accept = request.headers().get_all(header::ACCEPT);
            let accept: Vec<&str> = accept.iter().filter_map(|value| value.to_str().ok()).collect();
            let exposition = Exposition::negotiate(&accept.join(","));
            let metrics = surface.metrics.clone();
            report(exposition.content_type(), aside(move || metrics.encode(exposition)).await)
        }
    }
}

/// Writes a page whose length grows with the configuration on a thread of its own, and one such page at a time: with 10,000 servers that
/// takes part of a second, in which the control thread would finish no check. `None`: the agent ends.
async fn aside(write: impl FnOnce() -> String + Send + 'static) -> Option<String> {
    static TURN: Semaphore = Semaphore::const_new(1);
    let turn = TURN.acquire().await.ok()?;
    let writing = tokio::task::spawn_blocking(move || {
        let text = write();
        // Here and not in the caller, which ends as soon as its client hangs up.
        drop(turn);
        text
    });
    writing.await.ok()
}

fn report(content_type: &'static str, text: Option<String>) -> Response<Full<Bytes>> {
    match text {
        Some(text) => respond(StatusCode::OK, content_type, text),
        None => self::text(StatusCode::SERVICE_UNAVAILABLE, "the agent ends\n"),
    }
}

fn readiness(surface: &Surface) -> Response<Full<Bytes>> {
    let backends = surface.backends.iter().map(|backend| (&*backend.settings.name, backend.is_available()));
    match obstacles(surface.is_draining.load(Ordering::Relaxed), backends) {
        None => text(StatusCode::OK, "ready\n"),
        Some(reasons) => respond(StatusCode::SERVICE_UNAVAILABLE, PLAIN_TEXT, reasons),
    }
}

/// Why the agent should get no new connections, one line a reason; `None`: it should. With each backend's name goes whether it
/// is available.
fn obstacles<'a>(is_draining: bool, backends: impl Iterator<Item = (&'a str, bool)>) -> Option<String> {
    let mut reasons = String::new();
    if is_draining {
        reasons.push_str("draining\n");
    }
    for (name, _) in backends.filter(|(_, is_available)| !is_available) {
        reasons.extend(["backend ", name, ": no server is up\n"]);
    }
    (!reasons.is_empty()).then_some(reasons)
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(status, PLAIN_TEXT, body)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let response = with_header(response, header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let response = with_header(response, header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    with_header(response, header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

fn with_header(
    mut response: Response<Full<Bytes>>,
    name: HeaderName,
    value: HeaderValue,
) -> Response<Full<Bytes>> {
    response.headers_mut().insert(name, value);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(is_draining: bool, backends: &[(&str, bool)], expected: Option<&str>) {
        assert_eq!(obstacles(is_draining, backends.iter().copied()).as_deref(), expected);
    }

    /// The control thread goes on with checks while a page is written that may be long.
    #[tokio::test]
    async fn long_pages_are_written_aside() {
        let here = std::thread::current().id();
        let text = aside(move || (std::thread::current().id() != here).to_string()).await;
        assert_eq!(text.as_deref(), Some("true"));
    }

    #[test]
    fn readiness_names_every_obstacle() {
        check(false, &[], None);
        check(false, &[("web", true), ("db", true)], None);
        check(true, &[("web", true)], Some("draining\n"));
        check(false, &[("web", true), ("db", false)], Some("backend db: no server is up\n"));
        check(
            true,
            &[("web", false), ("db", false)],
            Some("draining\nbackend web: no server is up\nbackend db: no server is up\n"),
        );
    }
}
