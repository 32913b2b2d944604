//! When a key may be used, as the configuration has it: `START/END`, `always`, `never`, or `preferred`.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::keys::Lifetime;

/// A beginning that is no time: always, and before keys that are valid always.
const PREFERRED: &str = "preferred";

/// An example of a lifetime.
const FORM: &str = "\"2026-12-01T00:00:00Z/2027-03-01T00:00:00Z\"";

/// Why a text is no lifetime, and what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say what each is.
pub enum LifetimeError {
    #[error(
        "not a lifetime; write {FORM} with START/END, a side left empty if it is open, or \"always\", \"never\" or \"preferred\""
    )]
    Form,
    #[error(
        "{0} is no time; write {FORM}: RFC 3339 with Z or an offset, without either for this host's time zone, or a \
         date alone"
    )]
    Time(Side),
    #[error("ends before it begins, or at once; exchange the two times, or write \"never\"")]
    Empty,
}

/// A side of a lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is before the slash.
    Start,
    /// What is behind it.
    End,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "what stands before the slash",
            Self::End => "what stands behind the slash",
        })
    }
}

/// A local time that a change of the clocks skips or repeats is the one that RFC 5545 takes: of two the earlier,
/// and of a skipped one as much later as the clocks move.
impl FromStr for Lifetime {
    type Err = LifetimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "always" => return Ok(Self::ALWAYS),
            "never" => return Ok(Self::NEVER),
            PREFERRED => return Ok(Self::PREFERRED),
            _ => {}
        }
        let (start, end) = text.split_once('/').ok_or(LifetimeError::Form)?;
        let side = |side, text: &str, open| match text.trim() {
            "" | "infinite" => Ok(open),
            PREFERRED if side == Side::Start => Ok(Self::PREFERRED.start),
            text => time(text, TimeZone::system).ok_or(LifetimeError::Time(side)),
        };
        let start = side(Side::Start, start, Timestamp::MIN)?;
        let end = side(Side::End, end, Timestamp::MAX)?;
        if start < end { Ok(Self { start, end }) } else { Err(LifetimeError::Empty) }
    }
}

/// As [`FromStr`] reads it, in UTC.
impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALWAYS {
            return f.write_str("always");
        } else if self.start >= self.end {
            return f.write_str("never");
        }
        if *self == Self::PREFERRED {
            return f.write_str(PREFERRED);
        } else if self.start == Self::PREFERRED.start {
            f.write_str(PREFERRED)?;
        } else if self.start != Timestamp::MIN {
            self.start.fmt(f)?;
        }
        f.write_str("/")?;
        if self.end != Timestamp::MAX { self.end.fmt(f) } else { Ok(()) }
    }
}

/// The moment that `text` names; without an offset, in the time zone `local`.
fn time(text: &str, local: impl FnOnce() -> TimeZone) -> Option<Timestamp> {
    let (date, time) = text.split_at_checked("2026-12-01".len())?;
    let is_date = date.bytes().enumerate().all(|(index, octet)| match index {
        4 | 7 => octet == b'-',
        _ => octet.is_ascii_digit(),
    });
    // A time zone in brackets would be a second one beside the offset: it is none of RFC 3339.
    if !is_date || time.contains('[') {
        return None;
    }
    if time.contains(['Z', 'z', '+', '-']) {
        return text.parse().ok();
    }
    let date_time: DateTime = text.parse().ok()?;
    date_time.to_zoned(local()).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lifetime(text: &str) -> Result<Lifetime, LifetimeError> {
        text.parse()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn each_side_is_a_time_or_open() {
        let (start, end) = (at("2026-12-01T00:00:00Z"), at("2027-03-01T00:00:00Z"));
        for (text, expected) in [
            ("always", Lifetime::ALWAYS),
            ("never", Lifetime::NEVER),
            ("/", Lifetime::ALWAYS),
            ("infinite/infinite", Lifetime::ALWAYS),
            ("2026-12-01T00:00:00Z/2027-03-01T00:00:00Z", Lifetime { start, end }),
            ("2026-12-01T01:30:00+01:30/2027-02-28T19:00-05:00", Lifetime { start, end }),
            ("2026-12-01 00:00Z / 2027-03-01t00:00:00z", Lifetime { start, end }),
            ("2026-12-01T00:00:00Z/", Lifetime { start, ..Lifetime::ALWAYS }),
            ("2026-12-01T00:00:00Z/infinite", Lifetime { start, ..Lifetime::ALWAYS }),
            ("/2027-03-01T00:00:00Z", Lifetime { end, ..Lifetime::ALWAYS }),
            ("infinite/2027-03-01T00:00:00Z", Lifetime { end, ..Lifetime::ALWAYS }),
            ("preferred", Lifetime::PREFERRED),
            ("preferred/", Lifetime::PREFERRED),
            ("preferred/2027-03-01T00:00:00Z", Lifetime { end, ..Lifetime::PREFERRED }),
        ] {
            assert_eq!(lifetime(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_time_without_offset_is_local_and_a_date_is_its_midnight() {
        let local = |date_time: &str| {
            let zoned = date_time.parse::<DateTime>().unwrap().to_zoned(TimeZone::system()).unwrap();
            zoned.timestamp()
        };
        let expected = Lifetime { start: local("2026-12-01T00:00:00"), end: local("2027-03-01T12:30:00") };
        assert_eq!(lifetime("2026-12-01/2027-03-01T12:30"), Ok(expected));
        assert_eq!(lifetime("2026-12-01T00:00:00/2027-03-01 12:30:00"), Ok(expected));
    }

    #[test]
    fn a_local_time_that_is_skipped_or_repeated_is_the_one_of_rfc_5545() {
        let berlin = || TimeZone::get("Europe/Berlin").unwrap();
        for (text, expected) in [
            ("2026-12-01", "2026-11-30T23:00:00Z"),
            ("2026-07-01T12:00", "2026-07-01T10:00:00Z"),
            // From 2 to 3 o'clock.
            ("2026-03-29T02:30", "2026-03-29T01:30:00Z"),
            // From 3 to 2 o'clock.
            ("2026-10-25T02:30", "2026-10-25T00:30:00Z"),
        ] {
            assert_eq!(time(text, berlin), Some(at(expected)), "{text}");
        }
    }

    #[test]
    fn what_is_no_lifetime_is_refused() {
        for text in ["", "ever", "Always", "2026-12-01T00:00:00Z", "infinite"] {
            assert_eq!(lifetime(text), Err(LifetimeError::Form), "{text}");
        }
        for text in [
            "soon",
            "2026-13-01",
            "2026-02-30",
            "1.12.2026",
            "20261201",
            "2026-12-01T25:00",
            "2026-12-01+01:00",
            "2026-12-01T00:00+99:99",
            "2026-12-01T00:00+01:00[Europe",
            "99999-12-01",
            "2026-12-é1",
        ] {
            assert_eq!(lifetime(&format!("{text}/")), Err(LifetimeError::Time(Side::Start)), "{text}");
            assert_eq!(lifetime(&format!("/{text}")), Err(LifetimeError::Time(Side::End)), "{text}");
        }
        for text in ["2027-03-01T00:00Z/2026-12-01T00:00Z", "2026-12-01T00:00Z/2026-12-01T01:00+01:00"] {
            assert_eq!(lifetime(text), Err(LifetimeError::Empty), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_lifetime_printed_and_parsed_is_the_same(
            start in prop::option::of(0..4_000_000_000i64),
            length in prop::option::of(1..4_000_000_000i64),
        ) {
            let second = |second| Timestamp::from_second(second).unwrap();
            let lifetime = Lifetime {
                start: start.map_or(Timestamp::MIN, second),
                end: length.map_or(Timestamp::MAX, |length| second(start.unwrap_or(0) + length)),
            };
            prop_assert_eq!(lifetime.to_string().parse(), Ok(lifetime));
        }
    }
}
