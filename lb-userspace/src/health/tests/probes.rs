// SPDX-License-Identifier: MIT OR Apache-2.0
//! Single checks of real servers on loopback: every outcome, and what the server sees.

use super::*;
use crate::config::BytePattern;

#[tokio::test]
async fn tcp_outcomes() {
    let (_listener, address) = listener().await;
    assert_eq!(outcome(&tcp(), address).await, Outcome::Connected);
    let (_socket, address) = nobody();
    assert_eq!(outcome(&tcp(), address).await, Outcome::Refused);
    // The kernel refuses TCP to a multicast address before it sends anything (net/ipv4/tcp_ipv4.c, tcp_v4_connect).
    assert_eq!(outcome(&tcp(), ([224, 0, 0, 1], 9).into()).await, Outcome::Unreachable);
}

#[tokio::test]
async fn a_connect_that_hangs_is_a_timeout() {
    let (socket, address) = nobody();
    let _listener = socket.listen(0).unwrap();
    // Once the queue of connections to accept is full, the kernel drops further SYNs.
    let mut queue = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queue.push(stream.unwrap());
    }
    let check = Check { timeout: Duration::from_millis(100), ..tcp() };
    assert_eq!(outcome(&check, address).await, Outcome::Timeout);
}

#[tokio::test]
async fn a_server_of_the_other_family_is_checked() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    assert_eq!(outcome(&tcp(), listener.local_addr().unwrap()).await, Outcome::Connected);
}

#[tokio::test]
async fn checks_come_from_where_traffic_comes_from() {
    let (listener, address) = listener().await;
    let from =
        |source: &str| config::Backend { source: vec![source.parse().unwrap()], ..settings(Vec::new()) };
    let server = at("web-1", address);
    let checked = prober_of(&from("127.0.0.9"), &server, &tcp()).check().await;
    assert_eq!(checked.outcome, Outcome::Connected);
    assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.0.0.9");
    // Of the other family: what the route says.
    assert_eq!(prober_of(&from("::1"), &server, &tcp()).check().await.outcome, Outcome::Connected);
    // No address of this host.
    assert_eq!(prober_of(&from("192.0.2.1"), &server, &tcp()).check().await.outcome, Outcome::Unreachable);
}

#[tokio::test]
async fn http_outcomes() {
    async fn check(answer: impl Into<Vec<u8>>, expected: Outcome) {
        let answer = answer.into();
        let text = String::from_utf8_lossy(&answer[..answer.len().min(40)]).into_owned();
        let address = answering(move || answer.clone()).await;
        assert_eq!(outcome(&http(&[(200, 299), (429, 429)]), address).await, expected, "{text}");
    }
    check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Outcome::Status(200)).await;
    check("HTTP/1.0 204 No Content\r\n\r\n", Outcome::Status(204)).await;
    check("HTTP/1.1 429 \r\ncontent-length: 0\r\n\r\n", Outcome::Status(429)).await;
    check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Outcome::Status(200)).await;
    check("HTTP/1.1 503 Service Unavailable\r\n\r\n", Outcome::BadStatus(503)).await;
    check("HTTP/1.1 300 Multiple Choices\r\n\r\n", Outcome::BadStatus(300)).await;
    // The status decides, whatever becomes of the body.
    check("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\ncut off", Outcome::Status(200)).await;
    check(["HTTP/1.1 200 OK\r\n\r\n", &"x".repeat(10 << 20)].concat(), Outcome::Status(200)).await;
    check("", Outcome::Closed).await;
    check("HTTP/1.1 200 OK\r\nserv", Outcome::Closed).await;
    check("SSH-2.0-OpenSSH_9.2\r\n", Outcome::NotHttp).await;
    check(vec![0x15, 3, 1, 0, 2, 2, 70], Outcome::NotHttp).await;
    check(["HTTP/1.1 200 OK\r\nx: ", &"x".repeat(20 << 10), "\r\n\r\n"].concat(), Outcome::NotHttp).await;
}

#[tokio::test]
async fn a_body_is_searched_as_far_as_it_is_bounded() {
    async fn check(pattern: BytePattern, answer: String, expected: Outcome) {
        let mut check = http(&[(200, 200)]);
        let Probe::Http { body, .. } = &mut check.probe else { unreachable!() };
        *body = Some(pattern);
        let start = answer[..answer.len().min(60)].to_owned();
        let address = answering(move || answer.clone().into()).await;
        assert_eq!(outcome(&check, address).await, expected, "{start}");
    }
    let text = || BytePattern::Bytes("ready".into());
    let regex = |text: &str| BytePattern::Regex(regex::bytes::Regex::new(text).unwrap());
    let ok = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    check(text(), ok("{\"state\": \"ready\"}"), Outcome::Status(200)).await;
    check(text(), ok("{\"state\": \"starting\"}"), Outcome::BadBody).await;
    check(regex(r#""lag": [0-9],"#), ok("{\"lag\": 7, \"x\": 1}"), Outcome::Status(200)).await;
    check(regex(r#""lag": [0-9],"#), ok("{\"lag\": 70, \"x\": 1}"), Outcome::BadBody).await;
    // Without a length the connection's end is the body's; a body that is cut off counts as far as it came.
    check(text(), "HTTP/1.0 200 OK\r\n\r\nready".into(), Outcome::Status(200)).await;
    check(text(), "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nready".into(), Outcome::Status(200)).await;
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n";
    check(text(), chunks.into(), Outcome::Status(200)).await;
    check(text(), ok(""), Outcome::BadBody).await;
    check(text(), ok(&format!("{}ready", "x".repeat((64 << 10) - 5))), Outcome::Status(200)).await;
    check(text(), ok(&format!("{}ready", "x".repeat(64 << 10))), Outcome::BadBody).await;
    check(text(), ok(&"x".repeat(10 << 20)), Outcome::BadBody).await;
    // The status goes first.
    check(text(), "HTTP/1.1 503 x\r\ncontent-length: 5\r\n\r\nready".into(), Outcome::BadStatus(503)).await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_found_in() {
    let (listener, address) = listener().await;
    let mut check = http(&[(200, 200)]);
    let Probe::Http { body, .. } = &mut check.probe else { unreachable!() };
    *body = Some(BytePattern::Bytes("ready".into()));
    check.timeout = Duration::from_secs(2);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        for part in ["HTTP/1.1 200 OK\r\n\r\nstate: rea", "dy\n"] {
            stream.write_all(part.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::future::pending::<()>().await;
    });
    assert_eq!(outcome(&check, address).await, Outcome::Status(200));
}

#[tokio::test]
async fn a_server_that_speaks_first_is_not_http() {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
        read_request(&mut stream).await;
    });
    assert_eq!(outcome(&http(&[(200, 399)]), address).await, Outcome::NotHttp);
}

#[tokio::test]
async fn a_silent_server_is_a_timeout() {
    let (_listener, address) = listener().await;
    let check = Check { timeout: Duration::from_millis(100), ..http(&[(200, 399)]) };
    let checked = prober(&check, address).check().await;
    assert_eq!(checked.outcome, Outcome::Timeout);
    assert!(checked.duration >= check.timeout, "{:?}", checked.duration);
}

#[tokio::test]
async fn a_server_that_resets_is_told_from_one_that_closes() {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    });
    assert_eq!(outcome(&http(&[(200, 399)]), address).await, Outcome::Reset);
}

#[tokio::test]
async fn the_request_says_who_asks_for_what() {
    let (listener, address) = listener().await;
    let check = http(&[(200, 200)]);
    let (outcome, request) = tokio::join!(outcome(&check, address), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        request
    });
    assert_eq!(outcome, Outcome::Status(200));
    let request = String::from_utf8(request).unwrap().to_ascii_lowercase();
    let mut lines: Vec<&str> = request.trim_end().lines().collect();
    lines[1..].sort_unstable();
    let (host, version) = (format!("host: {address}"), env!("CARGO_PKG_VERSION"));
    let agent = format!("user-agent: lb-health-check/{version}");
    assert_eq!(lines, ["get /replica http/1.1", "connection: close", &host, &agent]);
}

#[tokio::test]
async fn a_host_of_its_own_is_sent() {
    let probe = Probe::Http {
        method: "OPTIONS".into(),
        path: "*".into(),
        host: Some("db.example".into()),
        headers: vec![("x-probe".into(), "lb".into()), ("user-agent".into(), "curl".into())],
        expect: vec![(200, 200)],
        body: None,
    };
    let check = Check { probe, ..tcp() };
    let (listener, address) = listener().await;
    let (_, request) = tokio::join!(outcome(&check, address), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await
    });
    let request = String::from_utf8(request).unwrap();
    assert!(request.starts_with("OPTIONS * HTTP/1.1\r\nhost: db.example\r\n"), "{request}");
    assert!(request.contains("x-probe: lb\r\n") && request.contains("user-agent: curl\r\n"), "{request}");
}

#[tokio::test]
async fn a_tcp_check_ends_with_a_reset() {
    let (listener, address) = listener().await;
    assert_eq!(outcome(&tcp(), address).await, Outcome::Connected);
    let (mut stream, _) = listener.accept().await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_tcp_check_with_a_proxy_header_ends_in_order() {
    let (listener, address) = listener().await;
    let check = Check { send_proxy: Some(ProxyVersion::V2), ..tcp() };
    let (outcome, bytes) = tokio::join!(outcome(&check, address), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        // A reset would be an error here.
        stream.read_to_end(&mut bytes).await.unwrap();
        bytes
    });
    assert_eq!(outcome, Outcome::Connected);
    let header = ppp::v2::Header::try_from(&bytes[..]).unwrap();
    assert_eq!(header.command, ppp::v2::Command::Local);
    assert_eq!(header.len(), bytes.len());
    assert_eq!(bytes, crate::proxy::local_header(PROXY, address, address));
}

#[tokio::test]
async fn a_check_with_version_1_has_its_own_addresses() {
    let (listener, address) = listener().await;
    let check = Check { send_proxy: Some(ProxyVersion::V1), ..tcp() };
    let (outcome, bytes) = tokio::join!(outcome(&check, address), async {
        let (mut stream, peer) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        (peer, bytes)
    });
    let (peer, line) = bytes;
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", peer.port(), address.port());
    assert_eq!((outcome, String::from_utf8_lossy(&line).into_owned()), (Outcome::Connected, expected));
}

#[tokio::test]
async fn an_http_check_with_a_proxy_header_sends_it_first() {
    let (listener, address) = listener().await;
    let check = Check { send_proxy: Some(ProxyVersion::V2), ..http(&[(200, 200)]) };
    let (outcome, bytes) = tokio::join!(outcome(&check, address), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        // The server closed first, so the check's end is a FIN too.
        stream.read_to_end(&mut bytes).await.unwrap();
        bytes
    });
    assert_eq!(outcome, Outcome::Status(200));
    let header = ppp::v2::Header::try_from(&bytes[..]).unwrap();
    assert_eq!(header.command, ppp::v2::Command::Local);
    assert!(bytes[header.len()..].starts_with(b"GET /replica HTTP/1.1\r\n"));
}

#[tokio::test]
async fn the_port_is_the_nearest_that_is_set() {
    let (_listener, address) = listener().await;
    let (_socket, wrong) = nobody();
    let of_check = Check { port: Some(address.port()), ..tcp() };
    assert_eq!(outcome(&of_check, wrong).await, Outcome::Connected);

    let check = Check { port: Some(wrong.port()), ..tcp() };
    let of_server = config::Server { check_port: Some(address.port()), ..at("web-1", wrong) };
    let prober = prober_of(&settings(Vec::new()), &of_server, &check);
    assert_eq!(prober.check().await.outcome, Outcome::Connected);
}
