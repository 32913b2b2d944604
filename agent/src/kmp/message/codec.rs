//! Fields of messages, from octets and to octets.

use std::time::Duration;

use tcpauth_common::KeyId;

use super::{Accept, Capabilities, MessageError, Offer, Refusal, agreed_id};
use crate::{
    keys::{Role, TcpOptions},
    kmp::Connection,
};

/// Appends a length and so many octets.
pub(super) fn put_text(octets: &mut Vec<u8>, text: &str) {
    octets.push(text.len() as u8);
    octets.extend(text.as_bytes());
}

/// Reads fields off the front of a body.
pub(in crate::kmp) struct Reader<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Of a message of type `kind`.
    pub(super) fn new(kind: u8, body: &'a [u8]) -> Self {
        Self { kind, rest: body }
    }

    pub(super) fn capabilities(&mut self) -> Result<Capabilities, MessageError> {
        let version = self.u16()?;
        let software = self.text("name of the software")?;
        let count = usize::from(self.u8()?);
        if count > Capabilities::MAX_ALGORITHMS {
            return Err(MessageError::Field("list of algorithms"));
        }
        let algorithms = (0..count).map(|_| self.text("list of algorithms")).collect::<Result<_, _>>()?;
        let count = usize::from(self.u8()?);
        let option_kinds = self.octets(count)?.to_vec();
        let rekey_interval = Duration::from_secs(self.u32()?.into());
        let capabilities = Capabilities { version, software, algorithms, option_kinds, rekey_interval };
        capabilities.check()?;
        Ok(capabilities)
    }

    pub(super) fn offer(&mut self) -> Result<Offer, MessageError> {
        Ok(Offer {
            id: self.u32()?,
            connection: Connection::decode(self)?,
            role: self.value("role", Role::from_number)?,
            recv_id: agreed_id(KeyId(self.u8()?))?,
            tcp_options: self.value("coverage of TCP options", TcpOptions::from_number)?,
            nonce: self.array()?,
        })
    }

    pub(super) fn accept(&mut self) -> Result<Accept, MessageError> {
        let (id, recv_id) = (self.u32()?, agreed_id(KeyId(self.u8()?))?);
        let (nonce, algorithm) = (self.array()?, self.text("algorithm")?);
        if algorithm.len() > Capabilities::MAX_NAME {
            return Err(MessageError::Field("algorithm"));
        }
        Ok(Accept { id, recv_id, nonce, algorithm, confirmation: self.array()? })
    }

    pub(super) fn refusal(&mut self) -> Result<Refusal, MessageError> {
        self.value("reason", |number| Refusal::ALL.get(usize::from(number).checked_sub(1)?).copied())
    }

    /// # Errors
    /// If there is more.
    pub(super) fn end(&self) -> Result<(), MessageError> {
        if self.rest.is_empty() { Ok(()) } else { Err(MessageError::Trailing(self.kind)) }
    }

    /// An octet that stands for something; `what` it stands for.
    pub(in crate::kmp) fn value<T>(
        &mut self,
        what: &'static str,
        from_number: impl FnOnce(u8) -> Option<T>,
    ) -> Result<T, MessageError> {
        from_number(self.u8()?).ok_or(MessageError::Field(what))
    }

    pub(in crate::kmp) fn u8(&mut self) -> Result<u8, MessageError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(in crate::kmp) fn u16(&mut self) -> Result<u16, MessageError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(in crate::kmp) fn u32(&mut self) -> Result<u32, MessageError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(in crate::kmp) fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let (octets, rest) = self.rest.split_first_chunk().ok_or(MessageError::Truncated(self.kind))?;
        self.rest = rest;
        Ok(*octets)
    }

    fn text(&mut self, what: &'static str) -> Result<String, MessageError> {
        let length = usize::from(self.u8()?);
        let octets = self.octets(length)?;
        str::from_utf8(octets).map(str::to_owned).map_err(|_| MessageError::Field(what))
    }

    fn octets(&mut self, length: usize) -> Result<&'a [u8], MessageError> {
        let (octets, rest) = self.rest.split_at_checked(length).ok_or(MessageError::Truncated(self.kind))?;
        self.rest = rest;
        Ok(octets)
    }
}
