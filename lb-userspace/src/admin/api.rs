// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/api/v1/…`: what the agent knows, as JSON. Fields that are there stay as they are; further ones may come. README lists them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Serialize;

use crate::backend::{Backend, Server};
use crate::coalescing::Finding;
use crate::config::BackendId;
use crate::health::{CheckResult, LastCertificate, Verdict};

/// `/api/v1/servers`
#[derive(Debug, Serialize)]
struct Servers<'a> {
    servers: Vec<ServerReport<'a>>,
}

/// One server of a backend.
#[derive(Debug, Serialize)]
struct ServerReport<'a> {
    backend: &'a str,
    server: &'a str,
    address: String,
    state: &'static str,
    since: String,
    weight: u16,
    backup: bool,
    connections: u32,
    max_connections: Option<u32>,
    checked: bool,
    certificate: Option<CertificateReport>,
    results: Vec<ResultReport>,
}

/// What the last check over TLS saw.
#[derive(Debug, Serialize)]
struct CertificateReport {
    names: Vec<String>,
    not_after: Option<String>,
}

/// One check, or what traffic came to.
#[derive(Debug, Serialize)]
struct ResultReport {
    at: String,
    duration_seconds: f64,
    passed: Option<bool>,
    reason: String,
    state: &'static str,
}

/// `/api/v1/warnings`
#[derive(Debug, Serialize)]
struct Warnings<'a> {
    certificate_overlaps: Vec<OverlapReport<'a>>,
    further_certificate_overlaps: usize,
}

/// A certificate of one backend that covers names of another.
#[derive(Debug, Serialize)]
struct OverlapReport<'a> {
    frontend: &'a str,
    backend: &'a str,
    certificate_name: &'a str,
    other_backend: &'a str,
    example: &'a str,
}

/// All servers, in the order of the configuration. Its size is bounded by their number: each has at most
/// [`crate::health::RESULTS_MAX`] results and one certificate of bounded size.
pub(super) fn servers<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> String {
    // The servers of the moment, for names to be borrowed from.
    let backends: Vec<_> =
        backends.into_iter().map(|backend| (&backend.settings, backend.servers())).collect();
    let all = backends.iter().flat_map(|(settings, servers)| {
        let is_checked = settings.check.is_some();
        servers.iter().map(move |server| report(&settings.name, is_checked, server))
    });
    let servers = Servers { servers: all.collect() };
    serde_json::to_string(&servers).expect("text, numbers and lists have a form in JSON")
}

/// What looks wrong. Its size is bounded by the number of frontends, each with at most [`crate::coalescing::LISTED_MAX`] overlaps.
pub(super) fn warnings(findings: &[(Arc<str>, Finding)], backends: &[Arc<Backend>]) -> String {
    let name = |BackendId(position): BackendId| &*backends[position].settings.name;
    let overlaps = findings.iter().flat_map(|(frontend, finding)| {
        finding.listed.iter().map(move |listed| OverlapReport {
            frontend,
            backend: name(listed.backend),
            certificate_name: &listed.certificate_name,
            other_backend: name(listed.other),
            example: &listed.example,
        })
    });
    let warnings = Warnings {
        certificate_overlaps: overlaps.collect(),
        further_certificate_overlaps: findings.iter().map(|(_, finding)| finding.more).sum(),
    };
    serde_json::to_string(&warnings).expect("text, numbers and lists have a form in JSON")
}

fn report<'a>(backend: &'a str, is_checked: bool, server: &'a Server) -> ServerReport<'a> {
    let settings = &*server.settings;
    ServerReport {
        backend,
        server: &settings.name,
        address: server.address.to_string(),
        state: server.state().label(),
        since: time(server.vitals.since()),
        weight: settings.weight,
        backup: settings.is_backup,
        connections: server.active(),
        max_connections: settings.max_connections.map(Into::into),
        checked: is_checked && settings.is_checked,
        certificate: server.vitals.certificate().map(|certificate| certificate_report(&certificate)),
        results: server.vitals.results().iter().map(result).collect(),
    }
}

fn certificate_report(certificate: &LastCertificate) -> CertificateReport {
    // A server may claim any time; what the calendar has no day for is left out.
    let not_after = Timestamp::from_second(certificate.not_after).ok().map(|time| time.to_string());
    CertificateReport { names: certificate.names.clone(), not_after }
}

fn result(result: &CheckResult) -> ResultReport {
    ResultReport {
        at: time(result.at),
        duration_seconds: result.duration.as_secs_f64(),
        passed: match result.outcome.verdict() {
            Verdict::Passed => Some(true),
            Verdict::Failed => Some(false),
            Verdict::Unknown => None,
        },
        reason: result.outcome.to_string(),
        state: result.state.label(),
    }
}

/// A time in UTC to the millisecond (RFC 3339).
fn time(time: SystemTime) -> String {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    // A clock beyond the year 9999 is shown as 1970, as one that was never set.
    format!("{:.3}", Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::backend::testing::{backend, server, settings};
    use crate::coalescing::Listed;

    pub fn keys(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| {
                found.insert(key.clone());
                keys(value, found);
            }),
            Value::Array(entries) => entries.iter().for_each(|entry| keys(entry, found)),
            _ => {}
        }
    }

    #[test]
    fn times_are_in_utc() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        assert_eq!(time(at), "1970-01-01T00:00:01.500Z");
        let certificate = LastCertificate { names: Vec::new(), not_after: 1_927_843_200 };
        assert_eq!(certificate_report(&certificate).not_after.as_deref(), Some("2031-02-03T00:00:00Z"));
        let broken = LastCertificate { names: Vec::new(), not_after: i64::MAX };
        assert_eq!(certificate_report(&broken).not_after, None);
    }

    #[test]
    fn the_readme_lists_exactly_the_fields() {
        let backend = backend(settings(vec![server("a", 1, 0), server("b", 0, 7)]));
        let json = servers([&backend]);
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["servers"][0]["server"], "a");
        assert_eq!(value["servers"][1]["max_connections"], 7);
        assert_eq!(value["servers"][0]["certificate"], Value::Null);

        let all = backend.servers();
        let report = report("web", true, &all[0]);
        let certificate = CertificateReport { names: Vec::new(), not_after: None };
        let results = ResultReport {
            at: String::new(),
            duration_seconds: 0.0,
            passed: None,
            reason: String::new(),
            state: "up",
        };
        let full = ServerReport { certificate: Some(certificate), results: vec![results], ..report };
        let mut fields = BTreeSet::new();
        keys(&serde_json::to_value(full).unwrap(), &mut fields);
        assert_eq!(fields, documented("api"));
    }

    /// The fields in a table of README.
    pub fn documented(table: &str) -> BTreeSet<String> {
        let readme = include_str!("../../../README.md");
        let (_, rest) = readme.split_once(&format!("<!-- {table}:begin -->")).unwrap();
        let (table, _) = rest.split_once(&format!("<!-- {table}:end -->")).unwrap();
        table
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .map(|field| field.rsplit(['.', ']']).next().unwrap_or(field).to_owned())
            .collect()
    }

    #[test]
    fn the_readme_lists_exactly_the_fields_of_warnings() {
        let named = |name: &str| {
            let only = settings(vec![server("a", 1, 0)]);
            Arc::new(backend(crate::config::Backend { name: name.into(), ..only }))
        };
        let listed = Listed {
            backend: BackendId(1),
            certificate_name: "*.example".into(),
            other: BackendId(0),
            example: "a.example".into(),
        };
        let findings = [
            ("f".into(), Finding { listed: vec![listed.clone()], more: 3 }),
            ("g".into(), Finding { listed: vec![listed], more: 4 }),
        ];
        let json = warnings(&findings, &[named("api"), named("web")]);
        let value: Value = serde_json::from_str(&json).unwrap();
        let overlap = &value["certificate_overlaps"][1];
        assert_eq!((&overlap["frontend"], &overlap["backend"]), (&"g".into(), &"web".into()));
        assert_eq!((&overlap["other_backend"], &overlap["example"]), (&"api".into(), &"a.example".into()));
        assert_eq!(value["further_certificate_overlaps"], 7);
        let mut fields = BTreeSet::new();
        keys(&value, &mut fields);
        assert_eq!(fields, documented("warnings"));
    }
}
