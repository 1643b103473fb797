// SPDX-License-Identifier: MIT OR Apache-2.0
//! The results as one page that needs nothing else: what ran where, where lb wins and loses, and every sample as a plot.
//!
//! All text passes through maud, which escapes it.

mod aims;
mod overview;
mod plot;
mod programs;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::markdown::{notices, order, paths_taken, sign, the_best_haproxy};
use crate::micro::{AIM_NS, Micro};
use crate::results::{DIRECT, HAPROXY, Results, is_lb};
use crate::statistics::{self, NoRatio, Ratio, Verdict};

/// The look of the page.
const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn page(results: &Results) -> String {
    let environment = &results.plan.environment;
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "lb beside its peers, " (environment.date) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { h1 { "lb beside its peers" } (head(results)) }
                main {
                    (aims::aims(results))
                    (overview::overview(results))
                    (overview::other_paths(results))
                    (legend(results))
                    (suites(results))
                    (programs::programs(&results.program_times))
                    @if let Some(micro) = &results.micro { (micro_section(micro)) }
                }
                footer { (configurations(results)) }
            }
        }
    };
    markup.into_string()
}

/// What the numbers depend on.
fn head(results: &Results) -> Markup {
    let environment = &results.plan.environment;
    html! {
        @for notice in notices(results) { p.notice { (notice) } }
        @for (name, missing) in &environment.missing {
            p.notice { b { "Missing: " (name) } " (" (missing.reason) "). To install it: " code { (missing.install) } }
        }
        dl.facts {
            @for (name, fact) in environment.facts() { dt { (name) } dd { (fact) } }
            @for (name, version) in environment.versions() { dt { (name) } dd { (version) } }
            dt { "repeats" }
            dd { (results.plan.repeats) }
            dt { "order of turns" }
            dd { (order(results)) }
        }
    }
}

fn legend(results: &Results) -> Markup {
    html! {
        section {
            h2 { "How to read this" }
            p {
                "Each row of a plot is one contestant, the best one first: " b { "●" } " is the median, the bar the range from the \
                 least to the greatest, each faint tick a sample. Colours are those of families: "
                @for name in families(results) { span.(family(name)) { "● " (name) } " " }
                ". Beside it are median and range in numbers, and the ratio to HAProxy and to direct routing: "
                (badge(Verdict::Better)) " is better than the other, " (badge(Verdict::Worse)) " is worse, "
                (badge(Verdict::Level)) " is level."
            }
            p { (statistics::rule()) }
            @if let Some(who) = the_best_haproxy(results) { p { (who) } }
            p { (results.plan.environment.settings) }
        }
    }
}

/// One contestant of each family.
fn families(results: &Results) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for name in &results.plan.contestants {
        if names.iter().all(|known| family(known) != family(name)) {
            names.push(name);
        }
    }
    names
}

fn suites(results: &Results) -> Markup {
    let workloads: Vec<_> = results.plan.workloads.iter().enumerate().collect();
    html! {
        @for suite in workloads.chunk_by(|(_, one), (_, next)| one.suite == next.suite) {
            @if let Some((_, first)) = suite.first() {
                section {
                    h2 { (first.suite) }
                    p.method { (first.method) }
                    @for (index, planned) in suite {
                        h3 { (planned.title) }
                        @for (reason, names) in planned.absences(&results.plan.contestants) {
                            p.method { "Not here: " (names.join(", ")) " (" (reason) ")." }
                        }
                        @for taken in results.ours().filter_map(|name| paths_taken(results, std::slice::from_ref(*planned), name)) {
                            p.method { (taken) }
                        }
                        @for column in 0..planned.columns.len() {
                            (plot::figure(results, planned, (*index, column)))
                        }
                    }
                }
            }
        }
    }
}

/// Decisions, each alone.
fn micro_section(micro: &Micro) -> Markup {
    html! {
        section {
            h2 { "micro" }
            p.method {
                "Each decision of one connection alone, in a loop, without network and kernel. Aims: parsing a ClientHello and \
                 finding the route of a name, below " (format!("{:.0}", AIM_NS / 1e3)) " µs each."
            }
            div.scroll { table.overview {
                thead { tr { th { "decision" } th { "time" } th { "instructions" } th { "aim" } } }
                tbody { @for case in &micro.cases {
                    @let [time, instructions] = case.show();
                    tr {
                        th { (case.name) } td { (time) } td { (instructions) }
                        td { @if case.has_aim() {
                            (badge(if case.is_below_aim() { Verdict::Better } else { Verdict::Worse }))
                        } }
                    }
                } }
            } }
        }
    }
}

/// Every configuration, folded, and what our own programs were.
fn configurations(results: &Results) -> Markup {
    html! {
        h2 { "Configurations and programs" }
        @for (name, text) in &results.configs {
            details { summary { (name) } pre { (text) } }
        }
        dl.facts {
            @for (name, digest) in &results.plan.environment.digests {
                dt { "SHA-256 of " (name) } dd.digest { (digest) }
            }
        }
    }
}

/// The class of a contestant, which has a colour in the style sheet.
fn family(name: &str) -> &'static str {
    let prefixes =
        [(DIRECT, "direct"), (HAPROXY, "haproxy"), ("nginx", "nginx"), ("envoy", "envoy"), ("sozu", "sozu")];
    if is_lb(name) {
        return "lb";
    }
    prefixes.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or("other", |(_, class)| class)
}

/// The name of a figure for links to it.
fn anchor((workload, column): (usize, usize)) -> String {
    format!("w{workload}c{column}")
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Level => "level",
        Verdict::Worse => "worse",
    }
}

fn badge(verdict: Verdict) -> Markup {
    html! { span.(class(verdict)) { (sign(verdict)) } }
}

/// A ratio with its range, or why there is none.
fn ratio_text(ratio: Option<Result<Ratio, NoRatio>>) -> Markup {
    match ratio {
        None => html! { span.none { "–" } },
        Some(Err(reason)) => html! { span.none { (reason) } },
        Some(Ok(Ratio { spread, verdict })) => html! {
            span.(class(verdict)) { (sign(verdict)) " " (format!("{:.2}", spread.median)) }
            " " span.range { (format!("{:.2}–{:.2}", spread.min, spread.max)) }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    #[test]
    fn the_page_needs_nothing_else_and_escapes_everything() {
        let mut results = results(&[("lb-auto", &[2.0; 6]), ("haproxy", &[2.5; 6]), ("direct", &[9.0; 6])]);
        let absent = &mut results.plan.workloads[0].absent;
        absent.insert("direct".to_owned(), "more than <it> can".to_owned());
        results.micro = Some(crate::micro::tests::micro());
        results.configs.insert("<script>.cfg".to_owned(), "</pre><script>alert(1)</script>".to_owned());
        let page = page(&results);
        assert!(!page.contains("<script"));
        for foreign in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        for needle in [
            "download &lt;1&gt;",
            "Not here: direct (more than &lt;it&gt; can).",
            "Bytes &amp; more.",
            "All: 2 abaci.",
            "log/&lt;json&gt;",
            "--quick &lt;all&gt;",
            "HAProxy 1 &amp; 2 | 3",
        ] {
            assert!(page.contains(needle), "{needle}");
        }
    }

    #[test]
    fn every_family_has_a_colour() {
        for name in ["lb-splice", "direct", "haproxy-2.8", "nginx", "envoy", "sozu", "somebody"] {
            let rule = format!(".{} {{", family(name));
            assert!(STYLE.contains(&rule), "{name}");
        }
    }

    #[test]
    fn without_samples_there_is_still_a_page() {
        assert!(page(&results(&[("lb-auto", &[]), ("haproxy", &[])])).contains("How to read this"));
        assert!(page(&results(&[])).contains("How to read this"));
    }
}
