use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::broker::Broker;
use crate::config::{CollectorSettings, OnConflict};
use crate::ingest::budget::BLOCK_BYTES;
use crate::ingest::testing::{Bench, Mood, bench, settings};
use crate::proto::offset::Shard;

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(address: SocketAddr, query: &str) -> Client {
    connect_async(format!("ws://{address}/ws/collector{query}")).await.unwrap().0
}

async fn send(client: &mut Client, lines: impl Into<Bytes>) {
    client.send(Message::Binary(lines.into())).await.unwrap();
}

/// Returns the lines of the log once it holds `count` envelopes.
async fn stored(bench: &Bench, count: usize) -> Vec<String> {
    let mut tail = bench.broker.tail(Shard(0)).await.unwrap();
    while bench.broker.stored().await.len() < count {
        tail.recv().await.unwrap();
    }
    bench.broker.lines().await
}

/// The close frame, whatever comes before it.
async fn closed(client: &mut Client) -> CloseFrame {
    loop {
        match client.next().await {
            Some(Ok(Message::Close(Some(frame)))) => return frame,
            Some(Ok(_)) => {}
            other => panic!("no close frame but {other:?}"),
        }
    }
}

/// A bare socket behind a WebSocket handshake, to send what no library would.
async fn raw(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /ws/collector HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    stream
}

/// Reads frames of the server until its close frame; gives the code and whether the connection then ended cleanly.
async fn raw_close_code(stream: &mut TcpStream) -> u16 {
    loop {
        let head = [stream.read_u8().await.unwrap(), stream.read_u8().await.unwrap()];
        let mut payload = vec![0; usize::from(head[1])];
        stream.read_exact(&mut payload).await.unwrap();
        if head[0] == 0x88 {
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "a clean end and no reset");
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
    }
}

/// As Telegraf's `outputs.websocket` does with its defaults: one masked binary frame of line protocol per flush, each line
/// with its host tag and a time in nanoseconds; every ping is answered by an empty pong; nothing comes back.
#[tokio::test]
async fn telegraf_with_its_defaults_is_served() {
    let mut bench = bench(CollectorSettings { ping_interval: Duration::from_millis(20), ..settings() });
    let mut stream = raw(bench.listen().await).await;
    for flush in 0..3 {
        let lines = format!(
            "cpu,cpu=cpu0,host=web-01 usage_idle=9{flush}.5 170000000{flush}000000000\n\
             cpu,cpu=cpu1,host=web-01 usage_idle=1 170000000{flush}000000000\n\
             mem,host=web-01 used=12345i 170000000{flush}000000000\n"
        );
        let mask = [1, 2, 3, flush];
        let mut frame = vec![0x82, 0x80 | 126];
        frame.extend_from_slice(&(lines.len() as u16).to_be_bytes());
        frame.extend_from_slice(&mask);
        frame.extend(lines.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        stream.write_all(&frame).await.unwrap();
        let mut ping = [0; 2];
        stream.read_exact(&mut ping).await.unwrap();
        assert_eq!(ping, [0x89, 0]);
        stream.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await.unwrap();
    }
    let lines = stored(&bench, 6).await;
    assert_eq!(
        lines[4],
        "cpu,cpu=cpu0,host=web-01 usage_idle=92.5 1700000002000000000\ncpu,cpu=cpu1,host=web-01 usage_idle=1 1700000002000000000"
    );
    assert_eq!(lines[5], "mem,host=web-01 used=12345i 1700000002000000000");
    let collector = &bench.status()["collectors"][0];
    assert_eq!((&collector["id"], &collector["connected"]), (&"web-01".into(), &true.into()));
    assert_eq!((&collector["transport"], &collector["lines_accepted"]), (&"websocket".into(), &9.into()));
}

#[tokio::test]
async fn fragments_text_and_json_are_taken_and_pings_answered() {
    let mut bench = bench(settings());
    let address = bench.listen().await;
    let mut client = connect(address, "?precision=s&collector=rack%207").await;
    client.send(Message::text("cpu u=1 1700000000")).await.unwrap();
    client.send(Message::Ping(Bytes::from_static(b"are you there"))).await.unwrap();
    client.send(Message::text(r#" {"name":"mem","fields":{"f":2.5},"timestamp":1700000001}"#)).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"are you there")));
    assert_eq!(stored(&bench, 2).await, ["cpu u=1 1700000000000000000", "mem f=2.5 1700000001000000000"]);
    assert!(
        bench.broker.stored().await.iter().all(|one| one.envelope.channel.collector.as_str() == "rack 7")
    );
    client.close(None).await.unwrap();
    assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
}

#[tokio::test]
async fn bad_lines_cost_neither_their_neighbours_nor_the_socket() {
    let mut bench = bench(settings());
    let mut client = connect(bench.listen().await, "").await;
    send(&mut client, &b"cpu,host=a u=1 1\nnonsense\n\xff\xff u=1\ncpu,host=a u=2 2"[..]).await;
    send(&mut client, "cpu,host=a u=3 3").await;
    assert_eq!(stored(&bench, 2).await, ["cpu,host=a u=1 1\ncpu,host=a u=2 2", "cpu,host=a u=3 3"]);
    assert_eq!(bench.status()["collectors"][0]["lines_rejected"], 2);
    assert_eq!(bench.metric("ws_lines_rejected_total{kind=\"utf8\"}"), 1.0);
}

#[tokio::test]
async fn an_unmasked_frame_is_refused_with_1002() {
    let mut bench = bench(settings());
    let mut stream = raw(bench.listen().await).await;
    stream.write_all(b"\x82\x09cpu u=1 1").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(raw_close_code(&mut stream).await, 1002);
    assert!(bench.broker.stored().await.is_empty());
}

#[tokio::test]
async fn a_message_above_the_bound_is_refused_with_1009_however_it_is_cut() {
    let mut bench = bench(settings());
    let address = bench.listen().await;
    let mut claimed = raw(address).await;
    claimed.write_all(b"\x82\xff\x00\x00\x00\x00\x10\x00\x00\x00\x01\x02\x03\x04rest").await.unwrap();
    claimed.shutdown().await.unwrap();
    assert_eq!(raw_close_code(&mut claimed).await, 1009);

    let mut fragments = raw(address).await;
    for first in [0x02, 0x00, 0x00] {
        let mut frame = vec![first, 0xfe, 0x75, 0x30, 0, 0, 0, 0];
        frame.resize(frame.len() + 30_000, b'x');
        fragments.write_all(&frame).await.unwrap();
    }
    fragments.shutdown().await.unwrap();
    assert_eq!(raw_close_code(&mut fragments).await, 1009);
}

#[tokio::test]
async fn a_host_that_another_connection_has_is_refused_with_4009() {
    let mut bench = bench(settings());
    let address = bench.listen().await;
    let mut first = connect(address, "").await;
    send(&mut first, "cpu,host=a u=1 1").await;
    stored(&bench, 1).await;
    let mut second = connect(address, "").await;
    send(&mut second, "cpu,host=b u=1 1\ncpu,host=a u=9 9").await;
    let frame = closed(&mut second).await;
    assert_eq!(u16::from(frame.code), 4009);
    assert!(frame.reason.contains("node ingest-1") && frame.reason.contains("'a'"), "{}", frame.reason);
    send(&mut first, "cpu,host=a u=2 2").await;
    assert_eq!(
        stored(&bench, 2).await,
        ["cpu,host=a u=1 1", "cpu,host=a u=2 2"],
        "nothing of the refused message"
    );
    assert_eq!(bench.metric("ws_envelopes_dropped_total{reason=\"conflict\"}"), 2.0);
}

#[tokio::test]
async fn a_take_over_closes_the_older_connection_and_serves_the_newcomer() {
    let mut bench = bench(CollectorSettings { on_conflict: OnConflict::TakeOver, ..settings() });
    let address = bench.listen().await;
    let mut first = connect(address, "?collector=a").await;
    send(&mut first, "cpu u=1 1").await;
    stored(&bench, 1).await;
    let mut second = connect(address, "").await;
    send(&mut second, "cpu,host=a u=2 2").await;
    assert_eq!(u16::from(closed(&mut first).await.code), 4009);
    send(&mut second, "cpu,host=a u=3 3").await;
    assert_eq!(stored(&bench, 3).await, ["cpu u=1 1", "cpu,host=a u=2 2", "cpu,host=a u=3 3"]);
}

#[tokio::test]
async fn agents_that_name_nobody_are_all_served() {
    let mut bench = bench(settings());
    let address = bench.listen().await;
    let mut first = connect(address, "").await;
    send(&mut first, "cpu u=1 1").await;
    stored(&bench, 1).await;
    let mut second = connect(address, "").await;
    send(&mut second, "cpu u=2 2").await;
    assert_eq!(stored(&bench, 2).await, ["cpu u=1 1", "cpu u=2 2"]);
    assert_eq!(bench.status()["collectors"][0]["id"], "unknown");
    assert_eq!(bench.status()["collector_connected"], true);
}

/// The log is silent, and the buffer holds two batches: the third waits in the socket's task and the others in the
/// kernel. Pings must go on, or Telegraf would give the connection up and send everything again.
#[tokio::test]
async fn back_pressure_stops_the_reading_but_not_the_pings_and_loses_nothing() {
    let mut bench = bench(CollectorSettings {
        buffer_bytes_max: 2 * BLOCK_BYTES,
        ping_interval: Duration::from_millis(5),
        ..settings()
    });
    bench.broker.set(Mood::Silent);
    let mut client = connect(bench.listen().await, "?collector=a").await;
    for n in 0..20 {
        send(&mut client, format!("cpu u={n} {n}")).await;
    }
    // Two are in the buffer and one waits for room; five pings later it is still so.
    let mut pings = 0;
    while pings < 5 {
        assert!(matches!(client.next().await.unwrap().unwrap(), Message::Ping(_)));
        pings += u32::from(bench.metric("ws_messages_received_total") >= 3.0);
    }
    assert_eq!(bench.metric("ws_collector_buffered_bytes"), (2 * BLOCK_BYTES) as f64);
    assert_eq!(bench.metric("ws_messages_received_total"), 3.0);
    bench.broker.set(Mood::Well);
    let expected: Vec<String> = (0..20).map(|n| format!("cpu u={n} {n}")).collect();
    assert_eq!(stored(&bench, 20).await, expected);
    bench.ingest.drain(Duration::from_secs(10)).await;
    assert_eq!(bench.metric("ws_collector_buffered_bytes"), 0.0);
}

#[tokio::test]
async fn what_a_closed_socket_brought_is_still_stored_when_the_log_is_back() {
    let mut bench = bench(CollectorSettings { buffer_bytes_max: BLOCK_BYTES, ..settings() });
    bench.broker.set(Mood::Silent);
    let mut client = connect(bench.listen().await, "").await;
    send(&mut client, "cpu,host=a u=1 1").await;
    send(&mut client, "cpu,host=a u=2 2").await;
    client.close(None).await.unwrap();
    drop(client);
    bench.broker.begun(1).await;
    bench.broker.set(Mood::Well);
    assert_eq!(stored(&bench, 2).await, ["cpu,host=a u=1 1", "cpu,host=a u=2 2"]);
}

#[tokio::test]
async fn a_silent_peer_is_closed_after_the_idle_time() {
    let mut bench = bench(CollectorSettings { idle_timeout: Duration::from_millis(20), ..settings() });
    let mut stream = raw(bench.listen().await).await;
    assert_eq!(raw_close_code(&mut stream).await, 4010);
}

/// Messages that were on their way when the drain began are stored as well: the agent believes them sent.
#[tokio::test]
async fn a_drain_says_1012_and_stores_what_was_sent_before() {
    let mut bench = bench(settings());
    let mut client = connect(bench.listen().await, "").await;
    send(&mut client, "cpu,host=a u=1 1").await;
    stored(&bench, 1).await;
    send(&mut client, "cpu,host=a u=2 2").await;
    let (left, frame) = tokio::join!(bench.ingest.drain(Duration::from_secs(10)), async {
        let frame = closed(&mut client).await;
        // Flushes the answering close frame.
        assert!(client.next().await.is_none_or(|end| end.is_err()));
        frame
    });
    assert_eq!(u16::from(frame.code), 1012);
    assert_eq!(left.batches, 0);
    assert_eq!(bench.broker.lines().await, ["cpu,host=a u=1 1", "cpu,host=a u=2 2"]);
    assert_eq!(bench.metric("ws_collectors_connected"), 0.0);
}

/// The agent reconnects as soon as it sees the close frame, and whatever it then sends must not be stored before this.
#[tokio::test]
async fn the_close_frame_of_a_drain_comes_after_everything_that_was_sent_is_in_the_log() {
    let mut bench = bench(CollectorSettings { buffer_bytes_max: BLOCK_BYTES, ..settings() });
    bench.broker.set(Mood::Silent);
    let mut client = connect(bench.listen().await, "").await;
    for n in 0..10 {
        send(&mut client, format!("cpu,host=a u={n} {n}")).await;
    }
    // One is in flight, the next waits for room, and the others have arrived with it.
    while bench.metric("ws_messages_received_total") < 2.0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (left, in_log) = tokio::join!(bench.ingest.drain(Duration::from_secs(10)), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        bench.broker.set(Mood::Well);
        assert_eq!(u16::from(closed(&mut client).await.code), 1012);
        let in_log = bench.broker.stored().await.len();
        let _ = client.next().await;
        in_log
    });
    assert_eq!((left.batches, in_log), (0, 10));
}

/// What was read is the node's to store: batches that still waited for room are named as lost, too.
#[tokio::test]
async fn a_drain_out_of_time_counts_what_sockets_still_held() {
    let mut bench = bench(CollectorSettings { buffer_bytes_max: BLOCK_BYTES, ..settings() });
    bench.broker.set(Mood::Silent);
    let address = bench.listen().await;
    let mut client = connect(address, "").await;
    send(&mut client, "cpu,host=a u=1 1").await;
    send(&mut client, "cpu,host=a u=2 2").await;
    let mut other = connect(address, "").await;
    send(&mut other, "cpu,host=b u=3 3").await;
    other.close(None).await.unwrap();
    // All three are read: one is in flight, the others wait for room in their sockets' tasks.
    while bench.metric("ws_messages_received_total") < 3.0 {
        tokio::task::yield_now().await;
    }
    let (left, frame) = tokio::join!(bench.ingest.drain(Duration::from_millis(20)), closed(&mut client));
    assert_eq!(left.batches, 3);
    assert_eq!(u16::from(frame.code), 1012);
    assert_eq!(bench.metric("ws_envelopes_dropped_total{reason=\"shutdown\"}"), 3.0);
    assert_eq!(bench.metric("ws_collector_buffered_bytes"), 0.0);
}

/// Within one socket everything arrives once. A batch whose answer was lost with its socket comes first on the next one.
#[tokio::test]
async fn a_value_that_returns_on_one_socket_is_stored_and_a_flush_repeated_on_the_next_is_not() {
    let mut bench = bench(settings());
    let mut peer = bench.peer();
    let addresses = [bench.listen().await, peer.listen().await];
    let line = |open: u8| format!("door,host=a open={open}i 1700000000");
    let mut expected = Vec::new();
    let mut last = None;
    for (round, address) in addresses.iter().cycle().take(4).enumerate() {
        let mut client = connect(*address, "?precision=s").await;
        for open in last.into_iter().chain([1, 1, 0, 1, round as u8]) {
            send(&mut client, line(open)).await;
        }
        let values = [1, 1, 0, 1, round as u8];
        expected.extend(values.map(|open| format!("door,host=a open={open}i 1700000000000000000")));
        assert_eq!(stored(&bench, expected.len()).await, expected, "round {round}");
        last = Some(round as u8);
        client.close(None).await.unwrap();
        while client.next().await.is_some() {}
    }
}

#[tokio::test]
async fn a_socket_claims_so_many_ids_and_what_is_more_hurts_neither_its_own_lines_nor_others() {
    let mut bench = bench(CollectorSettings { ids_per_connection_max: 2, ..settings() });
    let address = bench.listen().await;
    let mut squatter = connect(address, "").await;
    send(&mut squatter, "m,host=a v=1\nm,host=b v=1").await;
    stored(&bench, 2).await;
    send(&mut squatter, "m,host=c v=1\nm,host=a v=2\nm,host=d v=1").await;
    let lines = stored(&bench, 3).await;
    assert!(lines[2].starts_with("m,host=a v=2"), "{lines:?}");
    assert_eq!(bench.metric("ws_lines_rejected_total{kind=\"too_many_collectors\"}"), 2.0);
    // Neither of the ids that it did not get is taken.
    for id in ["c", "d"] {
        let mut honest = connect(address, &format!("?collector={id}")).await;
        send(&mut honest, "m v=1").await;
        honest.close(None).await.unwrap();
    }
    stored(&bench, 5).await;
}

/// The beginning of a masked binary frame of 60,000 bytes, and so much of it.
fn begun(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x82, 0xfe, 0xea, 0x60, 0, 0, 0, 0];
    frame.resize(frame.len() + bytes, b'#');
    frame
}

#[tokio::test]
async fn a_message_that_is_begun_and_not_ended_is_given_up_in_time() {
    let message_timeout = Duration::from_millis(50);
    let mut bench = bench(CollectorSettings { message_timeout, ..settings() });
    let address = bench.listen().await;
    // A part of a header, of a frame, and a message between two frames.
    for beginning in [vec![0x82], begun(10), vec![0x02, 0x81, 0, 0, 0, 0, b'#']] {
        let mut stream = raw(address).await;
        stream.write_all(&beginning).await.unwrap();
        // The peer is there, but takes its time.
        let farewell = async {
            let code = raw_close_code(&mut stream).await;
            assert_eq!(code, 1008, "{beginning:?}");
        };
        tokio::time::timeout(Duration::from_secs(30), farewell).await.unwrap();
    }
    assert_eq!(bench.metric("ws_receives_cut_total{reason=\"timed_out\"}"), 3.0);
}

#[tokio::test]
async fn a_message_that_trickles_is_given_up_and_says_why() {
    let receive_window = Duration::from_millis(50);
    let mut bench = bench(CollectorSettings { receive_window, ..settings() });
    let mut stream = raw(bench.listen().await).await;
    stream.write_all(&begun(10)).await.unwrap();
    assert_eq!(raw_close_code(&mut stream).await, 1008);
    assert_eq!(bench.metric("ws_receives_cut_total{reason=\"too_slow\"}"), 1.0);
}

/// There is room for one of them: a sender that has begun and stalls makes room for those that end.
#[tokio::test]
async fn unfinished_messages_take_no_more_than_their_room_and_give_way_to_finished_ones() {
    let mut bench = bench(settings());
    let address = bench.listen().await;
    let mut stalled = Vec::new();
    for _ in 0..2 {
        let mut stream = raw(address).await;
        stream.write_all(&begun(59_000)).await.unwrap();
        stalled.push(stream);
    }
    let mut good = connect(address, "").await;
    send(&mut good, format!("cpu,host=a s=\"{}\" 1", "x".repeat(15_000))).await;
    send(&mut good, format!("cpu,host=a s=\"{}\" 2", "y".repeat(15_000))).await;
    assert_eq!(stored(&bench, 2).await.len(), 2);
    assert!(bench.metric("ws_receive_bytes") <= (64 * 1024) as f64);
    let code = tokio::time::timeout(Duration::from_secs(30), raw_close_code(&mut stalled[0]));
    assert_eq!(code.await.unwrap(), 1013);
}

#[tokio::test]
async fn messages_that_wait_for_the_log_are_charged_until_it_has_room() {
    let mut bench = bench(CollectorSettings { buffer_bytes_max: 64 * 1024, ..settings() });
    bench.broker.set(Mood::Silent);
    let address = bench.listen().await;
    let mut clients = Vec::new();
    for (n, bytes) in [15_000, 15_000, 15_000, 15_000, 15_000].into_iter().enumerate() {
        let mut client = connect(address, "").await;
        send(&mut client, format!("cpu,host=h{n} s=\"{}\" 1", "x".repeat(bytes))).await;
        clients.push(client);
    }
    while bench.metric("ws_receive_bytes") < 15_000.0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.broker.set(Mood::Well);
    assert_eq!(stored(&bench, 5).await.len(), 5);
    while bench.metric("ws_receive_bytes") > 0.0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// On a socket there is no answer: what its agent got wrong is listed, and nothing of it costs the socket.
#[tokio::test]
async fn mistakes_of_an_agent_are_listed_with_what_to_do() {
    let mut bench = bench(settings());
    let mut client = connect(bench.listen().await, "?collector=a").await;
    for message in [
        "\u{feff}cpu u=1 1700000000",
        "page.views:1|c",
        "\u{feff}{\"name\":\"m\",\"fields\":{\"v\":2}}",
        "cpu,a=1,a=2 u=1",
    ] {
        send(&mut client, message.as_bytes().to_vec()).await;
    }
    send(&mut client, "last u=1").await;
    let lines = stored(&bench, 3).await;
    assert_eq!(lines[0], "cpu u=1 1700000000");
    assert!(lines[1].starts_with("m v=2 "), "{lines:?}");
    let errors = bench.status()["collectors"][0]["recent_errors"].to_string();
    for word in ["precision=s would fit", "statsd", "comes twice"] {
        assert!(errors.contains(word), "{word} in {errors}");
    }
    assert_eq!(bench.metric("ws_lines_suspicious_total{kind=\"precision\"}"), 1.0);
}
