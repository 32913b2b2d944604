//! The TC programs, run on byte arrays by the kernel's BPF test-run. Needs root.

mod bpf;
