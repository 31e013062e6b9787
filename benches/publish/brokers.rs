//! The brokers of the comparison, each with the settings that keep most: what a setting keeps is said beside the figures.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;

use super::nothing::NOTHING;
use super::process::{Process, free_address};
use super::{HEADWATER, session};

/// The argument that makes this program a rumqttd.
pub const RUMQTTD: &str = "rumqttd";

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Headwater,
    RabbitMq,
    Nats,
    Mosquitto,
    Rumqttd,
    /// No broker: it answers, and that is all.
    Nothing,
}

/// All of them.
pub const KINDS: [Kind; 6] = [
    Kind::Headwater,
    Kind::RabbitMq,
    Kind::Nats,
    Kind::Mosquitto,
    Kind::Rumqttd,
    Kind::Nothing,
];

impl Kind {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Headwater => "Headwater",
            Kind::RabbitMq => "RabbitMQ, quorum queue",
            Kind::Nats => "NATS JetStream",
            Kind::Mosquitto => "mosquitto, in memory",
            Kind::Rumqttd => "rumqttd, in memory",
            Kind::Nothing => "nothing but PUBACK",
        }
    }
}

/// A broker that runs until it is dropped.
pub struct Broker {
    /// Which one.
    pub kind: Kind,
    /// Where it speaks MQTT.
    pub address: SocketAddr,
    /// Where it does so without TCP, if it can.
    pub socket: Option<PathBuf>,
    /// What its acknowledgement means, and whether it keeps a durable session.
    pub note: String,
    process: Process,
    // Stopped after it.
    _helpers: Vec<Process>,
    // A path of a socket has to be short.
    _sockets: TempDir,
}

impl Broker {
    /// Starts it on a data folder of its own, and leaves a durable session to `#` with it if asked to.
    pub fn start(kind: Kind, folder: &Path, away: bool) -> Result<Broker> {
        let folder = folder.join(format!("{kind:?}"));
        fs::create_dir(&folder)?;
        let address = free_address()?;
        let sockets = tempfile::tempdir()?;
        let socket = sockets.path().join("mqtt");
        let mut helpers = Vec::new();
        let (mut command, note) = match kind {
            Kind::Headwater => (
                headwater(&folder, address, &socket)?,
                "fsync before each PUBACK".to_owned(),
            ),
            Kind::RabbitMq => rabbitmq(&folder, address, &mut helpers)?,
            Kind::Nats => nats(&folder, address)?,
            Kind::Mosquitto => mosquitto(&folder, address)?,
            Kind::Rumqttd => (
                itself(RUMQTTD, address, &socket)?,
                "rumqttd 0.20, nothing is written".to_owned(),
            ),
            Kind::Nothing => (
                itself(NOTHING, address, &socket)?,
                "a PUBACK at once, nothing else".to_owned(),
            ),
        };
        let log = File::create(folder.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = Process(command.spawn()?);
        process.listens(address).map_err(|error| {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            anyhow!(
                "{error}; its log ends: {}",
                lines[lines.len().saturating_sub(5)..].join(" / ")
            )
        })?;
        let away = away && kind != Kind::Nothing;
        let durable = match away && session::leave(address) {
            _ if !away => "nobody is away",
            true => "a durable session to # is away",
            false => "it keeps no durable session",
        };
        Ok(Broker {
            kind,
            address,
            socket: matches!(kind, Kind::Headwater | Kind::Nothing).then_some(socket),
            note: format!("{note}; {durable}"),
            process,
            _helpers: helpers,
            _sockets: sockets,
        })
    }

    /// For tables.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// The process whose work is counted.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

fn headwater(folder: &Path, address: SocketAddr, socket: &Path) -> Result<Command> {
    let mut command = Command::new(HEADWATER);
    command.args(["serve", "--data"]).arg(folder.join("data"));
    command.args(["--mqtt", &address.to_string(), "--http", &free_address()?.to_string()]);
    command.args(["--set", &format!("broker.unix_listen={}", socket.display())]);
    Ok(command)
}

/// Quorum queues (Raft, fsync in groups) are what keeps messages safest there. Without a queue nothing is kept at all:
/// the durable session is one.
fn rabbitmq(folder: &Path, address: SocketAddr, helpers: &mut Vec<Process>) -> Result<(Command, String)> {
    program("rabbitmq-server")?;
    // Debian's program in PATH changes the user; the server's own script is behind it.
    let home = newest("/usr/lib/rabbitmq/lib", "rabbitmq_server-")?;
    let version = home.to_string_lossy().rsplit('-').next().unwrap_or_default().to_owned();
    let configuration = format!(
        "listeners.tcp = none\nmqtt.listeners.tcp.1 = {address}\nmqtt.allow_anonymous = true\n\
         mqtt.durable_queue_type = quorum\nlog.console = true\nlog.file = false\n"
    );
    fs::write(folder.join("rabbitmq.conf"), configuration)?;
    fs::write(folder.join("enabled_plugins"), "[rabbitmq_mqtt].")?;
    // The node would start this name server by itself, and leave it running.
    let names = free_address()?;
    let epmd = Command::new(program("epmd")?)
        .args(["-address", "127.0.0.1", "-port", &names.port().to_string()])
        .stdin(Stdio::null())
        .spawn()?;
    let mut epmd = Process(epmd);
    epmd.listens(names)?;
    helpers.push(epmd);
    let mut command = Command::new(home.join("sbin/rabbitmq-server"));
    command
        .env("HOME", folder)
        .env("RABBITMQ_HOME", &home)
        .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", folder.join("logs"))
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_NODENAME", "bench@localhost")
        .env("RABBITMQ_DIST_PORT", free_address()?.port().to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", names.port().to_string())
        // The script then becomes the server instead of waiting for it, so its id is the server's.
        .env("RABBITMQ_ALLOW_INPUT", "1")
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-noinput -kernel inet_dist_use_interface {127,0,0,1}",
        );
    Ok((
        command,
        format!("RabbitMQ {version}, Raft with fsync before each PUBACK"),
    ))
}

fn nats(folder: &Path, address: SocketAddr) -> Result<(Command, String)> {
    let server = program("nats-server")?;
    let path = folder.join("nats.conf");
    let configure = |sync: &str| -> Result<bool> {
        let configuration = format!(
            "listen: {}\nserver_name: bench\nmqtt {{ listen: \"{address}\" }}\njetstream {{ store_dir: {:?}{sync} }}\n",
            free_address()?,
            folder.join("data"),
        );
        fs::write(&path, configuration)?;
        let checked = Command::new(&server).arg("-t").arg("-c").arg(&path).output()?;
        Ok(checked.status.success())
    };
    let note = match configure(", sync_interval: always")? {
        true => "sync always: fsync before each PUBACK",
        false => {
            configure("")?;
            "older than 2.10, which cannot sync always: PUBACK before the fsync"
        }
    };
    let version = Command::new(&server).arg("--version").output()?.stdout;
    let version = String::from_utf8_lossy(&version)
        .trim()
        .replace("nats-server: ", "NATS ");
    let mut command = Command::new(server);
    command.arg("-c").arg(path);
    Ok((command, format!("{version}, {note}")))
}

fn mosquitto(folder: &Path, address: SocketAddr) -> Result<(Command, String)> {
    let path = folder.join("mosquitto.conf");
    let configuration = format!(
        "listener {} {}\nallow_anonymous true\npersistence false\n",
        address.port(),
        address.ip()
    );
    fs::write(&path, configuration)?;
    let mut command = Command::new(program("mosquitto")?);
    command.arg("-c").arg(path);
    Ok((
        command,
        "nothing is written; it keeps 1000 messages for a client that is away".to_owned(),
    ))
}

/// This program again, as a server.
fn itself(what: &str, address: SocketAddr, socket: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([what, &address.port().to_string()]).arg(socket);
    Ok(command)
}

/// This process becomes a rumqttd with the settings of its own example.
pub fn serve_rumqttd(port: u16) -> Result<()> {
    let config = serde_json::json!({
        "id": 0,
        "router": {
            "id": 0,
            "max_connections": 10_010,
            "max_outgoing_packet_count": 200,
            "max_segment_size": 100 << 20,
            "max_segment_count": 10,
        },
        "v4": { "1": {
            "name": "v4-1",
            "listen": format!("127.0.0.1:{port}"),
            "next_connection_delay_ms": 1,
            "connections": {
                "connection_timeout_ms": 60_000,
                "max_payload_size": 20_480,
                "max_inflight_count": 100,
                "dynamic_filters": true,
            },
        }},
    });
    let mut broker = rumqttd::Broker::new(serde_json::from_value(config)?);
    Ok(broker.start()?)
}

/// The folder that begins so and comes last by name.
fn newest(parent: &str, beginning: &str) -> Result<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(parent)
        .with_context(|| format!("cannot look into {parent}"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(beginning))
        })
        .collect();
    found.sort();
    found
        .pop()
        .with_context(|| format!("there is no {beginning} in {parent}"))
}

/// Where a program is. Debian keeps servers in a folder that is not in everybody's PATH.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("there is no {name} here; ./x bench peers installs it where it can"))
}
