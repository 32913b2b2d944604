//! The programs' working memory, as it is between their runs.

use std::os::fd::{AsFd, AsRawFd};

use aya::{
    Ebpf,
    maps::{Map, MapData},
    util::nr_cpus,
};

use super::by_slot::bpf;

const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_MAP_UPDATE_ELEM: i32 = 2;

/// An array whose elements begin with a word that is not 0 while a run has them; of each CPU.
pub struct WorkingMemory {
    map: MapData,
    /// Octets of an element of one CPU.
    octets: usize,
    elements: u32,
}

impl WorkingMemory {
    pub fn take(ebpf: &mut Ebpf) -> Self {
        let Some(Map::PerCpuArray(map)) = ebpf.take_map("SCRATCH") else {
            panic!("there is no working memory")
        };
        let info = map.info().unwrap();
        let (octets, elements) = (info.value_size() as usize, info.max_entries());
        assert_eq!(octets % 8, 0, "the kernel would round it up");
        Self { map, octets, elements }
    }

    /// How many runs may be in the middle of their work on a CPU.
    pub fn elements(&self) -> u32 {
        self.elements
    }

    /// Makes an element what it is in the middle of a run, on every CPU, with octets that no run leaves there. Returns them.
    pub fn occupy(&self, number: u32) -> Vec<u8> {
        let mut of_cpu = vec![0xa5; self.octets];
        of_cpu[..8].copy_from_slice(&1_u64.to_ne_bytes());
        let octets = of_cpu.repeat(nr_cpus().unwrap());
        self.call(BPF_MAP_UPDATE_ELEM, number, &mut octets.clone());
        octets
    }

    /// Ends the run that has an element.
    pub fn free(&self, number: u32) {
        let mut octets = self.octets(number);
        for of_cpu in octets.chunks_mut(self.octets) {
            of_cpu[..8].fill(0);
        }
        self.call(BPF_MAP_UPDATE_ELEM, number, &mut octets);
    }

    /// An element, of all CPUs.
    pub fn octets(&self, number: u32) -> Vec<u8> {
        let mut octets = vec![0; self.octets * nr_cpus().unwrap()];
        self.call(BPF_MAP_LOOKUP_ELEM, number, &mut octets);
        octets
    }

    /// The elements that a run has, on whatever CPU.
    pub fn busy(&self) -> Vec<u32> {
        let is_busy =
            |number: &u32| self.octets(*number).chunks(self.octets).any(|of_cpu| of_cpu[..8] != [0; 8]);
        (0..self.elements).filter(is_busy).collect()
    }

    fn call(&self, command: i32, number: u32, octets: &mut [u8]) {
        // map_fd, key, value, flags
        let attribute: [u64; 4] = [
            self.map.fd().as_fd().as_raw_fd() as u64,
            (&raw const number) as u64,
            octets.as_mut_ptr() as u64,
            0,
        ];
        bpf(command, &attribute).unwrap();
    }
}
