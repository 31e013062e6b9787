//! `headwater demo`: what `./x run` shows on a running server.
//!
//! A year of hourly temperatures of two cities is replayed over MQTT QoS 1 as two devices, while two continuous queries
//! run: one filters and republishes to `alerts/{device}`, one averages per device and day of event time and republishes
//! to `daily/{device}`. The demo subscribes to both and prints what arrives.
//!
//! It keeps no state of its own: how far a replay got is what the stream `sensors` holds, so a second run goes on where
//! the first was stopped, and after a whole year it only shows what is stored.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::client::Client;

/// Where the server is.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// The server's MQTT address.
    #[arg(long, default_value = "127.0.0.1:1883")]
    mqtt: SocketAddr,
    /// The server's HTTP address.
    #[arg(long, default_value = "127.0.0.1:6580")]
    http: SocketAddr,
}

/// The stream of readings. DELAY is a day because the replay keeps the devices within a day of each other; IDLE is
/// short because only some of the stream's shards ever see one of two topics.
const SENSORS: &str = "CREATE STREAM IF NOT EXISTS sensors FROM TOPIC 'sensors/{device}'
  WITH (FORMAT = 'JSON', TIMESTAMP = date, DELAY = INTERVAL '1' DAY, IDLE = INTERVAL '1' SECOND);";
const ALERTS: &str = "CREATE STREAM IF NOT EXISTS alerts WITH (TOPIC = 'alerts/{device}') AS
  SELECT device, temp, date FROM sensors WHERE temp > 72 EMIT CHANGES;";
const DAILY: &str = "CREATE STREAM IF NOT EXISTS daily WITH (TOPIC = 'daily/{device}') AS
  SELECT device, window_start AS day, AVG(temp) AS average, MIN(temp) AS coldest, MAX(temp) AS hottest
  FROM sensors GROUP BY device, TUMBLING (INTERVAL '1' DAY) EMIT FINAL;";
const ALERT_ABOVE: f64 = 72.0;

/// At the end of the replay the watermark stands a DELAY, one day, behind the last reading of 23:00: the last day and
/// the one before it are not over yet.
const DAYS_OPEN_AT_THE_END: usize = 2;

/// How long a result may take before the demo says that it did not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// One device and its readings, in the order of time.
struct Device {
    name: &'static str,
    readings: Vec<Reading>,
    /// Readings that the stream already holds.
    stored: usize,
}

/// The text of a line, as it stands in the file: the two cities spell dates differently.
struct Reading {
    date: &'static str,
    temp: &'static str,
}

impl Reading {
    fn day(&self) -> &'static str {
        self.date.split(' ').next().unwrap_or(self.date)
    }
}

/// Runs the whole demo; fails when something that must come does not.
pub async fn run(args: DemoArgs) -> Result<()> {
    let client = Client::new(format!("http://{}", args.http));
    let mut devices = [
        device("seattle", include_str!("../data/seattle-temps.csv"))?,
        device("sf", include_str!("../data/sf-temps.csv"))?,
    ];
    for statement in [SENSORS, ALERTS, DAILY] {
        println!("{statement}\n");
        client.rows(statement).await?;
    }
    for row in client
        .rows("SELECT device, COUNT(*) AS readings FROM sensors GROUP BY device;")
        .await?
    {
        for device in devices.iter_mut().filter(|device| row["device"] == device.name) {
            device.stored = row["readings"].as_u64().unwrap_or(0) as usize;
        }
    }
    let readings: usize = devices.iter().map(|device| device.readings.len()).sum();
    let stored: usize = devices
        .iter()
        .map(|device| device.stored.min(device.readings.len()))
        .sum();
    if stored > 0 {
        println!(
            "{stored} of the year's {readings} readings are already stored here, acknowledged by an earlier run.\n"
        );
    }

    let mut screen = Screen::new();
    let before = counts(&client).await?;
    let mut results = subscribe(args.mqtt).await?;
    replay(args.mqtt, &devices, readings, stored, &mut results, &mut screen).await?;
    let after = settle(&client, &devices, before, &mut results, &mut screen).await?;
    report(&client, &args, &devices, after).await
}

fn device(name: &'static str, csv: &'static str) -> Result<Device> {
    let mut lines = csv.lines();
    let header: Vec<_> = lines.next().unwrap_or_default().split(',').collect();
    let column = |wanted| {
        header
            .iter()
            .position(|column| *column == wanted)
            .context("the data has no such column")
    };
    let (date, temp) = (column("date")?, column("temp")?);
    let readings = lines
        .map(|line| {
            let fields: Vec<_> = line.split(',').collect();
            ensure!(
                fields.len() == header.len(),
                "the data has a line that does not fit its header: {line}"
            );
            Ok(Reading {
                date: fields[date],
                temp: fields[temp],
            })
        })
        .collect::<Result<_>>()?;
    Ok(Device {
        name,
        readings,
        stored: 0,
    })
}

/// Rows of (alerts, daily).
async fn counts(client: &Client) -> Result<(u64, u64)> {
    let count = async |stream: &str| -> Result<u64> {
        let rows = client.rows(&format!("SELECT COUNT(*) AS n FROM {stream};")).await?;
        Ok(rows.first().and_then(|row| row["n"].as_u64()).unwrap_or(0))
    };
    Ok((count("alerts").await?, count("daily").await?))
}

/// Publishes what is not stored yet, a day at a time: both devices' PUBACKs of a day come before the next day begins,
/// so neither runs ahead of the other in event time by more than the stream's DELAY.
async fn replay(
    mqtt: SocketAddr,
    devices: &[Device],
    readings: usize,
    stored: usize,
    results: &mut mpsc::Receiver<String>,
    screen: &mut Screen,
) -> Result<()> {
    if stored >= readings {
        return Ok(());
    }
    let mut publishers = Vec::new();
    for device in devices {
        publishers.push((Publisher::connect(mqtt, device.name), device, device.stored));
    }
    let days: Vec<_> = devices[0]
        .readings
        .chunk_by(|a, b| a.day() == b.day())
        .map(|day| day[0].day())
        .collect();
    let mut sent = stored;
    for day in days {
        for (publisher, device, next) in &mut publishers {
            while let Some(reading) = device.readings.get(*next).filter(|reading| reading.day() <= day) {
                publisher.publish(device.name, reading).await?;
                *next += 1;
                sent += 1;
            }
        }
        for (publisher, ..) in &mut publishers {
            publisher.acknowledged().await?;
        }
        while let Ok(line) = results.try_recv() {
            screen.line(&line);
        }
        screen.progress(day, sent, readings);
    }
    Ok(())
}

/// One device's MQTT connection.
struct Publisher {
    client: AsyncClient,
    sent: usize,
    acknowledged: watch::Receiver<usize>,
}

impl Publisher {
    fn connect(mqtt: SocketAddr, name: &str) -> Publisher {
        let (client, events) = connection(mqtt, name);
        let (count, acknowledged) = watch::channel(0);
        tokio::spawn(count_acknowledgements(events, count));
        Publisher {
            client,
            sent: 0,
            acknowledged,
        }
    }

    async fn publish(&mut self, device: &str, reading: &Reading) -> Result<()> {
        let payload = format!(r#"{{"temp":{},"date":"{}"}}"#, reading.temp, reading.date);
        let topic = format!("sensors/{device}");
        timeout(PATIENCE, self.client.publish(topic, QoS::AtLeastOnce, false, payload))
            .await
            .context("the server did not take a reading within a minute")??;
        self.sent += 1;
        Ok(())
    }

    /// Waits until everything sent has its PUBACK: it is committed.
    async fn acknowledged(&mut self) -> Result<()> {
        let sent = self.sent;
        timeout(PATIENCE, self.acknowledged.wait_for(|count| *count >= sent))
            .await
            .context("the server did not acknowledge a reading within a minute")?
            .context("the MQTT connection of a device broke")?;
        Ok(())
    }
}

/// Ends, and with it the channel, at the first error: the demo does not publish anything twice.
async fn count_acknowledgements(mut events: EventLoop, count: watch::Sender<usize>) {
    while let Ok(event) = events.poll().await {
        if let Event::Incoming(Packet::PubAck(_)) = event {
            count.send_modify(|count| *count += 1);
        }
    }
}

fn connection(mqtt: SocketAddr, name: &str) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(name, mqtt.ip().to_string(), mqtt.port());
    options.set_keep_alive(Duration::from_secs(30)).set_inflight(100);
    AsyncClient::new(options, 100)
}

/// Subscribes to the results; each arrives as the line to print.
async fn subscribe(mqtt: SocketAddr) -> Result<mpsc::Receiver<String>> {
    let (client, mut events) = connection(mqtt, "demo");
    for filter in ["alerts/+", "daily/+"] {
        client.subscribe(filter, QoS::AtLeastOnce).await?;
    }
    let mut granted = 0;
    while granted < 2 {
        let event = timeout(PATIENCE, events.poll())
            .await
            .context("the server did not answer SUBSCRIBE within a minute")?;
        let event = event.with_context(|| {
            format!("no MQTT at {mqtt}; start a server with `headwater serve`, or name another address with --mqtt")
        })?;
        if let Event::Incoming(Packet::SubAck(_)) = event {
            granted += 1;
        }
    }
    let (line, lines) = mpsc::channel(4096);
    tokio::spawn(async move {
        let _keeps_the_connection = client;
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Packet::Publish(message)) = event {
                let text = format!("{:<15} {}", message.topic, String::from_utf8_lossy(&message.payload));
                if line.send(text).await.is_err() {
                    break;
                }
            }
        }
    });
    Ok(lines)
}

/// Prints results until the queries have caught up with the replay and all they added has arrived here.
async fn settle(
    client: &Client,
    devices: &[Device],
    before: (u64, u64),
    results: &mut mpsc::Receiver<String>,
    screen: &mut Screen,
) -> Result<(u64, u64)> {
    let hot = |reading: &&Reading| reading.temp.parse::<f64>().is_ok_and(|temp| temp > ALERT_ABOVE);
    let alerts: usize = devices
        .iter()
        .map(|device| device.readings.iter().filter(hot).count())
        .sum();
    let days: usize = devices
        .iter()
        .map(|device| days(device).len() - DAYS_OPEN_AT_THE_END)
        .sum();
    let (mut now, mut quiet) = (before, Duration::ZERO);
    loop {
        let mut news = false;
        while let Ok(Some(line)) = timeout(Duration::from_millis(200), results.recv()).await {
            screen.line(&line);
            news = true;
        }
        let count = counts(client).await?;
        let arrived = screen.lines >= count.0 + count.1 - before.0 - before.1;
        if count.0 >= alerts as u64 && count.1 >= days as u64 && arrived {
            screen.clear();
            return Ok(count);
        }
        quiet = if news || count != now {
            Duration::ZERO
        } else {
            quiet + Duration::from_millis(200)
        };
        now = count;
        if quiet > PATIENCE {
            screen.clear();
            bail!(
                "after a quiet minute there are {} of {alerts} alerts and {} of {days} daily averages, and {} arrived here",
                now.0,
                now.1,
                screen.lines
            );
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn days(device: &Device) -> Vec<&'static str> {
    device
        .readings
        .chunk_by(|a, b| a.day() == b.day())
        .map(|day| day[0].day())
        .collect()
}

/// What there is now, what is still open, and what to try next.
async fn report(client: &Client, args: &DemoArgs, devices: &[Device], (alerts, daily): (u64, u64)) -> Result<()> {
    let readings: usize = devices.iter().map(|device| device.readings.len()).sum();
    println!(
        "\n{readings} readings stored, each committed before its PUBACK; {alerts} alerts; {daily} daily averages."
    );
    let mut rows = client.rows("SELECT device, day, average, hottest FROM daily;").await?;
    let open = open_windows(devices, &rows);
    if !open.is_empty() {
        println!(
            "Not final yet: {}. A day is final once event time is a DELAY of one day past its end;\nevent time moves with new readings, or, while none come, as fast as the clock.",
            open.join(", ")
        );
    }
    println!("\nThe hottest days, read back from the stream `daily`:");
    let average = |row: &Value| row["average"].as_f64().unwrap_or(f64::MIN);
    rows.sort_by(|a, b| average(b).total_cmp(&average(a)));
    for row in rows.iter().take(5) {
        println!("{row}");
    }
    try_next(args);
    Ok(())
}

/// The windows of the year that have no result, as `device day`.
fn open_windows(devices: &[Device], rows: &[Value]) -> Vec<String> {
    let mut open = Vec::new();
    for device in devices {
        for day in days(device) {
            let day = day.replace('/', "-");
            let is_it = |row: &&Value| {
                row["device"] == device.name && row["day"].as_str().is_some_and(|it| it.starts_with(&day))
            };
            if !rows.iter().any(|row| is_it(&row)) {
                open.push(format!("{} {day}", device.name));
            }
        }
    }
    open
}

fn try_next(args: &DemoArgs) {
    let program = std::env::current_exe().map_or("headwater".into(), |path| path.display().to_string());
    let (host, port, http) = (args.mqtt.ip(), args.mqtt.port(), args.http);
    let reading = json!({"temp": 88.1, "date": "2011/01/01 12:00"});
    println!(
        "\nTry next, in another terminal:
  mosquitto_sub -h {host} -p {port} -v -t 'alerts/#' -t 'daily/#'
  mosquitto_pub -h {host} -p {port} -q 1 -t sensors/seattle -m '{reading}'
  {program} sql --url http://{http} -e 'SELECT device, COUNT(*) AS hot_hours FROM alerts GROUP BY device;'
  {program} sql --url http://{http}          # then: SELECT device, * FROM sensors WHERE temp > 80 EMIT CHANGES;
  curl -s http://{http}/v1/sql -H 'Content-Type: application/sql' -d 'SELECT * FROM daily WHERE average > 66;'
  curl -s http://{http}/streams"
    );
}

/// Results on stdout, progress on stderr: one line that is drawn over on a terminal, one a month elsewhere.
struct Screen {
    terminal: bool,
    lines: u64,
    month: String,
}

impl Screen {
    fn new() -> Screen {
        Screen {
            terminal: std::io::stderr().is_terminal(),
            lines: 0,
            month: String::new(),
        }
    }

    fn line(&mut self, text: &str) {
        self.clear();
        println!("{text}");
        self.lines += 1;
    }

    fn progress(&mut self, day: &str, sent: usize, readings: usize) {
        let text = format!(
            "{day}  {sent} of {readings} readings acknowledged, {} results",
            self.lines
        );
        if self.terminal {
            eprint!("\r\x1b[K{text}");
        } else if !day.starts_with(&self.month) || self.month.is_empty() {
            self.month = day.get(..7).unwrap_or(day).to_owned();
            eprintln!("{text}");
        }
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
            let _ = std::io::stderr().flush();
        }
    }
}
