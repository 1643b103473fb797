// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is at which path.

use std::sync::atomic::Ordering;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use lb_common::reason::ServerState;

use super::Surface;
use super::auth::Gate;
use crate::backend::Backend;
use crate::observe::metrics::Exposition;

const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

const INDEX: &str = "\
lb

/metrics  what is counted, for Prometheus
/healthz  200 while the agent runs
/readyz   200 while it takes connections and every backend has a server that is up, else 503 and why
";

/// A page, of the closed list of what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Index,
    Metrics,
    Health,
    Readiness,
}

impl Page {
    fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Index,
            "/metrics" => Self::Metrics,
            "/healthz" => Self::Health,
            "/readyz" => Self::Readiness,
            _ => return None,
        })
    }

    /// Whether load balancers and supervisors, which have no password, may ask for it.
    fn is_public(self) -> bool {
        matches!(self, Self::Health | Self::Readiness)
    }
}

/// The answer to a request. Its body, if any, is not looked at.
pub(super) async fn answer<B>(request: &Request<B>, surface: &Surface, gate: &Gate) -> Response<Full<Bytes>> {
    let page = Page::at(request.uri().path());
    // Without a password, nobody learns even which pages there are.
    if !page.is_some_and(Page::is_public) && !gate.admits(request.headers().get(header::AUTHORIZATION)).await
    {
        let challenge = HeaderValue::from_static("Basic realm=\"lb\", charset=\"UTF-8\"");
        let response = text(StatusCode::UNAUTHORIZED, "a user's name and password are needed\n");
        return with_header(response, header::WWW_AUTHENTICATE, challenge);
    }
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
        Page::Metrics => {
            let accept = request.headers().get_all(header::ACCEPT);
            let accept: Vec<&str> = accept.iter().filter_map(|value| value.to_str().ok()).collect();
            let exposition = Exposition::negotiate(&accept.join(","));
            respond(StatusCode::OK, exposition.content_type(), surface.metrics.encode(exposition))
        }
    }
}

fn readiness(surface: &Surface) -> Response<Full<Bytes>> {
    let backends = surface.backends.iter().map(|backend| (&*backend.settings.name, has_server(backend)));
    match obstacles(surface.is_draining.load(Ordering::Relaxed), backends) {
        None => text(StatusCode::OK, "ready\n"),
        Some(reasons) => respond(StatusCode::SERVICE_UNAVAILABLE, PLAIN_TEXT, reasons),
    }
}

/// Whether some server of a backend can be chosen.
fn has_server(backend: &Backend) -> bool {
    backend.servers.iter().any(|server| server.state() == ServerState::Up && server.settings.weight > 0)
}

/// Why the agent should get no new connections, one line a reason; `None`: it should.
fn obstacles<'a>(is_draining: bool, backends: impl Iterator<Item = (&'a str, bool)>) -> Option<String> {
    let mut reasons = String::new();
    if is_draining {
        reasons.push_str("draining\n");
    }
    for (name, _) in backends.filter(|(_, has_server)| !has_server) {
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
