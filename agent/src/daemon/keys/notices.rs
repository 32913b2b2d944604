//! What operators are told of a neighbour's keys.

use jiff::Timestamp;

use super::schedule::warned_from;
use crate::{
    config::{KeyManagement, Neighbor, Wire},
    keys::KeyChain,
};

/// Why a neighbour with these keys is closed, and what to do.
pub fn closed_reason(keys: &KeyChain, now: Timestamp) -> String {
    let what = if keys.preferred(now).is_none() { "no key may be sent with" } else { "no key is accepted" };
    let since = keys.closed_at(now).map(|end| format!(" since {end}")).unwrap_or_default();
    let next =
        keys.opens_at(now).map(|begin| format!(", and the next begins at {begin}")).unwrap_or_default();
    format!(
        "{what}{since}{next}: add one that is valid (`tcpauth key add`) and roll it (`tcpauth key roll`), on both \
         routers, and check this host's clock"
    )
}

/// That a chain ends soon.
pub fn ending(closes: Timestamp, now: Timestamp) -> String {
    format!(
        "its keys end in {}, at {closes}: add a key on both routers before, or the neighbour is closed",
        span(closes.as_second() - now.as_second())
    )
}

/// What there is to say about the keys of a neighbour that is not closed.
pub fn notices(neighbor: &Neighbor, now: Timestamp) -> Vec<String> {
    let closes = neighbor.keys.closes_at(now);
    let near = closes.filter(|closes| {
        let from = neighbor.key_warning.and_then(|warning| warned_from(*closes, warning));
        from.is_some_and(|from| from <= now)
    });
    let mut notices: Vec<String> = near.map(|closes| ending(closes, now)).into_iter().collect();
    if neighbor.wire == Wire::TcpMd5 {
        notices.push(
            "DEPRECATED: TCP-MD5 is obsolete (RFC 5925) and its MAC is weak; move to wire = \"tcp-ao\" as soon as the \
             peer can"
                .to_owned(),
        );
    } else if neighbor.key_management == KeyManagement::Static {
        notices.push(
            "WEAK: with key-management = \"static\" segments of an earlier connection can be replayed; use \
             \"implicit\" if the peer can"
                .to_owned(),
        );
    }
    notices
}

/// A span of seconds, in the largest unit of which there are two.
fn span(seconds: i64) -> String {
    const UNITS: [(i64, &str); 3] = [(86_400, "days"), (3600, "hours"), (60, "minutes")];
    let seconds = seconds.max(0);
    let unit = UNITS.into_iter().find(|(length, _)| seconds >= 2 * length);
    unit.map_or_else(|| format!("{seconds} s"), |(length, name)| format!("{} {name}", seconds / length))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        keys::{ChainKey, Lifetime},
        sessions::testing::neighbor,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ending_at(day: i64) -> Neighbor {
        let first = neighbor("192.0.2.1");
        let lifetime = Lifetime { start: at(0), end: at(day * 86_400) };
        let key = ChainKey { number: 1, mkt: first.keys.first().clone(), send: lifetime, accept: lifetime };
        Neighbor {
            keys: Arc::new(KeyChain { name: None, keys: vec![key] }),
            key_warning: Some(Duration::from_secs(7 * 86_400)),
            ..first
        }
    }

    #[test]
    fn a_span_is_told_in_the_largest_unit_of_which_there_are_two() {
        let told = [259_200, 172_800, 172_799, 7200, 7199, 120, 119, -5].map(span);
        assert_eq!(
            told,
            ["3 days", "2 days", "47 hours", "2 hours", "119 minutes", "2 minutes", "119 s", "0 s"]
        );
    }

    #[test]
    fn the_end_of_a_chain_is_noticed_days_before() {
        let ending = ending_at(10);
        assert_eq!(notices(&ending, at(3 * 86_400 - 1)), [""; 0]);
        let noticed = notices(&ending, at(3 * 86_400));
        assert!(
            noticed[0].starts_with("its keys end in 7 days, at 1970-01-11T00:00:00Z: add"),
            "{noticed:?}"
        );
        let never = Neighbor { key_warning: None, ..ending };
        assert_eq!(notices(&never, at(9 * 86_400)), [""; 0]);
    }

    #[test]
    fn a_closed_neighbour_is_told_since_when_and_until_when() {
        let closed = ending_at(10);
        let reason = closed_reason(&closed.keys, at(11 * 86_400));
        assert!(reason.starts_with("no key may be sent with since 1970-01-11T00:00:00Z: add"), "{reason}");
        let reason = closed_reason(&closed.keys, at(-1));
        assert!(
            reason.starts_with("no key may be sent with, and the next begins at 1970-01-01T00:00:00Z: add"),
            "{reason}"
        );
    }

    #[test]
    fn what_is_weak_is_said() {
        let good = neighbor("192.0.2.1");
        assert_eq!(notices(&good, at(0)), [""; 0]);
        let md5 = Neighbor { wire: Wire::TcpMd5, key_management: KeyManagement::Static, ..good.clone() };
        assert!(matches!(&notices(&md5, at(0))[..], [one] if one.starts_with("DEPRECATED")));
        let weak = Neighbor { key_management: KeyManagement::Static, ..good };
        assert!(matches!(&notices(&weak, at(0))[..], [one] if one.starts_with("WEAK")));
    }
}
