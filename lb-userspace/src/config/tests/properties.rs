// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nothing that a file can hold makes the parser panic, and what it writes it reads again.

use proptest::prelude::*;

use super::{VALID, parse};

const FILES: [&str; 5] = [
    include_str!("../../../../config/lb.toml"),
    include_str!("../../../../config/ingress.toml"),
    include_str!("../../../../config/database.toml"),
    include_str!("../../../../config/dev.toml"),
    VALID,
];

/// What must hold of any text.
fn judge(text: &str) {
    match parse(text) {
        Ok(loaded) => {
            let written = loaded.config.to_toml();
            match parse(&written) {
                Ok(again) => assert_eq!(again.config, loaded.config, "{written}"),
                Err(problems) => panic!("{problems}\n{written}"),
            }
        }
        Err(problems) => {
            assert!(!problems.errors.is_empty());
            let lines = text.lines().count() + 1;
            for problem in problems.errors.iter().chain(&problems.warnings) {
                let place = &problem.place;
                assert!(place.column >= 1 && place.line >= 1);
                assert!(place.line <= lines || place.file != problems.file, "{problem}");
                assert!(!problem.to_string().chars().any(|c| c.is_control()), "{problem:?}");
            }
        }
    }
}

#[test]
fn valid_files_are_written_and_read_again() {
    FILES.iter().for_each(|text| judge(text));
}

#[test]
fn everything_that_can_be_set_is_written_and_read_again() {
    let text = VALID.replace("mode", "bind-x").replace("bind-x", "max-connections = 9\nuser-timeout = \"off\"\nkeepalive = false\npath = \"copy\"\npath-required = true\nclient-hello-max = \"1000B\"\non-not-tls = \"b\"\nmode")
        + "weight = 256\nmax-connections = 3\ncheck-port = 80\ncheck = false\n\
           [[backend.b.server]]\nname = \"a.b\"\naddress = \"[fe80::1%2]:1\"\nbackup = true\n\
           [[frontend.f.route]]\nsni = ['~^\"\\\\x2e\\.[a-z]$', \"*.x\"]\nsni-file = \"names.txt\"\nalpn = [\"h2\", \"a\\nb\\\"c\"]\nbackend = \"b\"\n\
           [backend.\"b.c\"]\nbalance = \"least-connections\"\nsend-proxy = \"v2\"\nsend-proxy-authority = false\nsend-proxy-crc32c = true\n\
           half-close-timeout = \"off\"\npath = \"splice\"\nserver = [{ name = \"a\", address = \"10.0.0.1:1\" }]\n\
           [backend.m]\nbalance = \"maglev\"\nhash-on = \"sni\"\nhash-balance-factor = 125\nserver = [{ name = \"a\", address = \"10.0.0.1:1\" }]\n\
           [backend.s]\nbalance = \"source\"\nhash-balance-factor = 101\nserver = [{ name = \"a\", address = \"10.0.0.1:1\" }]\n\
           [backend.r]\nbalance = \"random\"\nserver = [{ name = \"a\", address = \"10.0.0.1:1\" }]\n\
           [backend.\"b.c\".check]\ntype = \"http\"\nhost = \"h\"\nexpect = [200, \"300-302\"]\nport = 7\ntimeout = \"11ms\"\nsend-proxy = \"v2\"\n\
           [[frontend.f.route]]\nalpn = \"h3\"\nbackend = \"b.c\"\n\
           [backend.d]\nserver = [{ name = \"a\", address = \"10.0.0.1:1\" }]\n\
           [backend.d.check]\ntype = \"script\"\ntls = true\nca-file = \"ca.pem\"\nsni = \"a.b\"\nalpn = [\"x\", \"y\"]\n\
           script = [{ send = \"a\\r\\n'\\\"\\u0000\" }, { send-hex = \"00ff\" }, { expect = \"é\" }, { expect-hex = \"ff\" }, { expect-regex = '^[\\x00\\n\"]' }]\n\
           fast-interval = \"200ms\"\ndown-interval = \"9s\"\nobserve = \"connections\"\nerror-limit = 4\non-error = \"mark-down\"\n\
           [[frontend.f.route]]\nalpn = \"h4\"\nbackend = \"d\"\n\
           [backend.e]\nserver = [{ name = \"a\", address = \"10.0.0.1:1\" }]\n\
           [backend.e.check]\ntype = \"https\"\nverify = \"none\"\nheaders = { X-A = \"b \\\"c\", y = \"z\" }\nexpect-body = '~^\"a\\d'\nhost = \"q.r\"\n\
           [[frontend.f.route]]\nalpn = \"h5\"\nbackend = \"e\"\n\
           [global]\nworkers = 3\nmax-connections = 10\npending-hello-memory = \"1048577B\"\nsockmap-memory = \"1048578B\"\nsockmap-direction-memory = \"262145B\"\ndrain-timeout = \"0s\"\n\
           [resolver]\nservers = [\"10.0.0.1:53\", \"[::1]:5353\"]\ntimeout = \"51ms\"\nattempts = 1\nttl-min = \"101ms\"\nttl-max = \"1s\"\nhold-nx = \"0s\"\n\
           [backend.n]\nserver = [{ name = \"a\", address = \"A.example:1\", family = \"ipv4\" }, { name = \"b\", srv = \"_x._tcp.example.\", max-addresses = 2, backup = true }]\n\
           [[frontend.f.route]]\nsni = \"n.example\"\nbackend = \"n\"\n\
           [log]\ntarget = \"syslog:[::1]:514\"\nformat = \"tcplog\"\nlevel = \"trace\"\n";
    assert!(parse(&text).is_ok(), "{}", parse(&text).unwrap_err());
    judge(&text);
}

/// A place in a text and what is done there.
#[derive(Clone, Debug)]
enum Mutation {
    Delete(prop::sample::Index, usize),
    Insert(prop::sample::Index, String),
    CopyLine(prop::sample::Index, prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let words = prop::sample::select(vec![
        "\"", "'", "[", "]", "[[", "{", "}", "=", ",", ".", "\n", "#", "*", "~", "-", "0", "off", "true",
        "\\", "\u{feff}", "é", "\"\"\"",
    ]);
    prop_oneof![
        (any::<prop::sample::Index>(), 1usize..20).prop_map(|(at, len)| Mutation::Delete(at, len)),
        (any::<prop::sample::Index>(), words).prop_map(|(at, word)| Mutation::Insert(at, word.into())),
        (any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(|(from, to)| Mutation::CopyLine(from, to)),
    ]
}

fn apply(text: &mut String, mutation: &Mutation) {
    match mutation {
        Mutation::Delete(at, len) if !text.is_empty() => {
            let start = text.floor_char_boundary(at.index(text.len()));
            let end = text.ceil_char_boundary((start + len).min(text.len()));
            text.replace_range(start..end, "");
        }
        Mutation::Insert(at, word) => {
            text.insert_str(text.floor_char_boundary(at.index(text.len() + 1)), word)
        }
        Mutation::CopyLine(from, to) if !text.is_empty() => {
            let mut lines: Vec<&str> = text.lines().collect();
            let line = lines[from.index(lines.len())];
            lines.insert(to.index(lines.len()), line);
            *text = lines.join("\n");
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}|[\\[\\]{}=\"'.,# \na-z0-9\\\\-]{0,200}") {
        judge(&text);
    }

    #[test]
    fn mutated_files_never_panic(file in prop::sample::select(&FILES[..]), mutations in prop::collection::vec(mutation(), 1..6)) {
        let mut text = file.to_owned();
        mutations.iter().for_each(|mutation| apply(&mut text, mutation));
        judge(&text);
    }
}
