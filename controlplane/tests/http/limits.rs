//! What one client, source or token may have of the doors.

use super::*;

#[tokio::test]
async fn a_signal_that_is_too_large_ends_the_socket() {
    let mut server = Server::start(Limits::default()).await;
    let (mut client, _outgoing) = server.join().await;
    let fits = format!("{}{}", r#"{"type":"ping"}"#, " ".repeat(256 * 1024 - 15));
    client.send(Message::text(fits.clone())).await.unwrap();
    assert!(matches!(server.request().await, Request::Input(Input::Signal { .. })));
    client.send(Message::text(fits + " ")).await.unwrap();
    assert_eq!(error_code(&mut client).await, ("too_much".into(), true));
    assert_eq!(close_code(&mut client).await, CloseCode::Size);
    assert!(matches!(server.request().await, Request::Input(Input::SocketClosed { .. })));

    let (mut client, _outgoing) = server.join().await;
    let _ = client.send(Message::text("x".repeat(1024 * 1024))).await; // The server may hang up while it is written.
    assert!(matches!(server.request().await, Request::Input(Input::SocketClosed { .. })), "a frame beyond all measure");
}

#[tokio::test]
async fn more_signals_than_allowed_end_the_socket() {
    let mut server = Server::start(Limits { signals_per_second: 10, ..Limits::default() }).await;
    let (mut client, _outgoing) = server.join().await;
    for _ in 0..40 {
        let _ = client.send(Message::text(r#"{"type":"ping"}"#)).await; // The server may hang up meanwhile.
    }
    let mut signals = 0;
    while let Request::Input(Input::Signal { .. }) = server.request().await {
        signals += 1;
    }
    assert!((10..15).contains(&signals), "{signals} were let through");
    assert_eq!(error_code(&mut client).await, ("too_much".into(), true));
    assert_eq!(close_code(&mut client).await, CloseCode::Again, "and may come again");
    let (mut client, _outgoing) = server.join().await;
    client.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    assert!(matches!(server.request().await, Request::Input(Input::Signal { .. })));
}

/// A browser on a host with hundreds of networks has as many candidates, and more m-sections multiply them.
#[tokio::test]
async fn candidates_are_not_counted_among_the_signals() {
    let mut server = Server::start(Limits { signals_per_second: 10, ..Limits::default() }).await;
    let (mut client, _outgoing) = server.join().await;
    let candidate =
        r#"{"candidate":"candidate:1 1 udp 2122260223 192.0.2.7 50312 typ host","sdpMid":"0","sdpMLineIndex":0}"#;
    let one = candidate.replace("{\"candidate", r#"{"type":"candidate","candidate"#);
    for _ in 0..600 {
        client.send(Message::text(one.clone())).await.unwrap();
    }
    let together =
        format!(r#"{{"type":"candidates","candidates":[{}{{"candidate":""}}]}}"#, format!("{candidate},").repeat(1000));
    client.send(Message::text(together)).await.unwrap();
    // The dictionary of the WebRTC API has an empty candidate by default.
    client.send(Message::text(r#"{"type":"candidate","sdpMid":null,"usernameFragment":null}"#)).await.unwrap();
    client.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    assert!(
        matches!(server.request().await, Request::Input(Input::Signal { signal: ClientSignal::Ping {}, .. })),
        "nothing before it"
    );
    let nonsense = r#"{"type":"candidates","candidates":[{"candidate":""},{"candidate":"{\"candidate\":\"\"}"}]}"#;
    client.send(Message::text(nonsense)).await.unwrap();
    assert_eq!(error_code(&mut client).await, ("bad_candidate".into(), false));
}

/// Who sends more bytes than anybody needs is read more slowly, and stays.
#[tokio::test]
async fn many_bytes_are_read_slowly() {
    let mut server = Server::start(Limits { signal_len_max: 50_000, ..Limits::default() }).await;
    let (mut client, _outgoing) = server.join().await;
    let begun = Instant::now();
    let padded = format!(r#"{{"type":"candidate"{}}}"#, " ".repeat(5_000));
    for _ in 0..20 {
        client.send(Message::text(padded.clone())).await.unwrap();
    }
    client.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    assert!(matches!(server.request().await, Request::Input(Input::Signal { .. })));
    let took = begun.elapsed();
    assert!(
        took > Duration::from_millis(900),
        "100 kB at 50 kB a second, of which one second's worth is free: {took:?}"
    );
}

#[tokio::test]
async fn a_silent_socket_is_closed_and_one_that_answers_pings_is_not() {
    let limits = Limits {
        ping_interval: Duration::from_millis(20),
        idle_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let mut server = Server::start(limits).await;
    let (mut client, _outgoing) = server.join().await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(900) {
        let message = timeout(DEADLINE, client.next()).await.unwrap();
        assert!(matches!(message, Some(Ok(Message::Ping(_)))), "{message:?}");
    }
    // From now on nobody reads the client's side, so its pings stay unanswered.
    assert!(matches!(server.request().await, Request::Input(Input::SocketClosed { .. })));
    assert!(begun.elapsed() >= Duration::from_millis(1200 - 50));
    assert_eq!(close_code(&mut client).await, CloseCode::Away);
}

#[tokio::test]
async fn a_socket_that_is_probed_and_does_not_answer_is_closed() {
    let mut server = Server::start(Limits { probe_timeout: Duration::from_millis(300), ..Limits::default() }).await;
    let (mut client, outgoing) = server.join().await;
    // Who answers stays, however often it is probed.
    for _ in 0..3 {
        outgoing.push(ToSocket::Probe).unwrap();
        let message = timeout(DEADLINE, client.next()).await.unwrap();
        assert!(matches!(message, Some(Ok(Message::Ping(_)))), "{message:?}");
        let is_quiet = timeout(Duration::from_millis(400), client.next()).await.is_err(); // Reading sends the pong.
        assert!(is_quiet, "it is not closed");
    }
    // From now on nobody reads the client's side.
    let begun = Instant::now();
    outgoing.push(ToSocket::Probe).unwrap();
    outgoing.push(ToSocket::Probe).unwrap();
    assert!(matches!(server.request().await, Request::Input(Input::SocketClosed { .. })));
    let took = begun.elapsed();
    assert!((Duration::from_millis(280)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert_eq!(close_code(&mut client).await, CloseCode::Away);
}

#[tokio::test]
async fn a_slow_or_long_head_does_not_hold_a_connection() {
    let server = Server::start(Limits { head_timeout: Duration::from_millis(200), ..Limits::default() }).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(b"GET /healthz HTT").await.unwrap();
    let mut rest = Vec::new();
    let ended = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
    assert!(matches!(ended, Ok(Ok(_))), "the server hangs up");
    let long = format!("GET /healthz HTTP/1.1\r\nHost: test\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000));
    assert_eq!(server.ask(&long).await.status(), 431);
}

#[tokio::test]
async fn one_connection_more_displaces_the_one_that_was_not_used_for_longest() {
    let server = Server::start(Limits { connections_max: 2, ..Limits::default() }).await;
    let mut first = TcpStream::connect(&server.address).await.unwrap();
    assert!(is_answered(&mut first).await);
    let mut second = TcpStream::connect(&server.address).await.unwrap();
    assert!(is_answered(&mut second).await && is_answered(&mut first).await);
    let mut third = TcpStream::connect(&server.address).await.unwrap();
    assert!(is_answered(&mut third).await && is_answered(&mut first).await);
    assert!(timeout(DEADLINE, second.read(&mut [0])).await.unwrap().unwrap_or(0) == 0, "it is closed");
}

/// The attack by silent connections: they displace each other, and nobody else's.
#[tokio::test]
async fn the_source_that_holds_most_connections_gives_them_up() {
    let server = Server::start(Limits { connections_max: 4, ..Limits::default() }).await;
    let mut early = connect_from([127, 0, 0, 2], &server.address).await;
    assert!(is_answered(&mut early).await);
    let mut attack = Vec::new();
    for _ in 0..50 {
        attack.push(connect_from([127, 0, 0, 66], &server.address).await);
    }
    let mut late = connect_from([127, 0, 0, 3], &server.address).await;
    assert!(is_answered(&mut late).await, "who comes later is served");
    assert!(is_answered(&mut early).await, "and who was there before them stays");
    let mut last = attack.pop().unwrap();
    assert!(is_answered(&mut last).await, "the attacker keeps its part");
}

/// The attack by connections that ask for much and read nothing.
#[tokio::test]
async fn who_does_not_take_its_answers_is_closed() {
    let limits = Limits { write_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = Server::on(limits, SiteSettings { metrics: Audience::All, ..SiteSettings::default() }).await;
    let mut attack = connect_from([127, 0, 0, 66], &server.address).await;
    let many = b"GET /openapi.json HTTP/1.1\r\nHost: test\r\n\r\n".repeat(300);
    attack.write_all(&many).await.unwrap();
    let Server { address, mut inbox, stopping: _stopping, .. } = server;
    let closed = async {
        loop {
            let text = Server::get_from(&address, "/metrics").await.body;
            if text.contains("uprtc_limited_total{what=\"slow_reader\",owner=\"source\"} 1") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answering = async {
        while let Some(Request::Sample { reply }) = inbox.requests.recv().await {
            reply.send(Sample::default()).unwrap();
        }
    };
    timeout(DEADLINE, async {
        tokio::select! { () = closed => {}, () = answering => {} }
    })
    .await
    .expect("it is closed");
    let mut taken = Vec::new();
    let ended = timeout(DEADLINE, attack.read_to_end(&mut taken)).await.expect("it has an end");
    assert!(ended.is_err() || taken.len() < 300 * 10_000, "not all was kept for it: {} bytes", taken.len());
}

/// Who asks too often waits, and nobody else does.
#[tokio::test]
async fn requests_of_one_source_wait_for_their_turn() {
    let limits = Limits { source_requests_per_second: 20, all_requests_per_second: 40, ..Limits::default() };
    let server = Server::start(limits).await;
    let mut attack = connect_from([127, 0, 0, 66], &server.address).await;
    attack.write_all(&HEALTHZ.repeat(100)).await.unwrap();
    let mut answers = vec![0; 100_000];
    let mut read = 0;
    let begun = Instant::now();
    while answers[..read].windows(8).filter(|window| *window == b"HTTP/1.1").count() < 60 {
        assert!(is_answered(&mut connect_from([127, 0, 0, 2], &server.address).await).await);
        let more = timeout(Duration::from_millis(200), attack.read(&mut answers[read..])).await;
        read += more.map_or(0, |more| more.unwrap());
    }
    assert!(begun.elapsed() >= Duration::from_millis(900), "60 at 20 a second: {:?}", begun.elapsed());
}

/// The attack by a token that opens every socket there is: it keeps its part.
#[tokio::test]
async fn one_token_does_not_take_all_sockets() {
    let mut server = Server::start(Limits { sockets_max: 4, ..Limits::default() }).await;
    let greedy = token("demo");
    let attack = format!("ws://{}/v1/rooms/demo/signal?token={greedy}", server.address);
    let mut sockets = Vec::new();
    for _ in 0..4 {
        let (client, _) = connect_async(&attack).await.unwrap();
        let Request::Open { outgoing, .. } = server.request().await else { panic!("no socket was opened") };
        sockets.push((client, outgoing));
    }
    let refused = connect_async(&attack).await;
    assert!(matches!(refused, Err(Error::Http(response)) if response.status() == 503));
    let ask = format!("/v1/rooms/demo/signal?ask&token={greedy}");
    assert_eq!(server.get(&ask).await.problem(), (503, "server_full".into()));
    let (_other, _) = connect_async(server.signal_address("other")).await.expect("another room's token gets in");
    let (mut newest, _outgoing) = sockets.pop().unwrap();
    assert_eq!(close_code(&mut newest).await, CloseCode::Again);
    let opened = |request| matches!(request, Request::Open { .. });
    let (one, two) = (server.request().await, server.request().await);
    assert!(opened(one) || opened(two), "and the engine knows of it");
    let (mut oldest, outgoing) = sockets.swap_remove(0);
    outgoing.push(ToSocket::Signal(Box::new(ServerSignal::Pong {}))).unwrap();
    assert!(matches!(signal(&mut oldest).await, ServerSignal::Pong {}), "who is in stays");
}

#[tokio::test]
async fn offers_of_whip_have_a_rate() {
    let server = Server::start(Limits { posts_per_second: 5, ..Limits::default() }).await;
    let post = |token: &str| {
        let fields = format!("Authorization: Bearer {token}\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n");
        format!("POST /whip/demo HTTP/1.1\r\nHost: test\r\n{fields}Connection: close\r\n\r\nx")
    };
    let greedy = token("demo");
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let answer = server.ask(&post(&greedy)).await;
        assert!(answer.status() != 429 || answer.header("retry-after").is_some());
        statuses.push(answer.status());
    }
    assert_eq!(statuses[..5], [415; 5]);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(server.ask(&post(&token("demo"))).await.status(), 415, "another token of the address has its own");
    // Tokens can be minted, so an address has a rate, too: 25 times that of a token.
    let server = Server::start(Limits { posts_per_second: 1, ..Limits::default() }).await;
    let mut posts: String = (0..59).map(|_| post(&token("demo")).replace("Connection: close\r\n", "")).collect();
    posts += &post(&token("demo"));
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(posts.as_bytes()).await.unwrap();
    let mut answers = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answers)).await.expect("all answers in time").unwrap();
    let refused = answers.matches("HTTP/1.1 429").count();
    assert!((1..=35).contains(&refused), "{refused} of 60");
}

#[tokio::test]
async fn sockets_beyond_the_limit_are_refused() {
    let mut server = Server::start(Limits { sockets_max: 1, ..Limits::default() }).await;
    let (_client, _outgoing) = server.join().await;
    let refused = connect_async(server.signal_address("demo")).await;
    assert!(matches!(refused, Err(Error::Http(response)) if response.status() == 503));
}
