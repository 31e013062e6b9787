//! The PROXY protocol, versions 1 and 2 (HAProxy's specification): a balancer in front of us says who the client is.
//!
//! Expected from every TCP client or from none, as configured: if it were optional, anyone could claim to be anyone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nom::bytes::complete::take;
use nom::number::complete::be_u16;
use nom::{IResult, Parser};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;
/// Addresses and what else version 2 may carry: far more than any balancer sends.
const BLOCK_BYTES_MAX: usize = 4096;

/// Takes the header off a stream, and not a byte more. None: the balancer speaks for itself, or does not know.
pub async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut first = [0; SIGNATURE.len()];
    stream.read_exact(&mut first).await?;
    if first == SIGNATURE {
        return read_block(stream).await;
    }
    // The shortest line is longer than that.
    let mut line = first.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LINE_BYTES_MAX || !line.starts_with(b"PROXY ") {
            return Err(wrong());
        }
        line.push(stream.read_u8().await?);
    }
    parse_line(&line).ok_or_else(wrong)
}

async fn read_block(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let [command, family] = [stream.read_u8().await?, stream.read_u8().await?];
    let length = usize::from(stream.read_u16().await?);
    if length > BLOCK_BYTES_MAX {
        return Err(wrong());
    }
    let mut block = vec![0; length];
    stream.read_exact(&mut block).await?;
    match (command, family >> 4) {
        // LOCAL: a health check of the balancer.
        (0x20, _) => Ok(None),
        (0x21, 1) => Ok(Some(source_4(&block).map_err(|_| wrong())?.1)),
        (0x21, 2) => Ok(Some(source_6(&block).map_err(|_| wrong())?.1)),
        (0x21, _) => Ok(None),
        _ => Err(wrong()),
    }
}

fn source_4(block: &[u8]) -> IResult<&[u8], SocketAddr> {
    let (rest, (source, _, port, _)) = (take(4usize), take(4usize), be_u16, be_u16).parse(block)?;
    let octets: [u8; 4] = source.try_into().unwrap_or_default();
    Ok((rest, (IpAddr::V4(Ipv4Addr::from(octets)), port).into()))
}

fn source_6(block: &[u8]) -> IResult<&[u8], SocketAddr> {
    let (rest, (source, _, port, _)) = (take(16usize), take(16usize), be_u16, be_u16).parse(block)?;
    let octets: [u8; 16] = source.try_into().unwrap_or_default();
    Ok((rest, (IpAddr::V6(Ipv6Addr::from(octets)), port).into()))
}

/// The outer None: not a line of version 1.
fn parse_line(line: &[u8]) -> Option<Option<SocketAddr>> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, _, port, _) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let source: IpAddr = source.parse().ok()?;
    let good = matches!((family, source), ("TCP4", IpAddr::V4(_)) | ("TCP6", IpAddr::V6(_))) && words.next().is_none();
    good.then_some(Some((source, port.parse().ok()?).into()))
}

fn wrong() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "no PROXY protocol header, which broker.proxy_protocol asks for",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<(Option<String>, Vec<u8>), ()> {
        let mut stream = bytes;
        let source = read_header(&mut stream).await.map_err(drop)?;
        Ok((source.map(|source| source.to_string()), stream.to_vec()))
    }

    fn block(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = (block.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block, b"rest"].concat()
    }

    #[tokio::test]
    async fn headers_of_both_versions_name_the_client_and_end_where_they_end() {
        let v4 = [&[10, 0, 0, 7][..], &[127, 0, 0, 1], &[0x1f, 0x90], &[7, 0x5b]].concat();
        let v6 = [&[0; 15][..], &[1], &[0; 16], &[0, 80, 0, 81], b"more"].concat();
        for (bytes, source) in [
            (
                b"PROXY TCP4 10.0.0.7 127.0.0.1 8080 1883\r\nrest".to_vec(),
                Some("10.0.0.7:8080"),
            ),
            (b"PROXY TCP6 ::1 ::1 80 81\r\nrest".to_vec(), Some("[::1]:80")),
            (b"PROXY UNKNOWN\r\nrest".to_vec(), None),
            (b"PROXY UNKNOWN ffff:: :: 1 2\r\nrest".to_vec(), None),
            (block(0x21, 0x11, &v4), Some("10.0.0.7:8080")),
            (block(0x21, 0x21, &v6), Some("[::1]:80")),
            (block(0x20, 0x00, b""), None),
            (block(0x21, 0x31, &[0; 216]), None),
        ] {
            let expected = (source.map(str::to_owned), b"rest".to_vec());
            assert_eq!(read(&bytes).await, Ok(expected), "{bytes:x?}");
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        for bytes in [
            b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02c1".to_vec(),
            b"PROXY TCP4 10.0.0.7 127.0.0.1 8080\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 80 81\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.7 127.0.0.1 80 81 82\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.7 127.0.0.1 99999 1883\r\n".to_vec(),
            [&b"PROXY "[..], &[b'x'; 200]].concat(),
            block(0x21, 0x11, &[1, 2, 3]),
            block(0x31, 0x11, &[0; 12]),
            block(0x21, 0x11, &[0; 5000]),
            b"PRO".to_vec(),
        ] {
            assert_eq!(read(&bytes).await, Err(()), "{bytes:x?}");
        }
    }
}
