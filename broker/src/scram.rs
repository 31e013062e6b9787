//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as a server speaks it: a client proves that it knows a password that neither side
//! sends and this side does not have.
//!
//! What is kept of a password is a [`Verifier`], spelled as PostgreSQL spells it. An [`Exchange`] takes the client's
//! messages and gives the server's; it knows nothing of MQTT, sockets or time.
//!
//! ```text
//! client first   n,,n=USER,r=CLIENT NONCE
//! server first   r=CLIENT NONCE SERVER NONCE,s=SALT,i=ITERATIONS
//! client final   c=biws,r=BOTH NONCES,p=PROOF            PROOF = ClientKey xor HMAC(StoredKey, all of the above)
//! server final   v=SIGNATURE                             SIGNATURE = HMAC(ServerKey, all of the above)
//! ```
//!
//! Whoever does not exist gets a salt too, the same one each time, and fails where a wrong password fails: the answers do
//! not tell which names there are. Channel binding is not offered, so a client that insists on it is refused. A client
//! that speaks for somebody else (`a=`) is refused too.

mod file;

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::limits::{SCRAM_ITERATIONS_MAX, SCRAM_ITERATIONS_MIN, SCRAM_MESSAGE_BYTES_MAX, SCRAM_SALT_BYTES_MAX};

pub use file::{FileError, line, load};

/// Its name in MQTT and everywhere else.
pub const METHOD: &str = "SCRAM-SHA-256";
/// Of a new verifier.
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 18;

type Key = [u8; 32];

/// What is kept of a password: enough to check a proof, and not enough to make one.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

/// Why a text is no verifier, or a password makes none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    /// Of another shape.
    #[error("it is not SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>")]
    Shape,
    /// RFC 7677 asks for 4096; very many would keep the client busy for minutes.
    #[error("the iterations must be {SCRAM_ITERATIONS_MIN} to {SCRAM_ITERATIONS_MAX}")]
    Iterations,
    /// The salt has no bytes, or too many.
    #[error("the salt must be 1 to {SCRAM_SALT_BYTES_MAX} bytes in base64")]
    Salt,
    /// A key is not 32 bytes.
    #[error("StoredKey and ServerKey must be 32 bytes in base64")]
    Key,
    /// SASLprep would change it, and that is not here.
    #[error("the password must be printable ASCII, and not empty")]
    Password,
    /// The system gives none.
    #[error("no random bytes for a salt: {0}")]
    Random(String),
}

impl Verifier {
    /// Of a password, with a salt of its own.
    pub fn of(password: &str, iterations: u32) -> Result<Verifier, VerifierError> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|error| VerifierError::Random(error.to_string()))?;
        Verifier::derive(password, &salt, iterations)
    }

    /// Of a password, with this salt.
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Result<Verifier, VerifierError> {
        // SASLprep (RFC 4013) leaves printable ASCII as it is, and other text often not.
        if password.is_empty() || !password.chars().all(|character| matches!(character, ' '..='~')) {
            return Err(VerifierError::Password);
        }
        let salted = salted_password(password, salt, iterations);
        Ok(Verifier {
            iterations: checked(iterations)?,
            salt: salt.to_vec(),
            stored_key: Sha256::digest(hmac(&salted, b"Client Key")).into(),
            server_key: hmac(&salted, b"Server Key"),
        })
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Result<Verifier, VerifierError> {
        let mut parts = text.split('$');
        let (method, cost, keys) = (parts.next(), parts.next(), parts.next());
        let (Some(METHOD), Some(cost), Some(keys), None) = (method, cost, keys, parts.next()) else {
            return Err(VerifierError::Shape);
        };
        let (iterations, salt) = cost.split_once(':').ok_or(VerifierError::Shape)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(VerifierError::Shape)?;
        let iterations = iterations.parse().map_err(|_| VerifierError::Iterations)?;
        let salt = BASE64.decode(salt).map_err(|_| VerifierError::Salt)?;
        if salt.is_empty() || salt.len() > SCRAM_SALT_BYTES_MAX {
            return Err(VerifierError::Salt);
        }
        Ok(Verifier {
            iterations: checked(iterations)?,
            salt,
            stored_key: key(stored_key).ok_or(VerifierError::Key)?,
            server_key: key(server_key).ok_or(VerifierError::Key)?,
        })
    }

    /// Whether `proof` is of somebody who knows the password. Takes as long for a wrong one as for the right one.
    fn accepts(&self, proof: &Key, messages: &[u8]) -> bool {
        let signature = hmac(&self.stored_key, messages);
        let client_key: Key = std::array::from_fn(|at| proof[at] ^ signature[at]);
        Sha256::digest(client_key).ct_eq(&self.stored_key).into()
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| BASE64.encode(bytes);
        let (salt, stored_key, server_key) = (text(&self.salt), text(&self.stored_key), text(&self.server_key));
        write!(f, "{METHOD}${}:{salt}${stored_key}:{server_key}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    /// Not its keys: who has the server's may play the server.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

/// Who may prove what they are.
#[derive(Debug)]
pub struct Verifiers {
    by_name: HashMap<String, Verifier>,
    /// For names that are not there: its cost and the length of its salt are theirs, and its key makes their salts.
    first: Verifier,
}

impl Verifiers {
    /// Of at least one; the first one's secrets make the salts of names that do not exist, so that these stay the same while
    /// it stays first.
    pub fn new(users: impl IntoIterator<Item = (String, Verifier)>) -> Option<Verifiers> {
        let mut users = users.into_iter().peekable();
        let first = users.peek()?.1.clone();
        let by_name = users.collect();
        Some(Verifiers { by_name, first })
    }

    /// The verifier of `name`; one that accepts nothing where there is none.
    fn of(&self, name: &str) -> (Verifier, bool) {
        if let Some(verifier) = self.by_name.get(name) {
            return (verifier.clone(), true);
        }
        let made = |what: &[u8]| hmac(&self.first.server_key, &[what, name.as_bytes()].concat());
        let salt = made(b"salt ").into_iter().chain(made(b"more salt ")).cycle();
        let mock = Verifier {
            iterations: self.first.iterations,
            salt: salt.take(self.first.salt.len()).collect(),
            stored_key: made(b"stored key "),
            server_key: made(b"server key "),
        };
        (mock, false)
    }
}

/// Why a client did not prove what it is. The words are for this side's log, or for whoever writes a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a message of RFC 5802, or not the one that is due.
    #[error("not a SCRAM message: {0}")]
    Message(&'static str),
    /// What it asks for is not here.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The proof is wrong, or nobody has that name: which of both is nobody's to know.
    #[error("the user name or the password is wrong")]
    Denied,
    /// This side's fault.
    #[error("no random bytes for a nonce")]
    Random,
}

/// What comes after a message of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Send this, and wait for another one.
    Challenge(String),
    /// The client is `user`; send this, so that it knows the server too.
    Done { user: String, last: String },
}

/// One authentication.
#[derive(Debug)]
pub struct Exchange {
    nonce: String,
    state: State,
}

#[derive(Debug)]
enum State {
    First,
    Final(Box<Due>),
    Over,
}

/// What the client's second message is checked against.
#[derive(Debug)]
struct Due {
    user: String,
    known: bool,
    verifier: Verifier,
    /// The client's first message up to its bare part, in base64.
    binding: String,
    nonce: String,
    /// The bare first message, a comma, the server's first.
    messages: String,
}

impl Exchange {
    /// With a nonce that nobody can foretell.
    pub fn begin() -> Result<Exchange, Refused> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| Refused::Random)?;
        Ok(Exchange::with_nonce(BASE64.encode(nonce)))
    }

    fn with_nonce(nonce: String) -> Exchange {
        let state = State::First;
        Exchange { nonce, state }
    }

    /// Takes the client's next message. After an error, and after [`Answer::Done`], there is no next.
    pub fn take(&mut self, verifiers: &Verifiers, message: &[u8]) -> Result<Answer, Refused> {
        if message.len() > SCRAM_MESSAGE_BYTES_MAX {
            return Err(Refused::Message("it is too long"));
        }
        let text = std::str::from_utf8(message).map_err(|_| Refused::Message("it is not UTF-8"))?;
        match std::mem::replace(&mut self.state, State::Over) {
            State::First => {
                let (due, challenge) = self.first(verifiers, text)?;
                self.state = State::Final(Box::new(due));
                Ok(Answer::Challenge(challenge))
            }
            State::Final(due) => due.last(text),
            State::Over => Err(Refused::Message("the exchange is over")),
        }
    }

    fn first(&self, verifiers: &Verifiers, text: &str) -> Result<(Due, String), Refused> {
        let (flag, rest) = text.split_once(',').ok_or(Refused::Message("no gs2 header"))?;
        match flag {
            // `y`: the client could, and thinks that the server cannot; it is right.
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(Refused::Unsupported("channel binding is not supported")),
            _ => return Err(Refused::Message("the first message has no gs2 header")),
        }
        let (authzid, bare) = rest.split_once(',').ok_or(Refused::Message("no gs2 header"))?;
        if !authzid.is_empty() {
            return Err(Refused::Unsupported("nobody can speak for somebody else (a=)"));
        }
        let header = &text[..text.len() - bare.len()];
        let mut attributes = bare.split(',');
        let name = match attributes.next().and_then(|attribute| attribute.split_once('=')) {
            Some(("n", name)) => {
                unescaped(name).ok_or(Refused::Message("the user name is not spelled as it should be"))?
            }
            Some(("m", _)) => {
                return Err(Refused::Unsupported(
                    "an extension that is mandatory (m=) is not supported",
                ));
            }
            _ => return Err(Refused::Message("the first message has no user name")),
        };
        let client_nonce = attribute(attributes.next(), "r").filter(|nonce| is_nonce(nonce));
        let client_nonce = client_nonce.ok_or(Refused::Message("the first message has no nonce"))?;
        let (verifier, known) = verifiers.of(&name);
        let nonce = format!("{client_nonce}{}", self.nonce);
        let challenge = format!(
            "r={nonce},s={},i={}",
            BASE64.encode(&verifier.salt),
            verifier.iterations
        );
        let due = Due {
            user: name,
            known,
            verifier,
            binding: BASE64.encode(header),
            nonce,
            messages: format!("{bare},{challenge}"),
        };
        Ok((due, challenge))
    }
}

impl Due {
    fn last(self, text: &str) -> Result<Answer, Refused> {
        let (without_proof, proof) = text
            .rsplit_once(",p=")
            .ok_or(Refused::Message("the last message has no proof"))?;
        let mut attributes = without_proof.split(',');
        if attribute(attributes.next(), "c") != Some(&self.binding) {
            return Err(Refused::Message("the last message does not repeat the gs2 header (c=)"));
        }
        if attribute(attributes.next(), "r") != Some(&self.nonce) {
            return Err(Refused::Message("the last message does not repeat the nonce"));
        }
        let proof = key(proof).ok_or(Refused::Message("the proof is not 32 bytes in base64"))?;
        let messages = format!("{},{without_proof}", self.messages);
        // Both are worked out, whatever comes of them.
        let accepted = self.verifier.accepts(&proof, messages.as_bytes());
        let signature = hmac(&self.verifier.server_key, messages.as_bytes());
        if !(accepted & self.known) {
            return Err(Refused::Denied);
        }
        Ok(Answer::Done {
            user: self.user,
            last: format!("v={}", BASE64.encode(signature)),
        })
    }
}

/// The value of an attribute that has to be `name`.
fn attribute<'a>(text: Option<&'a str>, name: &str) -> Option<&'a str> {
    let (found, value) = text?.split_once('=')?;
    (found == name).then_some(value)
}

/// Printable ASCII, but no comma.
fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'!'..=b'+' | b'-'..=b'~'))
}

/// A saslname: `=2C` is a comma, `=3D` an equals sign, and no other `=` may stand there.
fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        name.push(match code {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        name.push_str(rest);
    }
    (!name.is_empty() && !name.contains('\0')).then_some(name)
}

fn checked(iterations: u32) -> Result<u32, VerifierError> {
    match (SCRAM_ITERATIONS_MIN..=SCRAM_ITERATIONS_MAX).contains(&iterations) {
        true => Ok(iterations),
        false => Err(VerifierError::Iterations),
    }
}

fn key(text: &str) -> Option<Key> {
    BASE64.decode(text).ok()?.try_into().ok()
}

fn hmac(key: &[u8], text: &[u8]) -> Key {
    mac(key).chain_update(text).finalize().into_bytes().into()
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).unwrap_or_else(|_| unreachable!("a key of HMAC may have any length"))
}

/// `Hi` of RFC 5802, which is PBKDF2 with one block.
fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Key {
    let keyed = mac(password.as_bytes());
    let next = |text: &[u8]| -> Key { keyed.clone().chain_update(text).finalize().into_bytes().into() };
    let mut last = next(&[salt, &1u32.to_be_bytes()].concat());
    let mut sum = last;
    for _ in 1..iterations {
        last = next(&last);
        sum.iter_mut().zip(last).for_each(|(sum, byte)| *sum ^= byte);
    }
    sum
}

#[cfg(test)]
mod tests;
