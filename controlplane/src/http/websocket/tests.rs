use std::sync::Arc;

use proptest::prelude::*;
use tokio::io::DuplexStream;

use super::*;

const LEN_MAX: usize = 100_000;

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(MASKED | len as u8),
        len @ 126..65_536 => bytes.extend([&[MASKED | 126][..], &(len as u16).to_be_bytes()].concat()),
        len => bytes.extend([&[MASKED | 127][..], &(len as u64).to_be_bytes()].concat()),
    }
    let mask = [7, 0xff, 0, 0x55];
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
    bytes
}

const PACE: Pace = Pace { grace: Duration::from_secs(10), least: 4096 };

fn memory(bytes: usize) -> Arc<Memory> {
    Memory::new(bytes)
}

fn lease(memory: &Arc<Memory>) -> Lease {
    memory.lease(Owner::Room("demo".into()))
}

fn pair() -> (WebSocket<DuplexStream>, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    (WebSocket::new(ours, Bounds { len_max: LEN_MAX, pace: PACE }, lease(&memory(1 << 20))), theirs)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// What comes out of these bytes until their end.
async fn read(bytes: &[u8]) -> Vec<Result<Message, Error>> {
    let (mut socket, mut client) = pair();
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let mut read = Vec::new();
    while let Some(received) = socket.recv().await {
        if !matches!(received, Ok(Message::Part)) {
            read.push(received);
        }
    }
    read
}

#[test]
fn the_handshake_is_that_of_the_rfc() {
    let mut headers = HeaderMap::new();
    let lines = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (name, value) in lines {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let answer = shake_hands(&Method::GET, &headers).unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "RFC 6455 §1.3");
    assert!(shake_hands(&Method::HEAD, &headers).is_none());
    for (name, _) in lines {
        let mut without = headers.clone();
        without.remove(name);
        assert!(shake_hands(&Method::GET, &without).is_none(), "without {name}");
    }
    for bad in [
        "",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ===",
        "dGhlIHNhbXBsZSBub25j Q==",
    ] {
        let mut with = headers.clone();
        with.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_str(bad).unwrap());
        assert!(shake_hands(&Method::GET, &with).is_none(), "{bad}");
    }
    let mut twice = headers.clone();
    twice.append(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
    assert!(shake_hands(&Method::GET, &twice).is_none(), "two keys");
    for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(bytes.as_bytes()), text, "RFC 4648 §10");
    }
}

#[test]
fn an_idle_socket_holds_next_to_nothing_however_much_was_said() {
    block_on(async {
        let (mut socket, mut client) = pair();
        let offer = "o".repeat(70_000);
        client.write_all(&frame(FIN | opcode::TEXT, offer.as_bytes())).await.unwrap();
        assert_eq!(socket.recv().await.unwrap().unwrap(), Message::Text(offer.clone()));
        socket.send(Message::Text(offer)).await.unwrap();
        // It waits, as it does for hours.
        let waited = tokio::time::timeout(std::time::Duration::from_millis(1), socket.recv()).await;
        assert!(waited.is_err());
        let held = socket.input.capacity() + socket.output.capacity() + size_of_val(&socket);
        assert!(held <= 700, "{held} bytes");
    });
}

#[test]
fn a_ping_between_the_parts_of_a_message_is_answered() {
    block_on(async {
        let (mut socket, mut client) = pair();
        let parts = [frame(opcode::TEXT, b"he"), frame(FIN | opcode::PING, b"?"), frame(FIN, b"llo")].concat();
        client.write_all(&parts).await.unwrap();
        assert_eq!(socket.recv().await.unwrap().unwrap(), Message::Part);
        assert_eq!(socket.recv().await.unwrap().unwrap(), Message::Ping);
        assert_eq!(socket.recv().await.unwrap().unwrap(), Message::Text("hello".into()));
        let mut pong = [0; 3];
        client.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, [FIN | opcode::PONG, 1, b'?']);
    });
}

#[test]
fn an_end_is_answered_once_and_is_the_end() {
    block_on(async {
        let (mut socket, mut client) = pair();
        client.write_all(&frame(FIN | opcode::CLOSE, &[3, 0xe8, b'x'])).await.unwrap();
        assert_eq!(socket.recv().await.unwrap().unwrap(), Message::Close(close_code::NORMAL, ""));
        assert!(socket.recv().await.is_none());
        drop(socket);
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, [FIN | opcode::CLOSE, 2, 3, 0xe8]);

        let (mut socket, mut client) = pair();
        socket.send(Message::Close(close_code::POLICY, "no")).await.unwrap();
        client.write_all(&frame(FIN | opcode::CLOSE, &[3, 0xf0])).await.unwrap();
        assert_eq!(socket.recv().await.unwrap().unwrap(), Message::Close(close_code::POLICY, ""));
        drop(socket);
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, [&[FIN | opcode::CLOSE, 4, 3, 0xf0][..], b"no"].concat(), "it is not said twice");
    });
}

#[test]
fn what_is_not_websocket_is_named() {
    let unmasked = vec![FIN | opcode::TEXT, 1, b'x'];
    let bad = [
        unmasked,
        frame(FIN | 0x40 | opcode::TEXT, b"x"),
        frame(FIN | 0x3, b"x"),
        frame(FIN | 0xb, b"x"),
        frame(FIN, b"x"),
        frame(opcode::PING, b"x"),
        frame(FIN | opcode::PING, &[0; 126]),
        frame(FIN | opcode::CLOSE, &[3]),
        frame(FIN | opcode::CLOSE, &1005u16.to_be_bytes()),
        [frame(opcode::TEXT, b"x"), frame(FIN | opcode::TEXT, b"y")].concat(),
    ];
    for bytes in bad {
        let read = block_on(read(&bytes));
        assert!(matches!(&read[..], [Err(Error::Protocol(_))]), "{bytes:x?} gives {read:?}");
    }
    let too_long = [FIN | opcode::TEXT, MASKED | 127, 0xff, 0, 0, 0, 0, 0, 0, 0];
    assert!(matches!(&block_on(read(&too_long))[..], [Err(Error::TooLong(LEN_MAX))]), "before its mask has come");
    let in_parts = [frame(opcode::TEXT, &[b'x'; LEN_MAX]), frame(FIN, b"x")].concat();
    assert!(matches!(&block_on(read(&in_parts))[..], [Err(Error::TooLong(LEN_MAX))]));
    assert!(matches!(&block_on(read(&[FIN]))[..], [Err(Error::Gone(_))]));
}

/// What these bytes cost, and how it ended.
fn work_of(bytes: &[u8]) -> (usize, usize, Result<Message, Error>) {
    block_on(async {
        let (ours, mut client) = tokio::io::duplex(4 << 20);
        let mut socket = WebSocket::new(ours, Bounds { len_max: 1 << 20, pace: PACE }, lease(&memory(16 << 20)));
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let (mut last, mut cost) = (Ok(Message::Pong), 0);
        while let Some(received) = socket.recv().await {
            cost += socket.take_cost();
            if !matches!(received, Err(Error::Gone(_))) {
                last = received;
            }
        }
        (socket.work, cost, last)
    })
}

/// The attack that stopped the controlplane for nine seconds: a long frame, and empty ones after it.
#[test]
fn the_work_for_a_byte_does_not_grow_with_what_came_before() {
    let mut attack = frame(opcode::TEXT, &[b'x'; 512 * 1024]);
    let empty = frame(opcode::CONTINUATION, b"");
    (0..300_000).for_each(|_| attack.extend(&empty));
    let (work, cost, last) = work_of(&attack);
    assert!(matches!(last, Err(Error::TooManyFrames)), "{last:?}");
    assert!(work <= 5 * attack.len(), "{work} steps for {} bytes", attack.len());
    assert!(cost >= FRAMES_MAX as usize * FRAME_COST_MIN, "each frame is charged: {cost}");

    // Any other cut: twice the bytes are twice the work.
    type Cut = fn(usize) -> Vec<u8>;
    let cuts: [(&str, Cut); 5] = [
        ("a frame", |n| frame(FIN | opcode::TEXT, &vec![b'x'; n])),
        ("small frames", |n| {
            let mut bytes = frame(opcode::TEXT, b"");
            (0..n / 128).for_each(|_| bytes.extend(frame(opcode::CONTINUATION, &[b'x'; 128])));
            [bytes, frame(FIN, b"")].concat()
        }),
        ("letters of four bytes, each cut", |n| {
            let mut bytes = frame(opcode::TEXT, b"");
            for _ in 0..n / 256 {
                bytes.extend(frame(opcode::CONTINUATION, &[0xf0, 0x9f, 0x98]));
                bytes.extend(frame(opcode::CONTINUATION, &[0x80]));
            }
            [bytes, frame(FIN, b"")].concat()
        }),
        ("pings", |n| (0..n / 100).flat_map(|_| frame(FIN | opcode::PING, &[b'x'; 100])).collect()),
        ("signals", |n| (0..n / 50).flat_map(|_| frame(FIN | opcode::TEXT, &[b'x'; 50])).collect()),
    ];
    for (cut, make) in cuts {
        let (once, twice) = (make(200_000), make(400_000));
        let ((work, ..), (work_twice, _, last)) = (work_of(&once), work_of(&twice));
        assert!(last.is_ok(), "{cut}: {last:?}");
        assert!(work_twice * 10 <= work * 22, "{cut}: {work} steps, and {work_twice} for twice as much");
        assert!(work_twice <= 6 * twice.len(), "{cut}: {work_twice} steps for {} bytes", twice.len());
    }
}

#[test]
fn bad_utf8_ends_it_with_the_first_bad_byte() {
    let not_text = |bytes: &[u8]| {
        let read = block_on(read(bytes));
        assert!(matches!(&read[..], [Err(Error::NotText)]), "{bytes:x?} gives {read:?}");
    };
    not_text(&frame(FIN | opcode::TEXT, &[0xc3]));
    not_text(&frame(FIN | opcode::TEXT, &[0xed, 0xa0, 0x80]));
    not_text(&frame(opcode::TEXT, &[b'a', 0xff]));
    not_text(&[frame(opcode::TEXT, &[0xf4]), frame(opcode::CONTINUATION, &[0x90])].concat());
    let whole = frame(FIN | opcode::TEXT, &[&[0xff][..], &[b'x'; 5000]].concat());
    not_text(&whole[..100]);
    not_text(&frame(FIN | opcode::CLOSE, &[3, 0xe8, 0xc3]));
    assert_eq!(Error::NotText.close().unwrap().0, 1007);
    assert_eq!(Error::TooLong(1).close().unwrap().0, 1009);
    assert_eq!(Error::Protocol("").close().unwrap().0, 1002);
    let split = [frame(opcode::TEXT, &[0xc3]), frame(FIN | opcode::PONG, b""), frame(FIN, &[0xa4])].concat();
    let read = block_on(read(&split));
    assert_eq!(*read[1].as_ref().unwrap(), Message::Text("\u{e4}".into()), "a letter may be cut");
}

#[test]
fn a_message_that_stops_coming_ends_the_socket() {
    block_on(async {
        for begun in [frame(opcode::TEXT, b"he"), frame(FIN | opcode::TEXT, b"hello")[..8].to_vec()] {
            let (ours, mut client) = tokio::io::duplex(1 << 20);
            let pace = Pace { grace: Duration::from_millis(20), least: 4096 };
            let mut socket = WebSocket::new(ours, Bounds { len_max: LEN_MAX, pace }, lease(&memory(1 << 20)));
            client.write_all(&begun).await.unwrap();
            let end = loop {
                match socket.recv().await.unwrap() {
                    Ok(Message::Part) => {}
                    other => break other,
                }
            };
            assert!(matches!(end, Err(Error::TooSlow)), "{end:?}");
        }
    });
}

#[test]
fn unfinished_messages_share_what_memory_there_is() {
    block_on(async {
        let memory = memory(64 * 1024);
        let pace = Pace { grace: Duration::from_millis(50), least: 1 << 20 };
        let begin = |room: &str| {
            let (ours, client) = tokio::io::duplex(1 << 20);
            let lease = memory.lease(Owner::Room(room.into()));
            (
                WebSocket::new(
                    ours,
                    Bounds { len_max: LEN_MAX, pace: Pace { grace: Duration::from_secs(60), ..pace } },
                    lease,
                ),
                client,
            )
        };
        let mut attack = Vec::new();
        for _ in 0..20 {
            let (mut socket, mut client) = begin("attack");
            client.write_all(&frame(opcode::TEXT, &[b'x'; 8000])).await.unwrap();
            let soon = Duration::from_millis(5);
            let _ = tokio::time::timeout(soon, async { socket.recv().await }).await;
            attack.push((socket, client));
        }
        let held: usize = attack
            .iter()
            .map(|(socket, _)| socket.begun.as_ref().map_or(0, |b| b.text.as_ref().unwrap().capacity()))
            .sum();
        assert!(held <= 64 * 1024, "{held} bytes");
        // Somebody else's offer comes through all the same, and at once.
        let (mut socket, mut client) = begin("other");
        client.write_all(&frame(FIN | opcode::TEXT, &[b'x'; 16_000])).await.unwrap();
        assert_eq!(socket.recv().await.unwrap().unwrap(), Message::Text("x".repeat(16_000)));
        // Who finds none for too long is told so.
        let (ours, mut client) = tokio::io::duplex(1 << 20);
        let mut late =
            WebSocket::new(ours, Bounds { len_max: LEN_MAX, pace }, memory.lease(Owner::Room("attack".into())));
        client.write_all(&frame(FIN | opcode::TEXT, &[b'x'; 40_000])).await.unwrap();
        assert!(matches!(late.recv().await, Some(Err(Error::NoMemory))));
        drop(attack);
        let (mut socket, mut client) = begin("attack");
        client.write_all(&frame(FIN | opcode::TEXT, &[b'x'; 8000])).await.unwrap();
        assert!(socket.recv().await.unwrap().is_ok(), "it is given back");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Messages come out as they went in, wherever they are cut into frames and however the bytes arrive, and a wait
    /// that is given up loses nothing.
    #[test]
    fn messages_survive_any_cut(
        texts in prop::collection::vec("[a-zäß]{0,400}", 1..5),
        parts in 1usize..5,
        chunk in 1usize..300,
    ) {
        let mut bytes = Vec::new();
        for text in &texts {
            let text = text.as_bytes();
            let len = (text.len() / parts).max(1);
            let pieces: Vec<&[u8]> = if text.is_empty() { vec![text] } else { text.chunks(len).collect() };
            for (n, piece) in pieces.iter().enumerate() {
                let opcode = if n == 0 { opcode::TEXT } else { opcode::CONTINUATION };
                let fin = if n + 1 == pieces.len() { FIN } else { 0 };
                bytes.extend(frame(fin | opcode, piece));
            }
        }
        let received = block_on(async {
            let (mut socket, mut client) = pair();
            let mut received = Vec::new();
            for chunk in bytes.chunks(chunk) {
                client.write_all(chunk).await.unwrap();
                let soon = std::time::Duration::ZERO;
                while let Ok(Some(message)) = tokio::time::timeout(soon, socket.recv()).await {
                    received.extend(Some(message.unwrap()).filter(|message| *message != Message::Part));
                }
            }
            received
        });
        let expected: Vec<Message> = texts.into_iter().map(Message::Text).collect();
        prop_assert_eq!(received, expected);
    }

    /// Whatever arrives, there is an end, and nobody is hurt.
    #[test]
    fn hostile_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let read = block_on(read(&bytes));
        prop_assert!(matches!(read.last(), Some(Err(_) | Ok(Message::Close(..)))));
    }
}
