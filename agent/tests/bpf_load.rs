//! load
use aya::{EbpfLoader, VerifierLogLevel, programs::SchedClassifier};

#[test]
fn loads() {
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(aya::include_bytes_aligned!(env!("TCPAUTH_EBPF_OBJECT")))
        .unwrap();
    for name in ["release", "egress", "egress_l3", "ingress", "ingress_l3", "seal"] {
        let p: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        if let Err(e) = p.load() {
            let t = format!("{e:?}");
            let t = t.replace("\\n", "\n");
            std::fs::write(format!("/tmp/verifier-{name}.log"), &t).unwrap();
            println!("{name}: failed: {}", &t[t.len().saturating_sub(3000)..]);
            continue;
        }
        println!("{name}: {:?}", p.info().unwrap().verified_instruction_count());
    }
}
