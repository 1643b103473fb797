// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real downloads over TLS: wrk for HTTP/1.1, h2load for HTTP/2, as child processes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::super::{Outcome, Reuse, Task, Times, Tool, has_tail, route_name};

/// Has wrk connect to the balancer whatever the name resolves to, and say what it saw in one line of JSON.
const WRK_SCRIPT: &str = r#"
local lookup = wrk.lookup
function wrk.lookup(_, service)
    return lookup(os.getenv("LB_BENCH_TARGET"), service)
end
function done(summary, latency)
    local errors = summary.errors
    io.write(string.format('RESULT {"microseconds":%d,"requests":%d,"bytes":%d,"errors":%d,"p50":%f,"p99":%f,"p999":%f}\n',
        summary.duration, summary.requests, summary.bytes,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;

/// Seconds after which h2load gives up on a connection on which nothing happens, and wrk on a request.
const PATIENCE: &str = "60";

/// Downloads files of so many bytes.
///
/// # Errors
/// The tool is not installed, any download fails, or bytes are missing.
pub fn run(task: &Task, tool: Tool, bytes: u64, connections: u32) -> Result<Outcome> {
    let target = task.targets[0];
    let url = format!("https://{}:{}/{bytes}", route_name(0), target.port());
    let folder = tempfile::tempdir_in(&task.scratch)?;
    match tool {
        Tool::Wrk { seconds, reuse } => {
            wrk((target, &url), folder.path(), bytes, [connections, seconds], reuse)
        }
        Tool::H2load { requests } => h2load((target, &url), folder.path(), bytes, [connections, requests]),
    }
}

fn wrk(
    (target, url): (SocketAddr, &str),
    folder: &Path,
    bytes: u64,
    [connections, seconds]: [u32; 2],
    reuse: Reuse,
) -> Result<Outcome> {
    let script = folder.join("script.lua");
    std::fs::write(&script, WRK_SCRIPT)?;
    let mut command = tool("wrk");
    command.env("LB_BENCH_TARGET", target.ip().to_string()).arg("-s").arg(script);
    command.args(["-t1", "-c", &connections.to_string(), "-d", &format!("{seconds}s")]);
    command.args(["--timeout", &format!("{PATIENCE}s")]);
    if reuse == Reuse::Once {
        command.args(["-H", "Connection: close"]);
    }
    let said = output(command.arg(url))?;
    wrk_outcome(&said, bytes).with_context(|| format!("wrk said {said}"))
}

/// What [`WRK_SCRIPT`] prints.
#[derive(Deserialize)]
struct WrkResult {
    microseconds: u64,
    requests: u64,
    bytes: u64,
    errors: u64,
    p50: f64,
    p99: f64,
    p999: f64,
}

fn wrk_outcome(said: &str, bytes: u64) -> Result<Outcome> {
    let line = said.lines().find_map(|line| line.strip_prefix("RESULT "));
    let result: WrkResult = serde_json::from_str(line.context("there is no result")?)?;
    ensure!(result.errors == 0 && result.requests > 0, "downloads failed");
    // Headers count there, too, and what came of files that were not complete at the end.
    ensure!(result.bytes >= result.requests * bytes, "bytes are missing");
    let in_tail = |value, per_mille| Some(value).filter(|_| has_tail(result.requests, per_mille));
    let times =
        Times { p50_us: result.p50, p99_us: in_tail(result.p99, 990), p999_us: in_tail(result.p999, 999) };
    let seconds = result.microseconds as f64 / 1e6;
    Ok(Outcome {
        seconds,
        units: result.requests,
        bytes: Some(result.bytes),
        times: Some(times),
        ..Outcome::default()
    })
}

fn h2load(
    (target, url): (SocketAddr, &str),
    folder: &Path,
    bytes: u64,
    [connections, requests]: [u32; 2],
) -> Result<Outcome> {
    let log = folder.join("requests.log");
    let mut command = tool("h2load");
    command.args(["-t1", "-m1", "-N", PATIENCE, "-c", &connections.to_string(), "-n", &requests.to_string()]);
    command.arg(format!("--connect-to={target}")).arg(format!("--log-file={}", log.display()));
    let said = output(command.arg(url))?;
    let log = std::fs::read_to_string(log).context("h2load wrote no log")?;
    h2load_outcome(&said, &log, requests, bytes).with_context(|| format!("h2load said {said}"))
}

fn h2load_outcome(said: &str, log: &str, requests: u32, bytes: u64) -> Result<Outcome> {
    let data = said.lines().find_map(|line| line.strip_prefix("traffic: ")?.strip_suffix(") data"));
    let data: u64 = data.and_then(|line| line.rsplit_once('(')?.1.parse().ok()).context("no traffic")?;
    ensure!(data == u64::from(requests) * bytes, "{data} bytes came");
    let succeeded = format!(" {requests} succeeded, 0 failed, 0 errored, 0 timeout");
    ensure!(said.contains(&succeeded) && said.contains("Application protocol: h2"), "downloads failed");
    let times = log.lines().map(|line| {
        let microseconds: u64 = line.split('\t').nth(2)?.parse().ok()?;
        Some(1000 * microseconds)
    });
    let times = times.collect::<Option<Vec<_>>>().context("its log is no table")?;
    let finished = said.lines().find_map(|line| line.strip_prefix("finished in ")?.split(',').next());
    let seconds = finished.and_then(seconds).context("no time")?;
    Ok(Outcome { bytes: Some(data), ..Outcome::with_times(seconds, times) })
}

/// A time as h2load writes it, such as 1.5ms.
fn seconds(text: &str) -> Option<f64> {
    let unit = text.find(|character: char| character.is_ascii_alphabetic())?;
    let scale = match &text[unit..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Some(text[..unit].parse::<f64>().ok()? * scale)
}

/// A program that ends with this process.
fn tool(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", name]);
    command
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().context("cannot start setpriv (package util-linux)")?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{command:?}: {said} (packages wrk and nghttp2-client)");
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    const H2LOAD: &str = "\
Application protocol: h2
finished in 23.86ms, 41914.66 req/s, 45.02MB/s
requests: 3 total, 3 started, 3 done, 3 succeeded, 0 failed, 0 errored, 0 timeout
traffic: 1.07MB (1126196) total, 105.47KB (108000) headers (space savings 39.66%), 2.93KB (3000) data
";

    #[test]
    fn the_words_of_h2load_are_understood() {
        let log = "1795247562718209\t200\t1583\n1\t200\t1000\n2\t200\t2000\n";
        let outcome = h2load_outcome(H2LOAD, log, 3, 1000).unwrap();
        assert_eq!((outcome.units, outcome.bytes, outcome.seconds), (3, Some(3000), 0.02386));
        assert_eq!(outcome.times.unwrap().p50_us, 1583.0);
        assert!(h2load_outcome(H2LOAD, log, 3, 1001).is_err());
        assert!(h2load_outcome(&H2LOAD.replace("0 failed", "1 failed"), log, 3, 1000).is_err());
        assert!(h2load_outcome(&H2LOAD.replace(": h2", ": http/1.1"), log, 3, 1000).is_err());
    }

    #[test]
    fn the_words_of_wrk_are_understood() {
        let said = |requests: u64, errors: u64| {
            format!(
                "Running 1s test\nRESULT {{\"microseconds\":500000,\"requests\":{requests},\"bytes\":2500,\
                 \"errors\":{errors},\"p50\":62.0,\"p99\":70.5,\"p999\":99.0}}\n"
            )
        };
        let outcome = wrk_outcome(&said(2, 0), 1000).unwrap();
        assert_eq!((outcome.units, outcome.bytes, outcome.seconds), (2, Some(2500), 0.5));
        assert_eq!(outcome.times, Some(Times { p50_us: 62.0, p99_us: None, p999_us: None }));
        assert!(wrk_outcome(&said(3, 0), 1000).is_err(), "bytes are missing");
        assert!(wrk_outcome(&said(2, 1), 1000).is_err(), "a download failed");
        assert!(wrk_outcome("nothing", 1000).is_err());
    }

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("250us"), Some(0.00025));
        assert_eq!(seconds("2.5s"), Some(2.5));
        assert_eq!(seconds("1m"), None);
    }
}
