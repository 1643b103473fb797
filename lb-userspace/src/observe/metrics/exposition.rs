// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a scrape looks: OpenMetrics 1.0, or the Prometheus text format 0.0.4, whichever the Accept header asks for.

/// A format of the answer to a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0 (the specification of the same name, section "Text format").
    OpenMetrics,
    /// Prometheus text format 0.0.4 (Prometheus documentation, "Exposition formats").
    PrometheusText,
}

impl Exposition {
    /// The value of the Content-Type header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::PrometheusText => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The format that an Accept header (RFC 9110 section 12.5.1) prefers; [`Self::PrometheusText`] where it names neither,
    /// because every scraper and every person can read it.
    pub fn negotiate(accept: &str) -> Self {
        let (mut openmetrics, mut text) = (0.0_f32, 0.0_f32);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
            let value = |name: &str| {
                parameters
                    .iter()
                    .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
                    .map(|&(_, v)| v.trim())
            };
            let quality: f32 = value("q").map_or(1.0, |q| q.parse().unwrap_or(0.0));
            let version = value("version").map(|version| version.trim_matches('"'));
            if media.eq_ignore_ascii_case("application/openmetrics-text")
                && matches!(version, None | Some("1.0.0"))
            {
                openmetrics = quality.max(openmetrics);
            } else if media.eq_ignore_ascii_case("text/plain") && matches!(version, None | Some("0.0.4")) {
                text = quality.max(text);
            }
        }
        if openmetrics > 0.0 && openmetrics >= text { Self::OpenMetrics } else { Self::PrometheusText }
    }
}

/// Turns what the encoder wrote (OpenMetrics) into the Prometheus text format: comments about counters and infos carry the
/// name of the samples, an info is a gauge, and there is neither UNIT nor EOF. Samples are the same in both.
pub(super) fn prometheus_text(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        if let Some(pair) = comment.strip_prefix("HELP ").and_then(|rest| rest.split_once(' ')) {
            // The kind, which decides on the name, is on the next line.
            help = Some(pair);
        } else if let Some((name, kind)) = comment.strip_prefix("TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let help = help.take().filter(|(helped, _)| *helped == name).map(|(_, help)| help);
            push_comments(&mut text, name, kind, help);
        }
    }
    text
}

fn push_comments(text: &mut String, name: &str, kind: &str, help: Option<&str>) {
    let (suffix, kind) = match kind {
        "counter" => ("_total", "counter"),
        "info" => ("_info", "gauge"),
        "unknown" => ("", "untyped"),
        other => ("", other),
    };
    if let Some(help) = help {
        text.extend(["# HELP ", name, suffix, " ", help, "\n"]);
    }
    text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_negotiation(accept: &str, expected: Exposition) {
        assert_eq!(Exposition::negotiate(accept), expected, "{accept}");
    }

    #[test]
    fn the_accept_header_chooses_the_format() {
        use Exposition::{OpenMetrics, PrometheusText};
        check_negotiation("", PrometheusText);
        check_negotiation("*/*", PrometheusText);
        check_negotiation("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", PrometheusText);
        check_negotiation("application/openmetrics-text", OpenMetrics);
        check_negotiation("Application/OpenMetrics-Text ; Version=1.0.0 ; charset=utf-8", OpenMetrics);
        check_negotiation("application/openmetrics-text;version=\"1.0.0\"", OpenMetrics);
        check_negotiation("application/openmetrics-text;version=0.0.1", PrometheusText);
        check_negotiation("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", PrometheusText);
        check_negotiation("application/openmetrics-text;q=0", PrometheusText);
        check_negotiation("application/openmetrics-text;q=bad", PrometheusText);
        check_negotiation(
            "application/openmetrics-text;q=0.3,text/plain;version=0.0.4;q=0.5",
            PrometheusText,
        );
        check_negotiation("application/openmetrics-text;q=0.5,text/plain;q=0.5", OpenMetrics);
        check_negotiation(",;=;,q=1,;;", PrometheusText);
        // What Prometheus 2 and Prometheus 3 send.
        check_negotiation(
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            OpenMetrics,
        );
        check_negotiation(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
             text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            OpenMetrics,
        );
    }

    #[test]
    fn openmetrics_becomes_prometheus_text() {
        let openmetrics = "# HELP lb_build Version.\n# TYPE lb_build info\nlb_build_info{version=\"1\"} 1\n\
                           # HELP a_bytes Bytes.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{x=\"# HELP\"} 7\n\
                           # HELP t_seconds Time.\n# TYPE t_seconds histogram\n# UNIT t_seconds seconds\n\
                           t_seconds_bucket{le=\"+Inf\"} 1\n# TYPE bare gauge\nbare 1\n# EOF\n";
        let expected = "# HELP lb_build_info Version.\n# TYPE lb_build_info gauge\nlb_build_info{version=\"1\"} 1\n\
                        # HELP a_bytes_total Bytes.\n# TYPE a_bytes_total counter\na_bytes_total{x=\"# HELP\"} 7\n\
                        # HELP t_seconds Time.\n# TYPE t_seconds histogram\nt_seconds_bucket{le=\"+Inf\"} 1\n\
                        # TYPE bare gauge\nbare 1\n";
        assert_eq!(prometheus_text(openmetrics), expected);
    }
}
