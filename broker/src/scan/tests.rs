use std::sync::atomic::AtomicUsize;

use headwater_config::Config;
use headwater_store::{SystemClock, TopicFilter, TopicName, filter_hashes, group_for_topic};

use super::*;
use crate::clients::{Client, Gone};
use crate::outbox::Outbox;
use crate::packet::Version;
use crate::subscriptions::Subscriber;

const GROUP: GroupId = GroupId(1);

/// A store of one group, so that everything is in one log, and scans of short spans.
struct Fixture {
    store: Store,
    metrics: Arc<Metrics>,
    scans: Arc<Scans>,
    /// Where it is empty.
    start: LogIndex,
    _folder: tempfile::TempDir,
}

impl Fixture {
    async fn open() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let path = format!("store.path={}", folder.path().join("data").display());
        let settings = [path, "store.free_disk_min=0".into(), "store.groups=1".into()];
        let config = Config::load(None, [], &settings).unwrap();
        let open = move || Store::open(&config.store, Arc::new(SystemClock)).unwrap();
        let store = tokio::task::spawn_blocking(open).await.unwrap();
        let metrics = Arc::new(Metrics::new());
        Fixture {
            scans: Arc::new(Scans::with_spans(&store, &metrics, 16)),
            start: store.applied(GROUP).next(),
            store,
            metrics,
            _folder: folder,
        }
    }

    /// Each message is an entry of its own.
    async fn publish(&self, topic: &str, payload: &str) {
        let topic = TopicName::new(topic).unwrap();
        assert_eq!(group_for_topic(topic.as_str(), 1), GROUP);
        let record = Record {
            topic: Some(topic.clone()),
            qos: Qos::AtLeastOnce,
            ..Record::new(payload.to_owned())
        };
        self.store.write(self.store.route(&topic).batch(record)).await.unwrap();
    }

    /// A session with this filter, and all that it missed.
    async fn missed(&self, connection: u64, filter: &str) -> Vec<String> {
        let filter = TopicFilter::new(filter).unwrap();
        let client = Arc::new(Client {
            connection,
            client_id: format!("c{connection}").into(),
            username: None,
            peer: ([127, 0, 0, 1], 1).into(),
            version: Version::V5,
            connected_at: TimestampMs(0),
            outbox: Outbox::new(1 << 20, 2),
            subscriptions: AtomicUsize::new(0),
            gone: Gone::default(),
        });
        let subscriber = Subscriber {
            client,
            qos: Qos::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            id: None,
            since: [].into(),
        };
        self.scans.behind().subscribe(&filter, subscriber);
        let mut request = Request {
            connection,
            cursor: Cursor::new(GROUP, self.start),
            until: LogIndex(u64::MAX),
            wanted_from: TimestampMs(i64::MIN),
            left_out: None,
            hashes: filter_hashes(&filter),
        };
        let mut got = Vec::new();
        while request.cursor.next <= self.store.applied(GROUP) {
            let page = self.scans.page(request.clone()).await.unwrap();
            assert!(page.next > request.cursor.next);
            request.cursor.skip_to(page.next);
            let payload = |delivery: &Delivery| String::from_utf8(delivery.message.payload.to_vec()).unwrap();
            got.extend(page.deliveries.iter().map(payload));
        }
        self.scans.behind().unsubscribe(&filter, connection);
        got
    }

    fn scanned(&self) -> (u64, u64) {
        (
            self.metrics.scanned_entries.value(),
            self.metrics.scanned_records.value(),
        )
    }

    /// 100 entries for others, and two for each device.
    async fn fill(&self, devices: u64) {
        for number in 0..100 {
            self.publish(&format!("busy/{}", number % 7), "-").await;
            if number % 50 == 25 {
                for device in 0..devices {
                    self.publish(&format!("device/{device}/do"), &format!("{device}:{number}"))
                        .await;
                }
            }
        }
    }
}

fn expected(device: u64) -> Vec<String> {
    vec![format!("{device}:25"), format!("{device}:75")]
}

/// Of exact filters, and of wildcards behind literals.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_holds_a_filters_topics_is_read() {
    for rest in ["do", "#", "+"] {
        let fixture = Fixture::open().await;
        fixture.fill(1).await;
        let filter = |device| format!("device/{device}/{rest}");
        assert_eq!(fixture.missed(1, &filter(0)).await, expected(0), "{rest}");
        let (entries, records) = fixture.scanned();
        assert!(entries >= 102, "a first one looks at all rows: {entries}");
        assert_eq!(records, 2, "{rest}: and reads two records");
        assert_eq!(fixture.missed(2, &filter(0)).await, expected(0));
        let (again, records) = fixture.scanned();
        assert!(
            again - entries <= 3 * 16,
            "{rest}: two spans and what is not a whole span: {}",
            again - entries
        );
        assert_eq!(records, 4);
        assert_eq!(fixture.missed(3, &filter(7)).await, Vec::<String>::new());
        let (nothing, records) = fixture.scanned();
        assert!(
            nothing - again < 16,
            "{rest}: for nobody's topic only that: {}",
            nothing - again
        );
        assert_eq!(records, 4);
        fixture.store.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_come_together_share_what_is_read() {
    let fixture = Arc::new(Fixture::open().await);
    let devices = 40;
    fixture.fill(devices).await;
    let entries = 100 + 2 * devices;
    for (before_it, behind_it, records_max) in [
        ("device", "do", 3 * 2 * devices),
        ("device", "#", 3 * 2 * devices),
        // What begins with a wildcard reads everything.
        ("+", "do", 3 * entries),
    ] {
        let filter = |device| format!("{before_it}/{device}/{behind_it}");
        let before = fixture.scanned();
        let sessions: Vec<_> = (0..devices)
            .map(|device| {
                let (fixture, filter) = (fixture.clone(), filter(device));
                tokio::spawn(async move { fixture.missed(device, &filter).await })
            })
            .collect();
        for (device, session) in sessions.into_iter().enumerate() {
            assert_eq!(
                session.await.unwrap(),
                expected(device as u64),
                "{}",
                filter(device as u64)
            );
        }
        let (read, records) = (fixture.scanned().0 - before.0, fixture.scanned().1 - before.1);
        // By themselves they would look at so many each.
        assert!(read < devices * entries / 4, "{before_it}: {read} entries");
        assert!(records < devices * records_max / 4, "{before_it}: {records} records");
    }
    fixture.store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_leaves_its_seat_holds_up_nobody() {
    let fixture = Arc::new(Fixture::open().await);
    fixture.fill(2).await;
    let gone = {
        let fixture = fixture.clone();
        tokio::spawn(async move { fixture.missed(1, "device/1/do").await })
    };
    gone.abort();
    assert_eq!(fixture.missed(0, "device/0/do").await, expected(0));
    fixture.store.stop().await;
}
