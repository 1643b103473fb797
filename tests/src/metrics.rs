// SPDX-License-Identifier: MIT OR Apache-2.0
//! HTTP by hand, and the two text formats of Prometheus, read strictly.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::net::Namespace;
use crate::stream::receive_all;

/// What Prometheus asks for when it prefers OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header section, with the status line.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Asks for a path, with further header lines (each ending with CRLF).
///
/// # Errors
/// If the server cannot be connected, or ends before it has answered: a process that is about to end is still connected by the kernel.
///
/// # Panics
/// If the answer is not HTTP/1.1.
#[track_caller]
pub fn fetch(place: &Namespace, server: SocketAddr, path: &str, lines: &str) -> io::Result<Response> {
    ask(&place.try_connect(server)?, path, lines)
}

/// Asks on an open connection, which ends with the answer.
///
/// # Panics
/// If there is none.
#[track_caller]
pub fn fetch_on(stream: &TcpStream, path: &str, lines: &str) -> Response {
    ask(stream, path, lines).unwrap_or_else(|error| panic!("no answer: {error}"))
}

#[track_caller]
fn ask(mut stream: &TcpStream, path: &str, lines: &str) -> io::Result<Response> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{lines}\r\n");
    stream.write_all(request.as_bytes())?;
    let (answer, _) = receive_all(stream);
    let answer = String::from_utf8(answer).expect("text");
    let cut_off = || io::Error::from(io::ErrorKind::UnexpectedEof);
    if answer.is_empty() {
        return Err(cut_off());
    }
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not HTTP: {answer:?}"));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).expect("a status line");
    if header(head, "content-length").is_some_and(|length| length.parse() != Ok(body.len())) {
        return Err(cut_off());
    }
    let is_chunked = header(head, "transfer-encoding").is_some_and(|coding| coding == "chunked");
    let body = if is_chunked { joined(body) } else { body.to_owned() };
    Ok(Response { status: status.parse().expect("a number"), head: head.to_owned(), body })
}

/// The value of a field of a head.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.into_iter().find_map(|(field, value)| field.eq_ignore_ascii_case(name).then_some(value.trim()))
}

/// The chunks of RFC 9112 section 7.1, joined.
fn joined(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, behind)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk size");
        body.push_str(&behind[..size]);
        rest = behind[size..].strip_prefix("\r\n").expect("the end of a chunk");
        if size == 0 {
            break;
        }
    }
    body
}

/// All samples of a moment.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// The type of each family, by the name in its TYPE line.
    pub families: BTreeMap<String, String>,
    /// In the order of the text.
    pub samples: Vec<Sample>,
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name as written, with `_total`, `_bucket`, `_sum` and so on.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Scrape {
    /// Reads a text of format 0.0.4 or OpenMetrics 1.0.0.
    ///
    /// # Panics
    /// If it breaks the format: samples without a family, families without a description, a sample twice, histograms that
    /// do not add up, anything behind `# EOF`.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        let mut described = BTreeSet::new();
        let mut is_over = false;
        assert!(text.ends_with('\n'), "the last line is not ended");
        for line in text.lines() {
            assert!(!is_over, "behind # EOF: {line}");
            match line.strip_prefix("# ").map(|rest| rest.splitn(3, ' ').collect::<Vec<_>>()).as_deref() {
                Some(["EOF"]) => is_over = true,
                Some(["HELP", name, help]) if !help.is_empty() => {
                    assert!(described.insert((*name).to_owned()), "{name} is described twice");
                }
                Some(["TYPE", name, kind]) => {
                    let twice = scrape.families.insert((*name).to_owned(), (*kind).to_owned());
                    assert_eq!(twice, None, "{name} has two types");
                }
                Some(["UNIT", ..]) => {}
                Some(other) => panic!("unknown comment {other:?}"),
                None => scrape.add(sample(line)),
            }
        }
        let families: BTreeSet<String> = scrape.families.keys().cloned().collect();
        assert_eq!(described, families, "described and typed families");
        scrape.check_histograms();
        scrape
    }

    /// The sum of all samples of a name whose labels include `labels`; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// The same as a whole number.
    ///
    /// # Panics
    /// If it is not one.
    #[track_caller]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let sum = self.sum(name, labels);
        assert!(sum >= 0.0 && sum.fract() == 0.0, "{name}{labels:?} = {sum}");
        format!("{sum:.0}").parse().expect("a whole number")
    }

    /// The one sample of a name whose labels include `labels`.
    ///
    /// # Panics
    /// If there is none or more than one.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let values: Vec<f64> = self.matching(name, labels).map(|sample| sample.value).collect();
        let [value] = values[..] else { panic!("{name}{labels:?}: {} samples", values.len()) };
        value
    }

    fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        let has = |sample: &Sample, (key, value): &(&str, &str)| {
            sample.labels.get(*key).is_some_and(|found| found == value)
        };
        let all =
            move |sample: &&Sample| sample.name == name && labels.iter().all(|label| has(sample, label));
        self.samples.iter().filter(all)
    }

    fn add(&mut self, sample: Sample) {
        let family = ["", "_total", "_bucket", "_sum", "_count", "_created", "_info"]
            .iter()
            .filter_map(|suffix| sample.name.strip_suffix(suffix))
            .find(|name| self.families.contains_key(*name));
        assert!(family.is_some(), "{} has no TYPE before it", sample.name);
        let is_new = |other: &Sample| other.name != sample.name || other.labels != sample.labels;
        assert!(self.samples.iter().all(is_new), "{sample:?} is there twice");
        self.samples.push(sample);
    }

    /// Buckets are cumulative, and the last one is the count.
    #[track_caller]
    fn check_histograms(&self) {
        for (name, _) in self.families.iter().filter(|(_, kind)| *kind == "histogram") {
            let (bucket, count) = (format!("{name}_bucket"), format!("{name}_count"));
            for total in self.matching(&count, &[]) {
                let labels: Vec<_> = total.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                let values: Vec<f64> = self.matching(&bucket, &labels).map(|sample| sample.value).collect();
                assert!(values.is_sorted(), "{bucket}{labels:?}: {values:?}");
                assert_eq!(values.last(), Some(&total.value), "{bucket}{labels:?}");
            }
        }
    }
}

/// `name{label="value",…} value`
#[track_caller]
fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
    let value = value.replace("+Inf", "inf").parse().unwrap_or_else(|_| panic!("not a value: {line}"));
    let Some((name, labels)) = series.split_once('{') else {
        return Sample { name: series.to_owned(), labels: BTreeMap::new(), value };
    };
    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("labels are not closed: {line}"));
    // No label value of ours holds a comma or a quote: they come from closed lists and from names of the configuration.
    let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
        let (key, value) = label.split_once("=\"").unwrap_or_else(|| panic!("not a label: {line}"));
        let value = value.strip_suffix('"').unwrap_or_else(|| panic!("not quoted: {line}"));
        (key.to_owned(), value.to_owned())
    });
    Sample { name: name.to_owned(), labels: labels.collect(), value }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_scrape_is_read() {
        let text = "# HELP lb_a Things.\n# TYPE lb_a counter\nlb_a_total{x=\"1\",y=\"b\"} 3\nlb_a_total{x=\"2\",y=\"b\"} 4\n# EOF\n";
        let scrape = Scrape::parse(text);
        assert_eq!(scrape.count("lb_a_total", &[("y", "b")]), 7);
        assert_eq!(scrape.count("lb_a_total", &[("x", "2")]), 4);
    }

    /// What somebody who says `answer` and ends is understood as.
    fn asked(answer: &'static str) -> io::Result<Response> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("a listener");
        let server = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let mut length = 0;
            while !request[..length].ends_with(b"\r\n\r\n") {
                length += connection.read(&mut request[length..]).expect("a request");
            }
            connection.write_all(answer.as_bytes()).expect("a client that reads");
        });
        let response = ask(&stream, "/", "");
        server.join().expect("no panic");
        response
    }

    #[test]
    fn whoever_ends_before_the_answer_is_whole_has_not_answered() {
        for cut_off in ["", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nthe"] {
            assert!(asked(cut_off).is_err(), "{cut_off:?}");
        }
        let response = asked("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nthey").expect("an answer");
        assert_eq!((response.status, &*response.body), (200, "they"));
    }

    #[test]
    #[should_panic(expected = "has no TYPE")]
    fn a_sample_without_a_family_is_an_error() {
        Scrape::parse("lb_a_total 1\n");
    }
}
