//! Hashes and encodings of bytes. A text is its UTF-8 bytes; hashes are shown as hexadecimal text.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256, Sha512};

use super::{Function, Parameter, Returns, scalar};
use crate::value::{Fault, Value};

const ONE: &[Parameter] = &[Parameter::Any];

pub(super) const FUNCTIONS: &[Function] = &[
    scalar("MD5", ONE, Returns::String, "its MD5", |a, _| {
        Ok(hex(&md5::Md5::digest(bytes(&a[0])?)))
    }),
    scalar("SHA256", ONE, Returns::String, "its SHA-256", |a, _| {
        Ok(hex(&Sha256::digest(bytes(&a[0])?)))
    }),
    scalar("SHA512", ONE, Returns::String, "its SHA-512", |a, _| {
        Ok(hex(&Sha512::digest(bytes(&a[0])?)))
    }),
    scalar("CRC32", ONE, Returns::Integer, "its CRC-32 (IEEE)", |a, _| {
        Ok(Value::Integer(crc32fast::hash(bytes(&a[0])?).into()))
    }),
    Function {
        aliases: &["BASE64_ENCODE"],
        ..scalar("TO_BASE64", ONE, Returns::String, "as base64", |a, _| {
            Ok(Value::String(BASE64.encode(bytes(&a[0])?).into()))
        })
    },
    Function {
        aliases: &["BASE64_DECODE"],
        ..scalar(
            "FROM_BASE64",
            &[Parameter::String],
            Returns::Bytea,
            "the bytes of base64",
            |a, _| {
                let decoded = BASE64.decode(bytes(&a[0])?).map_err(|_| Fault::BadCast)?;
                Ok(Value::Bytea(decoded.into()))
            },
        )
    },
    scalar("TO_HEX", ONE, Returns::String, "as hexadecimal text", |a, _| {
        Ok(hex(bytes(&a[0])?))
    }),
    scalar(
        "FROM_HEX",
        &[Parameter::String],
        Returns::Bytea,
        "the bytes of hexadecimal text",
        |a, _| {
            let digits = bytes(&a[0])?;
            if !digits.len().is_multiple_of(2) {
                return Err(Fault::BadCast);
            }
            let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(Fault::BadCast);
            let pair = |pair: &[u8]| Ok((digit(pair[0])? * 16 + digit(pair[1])?) as u8);
            let decoded: Result<Vec<u8>, Fault> = digits.chunks_exact(2).map(pair).collect();
            Ok(Value::Bytea(decoded?.into()))
        },
    ),
];

fn bytes(value: &Value) -> Result<&[u8], Fault> {
    match value {
        Value::String(text) | Value::Json(text) => Ok(text.as_bytes()),
        Value::Bytea(bytes) => Ok(bytes),
        _ => Err(Fault::WrongType),
    }
}

fn hex(bytes: &[u8]) -> Value {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a String cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    Value::String(out.into())
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::call;
    use super::*;

    #[test]
    fn known_answers() {
        let text = |text: &str| Value::String(text.into());
        assert_eq!(
            call("MD5", &[text("abc")]),
            Ok(text("900150983cd24fb0d6963f7d28e17f72"))
        );
        assert_eq!(
            call("SHA256", &[text("abc")]),
            Ok(text("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"))
        );
        assert_eq!(call("CRC32", &[text("123456789")]), Ok(Value::Integer(0xCBF4_3926)));
        assert_eq!(call("TO_BASE64", &[text("abc")]), Ok(text("YWJj")));
        assert_eq!(call("FROM_BASE64", &[text("YWJj")]), Ok(Value::Bytea("abc".into())));
        assert_eq!(call("FROM_BASE64", &[text("*")]), Err(Fault::BadCast));
        assert_eq!(call("TO_HEX", &[Value::Bytea(vec![0, 255].into())]), Ok(text("00ff")));
        assert_eq!(call("FROM_HEX", &[text("00fF")]), Ok(Value::Bytea(vec![0, 255].into())));
        assert_eq!(call("FROM_HEX", &[text("0g")]), Err(Fault::BadCast));
        assert_eq!(call("MD5", &[Value::Integer(1)]), Err(Fault::WrongType));
    }
}
