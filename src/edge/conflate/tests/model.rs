//! Any sequence of writes, flushes and clients that come, held against a naive model.

use super::*;

/// What one client of a view has got, by the counts that it was told.
#[derive(Default)]
struct Got {
    sent: u64,
    conflated: u64,
    state: BTreeMap<String, u64>,
    offset: Option<Offset>,
}

impl Got {
    fn take(&mut self, messages: &[Value]) -> Result<(), TestCaseError> {
        let mut series = std::collections::BTreeSet::new();
        for message in messages {
            prop_assert_eq!(&message["type"], "metrics");
            let from: Offset = message["from"].as_str().unwrap().parse().unwrap();
            let before = self.offset.as_ref();
            prop_assert!(before.is_none_or(|before| before.is_at_or_before(&from)), "nothing is told twice");
            self.conflated += message["conflated"].as_u64().unwrap();
            for metric in message["metrics"].as_array().unwrap() {
                let key = format!("{} {} {}", message["collector"], metric["name"], metric["tags"]);
                let value = metric["fields"]["v"].as_u64().unwrap();
                prop_assert!(series.insert(key.clone()), "at most one value of a series");
                prop_assert!(self.state.get(&key).is_none_or(|before| *before < value), "never an older one");
                self.sent += 1;
                self.state.insert(key, value);
            }
        }
        if let Some(last) = messages.last() {
            self.offset = Some(last["offset"].as_str().unwrap().parse().unwrap());
        }
        Ok(())
    }
}

/// A client, what it has got, and what it is to get.
struct Client {
    filter: usize,
    reader: Reader,
    got: Got,
    published: u64,
    matched: u64,
    matched_envelopes: u64,
    state: BTreeMap<String, u64>,
}

impl Client {
    fn new(filter: usize, reader: Reader) -> Self {
        let (got, state) = (Got::default(), BTreeMap::new());
        Self { filter, reader, got, published: 0, matched: 0, matched_envelopes: 0, state }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write { shard: u16, collector: u8, measurement: bool, hosts: Vec<u8> },
    Flush,
    Join(usize),
}

const FILTERS: [&str; 6] =
    [">", "*.cpu", "c1.>", "*.cpu{host=h1} *.mem", "*.cpu{host!=h1,host=h*}", "c0.cpu c1.mem{host=h*}"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0u8..4, any::<bool>(), prop::collection::vec(0u8..4, 1..5)).prop_map(
        |(collector, measurement, hosts)| Step::Write {
            shard: u16::from(collector % 2),
            collector,
            measurement,
            hosts,
        },
    );
    let step = prop_oneof![8 => write, 2 => Just(Step::Flush), 1 => (0..FILTERS.len()).prop_map(Step::Join)];
    prop::collection::vec(step, 1..80)
}

proptest! {
    /// What matched was sent, or overwritten and counted as such; and what is left is what was published.
    #[test]
    fn every_metric_that_matches_is_sent_or_conflated(steps in steps()) {
        let mut stage = Stage::new(2, UNBOUNDED);
        let mut clients: Vec<Client> = Vec::new();
        let mut value = 0u64;
        for step in steps.into_iter().chain([Step::Flush]) {
            match step {
                Step::Write { shard, collector, measurement, hosts } => {
                    let name = if measurement { "cpu" } else { "mem" };
                    let channel = format!("c{collector}.{name}");
                    let mut lines = String::new();
                    let mut wrote = Vec::new();
                    for host in hosts {
                        value += 1;
                        lines += &format!("{name},host=h{host} v={value}i 1\n");
                        wrote.push((host, value));
                    }
                    for client in &mut clients {
                        let filters = FilterSet::parse(FILTERS[client.filter].split(' ')).unwrap();
                        let of = Channel::new(CollectorId::new(&format!("c{collector}")).unwrap(), name);
                        let before = client.matched;
                        for (host, value) in &wrote {
                            let tag = |key: &str| (key == "host").then(|| format!("h{host}").into());
                            if filters.matches_line(&of, tag) {
                                client.matched += 1;
                                let key = format!("\"c{collector}\" \"{name}\" {{\"host\":\"h{host}\"}}");
                                client.state.insert(key, *value);
                            }
                        }
                        client.published += 1;
                        client.matched_envelopes += u64::from(client.matched > before);
                    }
                    stage.write(shard, &channel, &lines);
                }
                Step::Flush => {
                    stage.flush();
                    for client in &mut clients {
                        client.got.take(&client.reader.messages())?;
                        prop_assert_eq!(client.got.sent + client.got.conflated, client.matched);
                        prop_assert_eq!(&client.got.state, &client.state);
                        client.reader.account();
                        let Settled { published, fates } = client.reader.books.total().settled;
                        prop_assert_eq!(published, client.published);
                        prop_assert_eq!(fates.delivered + fates.conflated, client.matched_envelopes);
                    }
                }
                Step::Join(filter) => {
                    if clients.iter().all(|other| other.filter != filter) {
                        let reader = stage.join(FILTERS[filter], Format::Json);
                        clients.push(Client::new(filter, reader));
                    }
                }
            }
        }
    }
}
