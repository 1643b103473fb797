// SPDX-License-Identifier: MIT OR Apache-2.0
//! What holds where the configuration is silent, and what the keys turn into.

use std::time::Duration;

use lb_common::reason::HelloReason;

use super::{VALID, edited, parse};
use crate::config::*;

fn config(text: &str) -> Config {
    parse(text).unwrap_or_else(|problems| panic!("{problems}")).config
}

fn check_of(keys: &str) -> Check {
    config(&edited("[[backend.b.server]]", &format!("{keys}\n[[backend.b.server]]"))).backends[0]
        .check
        .clone()
        .unwrap()
}

/// Where ports are set aside for path `packet`, and only there; what was asked for by name stays.
#[test]
fn auto_stands_for_packet_where_its_ports_are_written() {
    let check = |lines: &str, expected: PathWish| {
        let with_path = edited("[[backend.b.server]]", "path = \"splice\"\n[[backend.b.server]]");
        let config = config(&format!("{with_path}\n{lines}"));
        assert_eq!(config.frontends[0].path.path, expected);
        assert_eq!(config.backends[0].path.map(|choice| choice.path), Some(PathWish::Splice));
        assert_eq!(config.global.packet_ports(), 61_000..=65_535);
    };
    check("", PathWish::Auto);
    check("[global]\npacket-ports = \"61000-65535\"", PathWish::Packet);
}

#[test]
fn a_silent_configuration() {
    let Config { global, admin, log, resolver, frontends, backends } = config(VALID);
    let keepalive =
        Some(Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 3 });
    assert_eq!((global.max_connections, global.pending_hello_memory), (None, 512 << 20));
    assert_eq!((global.sockmap_memory, global.sockmap_direction_memory), (None, 16 << 20));
    assert_eq!(global.drain_timeout, Duration::from_secs(30));
    assert_eq!(admin, None);
    assert_eq!(log, Log { format: LogFormat::Json, target: LogTarget::Stdout, level: LogLevel::Info });
    assert_eq!(resolver, Resolver::default());

    let Frontend {
        name,
        bind,
        accept_proxy,
        mode,
        max_connections,
        backlog,
        mss,
        keepalive: kept,
        user_timeout,
        idle_timeout,
        half_close_timeout,
        path,
    } = &frontends[0];
    assert_eq!((&**name, &bind[..]), ("f", &["127.0.0.1:1".parse().unwrap()][..]));
    assert_eq!((*max_connections, backlog.get(), *mss, *kept), (None, 4096, None, keepalive));
    assert_eq!((*user_timeout, *idle_timeout, *half_close_timeout), (None, None, None));
    assert_eq!(*accept_proxy, None);
    assert_eq!(*path, PathChoice::DEFAULT);
    let Mode::TlsPassthrough(settings) = mode else { panic!("{mode:?}") };
    assert_eq!(settings.client_hello_timeout, Duration::from_secs(5));
    assert_eq!((settings.client_hello_max, settings.client_hello_wire_max), (16 << 10, 64 << 10));

    let backend = &backends[0];
    assert_eq!((backend.balance, backend.send_proxy, &backend.check), (Balance::RoundRobin, None, &None));
    assert_eq!((backend.connect_timeout, backend.retries), (Duration::from_secs(5), 3));
    assert_eq!(backend.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(backend.half_close_timeout, Some(Duration::from_secs(30)));
    assert_eq!((backend.keepalive, backend.user_timeout), (keepalive, None));
    assert_eq!(backend.path, None);
    let server = &backend.servers[0];
    assert_eq!((server.weight, server.max_connections, server.check_port), (1, None, None));
    assert!(!server.is_backup && server.is_checked);
}

#[test]
fn the_default_backend_is_for_names_only() {
    let policies = |text: &str| match &config(text).frontends[0].mode {
        Mode::TlsPassthrough(settings) => settings.policies,
        mode => panic!("{mode:?}"),
    };
    let b = Policy::Backend(BackendId(0));
    let reject = Policy::Reject;
    assert_eq!(HelloReason::ALL.map(HelloReason::label)[..2], ["no-name", "unknown-name"]);
    assert_eq!(policies(VALID), [b, b, reject, reject, reject, reject]);
    let text = edited("default-backend", "on-no-name = \"reject\"\non-not-tls = \"b\"\ndefault-backend");
    assert_eq!(policies(&text), [reject, b, b, reject, reject, reject]);
}

#[test]
fn policy_keys_are_the_reasons() {
    for reason in HelloReason::ALL {
        assert_eq!(frontend::policy_key(reason), format!("on-{reason}"));
    }
}

#[test]
fn checks() {
    let tcp = check_of("check = { type = \"tcp\" }");
    assert_eq!((tcp.interval, tcp.timeout), (Duration::from_secs(2), Duration::from_secs(2)));
    assert_eq!((tcp.rise.get(), tcp.fall.get(), tcp.jitter_percent), (2, 3, 10));
    assert_eq!((tcp.probe, tcp.port, tcp.send_proxy), (Probe::Tcp, None, None));
    assert_eq!(
        check_of("check = { type = \"tcp\", interval = \"500ms\" }").timeout,
        Duration::from_millis(500)
    );
    assert_eq!(check_of("check = { type = \"tcp\", interval = \"10s\" }").timeout, Duration::from_secs(2));
    let http = check_of("check = { type = \"http\" }").probe;
    let silent = Probe::Http {
        method: "GET".into(),
        path: "/".into(),
        host: None,
        headers: Vec::new(),
        expect: vec![(200, 399)],
        body: None,
    };
    assert_eq!(http, silent);
    let http = check_of(
        "check = { type = \"http\", method = \"OPTIONS\", path = \"/x?y=%20\", host = \"h:1\", expect = [200, \"300-302\"], headers = { X-Probe = \"lb\" }, expect-body = \"ok\" }",
    );
    let said = Probe::Http {
        method: "OPTIONS".into(),
        path: "/x?y=%20".into(),
        host: Some("h:1".into()),
        headers: vec![("x-probe".into(), "lb".into())],
        expect: vec![(200, 200), (300, 302)],
        body: Some(BytePattern::Bytes("ok".into())),
    };
    assert_eq!(http.probe, said);
}

#[test]
fn checks_over_tls() {
    let tls = check_of("check = { type = \"tls\", verify = \"none\" }");
    assert_eq!(
        (tls.probe, tls.tls),
        (Probe::Tcp, Some(CheckTls { sni: None, alpn: Vec::new(), authorities: None }))
    );
    let sni = |keys: &str| {
        check_of(&format!("check = {{ type = \"https\", verify = \"none\"{keys} }}")).tls.unwrap().sni
    };
    assert_eq!(sni(""), None);
    assert_eq!(sni(", host = \"Web.example:8443\"").as_deref(), Some("web.example"));
    assert_eq!(sni(", host = \"10.0.0.1\"").as_deref(), None);
    assert_eq!(sni(", host = \"web.example\", sni = \"other.example\"").as_deref(), Some("other.example"));
    let verified = check_of("check = { type = \"tls\", ca-file = \"ca.pem\", alpn = \"h2\" }").tls.unwrap();
    let authorities = verified.authorities.unwrap();
    assert_eq!((&*authorities.file, authorities.certificates.len()), ("ca.pem", 1));
    assert_eq!(verified.alpn, ["h2"]);
}

#[test]
fn scripts() {
    let check = check_of(
        "check = { type = \"script\", script = [{ send-hex = \"00 FF\" }, { expect = \"a\" }, { expect-regex = \"^[SN]\" }, { send = \"x\\r\\n\" }, { expect-hex = \"0A\" }] }",
    );
    let Probe::Script(steps) = check.probe else { panic!() };
    let bytes = |bytes: &[u8]| ScriptStep::Expect(BytePattern::Bytes(bytes.to_vec()));
    assert_eq!((&steps[0], &steps[1]), (&ScriptStep::Send(vec![0, 255]), &bytes(b"a")));
    assert!(matches!(&steps[2], ScriptStep::Expect(BytePattern::Regex(regex)) if regex.as_str() == "^[SN]"));
    assert_eq!((&steps[3], &steps[4]), (&ScriptStep::Send(b"x\r\n".to_vec()), &bytes(b"\n")));
    assert_eq!(check.tls, None);
}

#[test]
fn intervals_and_observation_of_checks() {
    let ms = Duration::from_millis;
    let check = check_of("check = { type = \"tcp\", interval = \"3s\" }");
    assert_eq!((check.fast_interval, check.down_interval, check.observe), (ms(3000), ms(3000), None));
    let check = check_of(
        "check = { type = \"tcp\", fast-interval = \"100ms\", down-interval = \"10s\", observe = \"connections\" }",
    );
    assert_eq!((check.interval, check.fast_interval, check.down_interval), (ms(2000), ms(100), ms(10_000)));
    let silent = Observe { error_limit: 10.try_into().unwrap(), on_error: OnError::FailCheck };
    assert_eq!(check.observe, Some(silent));
    let check = check_of(
        "check = { type = \"tcp\", observe = \"connections\", error-limit = 3, on-error = \"sudden-death\" }",
    );
    assert_eq!(
        check.observe,
        Some(Observe { error_limit: 3.try_into().unwrap(), on_error: OnError::SuddenDeath })
    );
}

#[test]
fn checks_send_the_header_that_the_server_expects() {
    let check = |keys: &str, expected: bool| {
        let expected = expected.then_some(ProxyVersion::V2);
        assert_eq!(check_of(keys).send_proxy, expected, "{keys}");
    };
    check("check = { type = \"tcp\" }", false);
    check("check = { type = \"tcp\", send-proxy = \"v2\" }", true);
    check("send-proxy = \"v2\"\ncheck = { type = \"tcp\" }", true);
    check("send-proxy = \"v2\"\ncheck = { type = \"tcp\", send-proxy = \"off\" }", false);
    check("send-proxy = \"v2\"\ncheck = { type = \"tcp\", port = 80 }", false);
    check("send-proxy = \"v2\"\ncheck = { type = \"tcp\", port = 80, send-proxy = \"v2\" }", true);
    check(
        "send-proxy = \"v2\"\ncheck = { type = \"tcp\" }\n[backend.b.server-defaults]\ncheck-port = 80",
        false,
    );
}

#[test]
fn what_goes_into_headers() {
    let check = |lines: &str, expected: Option<SendProxy>| {
        let text = edited("[[backend.b.server]]", &format!("{lines}\n[[backend.b.server]]"));
        assert_eq!(config(&text).backends[0].send_proxy, expected, "{lines}");
    };
    let default = ProxyTlvs { authority: true, crc32c: false, alpn: false, unique_id: false };
    check("send-proxy = 'off'", None);
    check("send-proxy = 'v1'", Some(SendProxy::V1));
    check("send-proxy = 'v2'", Some(SendProxy::V2(default)));
    check(
        "send-proxy = 'v2'\nsend-proxy-authority = false\nsend-proxy-crc32c = true\nsend-proxy-alpn = true\n\
         send-proxy-unique-id = true",
        Some(SendProxy::V2(ProxyTlvs { authority: false, crc32c: true, alpn: true, unique_id: true })),
    );
    let checked = |lines: &str| check_of(&format!("send-proxy = 'v1'\ncheck = {{ type = 'tcp'{lines} }}"));
    assert_eq!(checked("").send_proxy, Some(ProxyVersion::V1));
    assert_eq!(checked(", send-proxy = 'v2'").send_proxy, Some(ProxyVersion::V2));
    assert_eq!(checked(", send-proxy = 'off'").send_proxy, None);
}

#[test]
fn whose_headers_are_read() {
    let accepts = |lines: &str| {
        config(&edited("bind =", &format!("{lines}\nbind ="))).frontends[0].accept_proxy.clone()
    };
    assert_eq!(accepts("accept-proxy-from = []"), None);
    let accept = accepts("accept-proxy-from = ['10.0.0.0/8', '192.0.2.7', '2001:db8::/32', '::1']").unwrap();
    assert_eq!((accept.timeout, accept.header_max), (Duration::from_secs(5), 4096));
    for (address, expected) in [
        ("10.0.0.0", true),
        ("10.255.255.255", true),
        ("11.0.0.0", false),
        ("::ffff:10.1.2.3", true),
        ("::10.1.2.3", false),
        ("192.0.2.7", true),
        ("192.0.2.8", false),
        ("2001:db8:ffff::1", true),
        ("2001:db9::1", false),
        ("::1", true),
        ("127.0.0.1", false),
    ] {
        assert_eq!(accept.is_from(address.parse().unwrap()), expected, "{address}");
    }
    let accept = accepts(
        "accept-proxy-from = '10.0.0.1'\nproxy-header-timeout = '100ms'\nproxy-header-max = '65551B'",
    )
    .unwrap();
    assert_eq!((accept.timeout, accept.header_max), (Duration::from_millis(100), 65_551));
}

#[test]
fn nearer_values_go_before_defaults() {
    let text = edited("", "weight = 5\n[backend.b.server-defaults]\nweight = 9\nmax-connections = 100\n")
        + "[defaults.backend]\nretries = 1\nconnect-timeout = \"1s\"\n[defaults.frontend]\nmax-connections = 7\nmode = \"tcp\"\n\
           client-hello-timeout = \"1s\"\n[backend.c]\nretries = 2\nserver = [{ name = \"a\", address = \"[fd00::1]:1\" }]\n\
           [frontend.t]\nbind = [\"[::1]:1\", \"[::1]:2\"]\ndefault-backend = \"c\"\nmax-connections = 8\n";
    let config = config(&text);
    let [b, c] = &config.backends[..] else { panic!() };
    assert_eq!((b.servers[0].weight, b.servers[0].max_connections.map(|max| max.get())), (5, Some(100)));
    assert_eq!((b.retries, c.retries), (1, 2));
    assert_eq!((b.connect_timeout, c.connect_timeout), (Duration::from_secs(1), Duration::from_secs(1)));
    let [f, t] = &config.frontends[..] else { panic!() };
    assert_eq!(
        (f.max_connections.map(|max| max.get()), t.max_connections.map(|max| max.get())),
        (Some(7), Some(8))
    );
    assert!(matches!(&f.mode, Mode::TlsPassthrough(s) if s.client_hello_timeout == Duration::from_secs(1)));
    assert_eq!(t.mode, Mode::Tcp { backend: BackendId(1) });
}

#[test]
fn routes_with_their_files_and_lines() {
    let text = edited(
        "",
        "[[frontend.f.route]]\nsni = \"X.example.\"\nsni-file = \"names.txt\"\nalpn = \"h2\"\nbackend = \"b\"\n",
    );
    let Mode::TlsPassthrough(settings) = &config(&text).frontends[0].mode.clone() else { panic!() };
    let [route] = &settings.routes[..] else { panic!() };
    let names: Vec<String> = route.names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["x.example", "a.example", "*.b.example", "~^c#d"]);
    assert_eq!((&route.alpn[..], route.line, route.backend), (&["h2".to_owned()][..], 9, BackendId(0)));
}

#[test]
fn what_can_be_turned_off() {
    let off = "idle-timeout = \"off\"\nhalf-close-timeout = \"off\"\nuser-timeout = \"off\"\nkeepalive = false\ncheck = false\n[[backend.b.server]]";
    let backend = &config(&edited("[[backend.b.server]]", off)).backends[0];
    assert_eq!((backend.idle_timeout, backend.half_close_timeout, backend.user_timeout), (None, None, None));
    assert_eq!((backend.keepalive, &backend.check), (None, &None));
}

#[test]
fn log_targets() {
    let check = |text: &str, expected: LogTarget| {
        assert_eq!(
            config(&edited("", &format!("[log]\ntarget = \"{text}\"\n"))).log.target,
            expected,
            "{text}"
        );
    };
    check("off", LogTarget::Off);
    check("file:/var/log/lb.log", LogTarget::File("/var/log/lb.log".into()));
    check("syslog:/dev/log", LogTarget::SyslogUnix("/dev/log".into()));
    check("syslog:[::1]:514", LogTarget::SyslogUdp("[::1]:514".parse().unwrap()));
}

#[test]
fn v6_sockets_leave_ipv4_to_whom_it_is_given() {
    let check = |bind: &str, admin: &str, expected: bool| {
        let text = edited("\"127.0.0.1:1\"", bind) + &format!("[admin]\nbind = \"{admin}\"\n");
        let config = config(&text);
        assert_eq!(config.is_v6_only(config.frontends[0].bind[0]), expected, "{bind} {admin}");
    };
    check("\"[::]:443\"", "127.0.0.1:8404", false);
    check("[\"[::]:443\", \"0.0.0.0:443\"]", "127.0.0.1:8404", true);
    check("[\"[::]:443\", \"127.0.0.1:443\"]", "127.0.0.1:8404", true);
    check("[\"[::]:443\", \"127.0.0.1:444\"]", "127.0.0.1:8404", false);
    check("\"[::]:8404\"", "127.0.0.1:8404", true);
    check("[\"[::]:0\", \"0.0.0.0:0\"]", "127.0.0.1:8404", false);
    check("[\"[::1]:443\", \"127.0.0.1:443\"]", "127.0.0.1:8404", false);
}
