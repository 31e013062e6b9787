//! Enhanced authentication (MQTT 5.0, section 4.12), without IO: SCRAM's messages in CONNECT, AUTH and CONNACK, on the way in
//! and again while the client is connected.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use crate::packet::{Auth, Packet, Properties, Property, Reason};
use crate::scram::{Answer, Exchange, METHOD, Refused, Verifiers};

/// Why it went wrong, as the client is told.
pub type Failed = (Reason, Cow<'static, str>);

/// One authentication under way.
#[derive(Debug)]
pub struct Authentication {
    verifiers: Arc<Verifiers>,
    exchange: Exchange,
}

/// What comes after a message of the client.
#[derive(Debug)]
pub enum Turn {
    /// Send this, and wait for the client's AUTH.
    Challenge(Packet),
    /// The client is who it says.
    Proved(Proved),
}

/// A client that has proved who it is.
#[derive(Debug, Clone)]
pub struct Proved {
    /// Its name.
    pub user: ByteString,
    /// What the client may know the server by.
    pub last: Bytes,
    /// For the next time.
    pub verifiers: Arc<Verifiers>,
}

impl Authentication {
    /// Begins one.
    pub fn begin(verifiers: Arc<Verifiers>) -> Result<Authentication, Failed> {
        let exchange = Exchange::begin().map_err(failed)?;
        Ok(Authentication { verifiers, exchange })
    }

    /// Takes the Authentication Data of a CONNECT, or of the AUTH that begins a re-authentication. A client that sent none is
    /// asked for it.
    pub fn first(&mut self, properties: &Properties) -> Result<Turn, Failed> {
        match data(properties) {
            Some(data) => self.take(&data),
            None => Ok(Turn::Challenge(packet(Reason::CONTINUE_AUTHENTICATION, None))),
        }
    }

    /// Takes the client's next AUTH.
    pub fn next(&mut self, auth: &Auth) -> Result<Turn, Failed> {
        check_method(auth)?;
        if auth.reason != Reason::CONTINUE_AUTHENTICATION {
            return Err((
                Reason::PROTOCOL_ERROR,
                "an AUTH that does not go on with the authentication".into(),
            ));
        }
        self.take(&data(&auth.properties).unwrap_or_default())
    }

    fn take(&mut self, data: &[u8]) -> Result<Turn, Failed> {
        match self.exchange.take(&self.verifiers, data).map_err(failed)? {
            Answer::Challenge(text) => Ok(Turn::Challenge(packet(
                Reason::CONTINUE_AUTHENTICATION,
                Some(text.into()),
            ))),
            Answer::Done { user, last } => Ok(Turn::Proved(Proved {
                user: user.into(),
                last: last.into(),
                verifiers: self.verifiers.clone(),
            })),
        }
    }
}

/// Whoever proved who it is once may be asked to be asked again.
#[derive(Debug)]
pub struct Identity {
    user: ByteString,
    verifiers: Arc<Verifiers>,
    under_way: Option<Authentication>,
}

impl From<Proved> for Identity {
    fn from(proved: Proved) -> Identity {
        Identity {
            user: proved.user,
            verifiers: proved.verifiers,
            under_way: None,
        }
    }
}

impl Identity {
    /// Takes an AUTH of a connected client, and gives the answer.
    pub fn take(&mut self, auth: &Auth) -> Result<Packet, Failed> {
        check_method(auth)?;
        let turn = match &mut self.under_way {
            Some(under_way) => under_way.next(auth)?,
            None if auth.reason == Reason::REAUTHENTICATE => {
                let begun = Authentication::begin(self.verifiers.clone())?;
                self.under_way.insert(begun).first(&auth.properties)?
            }
            None => {
                return Err((
                    Reason::PROTOCOL_ERROR,
                    "an AUTH that goes on with no authentication".into(),
                ));
            }
        };
        match turn {
            Turn::Challenge(packet) => Ok(packet),
            Turn::Proved(proved) if proved.user == self.user => {
                self.under_way = None;
                Ok(packet(Reason::SUCCESS, Some(proved.last)))
            }
            Turn::Proved(_) => Err((
                Reason::NOT_AUTHORIZED,
                "a connection stays with the user that it began with".into(),
            )),
        }
    }
}

/// The method that a CONNECT asks for.
pub fn method(properties: &Properties) -> Option<ByteString> {
    properties.find(|property| match property {
        Property::AuthenticationMethod(method) => Some(method),
        _ => None,
    })
}

/// The properties that name the method, with `data`.
pub fn properties(data: Option<Bytes>) -> impl Iterator<Item = Property> {
    let method = Property::AuthenticationMethod(ByteString::from_static(METHOD));
    std::iter::once(method).chain(data.map(Property::AuthenticationData))
}

fn data(properties: &Properties) -> Option<Bytes> {
    properties.find(|property| match property {
        Property::AuthenticationData(data) => Some(data),
        _ => None,
    })
}

/// An AUTH has no words, so that it is never larger than it has to be [MQTT-3.15.2-2] [MQTT-3.15.2-3].
fn packet(reason: Reason, data: Option<Bytes>) -> Packet {
    Packet::Auth(Auth {
        reason,
        properties: properties(data).collect(),
    })
}

/// It stays the same for the whole connection [MQTT-4.12.0-5] [MQTT-4.12.1-1].
fn check_method(auth: &Auth) -> Result<(), Failed> {
    match method(&auth.properties).as_deref() {
        Some(METHOD) => Ok(()),
        Some(_) => Err((
            Reason::PROTOCOL_ERROR,
            "an AUTH with another method than CONNECT".into(),
        )),
        None => Err((Reason::PROTOCOL_ERROR, "an AUTH without its method".into())),
    }
}

fn failed(refused: Refused) -> Failed {
    let reason = match refused {
        Refused::Random => Reason::UNSPECIFIED_ERROR,
        Refused::Message(_) | Refused::Unsupported(_) | Refused::Denied => Reason::NOT_AUTHORIZED,
    };
    (reason, refused.to_string().into())
}
