//! The TC programs: loaded, and pinned for those who look.

use std::{panic::resume_unwind, path::Path, thread};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    programs::{ProgramError, SchedClassifier},
};

use super::{
    KernelError,
    maps::{Maps, PINNED, chain},
    pins::{self, Pins},
};

/// On every interface, for what leaves.
pub(super) const EGRESS: &str = "egress";
/// On every interface, for what arrives.
pub(super) const INGRESS: &str = "ingress";
/// [`INGRESS`] for interfaces that packets reach from inside this host.
pub(super) const INGRESS_AGAIN: &str = "ingress_again";
/// [`EGRESS`] for links without Ethernet headers.
pub(super) const EGRESS_L3: &str = "egress_l3";
/// [`INGRESS`] for links without Ethernet headers.
pub(super) const INGRESS_L3: &str = "ingress_l3";
/// At the lane's far end.
pub(super) const SEAL: &str = "seal";
/// At the lane's near end.
pub(super) const RELEASE: &str = "release";

/// Nowhere: the daemon runs it.
pub(super) const REKEY: &str = "rekey";

const ALL: [&str; 8] = [EGRESS, INGRESS, INGRESS_AGAIN, EGRESS_L3, INGRESS_L3, SEAL, RELEASE, REKEY];

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TCPAUTH_EBPF_OBJECT"));

/// The programs of this daemon, in the kernel.
pub(super) struct Programs(Ebpf);

impl Programs {
    /// Loads them, on the maps that are pinned; maps that are not are made and pinned.
    pub(super) fn load(pins: &Pins) -> Result<(Self, Maps), KernelError> {
        let mut loader = EbpfLoader::new();
        // The programs use no type of the kernel's own: its BTF, megabytes, need not be read.
        loader.btf(None);
        for name in PINNED {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| load_error(&error))?;
        let maps = Maps::take(&mut ebpf)?;
        verify(&mut ebpf)?;
        let mut programs = Self(ebpf);
        for name in ALL {
            pin(programs.get(name)?, &pins.programs(), name)?;
        }
        Ok((programs, maps))
    }

    pub(super) fn get(&mut self, name: &str) -> Result<&mut SchedClassifier, KernelError> {
        self.0
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| KernelError::Object { kind: "program", name: name.to_owned() })
    }
}

/// Has the kernel verify the programs: [`REKEY`], which takes it the longest, beside all the others, because verifying is
/// most of the time in which the daemon starts.
fn verify(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    let (longest, others): (Vec<_>, Vec<_>) = ebpf
        .programs_mut()
        .filter_map(|(name, program)| Some((name, <&mut SchedClassifier>::try_from(program).ok()?)))
        .partition(|(name, _)| *name == REKEY);
    let verify = |programs: Vec<(&str, &mut SchedClassifier)>| {
        let mut programs = programs.into_iter();
        programs.try_for_each(|(name, program)| program.load().map_err(|error| program_error(name, &error)))
    };
    thread::scope(|scope| {
        let verifying = scope.spawn(move || verify(longest));
        verify(others)?;
        verifying.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

fn pin(program: &mut SchedClassifier, folder: &Path, name: &str) -> Result<(), KernelError> {
    let new = folder.join(format!("{name}_new"));
    pins::unpin(&new)?;
    program.pin(&new).map_err(|error| KernelError::Pin {
        action: "pin a program at",
        path: new.clone(),
        source: std::io::Error::other(chain(&error)),
    })?;
    pins::replace(&new, &folder.join(name))
}

fn load_error(error: &EbpfError) -> KernelError {
    let reason = chain(error);
    match reason.contains("os error 1)") {
        true => KernelError::NotRoot { action: "load eBPF maps".to_owned() },
        false => KernelError::refused("the eBPF object", reason),
    }
}

pub(super) fn program_error(name: &str, error: &ProgramError) -> KernelError {
    match error {
        ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM) => {
            KernelError::NotRoot { action: "load eBPF programs".to_owned() }
        }
        other => KernelError::refused(format!("the eBPF program `{name}`"), last_lines(&chain(other))),
    }
}

/// The verifier's log is long; the reason stands at its end.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    match lines.len() {
        0..=12 => text.to_owned(),
        len => format!("{}\n…\n{}", lines[0], lines[len - 10..].join("\n")),
    }
}
