//! `tcpauth neighbor add`: its fields, and the secret that never stands on the command line.

use clap::builder::PossibleValuesParser;
use serde::Serialize;
use tcpauth_common::{Algorithm, Kdf};
use zeroize::Zeroizing;

use super::{
    failure::Failure,
    neighbor_add_kmp::{KmpArgs, KmpFields},
    secret::{Secret, SecretArgs, SecretField},
};
use crate::{
    config::{KeyManagement, OnUnprotected, Peer, PeerError, Unauthenticated, Wire},
    control::protocol::Request,
};

/// A neighbour to add; without a secret from a file, the password is asked for.
#[derive(clap::Args)]
pub struct AddArgs {
    /// An address or prefix: 192.0.2.1, 2001:db8::/64, fe80::1%eth0
    pub peer: String,
    /// Where the secret comes from.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// The keys of this chain of the configuration, in place of a secret
    #[arg(long, value_name = "NAME", conflicts_with = "SecretArgs")]
    pub key_chain: Option<String>,
    /// MAC algorithm [default: that of `[defaults]`, or hmac-sha-1-96]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Algorithm::TCP_AO.map(Algorithm::name)))]
    pub algorithm: Option<String>,
    /// KeyID in both directions [default: that of `[defaults]`, or 1]
    #[arg(long, value_name = "ID", conflicts_with_all = ["send_id", "recv_id"])]
    pub key_id: Option<u8>,
    /// KeyID of what is sent
    #[arg(long, value_name = "ID", requires = "recv_id")]
    pub send_id: Option<u8>,
    /// KeyID of what is received
    #[arg(long, value_name = "ID", requires = "send_id")]
    pub recv_id: Option<u8>,
    /// When the secret may be sent with: `never`, `always`, or START/END, either of them empty for open, in RFC 3339 as
    /// 2026-12-01T00:00:00Z [default: always]
    #[arg(long, value_name = "LIFETIME")]
    pub send_lifetime: Option<String>,
    /// When the secret is accepted, in the same form [default: always]
    #[arg(long, value_name = "LIFETIME")]
    pub accept_lifetime: Option<String>,
    /// Days before the end of the last key that this is warned about; 0: never [default: 7]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(..=3650))]
    pub key_warning: Option<u16>,
    /// TCP port at either end that makes a connection a protected session [default: 179]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// The interface that the neighbor is reached by, and by no other
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// GTSM (RFC 5082): the neighbor is at most so many hops away
    #[arg(long, value_name = "HOPS", value_parser = clap::value_parser!(u8).range(1..=254))]
    pub ttl_security: Option<u8>,
    /// An end of its sessions behind this host, with the interface by which its segments arrive here
    /// (172.17.0.2%docker0); may be given several times
    #[arg(long, value_name = "END", value_delimiter = ',')]
    pub forwarded: Vec<String>,
    /// Whether the MAC covers TCP options
    #[arg(long, value_name = "WHETHER", value_parser = PossibleValuesParser::new(["include", "exclude"]))]
    pub tcp_options: Option<String>,
    /// How keys are derived [default: rfc5926; none with static]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Kdf::ALL.map(Kdf::name)))]
    pub kdf: Option<String>,
    /// The option that carries the MAC [default: tcp-ao]
    #[arg(long, value_name = "OPTION", value_parser = PossibleValuesParser::new(Wire::ALL.map(Wire::name)))]
    pub wire: Option<String>,
    /// What becomes of segments without a MAC [default: drop]
    #[arg(long, value_name = "WHAT", value_parser = PossibleValuesParser::new(Unauthenticated::ALL.map(Unauthenticated::name)))]
    pub unauthenticated: Option<String>,
    /// What becomes of a connection that gets past the programs [default: report]
    #[arg(long, value_name = "WHAT", value_parser = PossibleValuesParser::new(OnUnprotected::ALL.map(OnUnprotected::name)))]
    pub on_unprotected: Option<String>,
    /// Where the keys of a connection come from [default: that of `[defaults]`, or implicit]
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(KeyManagement::ALL.map(KeyManagement::name)))]
    pub key_management: Option<String>,
    /// How keys are agreed.
    #[command(flatten)]
    pub kmp: KmpArgs,
}

impl AddArgs {
    /// The request, once the secret has been read or asked for, if there is to be one.
    pub fn request(self) -> Result<Request, Failure> {
        self.check_peer()?;
        let secret = match self.key_chain {
            Some(_) => None,
            None => Some(self.secret.read(&self.peer)?),
        };
        // The request needs a plain string; the client wipes it once it is on its way.
        let toml = self.toml(secret.as_ref())?.to_string();
        Ok(Request::NeighborAdd { peer: self.peer, toml })
    }

    /// An error in the address is told before the password is asked for.
    fn check_peer(&self) -> Result<(), Failure> {
        match self.peer.parse::<Peer>() {
            Ok(_) => Ok(()),
            Err(PeerError::LinkLocalWithoutInterface(_)) if self.interface.is_some() => Ok(()),
            Err(error) => Err(Failure::Usage(format!("neighbor {:?}: {error}", self.peer))),
        }
    }

    /// The neighbour's table, as the configuration has it.
    fn toml(&self, secret: Option<&Secret>) -> Result<Zeroizing<String>, Failure> {
        let fields = Fields {
            secret: secret.map(Secret::field),
            key_chain: self.key_chain.as_deref(),
            algorithm: self.algorithm.as_deref(),
            key_id: self.key_id,
            send_id: self.send_id,
            recv_id: self.recv_id,
            send_lifetime: self.send_lifetime.as_deref(),
            accept_lifetime: self.accept_lifetime.as_deref(),
            key_warning: self.key_warning,
            port: self.port,
            interface: self.interface.as_deref(),
            ttl_security: self.ttl_security,
            forwarded: &self.forwarded,
            tcp_options: self.tcp_options.as_deref(),
            kdf: self.kdf.as_deref(),
            wire: self.wire.as_deref(),
            unauthenticated: self.unauthenticated.as_deref(),
            on_unprotected: self.on_unprotected.as_deref(),
            key_management: self.key_management.as_deref(),
            kmp: self.kmp.fields()?,
        };
        toml::to_string(&fields)
            .map(Zeroizing::new)
            .map_err(|_| Failure::Failed("the neighbor cannot be written as TOML".to_owned()))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Fields<'a> {
    #[serde(flatten)]
    secret: Option<SecretField<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_chain: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    algorithm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    send_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recv_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    send_lifetime: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accept_lifetime: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_warning: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_security: Option<u8>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    forwarded: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_options: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kdf: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wire: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unauthenticated: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_unprotected: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_management: Option<&'a str>,
    #[serde(flatten)]
    kmp: KmpFields<'a>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use std::{collections::BTreeSet, path::Path};

    use super::*;
    use crate::config::{Config, fields_of_neighbor};

    /// Fields that are given in another way: the client reads files of secrets and sends what is in them, further keys are
    /// added by `tcpauth key add`, and `tls` is a table whose fields are given one by one.
    const NOT_OF_COMMAND: [&str; 3] = ["password-file", "key", "tls"];

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        add: AddArgs,
    }

    fn parsed(arguments: &[&str]) -> AddArgs {
        Alone::try_parse_from([&["add"], arguments].concat()).unwrap().add
    }

    fn password(text: &str) -> Secret {
        Secret::Password(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn every_field_goes_into_the_table() {
        let add = parsed(&[
            "192.0.2.1",
            "--algorithm=aes-128-cmac-96",
            "--send-id=3",
            "--recv-id=4",
            "--port=1179",
            "--interface=eth0",
            "--ttl-security=2",
            "--forwarded=172.17.0.2%docker0,192.0.2.9",
            "--forwarded=10.88.0.0/24%veth1",
            "--tcp-options=exclude",
            "--key-management=external",
            "--kmp-port=4000",
            "--kmp-local-address=192.0.2.9",
            "--fallback=implicit",
            "--rekey-interval=60",
            "--rekey-segments=5000",
            "--algorithms=siphash-2-4-96,hmac-sha-1-96",
            "--tls-identity=Zürich \"1\"",
            "--tls-peer-identity=b",
            "--tls-suites=TLS_AES_256_GCM_SHA384,TLS_RSA_PSK_WITH_AES_128_GCM_SHA256",
            "--tls-authentication=psk",
            "--tls-certificate-file=/a/b.pem",
            "--tls-certificate-key-file=/a/b.key",
            "--tls-server-unvalidated",
        ]);
        let expected = "\
password = \"v61ne0qkel33&\"
algorithm = \"aes-128-cmac-96\"
send-id = 3
recv-id = 4
port = 1179
interface = \"eth0\"
ttl-security = 2
forwarded = [\"172.17.0.2%docker0\", \"192.0.2.9\", \"10.88.0.0/24%veth1\"]
tcp-options = \"exclude\"
key-management = \"external\"
kmp-port = 4000
kmp-local-address = \"192.0.2.9\"
fallback = \"implicit\"
rekey-interval = 60
rekey-segments = 5000
algorithms = [\"siphash-2-4-96\", \"hmac-sha-1-96\"]

[tls]
authentication = \"psk\"
identity = 'Zürich \"1\"'
peer-identity = \"b\"
suites = [\"TLS_AES_256_GCM_SHA384\", \"TLS_RSA_PSK_WITH_AES_128_GCM_SHA256\"]
certificate-file = \"/a/b.pem\"
certificate-key-file = \"/a/b.key\"
server-certificate = \"unvalidated\"
";
        assert_eq!(add.toml(Some(&password("v61ne0qkel33&"))).unwrap().as_str(), expected);
    }

    /// A field that is new has to be given here, and so by the command.
    #[test]
    fn every_field_of_the_configuration_can_be_given() {
        let given = [
            (
                Some(password("v61ne0qkel33&")),
                "--algorithm=siphash-2-4-96 --key-id=3 --send-lifetime=/2027-04-01T00:00:00Z \
                 --accept-lifetime=2026-11-01/2027-03-01 --key-warning=14 --port=1179 --interface=eth0 --ttl-security=2 \
                 --tcp-options=exclude --kdf=isn --wire=tcp-ao --unauthenticated=accept-until-authenticated \
                 --on-unprotected=reset --key-management=external --kmp-port=4000 --kmp-local-address=192.0.2.9 \
                 --fallback=implicit --rekey-interval=60 --rekey-segments=5000 --algorithms=hmac-sha-1-96 \
                 --tls-identity=a --tls-peer-identity=b --tls-suites=TLS_AES_256_GCM_SHA384",
            ),
            (
                Some(Secret::KeyHex(Zeroizing::new("00ff".to_owned()))),
                "--send-id=3 --recv-id=4 --forwarded=192.0.2.9",
            ),
            (
                Some(Secret::KeyBase64(Zeroizing::new("AP8=".to_owned()))),
                "--key-management=layered --tls-authentication=raw-public-key --tls-private-key-file=/nonexistent/key \
                 --tls-peer-fingerprint=00",
            ),
            (
                None,
                "--key-chain=backbone --key-management=layered --tls-certificate-file=/nonexistent/pem \
                 --tls-certificate-key-file=/nonexistent/key --tls-ca-file=/nonexistent/ca",
            ),
            (None, "--key-chain=backbone --key-management=layered --tls-server-unvalidated"),
            (None, "--key-chain=backbone --key-management=layered --tls-server-fingerprint=00"),
        ];
        let mut fields: BTreeSet<String> = NOT_OF_COMMAND.map(str::to_owned).into();
        for (secret, arguments) in given {
            let arguments: Vec<&str> =
                ["192.0.2.1"].into_iter().chain(arguments.split_whitespace()).collect();
            let toml = parsed(&arguments).toml(secret.as_ref()).unwrap();
            let table: toml::Table = toml.parse().unwrap();
            for (field, value) in &table {
                match value.as_table() {
                    Some(inner) => fields.extend(inner.keys().map(|inner| format!("{field}.{inner}"))),
                    None => _ = fields.insert(field.clone()),
                }
            }
            let text = toml.replace("[tls]", "[neighbor.\"192.0.2.1\".tls]");
            let read = Config::parse(&format!("[neighbor.\"192.0.2.1\"]\n{text}"), Path::new("a.toml"));
            let errors = read.err().map(|errors| errors.to_string()).unwrap_or_default();
            assert!(!errors.contains("unknown field") && !errors.contains("unknown value"), "{errors}");
        }
        let missing: Vec<&str> = fields_of_neighbor().filter(|field| !fields.contains(*field)).collect();
        assert_eq!(missing, [""; 0], "fields that `tcpauth neighbor add` does not have");
    }

    #[test]
    fn keys_of_a_chain_need_no_secret() {
        let Ok(Request::NeighborAdd { toml, .. }) = parsed(&["192.0.2.1", "--key-chain=backbone"]).request()
        else {
            panic!("no request");
        };
        assert_eq!(toml, "key-chain = \"backbone\"\n");
    }

    #[test]
    fn what_is_not_given_is_left_to_the_daemon() {
        let add = parsed(&["192.0.2.1", "--key-id=9"]);
        let secret = Secret::KeyHex(Zeroizing::new("00ff".to_owned()));
        assert_eq!(add.toml(Some(&secret)).unwrap().as_str(), "key-hex = \"00ff\"\nkey-id = 9\n");
        let add = parsed(&["192.0.2.1"]);
        let secret = Secret::KeyBase64(Zeroizing::new("AP8=".to_owned()));
        assert_eq!(add.toml(Some(&secret)).unwrap().as_str(), "key-base64 = \"AP8=\"\n");
    }

    #[test]
    fn files_are_those_of_this_folder() {
        let add = parsed(&[
            "192.0.2.1",
            "--tls-authentication=raw-public-key",
            "--tls-private-key-file=router.key",
            "--tls-peer-fingerprint=00",
        ]);
        let toml = add.toml(Some(&password("v61ne0qkel33&"))).unwrap();
        let table: toml::Table = toml.parse().unwrap();
        let path = std::env::current_dir().unwrap().join("router.key");
        assert_eq!(table["tls"]["private-key-file"].as_str(), path.to_str());
        assert_eq!(table["tls"]["peer-fingerprint"].as_str(), Some("00"));
    }

    #[test]
    fn contradictions_are_refused() {
        for arguments in [
            &["192.0.2.1", "--key-id=1", "--send-id=1", "--recv-id=2"][..],
            &["192.0.2.1", "--send-id=1"],
            &["192.0.2.1", "--recv-id=1"],
            &["192.0.2.1", "--key-id=256"],
            &["192.0.2.1", "--port=0"],
            &["192.0.2.1", "--ttl-security=0"],
            &["192.0.2.1", "--ttl-security=255"],
            &["192.0.2.1", "--algorithm=rot13"],
            &["192.0.2.1", "--tcp-options=some"],
            &["192.0.2.1", "--password-file=a", "--key-hex-file=b"],
            &["192.0.2.1", "--password-file=a", "--key-chain=b"],
            &["192.0.2.1", "--key-warning=3651"],
            &["192.0.2.1", "--wire=tcp-md5"],
            &["192.0.2.1", "--kdf=hkdf"],
            &["192.0.2.1", "--unauthenticated=accept"],
            &["192.0.2.1", "--on-unprotected=drop"],
            &["192.0.2.1", "--key-management=tls"],
            &["192.0.2.1", "--fallback=none"],
            &["192.0.2.1", "--kmp-port=0"],
            &["192.0.2.1", "--kmp-local-address=router1"],
            &["192.0.2.1", "--algorithms=md5"],
            &["192.0.2.1", "--tls-certificate-file=a"],
            &["192.0.2.1", "--tls-ca-file=a", "--tls-server-unvalidated"],
            &[],
        ] {
            assert!(Alone::try_parse_from([&["add"], arguments].concat()).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn a_wrong_address_is_refused_before_the_secret_is_read() {
        let refusal = |arguments: &[&str]| match parsed(arguments).request() {
            Err(Failure::Usage(text)) => text,
            _ => panic!("{arguments:?} must be refused"),
        };
        let absent = "--password-file=/nonexistent/secret";
        assert!(refusal(&["router1", absent]).starts_with("neighbor \"router1\": "));
        assert!(refusal(&["192.0.2.1/24", absent]).contains("192.0.2.0/24"));
        assert!(refusal(&["fe80::1", absent]).contains("interface"));
        assert!(refusal(&["fe80::1", "--interface=eth0", absent]).starts_with("cannot read"));
        assert!(refusal(&["fe80::1%eth0", absent]).starts_with("cannot read"));
    }

    proptest! {
        #[test]
        fn any_password_survives_toml(text in any::<String>()) {
            let toml = parsed(&["192.0.2.1"]).toml(Some(&password(&text))).unwrap();
            let table: toml::Table = toml.parse().unwrap();
            prop_assert_eq!(table["password"].as_str(), Some(text.as_str()));
            prop_assert_eq!(table.len(), 1);
        }

        #[test]
        fn any_printable_or_control_mixture_survives_toml(text in "[\"'\\\\\n\r\t\0-\x1f\x7f# =\\[\\]a-z]{1,40}") {
            let toml = parsed(&["192.0.2.1"]).toml(Some(&password(&text))).unwrap();
            let table: toml::Table = toml.parse().unwrap();
            prop_assert_eq!(table["password"].as_str(), Some(text.as_str()));
        }
    }
}
