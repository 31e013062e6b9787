//! The client's side of SCRAM-SHA-256, for tests: as RFC 5802 writes it, with nothing of ours.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn xor(left: &[u8], right: &[u8]) -> Vec<u8> {
    left.iter().zip(right).map(|(left, right)| left ^ right).collect()
}

/// The client's last message, and the server's that it expects then. `header` is what stood before `bare` in its first.
pub fn last(password: &str, header: &str, bare: &str, challenge: &str) -> (String, String) {
    let value = |name: char| {
        let found = challenge
            .split(',')
            .find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {name}= in {challenge}"))
    };
    let salt = BASE64.decode(value('s')).unwrap();
    let iterations: u32 = value('i').parse().unwrap();
    let mut last = hmac(password.as_bytes(), &[&salt[..], &[0, 0, 0, 1]].concat());
    let mut salted = last.clone();
    for _ in 1..iterations {
        last = hmac(password.as_bytes(), &last);
        salted = xor(&salted, &last);
    }
    let client_key = hmac(&salted, b"Client Key");
    let without_proof = format!("c={},r={}", BASE64.encode(header), value('r'));
    let messages = format!("{bare},{challenge},{without_proof}");
    let proof = xor(&client_key, &hmac(&Sha256::digest(&client_key), messages.as_bytes()));
    let signature = hmac(&hmac(&salted, b"Server Key"), messages.as_bytes());
    (
        format!("{without_proof},p={}", BASE64.encode(proof)),
        format!("v={}", BASE64.encode(signature)),
    )
}
