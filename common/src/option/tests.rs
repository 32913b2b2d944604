use proptest::prelude::*;

use super::*;

fn header(options: &[u8]) -> Header {
    assert_eq!(options.len() % 4, 0);
    let mut segment = vec![0; 20 + options.len()];
    segment[12] = (segment.len() as u8 / 4) << 4;
    segment[20..].copy_from_slice(options);
    Header::of_segment(&segment).unwrap()
}

fn rewrite(options: &[u8], room: u32) -> Vec<u8> {
    rewrite_with(options, room, true)
}

fn rewrite_with(options: &[u8], room: u32, timestamps: bool) -> Vec<u8> {
    let old = header(options);
    let walk = OptionWalk::run(&old);
    assert_eq!(walk.malformed, 0);
    let mut new = old;
    let mut rewrite = OptionRewrite::after(&walk, room, !timestamps);
    while rewrite.step(&old, &mut new) {}
    let len = rewrite.pad(&mut new);
    assert!(len + room <= MAX_HEADER);
    (BASE_HEADER..len).map(|at| new.octet(at)).collect()
}

const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn finds_ao_behind_timestamps() {
    let mut options = TIMESTAMPS.to_vec();
    options.extend([29, 16, 61, 84, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let walk = OptionWalk::run(&header(&options));
    assert_eq!((walk.ao_at, walk.ao_len, walk.authentications, walk.malformed), (32, 16, 1, 0));
}

#[test]
fn a_glance_is_enough_for_most_segments() {
    let ao = [29, 16, 61, 84, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for options in [&[][..], &TIMESTAMPS, &ao, &[&TIMESTAMPS[..], &ao].concat()] {
        let header = header(options);
        let seen = OptionWalk::at_a_glance(&header, header.len_by_offset());
        assert_eq!(seen, Some(OptionWalk::run(&header)), "{options:?}");
    }
}

#[test]
fn finds_md5_and_timestamps() {
    let mut options = vec![1, 1, 19, 18];
    options.extend([0xaa; 16]);
    options.extend(TIMESTAMPS);
    let walk = OptionWalk::run(&header(&options));
    assert_eq!((walk.md5_at, walk.timestamps_at, walk.ao_at, walk.authentications), (22, 42, 0, 1));
    // Of another length it is one all the same, without a digest.
    let walk = OptionWalk::run(&header(&[19, 4, 0, 0, 8, 4, 0, 0]));
    assert_eq!((walk.md5_at, walk.timestamps_at, walk.authentications, walk.malformed), (0, 0, 1, 0));
}

#[test]
fn counts_both_authentication_options() {
    let mut options = vec![19, 18];
    options.extend([0; 16]);
    options.extend([29, 4, 1, 1, 1, 1]);
    assert_eq!(OptionWalk::run(&header(&options)).authentications, 2);
}

#[test]
fn what_follows_the_end_is_not_seen() {
    assert_eq!(OptionWalk::run(&header(&[0, 29, 4, 1])).authentications, 0);
}

#[test]
fn an_end_before_the_end_is_noted_and_rewritten_away() {
    let options = [2, 4, 5, 180, 0, 0, 0, 0];
    assert_eq!(OptionWalk::run(&header(&options)).ended, 1);
    assert_eq!(OptionWalk::run(&header(&options[..4])).ended, 0);
    assert_eq!(rewrite(&options, 16), [2, 4, 5, 180]);
}

#[test]
fn lengths_that_lie_are_malformed() {
    for options in [[29, 1, 1, 1], [29, 0, 1, 1], [29, 5, 1, 1], [1, 1, 1, 29]] {
        assert_eq!(OptionWalk::run(&header(&options)).malformed, 1, "{options:?}");
    }
}

#[test]
fn one_sack_block_of_three_fits_beside_timestamps() {
    let mut options = TIMESTAMPS.to_vec();
    options.extend([1, 1, 5, 26]);
    options.extend(1..=24);
    let mut wanted = TIMESTAMPS[2..].to_vec();
    wanted.extend([5, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(rewrite(&options, 16), wanted);
    // Without the padding there is room even beside an option of 20.
    assert_eq!(rewrite(&options, 20), wanted);
}

#[test]
fn a_sack_option_without_room_goes_whole() {
    let mut options = TIMESTAMPS.to_vec();
    options.extend([2, 4, 5, 180, 3, 3, 7, 1, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]);
    let mut wanted = TIMESTAMPS[2..].to_vec();
    wanted.extend([2, 4, 5, 180, 3, 3, 7, 1, 1, 1]);
    assert_eq!(rewrite(&options, 20), wanted);
}

#[test]
fn timestamps_go_where_they_are_not_wanted() {
    let options = [&[2, 4, 5, 180, 4, 2][..], &TIMESTAMPS[2..], &[1, 3, 3, 7]].concat();
    assert_eq!(rewrite_with(&options, 20, false), [2, 4, 5, 180, 4, 2, 3, 3, 7, 1, 1, 1]);
    assert_eq!(rewrite_with(&options, 20, true).len(), 20);
}

/// A SYN-ACK of Linux with Accurate ECN, and its segments afterwards.
#[test]
fn options_go_by_rank_where_there_is_no_room() {
    let accurate_ecn = [172, 11, 0, 0, 1, 0, 0, 1, 0, 0, 1];
    let syn = [&[2, 4, 5, 180, 4, 2][..], &TIMESTAMPS[2..], &[1, 3, 3, 7], &accurate_ecn, &[1]].concat();
    let wanted = [&[2, 4, 5, 180, 4, 2][..], &TIMESTAMPS[2..], &[3, 3, 7, 1]].concat();
    for room in [16, 20] {
        assert_eq!(rewrite(&syn, room), wanted);
    }
    let data = [&TIMESTAMPS[..], &accurate_ecn, &[1]].concat();
    assert_eq!(rewrite(&data, 16), [&TIMESTAMPS[2..], &accurate_ecn, &[1, 1, 1]].concat(), "there is room");
    assert_eq!(rewrite(&data, 20), [&TIMESTAMPS[2..], &[1, 1]].concat());
    // A block of SACK is worth more.
    let block = [5, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    let data = [&TIMESTAMPS[2..], &accurate_ecn[..5], &[1], &block, &[1, 1]].concat();
    let mut data = data;
    data[11] = 5;
    assert_eq!(rewrite(&data, 16), [&TIMESTAMPS[2..], &block].concat());
}

#[test]
fn fast_open_and_mptcp_go() {
    let options = [2, 4, 5, 180, 34, 6, 1, 2, 3, 4, 30, 4, 0, 1, 3, 3, 7, 0, 0, 0];
    assert_eq!(rewrite(&options, 16), [2, 4, 5, 180, 3, 3, 7, 1]);
}

/// Options as hosts lay them out, and a little beside: whole words.
fn common_options() -> impl Strategy<Value = Vec<u8>> {
    let timestamps = prop_oneof![Just(Vec::new()), Just(TIMESTAMPS.to_vec()), Just(TIMESTAMPS[..4].to_vec())];
    let last = prop_oneof![
        Just(Vec::new()),
        (prop_oneof![Just(29u8), Just(19)], 0..24u8, 1..6usize).prop_map(|(kind, len, words)| {
            let mut option = vec![0; 4 * words];
            option[..2].copy_from_slice(&[kind, len]);
            option
        }),
        (1..6u8).prop_map(|words| [&[29, 4 * words][..], &vec![7; 4 * usize::from(words) - 2]].concat()),
    ];
    (timestamps, last).prop_map(|(timestamps, last)| [timestamps, last].concat())
}

proptest! {
    #[test]
    fn a_glance_sees_what_a_walk_finds(
        options in prop_oneof![
            common_options(),
            proptest::collection::vec(any::<u8>(), 0..10usize).prop_map(|v| v.repeat(4)),
        ],
    ) {
        let header = header(&options);
        if let Some(seen) = OptionWalk::at_a_glance(&header, header.len_by_offset()) {
            prop_assert_eq!(seen, OptionWalk::run(&header));
        }
    }

    #[test]
    fn any_octets_are_walked_and_rewritten_within_bounds(
        options in proptest::collection::vec(any::<u8>(), 0..10usize).prop_map(|v| v.repeat(4)),
        room in prop_oneof![Just(16u32), Just(20)],
        without_timestamps: bool,
    ) {
        let old = header(&options);
        let walk = OptionWalk::run(&old);
        prop_assert!(walk.at <= walk.end);
        if walk.ao_at != 0 {
            prop_assert!(walk.ao_at + walk.ao_len <= walk.end);
        }
        if walk.malformed == 0 && walk.kept - walk.dispensable + room <= 40 {
            let mut new = old;
            let mut rewrite = OptionRewrite::after(&walk, room, without_timestamps);
            let mut steps = 0;
            while rewrite.step(&old, &mut new) {
                steps += 1;
            }
            prop_assert!(steps <= OptionRewrite::MAX_STEPS);
            prop_assert!(rewrite.pad(&mut new) + room <= MAX_HEADER);
            new.set_octet(12, ((rewrite.out / 4) << 4) as u8);
            prop_assert_eq!(OptionWalk::run(&new).malformed, 0);
        }
    }

    #[test]
    fn octets_keep_their_places(octets in proptest::collection::vec(any::<u8>(), 20..=60)) {
        let mut header = Header::default();
        for (at, octet) in octets.iter().enumerate() {
            header.set_octet(at as u32, *octet);
        }
        for (at, octet) in octets.iter().enumerate() {
            prop_assert_eq!(header.octet(at as u32), *octet);
        }
        for at in 0..64 {
            let word = [0, 1, 2, 3].map(|i| header.octet(at + i));
            prop_assert_eq!(header.word(at).to_ne_bytes(), word);
        }
        let memory: Vec<u8> = header.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        prop_assert_eq!(&memory[..octets.len()], &octets[..]);
    }
}
