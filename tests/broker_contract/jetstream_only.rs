//! Claims that only make sense with servers: absence, loss, other people's streams, several nodes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use bytes::Bytes;
use futures_util::StreamExt;
use telecast::broker::{Broker, BrokerError, Connection, Expected, Outgoing, ReadLimits, Stall, StateEvent};
use telecast::config::{LogSettings, NatsSettings, Secret};
use telecast::proto::channel::{Channel, CollectorId};
use telecast::proto::offset::Shard;
use tokio::task::JoinSet;

use crate::jetstream::{JetStream, Node, admin, nats_settings};
use crate::nats_server::NatsServer;
use crate::under_test::{PATIENCE, SHARD, UNLIMITED, UnderTest, batch, eventually, log, outgoing, texts};

async fn stream_config(admin: &Context, name: &str) -> Config {
    admin.get_stream(name).await.unwrap().cached_info().config.clone()
}

fn first_stream(log: &LogSettings) -> String {
    format!("{}-0", log.name)
}

#[tokio::test]
async fn a_foreign_envelope_has_no_stamp() {
    let it = JetStream::begin(log()).await;
    let mut tail = it.broker().tail(SHARD).await.unwrap();
    let subject = format!("{}.in.0.web.example.org.cpu", it.settings.name);
    let js = admin(&it.server).await;
    js.publish(subject, "cpu value=1".into()).await.unwrap().await.unwrap();
    let live = tokio::time::timeout(PATIENCE, tail.recv()).await.unwrap().unwrap();
    let read = it.broker().read(SHARD, 1, UNLIMITED).await.unwrap().remove(0);
    for stored in [live, read] {
        assert_eq!(stored.sequence, 1);
        assert_eq!(stored.envelope.stamp, None);
        assert_eq!(stored.envelope.channel.collector.as_str(), "web.example.org");
        assert_eq!(&*stored.envelope.channel.measurement, "cpu");
        assert_eq!(stored.envelope.lines, "cpu value=1");
    }
}

/// A connection's read buffer is shared by all that came in it: an envelope that is a part of it would keep all of it.
#[tokio::test]
async fn an_envelope_holds_nothing_of_what_came_with_it() {
    let it = JetStream::begin(log()).await;
    let mut tail = it.broker().tail(SHARD).await.unwrap();
    it.broker().publish(SHARD, &batch("a", 100)).await.unwrap();
    let mut stored = it.broker().read(SHARD, 1, UNLIMITED).await.unwrap();
    for _ in 0..100 {
        stored.push(tokio::time::timeout(PATIENCE, tail.recv()).await.unwrap().unwrap());
    }
    assert!(stored.len() == 200 && stored.iter().all(|stored| stored.envelope.lines.is_unique()));
}

/// The server cuts its answer at a number of bytes, and spells channels as their publishers did.
#[tokio::test]
async fn the_last_envelopes_may_be_large_and_foreign() {
    const CHANNELS: usize = 40;
    let it = JetStream::begin(log()).await;
    let large = "x".repeat(500_000);
    for channel in 0..CHANNELS {
        let mut one = outgoing(&channel.to_string(), &large);
        one.envelope.channel = Channel::new(CollectorId::new(&channel.to_string()).unwrap(), "cpu");
        it.broker().publish(SHARD, &[one]).await.unwrap();
    }
    let subject = format!("{}.in.0.web.example.org.cpu", it.settings.name);
    admin(&it.server).await.publish(subject, "cpu value=1".into()).await.unwrap().await.unwrap();
    let channels = it.broker().channels(SHARD, CHANNELS + 1).await.unwrap().unwrap();
    let last = it.broker().last(SHARD, &channels, CHANNELS as u64 + 1).await.unwrap();
    let sequences: Vec<u64> = last.iter().map(|stored| stored.sequence).collect();
    assert_eq!(sequences, (1..=CHANNELS as u64 + 1).collect::<Vec<_>>());
    assert_eq!(last[CHANNELS].envelope.channel.collector.as_str(), "web.example.org");
    // The server begins with the oldest of a block, which is not what fits.
    let limits = ReadLimits { envelopes_max: CHANNELS, bytes_max: 1_200_000 };
    let (mut until, mut back) = (CHANNELS as u64 + 1, Vec::new());
    while until > 0 {
        let part = it.broker().read_back(SHARD, until, limits).await.unwrap();
        until = part.last().unwrap().sequence - 1;
        back.extend(part.iter().map(|stored| stored.sequence));
    }
    assert_eq!(back, (1..=CHANNELS as u64 + 1).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn nats_may_be_absent_at_the_start() {
    let server = NatsServer::absent();
    let node = Node::connect(&server, &log(), "early");
    let reason = node.disconnected("cannot be reached").await;
    assert!(reason.contains(&server.port().to_string()), "{reason}");
    let refused = node.broker.publish(SHARD, &batch("a", 1)).await.unwrap_err();
    assert!(
        matches!(&refused, BrokerError::Unavailable { reason, .. } if reason.contains("cannot be reached"))
    );
    assert!(node.broker.bounds(SHARD).await.unwrap_err().is_retryable());
    assert!(node.broker.state().get("a").await.unwrap_err().is_retryable());
    // Following may begin before there is anything to follow.
    let mut tail = node.broker.tail(SHARD).await.unwrap();
    let mut watch = node.broker.state().watch("").await.unwrap();

    server.restart();
    node.connected().await;
    node.broker.publish(SHARD, &batch("a", 1)).await.unwrap();
    assert_eq!(tail.recv().await.unwrap().sequence, 1);
    assert_eq!(watch.recv().await.unwrap(), StateEvent::Synced);
}

#[tokio::test]
async fn a_lost_server_fails_what_waits_for_it_at_once() {
    let it = JetStream::on(Arc::new(NatsServer::start()), log()).await;
    it.server.pause();
    let (broker, sent) = (it.broker(), batch("a", 10));
    // Nothing is answered any more; then the connection breaks.
    let mut waiting = broker.publish(SHARD, &sent);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    let broken = Instant::now();
    it.server.kill();
    let failed = waiting.await.unwrap_err();
    assert!(failed.is_retryable(), "{failed}");
    assert!(
        broken.elapsed() < Duration::from_secs(5),
        "not at the 15 s of a request's time: {:?}",
        broken.elapsed()
    );
    it.node.disconnected("").await;
    let again = Instant::now();
    assert!(it.broker().publish(SHARD, &batch("a", 10)).await.unwrap_err().is_retryable());
    assert!(again.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_silent_server_is_noticed_within_ten_seconds() {
    let it = JetStream::on(Arc::new(NatsServer::start()), log()).await;
    it.server.pause();
    let silent = Instant::now();
    it.node.disconnected("Disconnected").await;
    assert!(silent.elapsed() < Duration::from_secs(10), "{:?}", silent.elapsed());
    it.server.resume();
    it.node.connected().await;
    it.broker().publish(SHARD, &batch("a", 1)).await.unwrap();
}

/// Publishes like ingest does: the same batch with the same ids until it is acknowledged.
async fn publish_until_acked(broker: &dyn Broker, batch: &[Outgoing]) {
    let mut connection = broker.connection();
    while let Err(error) = broker.publish(SHARD, batch).await {
        assert!(error.is_retryable(), "{error}");
        connection.wait_for(Connection::is_connected).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_killed_while_publishing_loses_nothing_and_doubles_nothing() {
    let it = JetStream::on(Arc::new(NatsServer::start()), log()).await;
    let mut tail = it.broker().tail(SHARD).await.unwrap();
    let broker = it.broker();
    let mut publisher = JoinSet::new();
    publisher.spawn(async move {
        for n in 0..200 {
            publish_until_acked(&*broker, &batch(&format!("{n:04}"), 50)).await;
        }
    });
    for kills in 1..=3 {
        // In the middle of it, wherever that is.
        eventually("some more is stored", async || {
            let last = it.broker().bounds(SHARD).await.map_or(0, |bounds| bounds.last);
            last > kills * 1500
        })
        .await;
        assert!(publisher.try_join_next().is_none(), "it is still publishing");
        it.server.restart();
    }
    publisher.join_next().await.unwrap().unwrap();
    let mut stored = Vec::new();
    while stored.len() < 10_000 {
        let part = it.broker().read(SHARD, stored.len() as u64 + 1, UNLIMITED).await.unwrap();
        assert!(!part.is_empty(), "only {} are stored", stored.len());
        stored.extend(part);
    }
    let expected: Vec<_> = (0..200).flat_map(|n| texts_of(&batch(&format!("{n:04}"), 50))).collect();
    assert_eq!(texts(&stored), expected);
    // The tail survived, too: what it saw is in order, and it is live again.
    let after = it.broker().publish(SHARD, &batch("after", 1)).await.unwrap()[0].sequence;
    let mut last = 0;
    while last < after {
        let seen = tokio::time::timeout(PATIENCE, tail.recv()).await.unwrap().unwrap().sequence;
        assert!(seen > last);
        last = seen;
    }
}

fn texts_of(batch: &[Outgoing]) -> Vec<String> {
    batch.iter().map(|outgoing| outgoing.message_id.clone()).collect()
}

#[tokio::test]
async fn state_survives_a_restart_and_a_watch_catches_up() {
    let it = JetStream::on(Arc::new(NatsServer::start()), log()).await;
    let state = it.broker().state();
    let put = async |key: &str, ttl| {
        state.put(key, Bytes::from_static(b"x"), Expected::Any, ttl).await.unwrap();
    };
    put("stays", None).await;
    put("goes", Some(Duration::from_secs(1))).await;
    let mut watch = state.watch("").await.unwrap();
    let mut there = HashSet::new();
    while let StateEvent::Put { key, .. } = watch.recv().await.unwrap() {
        there.insert(key);
    }
    assert_eq!(there.len(), 2);
    it.server.restart();
    it.node.disconnected("Disconnected").await;
    it.node.connected().await;
    let removed = tokio::time::timeout(PATIENCE, watch.recv()).await.unwrap().unwrap();
    assert_eq!(removed, StateEvent::Removed { key: "goes".into() });
    assert!(state.get("stays").await.unwrap().is_some());
}

#[tokio::test]
async fn a_watch_survives_that_the_state_is_deleted() {
    let it = JetStream::begin(log()).await;
    let state = it.broker().state();
    let put = async |key: &str| state.put(key, Bytes::from_static(b"x"), Expected::Any, None).await;
    for _ in 0..10 {
        put("old").await.unwrap();
    }
    let mut watch = state.watch("").await.unwrap();
    assert!(matches!(watch.recv().await, Some(StateEvent::Put { .. })));
    assert_eq!(watch.recv().await, Some(StateEvent::Synced));
    admin(&it.server).await.delete_stream(format!("KV_{}-state", it.settings.name)).await.unwrap();
    // Its revisions are smaller than those of the deleted one.
    eventually("the state is there again", async || put("new").await.is_ok()).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match tokio::time::timeout(PATIENCE, watch.recv()).await.unwrap().unwrap() {
            StateEvent::Put { key, .. } | StateEvent::Removed { key } => seen.push(key),
            StateEvent::Synced => panic!("a watch is synced once"),
        }
    }
    seen.sort();
    assert_eq!(seen, ["new", "old"]);
}

#[tokio::test]
async fn an_incompatible_stream_is_refused_and_stays_as_it_is() {
    let server = NatsServer::shared();
    let js = admin(&server).await;
    let settings = log();
    let wanted = |settings: &LogSettings| Config {
        name: first_stream(settings),
        subjects: vec![format!("{}.in.0.>", settings.name)],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::Memory,
        ..Config::default()
    };
    js.create_stream(wanted(&settings)).await.unwrap();
    let before = stream_config(&js, &first_stream(&settings)).await;
    let node = Node::connect(&server, &settings, "node");
    let reason = node.disconnected("does not match the configuration").await;
    for words in [first_stream(&settings).as_str(), "nats stream edit", "needs", "has"] {
        assert!(reason.contains(words), "{words:?} in {reason}");
    }
    let refused = node.broker.publish(SHARD, &batch("a", 1)).await.unwrap_err();
    assert!(matches!(refused, BrokerError::Incompatible(_)), "{refused}");
    assert_eq!(stream_config(&js, &first_stream(&settings)).await, before);
    // The operator decides, and the node goes on by itself.
    js.delete_stream(first_stream(&settings)).await.unwrap();
    node.connected().await;
}

#[tokio::test]
async fn subjects_that_another_stream_takes_are_named() {
    let server = NatsServer::shared();
    let settings = log();
    let taken =
        Config { name: "taken".into(), subjects: vec![format!("{}.>", settings.name)], ..Config::default() };
    admin(&server).await.create_stream(taken).await.unwrap();
    let reason =
        Node::connect(&server, &settings, "node").disconnected("another stream takes its subjects").await;
    assert!(reason.contains(&first_stream(&settings)), "{reason}");
}

#[tokio::test]
async fn limits_are_adjusted_and_nothing_else() {
    let before = LogSettings { max_bytes: 10 << 20, ..log() };
    let it = JetStream::begin(before.clone()).await;
    it.broker().publish(SHARD, &batch("a", 3)).await.unwrap();
    let epoch = it.broker().bounds(SHARD).await.unwrap().epoch;
    let after = LogSettings {
        max_age: Duration::from_secs(60),
        max_bytes: 20 << 20,
        duplicate_window: Duration::from_secs(30),
        ..before.clone()
    };
    let node = Node::connect(&it.server, &after, "node-2");
    node.connected().await;
    let config = stream_config(&admin(&it.server).await, &first_stream(&before)).await;
    assert_eq!((config.max_age, config.max_bytes), (after.max_age, 20 << 20));
    assert_eq!(config.duplicate_window, after.duplicate_window);
    assert!(config.allow_direct && config.deny_delete && config.deny_purge);
    let bounds = node.broker.bounds(SHARD).await.unwrap();
    assert_eq!((bounds.epoch, bounds.last), (epoch, 3));
}

#[tokio::test]
async fn nodes_that_start_together_agree() {
    let server = NatsServer::shared();
    let settings = LogSettings { shards: 4, ..log() };
    let nodes: Vec<_> = (0..4).map(|n| Node::connect(&server, &settings, &format!("node-{n}"))).collect();
    for node in &nodes {
        node.connected().await;
    }
    let mut tail = nodes[3].broker.tail(Shard(2)).await.unwrap();
    // One round trip on that connection: its subscription is in place.
    nodes[3].broker.bounds(Shard(2)).await.unwrap();
    nodes[0].broker.publish(Shard(2), &batch("a", 1)).await.unwrap();
    let seen = tokio::time::timeout(PATIENCE, tail.recv()).await.unwrap().unwrap();
    assert_eq!(texts(&[seen]), ["a-1"]);
    let epochs: HashSet<_> = futures_util::stream::iter(&nodes)
        .then(async |node| node.broker.bounds(SHARD).await.unwrap().epoch.0)
        .collect()
        .await;
    assert_eq!(epochs.len(), 1);
}

#[tokio::test]
async fn a_server_without_jetstream_is_named() {
    let server = NatsServer::start_with("jetstream: disabled");
    let node = Node::connect(&server, &log(), "node");
    node.disconnected("start nats-server with -js").await;
}

#[tokio::test]
async fn wrong_credentials_are_named() {
    let server = NatsServer::start_with("authorization { user: telecast, password: right }");
    let with = |password: &str| NatsSettings {
        user: Some("telecast".into()),
        password: Some(Secret(password.into())),
        ..nats_settings(server.url())
    };
    let settings = log();
    let wrong = Node::connect_to(&with("wrong"), &settings, "node");
    let reason = wrong.disconnected("authorization").await;
    assert!(!reason.contains("wrong"), "{reason}");
    assert!(reason.contains("check nats.user and nats.password"), "{reason}");
    let nobody = Node::connect(&server, &settings, "node");
    let reason = nobody.disconnected("authorization").await;
    assert!(reason.contains("set nats.user and nats.password, nats.token or nats.creden"), "{reason}");
    // A caller that waits for a write hears the same.
    let refused = wrong.broker.publish(SHARD, &batch("a", 1)).await.unwrap_err().to_string();
    assert!(refused.contains("check nats.user"), "{refused}");
    Node::connect_to(&with("right"), &settings, "node").connected().await;
}

/// The server's own limit, and that of an account; a stream that asks for servers that are not there.
#[tokio::test]
async fn what_there_is_no_room_for_names_the_key_that_asks_for_it() {
    // A second jetstream block takes the place of the first: its store must be one of this test alone as well.
    let store = tempfile::tempdir().unwrap();
    let servers = [
        format!("jetstream {{ store_dir: {:?}, max_file_store: 8M }}", store.path()),
        "accounts { A { jetstream { max_file: 8M }, users: [ { user: a, password: a } ] } }\nno_auth_user: a"
            .into(),
    ];
    for configuration in servers {
        let server = NatsServer::start_with(&configuration);
        let settings = log();
        let reason = Node::connect(&server, &settings, "node").disconnected("no room").await;
        for words in
            [&*first_stream(&settings), "log.max_bytes = 67108864", "max_file_store", "JetStream error"]
        {
            assert!(reason.contains(words), "{words:?} in {reason}");
        }
        let fits = LogSettings { max_bytes: 1 << 20, ..settings };
        Node::connect(&server, &fits, "node").connected().await;
    }
    let replicas = LogSettings { replicas: 3, ..log() };
    Node::connect(&NatsServer::shared(), &replicas, "node").disconnected("log.replicas = 3").await;
}

#[tokio::test]
async fn what_an_envelope_may_be_follows_server_and_stream_with_every_connection() {
    let server = NatsServer::start_with("max_payload: 65536");
    let settings = log();
    let node = Node::connect(&server, &settings, "node");
    node.connected().await;
    let limit = async || node.broker.envelope_limit().unwrap();
    let first = limit().await;
    assert!(first.bytes_max < 65_536 && first.why.contains("65536 bytes (max_payload"), "{first:?}");
    // As large as is promised, with the longest of what comes with it.
    let mut largest = outgoing(&format!("n-{}", "x".repeat(100)), &"x".repeat(first.bytes_max));
    largest.envelope.stamp.as_mut().unwrap().received_ns = i64::MIN;
    node.broker.publish(SHARD, &[largest]).await.unwrap();
    server.stop();
    server.configure("max_payload: 16384");
    server.restart();
    eventually("a new bound", async || limit().await.why.contains("16384")).await;
    let mut config = stream_config(&admin(&server).await, &first_stream(&settings)).await;
    config.max_message_size = 4_096;
    admin(&server).await.update_stream(config).await.unwrap();
    let again = Node::connect(&server, &settings, "node-2");
    again.connected().await;
    let limit = again.broker.envelope_limit().unwrap();
    assert!(limit.bytes_max < 4_096 && limit.why.contains("4096 bytes (max_msg_size"), "{limit:?}");
}

#[tokio::test]
async fn readers_hear_of_a_writer_that_cannot_store() {
    let it = JetStream::begin(log()).await;
    let mut stalls = it.broker().stalls();
    let stall = Stall { shard: 3, writer: "ingest-1".into(), since_ms: 7_000, reason: "no room".into() };
    let heard = async {
        loop {
            // The subscription may come after the first ones.
            it.broker().tell_stalled(&stall).await.unwrap();
            if let Ok(heard) = tokio::time::timeout(Duration::from_millis(50), stalls.recv()).await {
                return heard;
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, heard).await.unwrap(), Some(stall.clone()));
    // Rubbish on the subject is none.
    let subject = format!("{}.stalled.3", it.settings.name);
    let client = async_nats::connect(it.server.url()).await.unwrap();
    client.publish(subject, "rubbish".into()).await.unwrap();
    client.flush().await.unwrap();
    it.broker().tell_stalled(&stall).await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, stalls.recv()).await.unwrap(), Some(stall));
}

#[tokio::test]
async fn the_clock_of_the_server_is_compared_with_this_machines() {
    let it = JetStream::begin(log()).await;
    assert_eq!(it.broker().clock_ahead_ns(), None);
    it.broker().bounds(SHARD).await.unwrap();
    assert!(it.broker().clock_ahead_ns().unwrap().abs() < 1_000_000_000);
}

#[tokio::test]
async fn a_reader_needs_no_right_to_change_streams() {
    let reader = r#"{ user: reader, password: pw, permissions: {
        publish: ["$JS.API.STREAM.INFO.*", "$JS.API.DIRECT.GET.*", "$JS.API.STREAM.MSG.GET.*", "$KV.*.>"]
        subscribe: ["_INBOX.>", "*.live.>", "*.state.>"] } }"#;
    let server = NatsServer::start_with(&format!(
        "authorization {{ users: [ {{ user: owner, password: pw }}, {reader} ] }}"
    ));
    let settings = log();
    let user = |name: &str| NatsSettings {
        user: Some(name.into()),
        password: Some(Secret("pw".into())),
        request_timeout: Duration::from_secs(2),
        ..nats_settings(server.url())
    };
    let early = Node::connect_to(&user("reader"), &settings, "edge");
    // It cannot create them; the server's complaint is in the reason.
    early.disconnected("ermissions").await;
    let owner = Node::connect_to(&user("owner"), &settings, "ingest");
    owner.connected().await;
    early.connected().await;
    owner.broker.publish(SHARD, &batch("a", 2)).await.unwrap();
    assert_eq!(early.broker.read(SHARD, 1, UNLIMITED).await.unwrap().len(), 2);
    // A user that may not publish hears that, and no guess.
    let forbidden = early.broker.publish(SHARD, &batch("b", 1)).await.unwrap_err().to_string();
    assert!(forbidden.contains("ermissions") && !forbidden.contains("disk"), "{forbidden}");
    early.broker.state().put("node/edge", Bytes::new(), Expected::Any, None).await.unwrap();
}

#[tokio::test]
async fn an_envelope_that_is_too_large_is_refused() {
    let it = JetStream::begin(log()).await;
    let large = outgoing("large", &"x".repeat(2 << 20));
    let refused = it.broker().publish(SHARD, &[large]).await.unwrap_err();
    assert!(matches!(&refused, BrokerError::Refused(reason) if reason.contains("max_payload")), "{refused}");
    let broken = it.broker().publish(SHARD, &[outgoing("a\r\nb", "x")]).await.unwrap_err();
    assert!(matches!(broken, BrokerError::Refused(_)), "{broken}");
    it.broker().publish(SHARD, &batch("a", 1)).await.unwrap();
}

#[tokio::test]
async fn a_large_range_is_read_in_pieces_without_a_seam() {
    let it = JetStream::begin(log()).await;
    for n in 0..5 {
        it.broker().publish(SHARD, &batch(&n.to_string(), 2000)).await.unwrap();
    }
    let all = it.broker().read(SHARD, 1, UNLIMITED).await.unwrap();
    assert!(all.iter().map(|stored| stored.sequence).eq(1..=10_000));
}
