// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel holds: entries in the BPF maps of a process, and TCP sockets that it has not freed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use lb_common::layout::{DIRECTIONS, HOOKS, Moved, OVERDRAFT, SLOTS, SOCKMAP_VERDICT, TARGETS};
use serde_json::Value;

use crate::process::{Process, output, run};

/// What the program of path sockmap has handed over so far of each socket that it can find, in bytes, by the sockets' cookies.
///
/// What is in a socket map, the kernel does not tell; but whoever is in one can be found, and a place that is taken is refused to the
/// next flow.
///
/// # Panics
/// If the process has no such program, or `bpftool` fails.
#[track_caller]
pub fn redirected(process: &Process) -> BTreeMap<u64, u64> {
    let maps = maps(process, SOCKMAP_VERDICT);
    let entries = bpftool(&["map", "dump", "id", &maps[SLOTS]]);
    let sockets = entries.as_array().expect("bpftool prints an array").iter();
    sockets
        .filter_map(|entry| {
            let (cookie, slot) = (bytes(&entry["key"]), bytes(&entry["value"]));
            Some((u64::from_ne_bytes(cookie.try_into().ok()?), moved(&maps[DIRECTIONS], &slot)?.redirected))
        })
        .collect()
}

/// What all flows of path sockmap together have waiting beyond their shares, in bytes of cost, as the program counts it.
///
/// # Panics
/// As [`redirected`].
#[track_caller]
pub fn overdraft(process: &Process) -> u64 {
    let map = &maps(process, SOCKMAP_VERDICT)[OVERDRAFT];
    let value = bytes(&bpftool(&["map", "lookup", "id", map, "key", "0", "0", "0", "0"])["value"]);
    u64::from_ne_bytes(value.try_into().expect("8 bytes"))
}

/// Sockets that the program can find.
///
/// # Panics
/// As [`redirected`].
#[track_caller]
pub fn named_sockets(process: &Process) -> usize {
    let entries = bpftool(&["map", "dump", "id", &maps(process, SOCKMAP_VERDICT)[SLOTS]]);
    entries.as_array().expect("bpftool prints an array").len()
}

/// Takes all sockets out of the map of targets, behind the agent's back: the program finds nobody any more to whom it could hand something.
///
/// # Panics
/// As [`redirected`].
#[track_caller]
pub fn forget_targets(process: &Process) {
    let maps = maps(process, SOCKMAP_VERDICT);
    for slot in slots(&maps) {
        run(&mut delete(&maps[TARGETS], &slot));
    }
}

/// Takes all sockets out of all socket maps, behind the agent's back: what waits for them is thrown away with it (net/core/skmsg.c,
/// sk_psock_drop), and nobody is told.
///
/// # Panics
/// As [`redirected`].
#[track_caller]
pub fn forget_sockets(process: &Process) {
    forget_targets(process);
    // The program does not name the map that it is attached to.
    let ids: BTreeSet<String> = numbers(process, "map_id:").collect();
    let named = |id: &&String| bpftool(&["map", "show", "id", id])["name"] == HOOKS;
    let hooks = ids.iter().find(named).expect("the agent has a descriptor of it");
    for slot in slots(&maps(process, SOCKMAP_VERDICT)) {
        // Whoever pauses is hooked nowhere.
        output(&mut delete(hooks, &slot));
    }
}

/// The places of all sockets that the program can find.
#[track_caller]
fn slots(maps: &BTreeMap<String, String>) -> Vec<Vec<u8>> {
    let entries = bpftool(&["map", "dump", "id", &maps[SLOTS]]);
    entries.as_array().expect("bpftool prints an array").iter().map(|entry| bytes(&entry["value"])).collect()
}

/// What takes an entry out of a map.
fn delete(map: &str, key: &[u8]) -> Command {
    let mut command = Command::new("bpftool");
    command.args(["map", "delete", "id", map, "key"]).args(key.iter().map(u8::to_string));
    command
}

/// How many TCP sockets the kernel has memory for, all namespaces together (slabinfo(5)). What a BPF socket map holds of a socket, such
/// as bytes that wait for it, is freed before the socket is (net/core/skmsg.c, sk_psock_destroy). Free memory that a processor has set
/// aside counts as well, so that this is exact to some hundreds.
///
/// # Panics
/// Without root.
pub fn tcp_sockets() -> u64 {
    let slabs = std::fs::read_to_string("/proc/slabinfo").expect("slabinfo needs root");
    let count = |line: &str| -> Option<u64> {
        let mut words = line.split_whitespace();
        let is_tcp = matches!(words.next(), Some("TCP" | "TCPv6"));
        is_tcp.then(|| words.next().expect("a count").parse().expect("a number"))
    };
    let counts: Vec<u64> = slabs.lines().filter_map(count).collect();
    assert!(!counts.is_empty(), "no slab of TCP sockets:\n{slabs}");
    counts.iter().sum()
}

/// Memory that could be had without swapping, in bytes (proc_meminfo(5), MemAvailable).
///
/// # Panics
/// Without /proc.
pub fn available_memory() -> u64 {
    let memory = std::fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")).expect("since Linux 3.14");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

/// Memory of the BPF maps that a process has descriptors of, in bytes, each map once (kernel/bpf/syscall.c, bpf_map_show_fdinfo). Since Linux 6.4 that is
/// what a hash map without preallocation has by now, before that what it may come to have.
///
/// # Panics
/// The process has ended.
pub fn map_bytes(pid: u32) -> u64 {
    let listing = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("a living process");
    // A descriptor may be closed between listing and reading.
    let infos = listing.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    let maps = infos.filter_map(|info| {
        let number =
            |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
        Some((number("map_id:")?, number("memlock:")?))
    });
    maps.collect::<BTreeMap<_, _>>().values().sum()
}

/// The maps of a program that a process has a descriptor of, by the program's name: numbers by name.
///
/// # Panics
/// It has none, or `bpftool` fails.
#[track_caller]
pub(crate) fn maps(process: &Process, program: &str) -> BTreeMap<String, String> {
    let programs: BTreeSet<String> = numbers(process, "prog_id:").collect();
    let mut shown = programs.iter().map(|id| bpftool(&["prog", "show", "id", id]));
    let program = shown.find(|shown| shown["name"] == program).expect("the path is on");
    let ids = program["map_ids"].as_array().expect("a program with maps").iter().map(Value::to_string);
    let named = |id: String| {
        let map = bpftool(&["map", "show", "id", &id]);
        (map["name"].as_str().expect("a name").to_owned(), id)
    };
    ids.map(named).collect()
}

/// What a process's descriptors say for a key such as `prog_id:` (proc_pid_fdinfo(5)).
#[track_caller]
fn numbers(process: &Process, key: &'static str) -> impl Iterator<Item = String> + use<> {
    let listing = std::fs::read_dir(format!("/proc/{}/fdinfo", process.pid())).expect("a living process");
    // A descriptor may be closed between listing and reading.
    let infos = listing.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    infos
        .filter_map(move |info| info.lines().find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned())))
}

/// The program's side of a direction; `None` if its flow has just ended.
fn moved(directions: &str, slot: &[u8]) -> Option<Moved> {
    let mut arguments = vec!["map", "lookup", "id", directions, "key"];
    let key: Vec<String> = slot.iter().map(u8::to_string).collect();
    arguments.extend(key.iter().map(String::as_str));
    let value = bytes(&bpftool(&arguments)["value"]);
    let words = value.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")));
    let words: Vec<u64> = words.collect();
    Some(Moved::from_words(*words.first_chunk()?))
}

/// Bytes as bpftool writes them, such as `["0x01","0x00"]`.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.filter_map(|text| u8::from_str_radix(text.strip_prefix("0x")?, 16).ok()).collect()
}

/// What bpftool says of something that is there.
#[track_caller]
pub(crate) fn bpftool(arguments: &[&str]) -> Value {
    let printed = run(Command::new("bpftool").arg("--json").args(arguments));
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}
