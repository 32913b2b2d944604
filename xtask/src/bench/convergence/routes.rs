//! A full table as BIRD reads it: generated, with what real ones look like in prefix lengths, AS paths and
//! communities.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufWriter, Write},
    net::Ipv4Addr,
    path::Path,
};

use tcpauth_tests::impair::Random;

/// Prefix lengths and how many of 1000 routes have them, after tables of the default-free zone.
const LENGTHS: [(u8, u32); 10] =
    [(24, 612), (23, 96), (22, 112), (21, 50), (20, 45), (19, 27), (18, 15), (17, 10), (16, 15), (15, 18)];

/// Statements with every word that a function uses, keywords too.
///
/// Read once before the functions, they are what lets BIRD 2.0 read those in a time that grows as their number and not as
/// its square: a million routes in 3 s and not in hours. Else it compares each word of a function with as many equal ones
/// as there were functions before; as if each function left its words in a table of symbols.
const WORDS: &str = "bgp_path.prepend(1); bgp_med = 0; bgp_community.add((1,1));";

/// Name of the file with the attributes: a function for each set of them.
pub const ATTRIBUTES: &str = "attributes.conf";
/// Name of the file with the routes, of a static protocol.
pub const ROUTES: &str = "routes.conf";

/// Writes `count` routes, no prefix twice, into [`ATTRIBUTES`] and [`ROUTES`] in `folder`. The same every time.
///
/// # Errors
/// If a file cannot be written.
pub fn write(count: u32, folder: &Path) -> io::Result<()> {
    let create = |name: &str| File::create(folder.join(name)).map(BufWriter::new);
    let (mut attributes, mut routes) = (create(ATTRIBUTES)?, create(ROUTES)?);
    // Where statements may stand outside of a function.
    writeln!(
        attributes,
        "protocol static words {{ disabled; ipv4; route 192.0.2.0/24 blackhole {{ {WORDS} }}; }}"
    )?;
    let mut random = Random(5);
    let mut prefixes = HashSet::new();
    let mut number = 0;
    while prefixes.len() < count as usize {
        number += 1;
        writeln!(attributes, "function a{number}() {{ {} }}", attribute_set(&mut random))?;
        // Routes of one origin share their attributes: eight or so of them.
        let until = (prefixes.len() + 1 + random.below(15) as usize).min(count as usize);
        while prefixes.len() < until {
            let (address, length) = prefix(&mut random);
            if prefixes.insert((address, length)) {
                writeln!(routes, "route {}/{length} blackhole {{ a{number}(); }};", Ipv4Addr::from(address))?;
            }
        }
    }
    attributes.flush()?;
    routes.flush()
}

/// A prefix of the unicast space that is routed.
fn prefix(random: &mut Random) -> (u32, u8) {
    let mut rank = random.below(1000);
    let mut length = 24;
    for (candidate, share) in LENGTHS {
        if rank < share {
            length = candidate;
            break;
        }
        rank -= share;
    }
    loop {
        let first = 1 + random.below(223);
        let is_special = [10, 127, 169, 172, 192, 198].contains(&first);
        let address = first << 24 | random.below(1 << 24);
        if !is_special {
            return (address & (u32::MAX << (32 - length)), length);
        }
    }
}

/// Statements that set AS path, origin, MED and communities.
fn attribute_set(random: &mut Random) -> String {
    let origin = as_number(random);
    let mut text = format!("bgp_path.prepend({origin});");
    // One in six makes its path longer.
    if random.below(6) == 0 {
        text.push_str(&format!(" bgp_path.prepend({origin});").repeat(1 + random.below(3) as usize));
    }
    // With ours, paths of two to six networks, four on average.
    for _ in 0..random.below(5) {
        text.push_str(&format!(" bgp_path.prepend({});", as_number(random)));
    }
    if random.below(4) == 0 {
        text.push_str(&format!(" bgp_med = {};", random.below(1000)));
    }
    let transit = 1 + random.below(60_000);
    for _ in 0..random.below(10) {
        text.push_str(&format!(" bgp_community.add(({transit},{}));", random.below(65_000)));
    }
    text
}

/// One in three has 32 bits.
fn as_number(random: &mut Random) -> u32 {
    if random.below(3) == 0 { 131_072 + random.below(270_000) } else { 1 + random.below(64_000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(count: u32) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        write(count, folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        (read(ATTRIBUTES), read(ROUTES))
    }

    #[test]
    fn shares_of_prefix_lengths_add_up() {
        assert_eq!(LENGTHS.iter().map(|(_, share)| share).sum::<u32>(), 1000);
    }

    #[test]
    fn every_prefix_is_there_once_and_has_no_host_bits() {
        let (_, routes) = written(20_000);
        let mut seen = HashSet::new();
        for line in routes.lines() {
            let prefix = line.split(' ').nth(1).unwrap();
            assert!(seen.insert(prefix), "{prefix} twice");
            let (address, length) = prefix.split_once('/').unwrap();
            let (address, length): (Ipv4Addr, u32) = (address.parse().unwrap(), length.parse().unwrap());
            assert_eq!(u32::from(address) & (u32::MAX >> length), 0, "{prefix}");
        }
        assert_eq!(seen.len(), 20_000);
        let long = routes.matches("/24 ").count();
        assert!((11_500..13_000).contains(&long), "{long} of 20,000 are /24");
    }

    #[test]
    fn functions_use_only_words_that_were_read_outside_of_them() {
        let is_in_word = |letter: char| letter.is_ascii_alphabetic() || letter == '_';
        let words = |text: &str| -> HashSet<String> {
            text.split(|letter| !is_in_word(letter))
                .filter(|word| word.len() > 1)
                .map(str::to_owned)
                .collect()
        };
        let (attributes, _) = written(20_000);
        let (first, functions) = attributes.split_once('\n').unwrap();
        assert!(first.contains(WORDS));
        let bodies: String = functions.lines().map(|line| line.split_once('{').unwrap().1).collect();
        assert_eq!(words(&bodies), words(WORDS));
    }

    #[test]
    fn the_table_is_the_same_every_time() {
        assert_eq!(written(500), written(500));
        let (attributes, routes) = written(500);
        let sets = attributes.matches("function ").count();
        assert!((40..120).contains(&sets), "{sets} sets of attributes");
        assert!(routes.contains(&format!("{{ a{sets}(); }}")), "the last set is used");
    }
}
