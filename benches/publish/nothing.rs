//! A server that answers every PUBLISH at once and does nothing else: no parsing beyond packet boundaries, no routing, no
//! storage. It says what the kernel's loopback and the load generator leave to any broker on this machine.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener as StdUnixListener;

use anyhow::{Context, Result};
use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::{Events, Interest, Poll, Token};

/// The argument that makes this program such a server.
pub const NOTHING: &str = "nothing";
const TCP: Token = Token(usize::MAX);
const UNIX: Token = Token(usize::MAX - 1);
const READ_BYTES: usize = 64 << 10;
const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PINGREQ: u8 = 12;

/// This process serves on that loopback port and that socket until it is killed, with one event loop for each core.
pub fn serve(port: u16, socket: &str) -> Result<()> {
    let tcp = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    tcp.set_nonblocking(true)?;
    let unix = StdUnixListener::bind(socket)?;
    unix.set_nonblocking(true)?;
    let others = std::thread::available_parallelism()?.get() - 1;
    for _ in 0..others {
        let (tcp, unix) = (tcp.try_clone()?, unix.try_clone()?);
        std::thread::spawn(move || run(TcpListener::from_std(tcp), UnixListener::from_std(unix)));
    }
    run(TcpListener::from_std(tcp), UnixListener::from_std(unix))
}

trait Socket: Read + Write + Source {}

impl<T: Read + Write + Source> Socket for T {}

/// A client: its socket, and the begin of a packet whose rest is not there.
struct Client {
    socket: Box<dyn Socket>,
    input: Vec<u8>,
}

fn run(mut tcp: TcpListener, mut unix: UnixListener) -> Result<()> {
    let mut poll = Poll::new()?;
    poll.registry().register(&mut tcp, TCP, Interest::READABLE)?;
    poll.registry().register(&mut unix, UNIX, Interest::READABLE)?;
    let (mut clients, mut next) = (HashMap::new(), 0);
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; READ_BYTES];
    let accept = |token| -> io::Result<Box<dyn Socket>> {
        if token == UNIX {
            return Ok(Box::new(unix.accept()?.0));
        }
        let (socket, _) = tcp.accept()?;
        socket.set_nodelay(true)?;
        Ok(Box::new(socket))
    };
    loop {
        if let Err(error) = poll.poll(&mut events, None)
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        for event in &events {
            if ![TCP, UNIX].contains(&event.token()) {
                if clients
                    .get_mut(&event.token())
                    .is_some_and(|client| answer(client, &mut buffer).is_err())
                {
                    clients.remove(&event.token());
                }
                continue;
            }
            // The other loops may have taken what woke this one.
            while let Ok(mut socket) = accept(event.token()) {
                let token = Token(next);
                next += 1;
                poll.registry().register(&mut socket, token, Interest::READABLE)?;
                let input = Vec::new();
                clients.insert(token, Client { socket, input });
            }
        }
    }
}

/// Reads what is there and answers it with one write. Events come once for what has arrived, so it reads until less comes than
/// it has room for. An error: the client has left.
fn answer(client: &mut Client, buffer: &mut [u8]) -> Result<()> {
    loop {
        let read = match client.socket.read(buffer) {
            Ok(0) => anyhow::bail!("closed"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        };
        let (mut output, mut taken) = (Vec::new(), 0);
        // Nearly always packets come whole.
        let input = match client.input.is_empty() {
            true => &buffer[..read],
            false => {
                client.input.extend_from_slice(&buffer[..read]);
                &client.input
            }
        };
        while let Some(length) = packet_bytes(&input[taken..]) {
            reply(&input[taken..taken + length], &mut output).context("a malformed packet")?;
            taken += length;
        }
        client.input = input[taken..].to_vec();
        // Some bytes for each message: the socket's buffer has room.
        client.socket.write_all(&output)?;
        if read < buffer.len() {
            return Ok(());
        }
    }
}

/// The length of the first packet. None: it is not whole.
fn packet_bytes(input: &[u8]) -> Option<usize> {
    let (mut length, mut shift) = (0, 0);
    for (at, byte) in input.iter().enumerate().skip(1).take(4) {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            let whole = at + 1 + length;
            return (input.len() >= whole).then_some(whole);
        }
    }
    None
}

/// None: the packet is shorter than it must be.
fn reply(packet: &[u8], output: &mut Vec<u8>) -> Option<()> {
    let body = packet.iter().skip(1).position(|byte| byte & 0x80 == 0)? + 2;
    match packet[0] >> 4 {
        CONNECT => {
            // Behind the protocol's name is its level: from 5 on there are properties.
            match packet.get(body + 6)? {
                5 => output.extend([0x20, 3, 0, 0, 0]),
                _ => output.extend([0x20, 2, 0, 0]),
            }
        }
        PUBLISH if packet[0] & 0x06 != 0 => {
            let topic = u16::from_be_bytes([*packet.get(body)?, *packet.get(body + 1)?]);
            let id = body + 2 + usize::from(topic);
            output.extend([0x40, 2, *packet.get(id)?, *packet.get(id + 1)?]);
        }
        PINGREQ => output.extend([0xd0, 0]),
        _ => {}
    }
    Some(())
}
