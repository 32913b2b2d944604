//! Every program loads with room to grow.

use super::lab::{PROGRAMS, load, program};

/// What the project allows itself on each kernel: verifiers differ, and a million is what they follow.
const MOST: u32 = 300_000;

#[test]
fn programs_load_with_room_to_grow() {
    let mut ebpf = load();
    for name in PROGRAMS {
        let info = program(&mut ebpf, name).info().unwrap();
        let verified = info.verified_instruction_count().expect("Linux 5.16 and later say it");
        println!("{name}: {verified} instructions verified");
        assert!(verified > 0 && verified < MOST, "{name}: {verified}");
    }
}
