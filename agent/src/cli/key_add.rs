//! `tcpauth key add`: a key's fields, its secret, and what is to be done next.

use clap::builder::PossibleValuesParser;
use serde::Serialize;
use tcpauth_common::Algorithm;
use zeroize::Zeroizing;

use super::{
    failure::Failure,
    output::Output,
    secret::{Secret, SecretArgs, SecretField},
};
use crate::control::{
    client::Client,
    protocol::{Answer, NeighborKeys, Request},
};

/// A key to add; without a secret from a file, the password is asked for.
#[derive(clap::Args)]
pub struct AddArgs {
    /// The neighbor as in the configuration
    pub neighbor: String,
    /// Number of the key [default: the next after the highest that is no KeyID of the neighbor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub number: Option<u32>,
    /// Where the secret comes from.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// MAC algorithm [default: that of the neighbor]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Algorithm::ALL.map(Algorithm::name)))]
    pub algorithm: Option<String>,
    /// KeyID in both directions [default: the number of the key]
    #[arg(long, value_name = "ID", conflicts_with_all = ["send_id", "recv_id"])]
    pub key_id: Option<u8>,
    /// KeyID of what is sent: the other router's --recv-id
    #[arg(long, value_name = "ID", requires = "recv_id")]
    pub send_id: Option<u8>,
    /// KeyID of what is received: the other router's --send-id
    #[arg(long, value_name = "ID", requires = "send_id")]
    pub recv_id: Option<u8>,
    /// Whether the MAC covers TCP options [default: that of the neighbor]
    #[arg(long, value_name = "WHETHER", value_parser = PossibleValuesParser::new(["include", "exclude"]))]
    pub tcp_options: Option<String>,
    /// When it may be sent with: `never`, `always`, or START/END, either of them empty for open, in RFC 3339 as
    /// 2026-12-01T00:00:00Z [default: never, until it is rolled; from now on with TCP-MD5 or a recv-id that another key
    /// has, where the neighbor is followed]
    #[arg(long, value_name = "LIFETIME")]
    pub send_lifetime: Option<String>,
    /// When it is accepted, in the same form [default: always]
    #[arg(long, value_name = "LIFETIME")]
    pub accept_lifetime: Option<String>,
}

impl AddArgs {
    /// Add the key, once its secret has been read or asked for.
    pub async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        // Refused if there is no such neighbour: better before a secret is typed than after.
        let before = client.keys(Some(self.neighbor.clone())).await?;
        let secret = self.secret.read(&format!("a new key of {}", self.neighbor))?;
        // The request needs a plain string; the client wipes it once it is on its way.
        let toml = self.toml(&secret)?.to_string();
        let request = Request::KeyAdd { peer: self.neighbor.clone(), number: self.number, toml };
        let done = client.order(request).await?;
        output.line(&Answer::Done(done.clone()), |_| format!("{done}\n{}", self.next(&before)))
    }

    /// The key's table, as the configuration has it.
    fn toml(&self, secret: &Secret) -> Result<Zeroizing<String>, Failure> {
        let fields = Fields {
            secret: secret.field(),
            algorithm: self.algorithm.as_deref(),
            send_id: self.send_id.or(self.key_id),
            recv_id: self.recv_id.or(self.key_id),
            tcp_options: self.tcp_options.as_deref(),
            send_lifetime: self.send_lifetime.as_deref(),
            accept_lifetime: self.accept_lifetime.as_deref(),
        };
        toml::to_string(&fields)
            .map(Zeroizing::new)
            .map_err(|_| Failure::Failed("the key cannot be written as TOML".to_owned()))
    }

    /// What the operator does next; `before` is what keys the neighbour had.
    fn next(&self, before: &[NeighborKeys]) -> String {
        let neighbor = &self.neighbor;
        let mut keys = before.iter().flat_map(|neighbor| &neighbor.keys);
        if keys.any(|key| key.algorithm == Algorithm::Md5.name()) {
            return format!(
                "next:\n  1. change the password on the other router: this one follows with the first segment under the new \
                 one\n     (if that is a tcpauthd, add the key there, then `tcpauth key roll` on one of the two)\n  2. when \
                 `tcpauth key show {neighbor}` tells that nobody sends with the old key: `tcpauth key retire {neighbor} KEY`\n\
                 gone when the machine reboots, unless `tcpauth config write` keeps it"
            );
        }
        let crossed = match (self.send_id, self.recv_id) {
            (Some(send), Some(recv)) if send != recv => format!(", with --send-id {recv} --recv-id {send}"),
            _ => String::new(),
        };
        let (roll, by) = if self.send_lifetime.as_deref().is_none_or(|lifetime| lifetime == "never") {
            (format!("  2. on both, one after the other: `tcpauth key roll {neighbor}`\n"), "")
        } else {
            (String::new(), ", before its send-lifetime begins")
        };
        let retire = if roll.is_empty() { 2 } else { 3 };
        format!(
            "next:\n  1. add the same key on the other router, if it is not there yet{crossed}{by}\n{roll}  {retire}. when \
             `tcpauth key show {neighbor}` tells that nobody sends with the old key: `tcpauth key retire {neighbor} KEY`\n\
             gone when the machine reboots, unless `tcpauth config write` keeps it"
        )
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Fields<'a> {
    #[serde(flatten)]
    secret: SecretField<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    algorithm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    send_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recv_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_options: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    send_lifetime: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accept_lifetime: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::fields_of_key;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        add: AddArgs,
    }

    fn parsed(arguments: &[&str]) -> AddArgs {
        Alone::try_parse_from([&["add"], arguments].concat()).unwrap().add
    }

    fn toml(arguments: &[&str]) -> String {
        let password = Secret::Password(Zeroizing::new("v61ne0qkel33&".to_owned()));
        parsed(arguments).toml(&password).unwrap().to_string()
    }

    #[test]
    fn when_a_new_key_is_sent_with_is_left_to_the_daemon() {
        assert_eq!(toml(&["192.0.2.1"]), "password = \"v61ne0qkel33&\"\n");
    }

    #[test]
    fn every_field_goes_into_the_table() {
        let expected = "\
password = \"v61ne0qkel33&\"
algorithm = \"aes-128-cmac-96\"
send-id = 3
recv-id = 4
tcp-options = \"exclude\"
send-lifetime = \"2026-12-01T00:00:00Z/\"
accept-lifetime = \"2026-11-01/2027-03-01\"
";
        let given = [
            "192.0.2.1",
            "--number=9",
            "--algorithm=aes-128-cmac-96",
            "--send-id=3",
            "--recv-id=4",
            "--tcp-options=exclude",
            "--send-lifetime=2026-12-01T00:00:00Z/",
            "--accept-lifetime=2026-11-01/2027-03-01",
        ];
        assert_eq!(toml(&given), expected);
        assert_eq!(parsed(&given).number, Some(9));
        // A field that is new has to be given here. The client reads files of secrets, and key-id stands for two fields.
        let table: toml::Table = expected.parse().unwrap();
        let secrets = ["password-file", "key-hex", "key-base64"];
        let missing: Vec<&str> = fields_of_key()
            .filter(|field| !table.contains_key(*field) && *field != "key-id" && !secrets.contains(field))
            .collect();
        assert_eq!(missing, [""; 0], "fields that `tcpauth key add` does not have");
    }

    #[test]
    fn one_key_id_is_that_of_both_directions() {
        let expected = "password = \"v61ne0qkel33&\"\nsend-id = 7\nrecv-id = 7\n";
        assert_eq!(toml(&["192.0.2.1", "--key-id=7"]), expected);
    }

    #[test]
    fn contradictions_are_refused() {
        for arguments in [
            &["192.0.2.1", "--key-id=1", "--send-id=1", "--recv-id=2"][..],
            &["192.0.2.1", "--send-id=1"],
            &["192.0.2.1", "--recv-id=1"],
            &["192.0.2.1", "--key-id=256"],
            &["192.0.2.1", "--number=0"],
            &["192.0.2.1", "--algorithm=rot13"],
            &["192.0.2.1", "--password-file=a", "--key-hex-file=b"],
            &[],
        ] {
            assert!(Alone::try_parse_from([&["add"], arguments].concat()).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn the_next_steps_are_told_in_their_order() {
        let expected = "\
next:
  1. add the same key on the other router, if it is not there yet, with --send-id 4 --recv-id 3
  2. on both, one after the other: `tcpauth key roll 192.0.2.1`
  3. when `tcpauth key show 192.0.2.1` tells that nobody sends with the old key: `tcpauth key retire 192.0.2.1 KEY`
gone when the machine reboots, unless `tcpauth config write` keeps it";
        assert_eq!(parsed(&["192.0.2.1", "--send-id=3", "--recv-id=4"]).next(&[]), expected);
        let scheduled = parsed(&["192.0.2.1", "--send-lifetime=2026-12-01T00:00:00Z/"]).next(&[]);
        assert!(!scheduled.contains("key roll"), "{scheduled}");
        assert!(
            scheduled.contains("not there yet, before its send-lifetime begins\n  2. when"),
            "{scheduled}"
        );
    }
}
