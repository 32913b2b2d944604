//! Each thing that can be wrong with a configuration, in words for its operator.

use std::path::PathBuf;

use super::{KmpProblem, LifetimeError, PeerError};

/// What is wrong, and after a semicolon what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // The messages say what each is.
pub enum Problem {
    #[error("cannot be read: {}; check its name and that tcpauthd's user may read it", reason(.0))]
    Unreadable(std::io::ErrorKind),
    #[error("is larger than {0} octets; is this the right file?")]
    TooLarge(u64),
    #[error("not UTF-8 text; save the file as UTF-8")]
    NotUtf8,
    #[error("the file is in UTF-16; save it as UTF-8")]
    Utf16,
    #[error("made to {0}, another file; start with that one to have them")]
    KeptOfAnother(String),
    #[error("not TOML: {0}; correct this line, with text in quotes: field = \"text\"")]
    Syntax(String),
    #[error("not TOML: {0}; put text with backslashes in single quotes, which keep them: field = 'text'")]
    Backslash(String),
    #[error("this key is given a second time; keep one of the two")]
    DuplicateKey,
    #[error("everyone can write to this file; chmod 600 {}", .0.display())]
    FileWritable(PathBuf),
    #[error("the file holds secrets and is readable by everyone; chmod 600 {}", .0.display())]
    FileReadable(PathBuf),

    #[error("unknown key; {}", suggestion(*.0, "use [defaults], [key-chain.NAME] or neighbor.\"ADDRESS\""))]
    UnknownKey(Option<&'static str>),
    #[error("unknown field; {}", unknown_field(*.nearest, .fields))]
    UnknownField { nearest: Option<&'static str>, fields: &'static [&'static str] },
    #[error(
        "this is part of the table above it; move it before the first [table], or write [neighbor.\"ADDRESS\"]"
    )]
    NeighborInTable,
    #[error("{field} must be {expected}, not {found}")]
    WrongType { field: &'static str, expected: String, found: &'static str },
    #[error("{field} is out of range; use {expected}")]
    OutOfRange { field: &'static str, expected: String },
    #[error("{field} has an unknown value; {}", choices(.accepted, *.nearest))]
    UnknownValue { field: &'static str, accepted: Vec<&'static str>, nearest: Option<&'static str> },
    #[error("key-id sets both send-id and recv-id; give either key-id or these")]
    KeyIdTwice,

    #[error("neighbor must be a table; write neighbor.\"192.0.2.1\".password = \"SECRET\"")]
    NeighborsNotTable,
    #[error("a neighbour is a table of fields; write neighbor.\"192.0.2.1\".password = \"SECRET\"")]
    NeighborNotTable,
    #[error("a key without quotes ends at each dot; put the address in quotes: neighbor.\"192.0.2.1\"")]
    AddressWithoutQuotes,
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("{other} is the same; keep one of the two")]
    SameNeighbor { other: String },
    #[error(
        "{other} is the same address, and only one of them has an interface; bind both, to interfaces that differ, \
         or keep one"
    )]
    SameOnOtherInterface { other: String },
    #[error(
        "{other} is bound to an interface and contains this one, which is not; bind this one to its interface too"
    )]
    InsideBoundPrefix { other: String },

    #[error(transparent)]
    Kmp(#[from] KmpProblem),

    #[error(
        "{0}; write an end behind this host as \"172.17.0.2%docker0\", \"10.88.0.0/24%veth1\" or \"192.0.2.9\""
    )]
    ForwardedEnd(&'static str),
    #[error("the same end is in the list already; keep one of the two")]
    ForwardedTwice,
    #[error("an end of the other IP family; sessions with this neighbour cannot have it, remove it")]
    ForwardedFamily,

    #[error(
        "key-chain must be a table; write [key-chain.NAME] and below it key.1 = {{ password = \"SECRET\" }}"
    )]
    ChainsNotTable,
    #[error(
        "a key chain is a table; write [key-chain.NAME] and below it key.1 = {{ password = \"SECRET\" }}"
    )]
    ChainNotTable,
    #[error("not the name of a key chain; use 1 to 64 letters, digits, dots, hyphens and underscores")]
    ChainName,
    #[error("unknown field; a key chain has keys alone: key.1 = {{ password = \"SECRET\" }}")]
    UnknownChainField,
    #[error("a key chain without keys; add key.1 = {{ password = \"SECRET\" }}")]
    ChainWithoutKeys,
    #[error("no such key chain; {}", suggestion(.nearest.as_deref(), "add it as [key-chain.NAME] with its keys"))]
    UnknownChain { nearest: Option<String> },
    #[error("key-chain and {other} are both given; keep one")]
    ChainBesideOwn { other: &'static str },
    #[error("key must be a table, not {found}; write key.1 = {{ password = \"SECRET\" }}")]
    KeysNotTable { found: &'static str },
    #[error("a key is a table of fields; write key.1 = {{ password = \"SECRET\" }}")]
    KeyNotTable,
    #[error("a key is called by its number; write key.1, with a number up to 4294967295")]
    KeyNumber,
    #[error(
        "the secret of the neighbour itself is its key 0 already; give this key another number, or keep one"
    )]
    KeyZeroTwice,
    #[error(
        "is key {0} once more: ids, algorithm and secret are the same, and nothing tells the two apart; remove one, or \
         give it another secret"
    )]
    SameKey(u32),
    #[error("a number above 255 cannot be a KeyID too; add key-id, or send-id and recv-id")]
    KeyWithoutId,
    #[error(
        "keys stand in a key chain or a neighbour; write [key-chain.NAME], and here key-chain = \"NAME\""
    )]
    KeyInDefaults,
    #[error("{field} belongs to a secret beside it, and there is none; give {field} in the key")]
    FieldWithoutSecret { field: &'static str },
    #[error("{field}: {error}")]
    Lifetime { field: &'static str, error: LifetimeError },

    #[error("key-management = \"static\" derives no keys; remove kdf, or write kdf = \"none\"")]
    StaticWithKdf,
    #[error(
        "without a kdf every connection has the same key; write key-management = \"static\" if that is meant, else \
         kdf = \"rfc5926\" or \"isn\""
    )]
    ImplicitWithoutKdf,
    #[error("wire = \"md5\" knows one {field}, {only}; remove {field}, or write wire = \"tcp-ao\"")]
    NotOfMd5 { field: &'static str, only: &'static str },
    #[error(
        "algorithm \"md5\" is not for TCP-AO; add wire = \"md5\" to the neighbour, or use another algorithm"
    )]
    Md5WithoutWire,
    #[error("with wire = \"md5\" a password has at most {0} octets; use a shorter one on both sides")]
    LongMd5Password(usize),
    #[error(
        "\"accept-until-authenticated\" takes over a connection from its socket, and sessions of forwarded have none \
         here; write \"drop\", or remove forwarded"
    )]
    TakeOverForwarded,

    #[error(
        "no secret; give password, password-file, key-hex, key-base64 or key-chain here or under [defaults]"
    )]
    NoSecret,
    #[error("no secret; give password, password-file, key-hex or key-base64 in this key")]
    KeyWithoutSecret,
    #[error("{first} and {second} are both given; keep one")]
    TwoSecrets { first: &'static str, second: &'static str },
    #[error("{0} is empty; give the secret agreed with the neighbour")]
    EmptySecret(&'static str),
    #[error("{field} is longer than {limit} octets; use a shorter secret")]
    LongSecret { field: &'static str, limit: usize },
    #[error("key-hex is not hexadecimal; write two digits (0-9, a-f) for each octet and nothing else")]
    NotHex,
    #[error("key-base64 is not base64; write it with the alphabet A-Z a-z 0-9 + / as `tcpauth genkey` does")]
    NotBase64,
    #[error("password-file cannot be read: {}; name a file that tcpauthd's user may read \
             (a relative path starts at the configuration's folder)", reason(.0))]
    SecretFileUnreadable(std::io::ErrorKind),
    #[error("password-file is not a regular file; give the path of a file that holds the password alone")]
    SecretFileNotRegular,
    #[error("password-file is larger than {0} octets; the file must hold the password alone")]
    SecretFileTooLarge(usize),
    #[error("password-file can be read or written by others; chmod 600 {}", .0.display())]
    SecretFileOpen(PathBuf),
    #[error("password-file {} is in UTF-16; save it as UTF-8", .0.display())]
    SecretFileUtf16(PathBuf),
}

/// Why a file cannot be read.
pub(super) fn reason(kind: &std::io::ErrorKind) -> String {
    match kind {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        kind => kind.to_string(),
    }
}

fn suggestion(nearest: Option<&str>, otherwise: &str) -> String {
    nearest.map_or_else(|| otherwise.to_owned(), |name| format!("did you mean \"{name}\"?"))
}

fn unknown_field(nearest: Option<&str>, fields: &[&str]) -> String {
    suggestion(nearest, &format!("the fields are {}", fields.join(", ")))
}

fn choices(accepted: &[&str], nearest: Option<&str>) -> String {
    let accepted: Vec<String> = accepted.iter().map(|name| format!("\"{name}\"")).collect();
    let hint = nearest.map_or_else(String::new, |name| format!("; did you mean \"{name}\"?"));
    format!("use {}{hint}", accepted.join(" or "))
}
