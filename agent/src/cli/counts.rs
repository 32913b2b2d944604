//! Counters in words.

use std::cmp::Reverse;

use super::{
    human,
    table::{Block, Paint},
};
use crate::control::protocol::{Counts, LastDrop};

/// Drops by reason, the most frequent first: `wrong-mac 12, no-option 3`. `None` if there were none.
pub fn dropped(counts: &Counts) -> Option<String> {
    let mut met: Vec<_> = counts.dropped.iter().filter(|(_, count)| **count > 0).collect();
    met.sort_by_key(|(_, count)| Reverse(**count));
    let parts: Vec<_> = met.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// `wrong-mac, inbound, 3s ago, 192.0.2.9:40000 > 192.0.2.2:179`.
pub fn last_drop(last: &LastDrop) -> String {
    let ago = human::duration(last.seconds_ago);
    format!("{}, {}, {ago} ago, {}", last.reason, last.direction, last.segment)
}

/// Signed, verified and dropped as fields of a block.
pub fn fields(block: &mut Block, counts: &Counts) {
    block.field("signed", volume(counts.signed_segments, counts.signed_octets));
    block.field("verified", volume(counts.verified_segments, counts.verified_octets));
    if counts.unsigned_sent != 0 || counts.unsigned_received != 0 {
        let unsigned = format!("{} sent, {} accepted", counts.unsigned_sent, counts.unsigned_received);
        block.painted_field("unsigned", Paint::Warn, unsigned);
    }
    if let Some(dropped) = dropped(counts) {
        block.painted_field("dropped", Paint::Warn, dropped);
    }
}

fn volume(segments: u64, octets: u64) -> String {
    format!("{}, {}", human::plural(segments, "segment"), human::octets(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reasons_that_were_met_are_named() {
        let mut counts = Counts::default();
        assert_eq!(dropped(&counts), None);
        counts.dropped.insert("fragment".to_owned(), 0);
        assert_eq!(dropped(&counts), None);
        counts.dropped.insert("merged".to_owned(), 2);
        counts.dropped.insert("icmp".to_owned(), 2);
        counts.dropped.insert("wrong-mac".to_owned(), 9);
        assert_eq!(dropped(&counts).unwrap(), "wrong-mac 9, icmp 2, merged 2");
    }
}
