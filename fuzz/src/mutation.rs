//! Octets that are almost valid: pieces of valid inputs, changed here and there.

/// Longest input, in octets.
pub const MAX_LEN: usize = 8192;

/// Numbers at which code goes wrong.
const EDGES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];

/// A generator of random numbers (SplitMix64: a sequence from a seed, the same everywhere). Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.number() % end as u64) as usize }
    }

    fn octet(&mut self) -> u8 {
        self.number() as u8
    }
}

/// Makes inputs out of `seeds`.
pub struct Mutator {
    seeds: Vec<Vec<u8>>,
    random: Random,
}

impl Mutator {
    /// Inputs that begin as one of `seeds`; the same ones for the same number.
    pub fn new(seeds: Vec<Vec<u8>>, seed: u64) -> Self {
        Self { seeds, random: Random::new(seed) }
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.any_seed();
        // One change mostly, seldom many; sometimes none.
        let mut changes = self.random.below(3);
        while self.random.below(3) == 0 {
            changes += 1 + self.random.below(4);
        }
        for _ in 0..changes {
            self.change(&mut input);
        }
        input.truncate(MAX_LEN);
        input
    }

    fn any_seed(&mut self) -> Vec<u8> {
        let at = self.random.below(self.seeds.len());
        self.seeds.get(at).cloned().unwrap_or_default()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.random.below(input.len() + 1).min(input.len().saturating_sub(1));
        let magnitude = self.random.below(8);
        let len = 1 + self.random.below(1 << magnitude);
        let end = (at + len).min(input.len());
        match self.random.below(10) {
            0 | 1 if !input.is_empty() => input[at] ^= 1 << magnitude,
            2 if !input.is_empty() => input[at] = self.random.octet(),
            3 if !input.is_empty() => input[at] = EDGES[self.random.below(EDGES.len())],
            4 if !input.is_empty() => {
                input[at] = input[at].wrapping_add(if len.is_multiple_of(2) { 1 } else { 0xff })
            }
            5 => drop(input.drain(at..end)),
            6 => {
                let octets: Vec<_> = (0..len).map(|_| self.random.octet()).collect();
                input.splice(at..at, octets);
            }
            7 => {
                let again = input[at..end].to_vec();
                let to = self.random.below(input.len() + 1);
                input.splice(to..to, again);
            }
            8 => input.truncate(at),
            _ => self.splice(input),
        }
    }

    /// Puts a piece of another seed in the place of one of `input`.
    fn splice(&mut self, input: &mut Vec<u8>) {
        let other = self.any_seed();
        let [from, to] = self.range(other.len());
        let [start, end] = self.range(input.len());
        input.splice(start..end, other[from..to].iter().copied());
    }

    fn range(&mut self, len: usize) -> [usize; 2] {
        let mut range = [self.random.below(len + 1), self.random.below(len + 1)];
        range.sort_unstable();
        range
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs_of_every_kind() {
        let seeds = vec![b"abcdefgh".to_vec(), b"12345678".to_vec()];
        let [mut one, mut same, mut other] = [7, 7, 8].map(|seed| Mutator::new(seeds.clone(), seed));
        let inputs: Vec<_> = (0..1000).map(|_| one.next_input()).collect();
        assert!(inputs.iter().all(|input| *input == same.next_input()));
        assert!(inputs.iter().any(|input| *input != other.next_input()));
        assert!(inputs.iter().any(|input| seeds.contains(input)), "some are as they were");
        assert!(inputs.iter().any(|input| input.len() < 8) && inputs.iter().any(|input| input.len() > 8));
        let has = |input: &&Vec<u8>, octets: &[u8]| octets.iter().any(|octet| input.contains(octet));
        assert!(inputs.iter().any(|input| has(&input, b"abc") && has(&input, b"678")), "some are of both");
    }

    #[test]
    fn there_are_inputs_without_seeds() {
        for seeds in [vec![], vec![vec![]]] {
            let mut mutator = Mutator::new(seeds, 1);
            assert!((0..1000).any(|_| !mutator.next_input().is_empty()));
        }
    }
}
