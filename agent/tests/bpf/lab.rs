//! The programs and their maps, loaded for one test, unpinned, in a network namespace of its own.

use std::{os::fd::AsFd, process::Command};

use aya::{
    Ebpf, EbpfLoader, Pod, VerifierLogLevel,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, RingBuf, lpm_trie},
    programs::{SchedClassifier, TcAttachType, TestRun, TestRunOptions, tc::qdisc_add_clsact},
};
use nix::sched::{CloneFlags, unshare};
use tcpauth::kernel::mapped;
use tcpauth_common::{
    DropReason,
    layout::{
        Bucket, Counters, Direction, Dropped, Held, LAYOUT_VERSION, PeerRule, Policy, Quartet, Session,
        Settings, Tokens, VlanTag, maps,
    },
};

use super::{
    by_slot::BySlot,
    connection::Connection,
    context::{Context, Verdict},
    segment::Segment,
    working_memory::WorkingMemory,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TCPAUTH_EBPF_OBJECT"));

/// All programs.
pub const PROGRAMS: [&str; 8] =
    ["egress", "egress_l3", "ingress", "ingress_again", "ingress_l3", "seal", "release", "rekey"];

/// A layout as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Plain<T>(T);

// SAFETY: used for the layouts only, which are `repr(C)` and made of integers.
unsafe impl<T: Copy + 'static> Pod for Plain<T> {}

/// The slot of [`Lab::ifindex`].
const SLOT: u32 = 1;
/// Index that no interface has: the lane's far end.
pub const LANE1: u32 = 77;

pub struct Lab {
    /// A veth with an MTU of 1500.
    pub ifindex: u32,
    /// Its other end.
    pub other_ifindex: u32,
    settings: Array<MapData, Plain<Settings>>,
    ports: Array<MapData, u8>,
    peers: LpmTrie<MapData, [u8; 20], Plain<PeerRule>>,
    locals: HashMap<MapData, [u8; 16], u8>,
    policies: Array<MapData, Plain<Policy>>,
    counters: HashMap<MapData, u32, Plain<Counters>>,
    buckets: HashMap<MapData, u32, Plain<Bucket>>,
    sessions: HashMap<MapData, Plain<Quartet>, Plain<Session>>,
    slots: HashMap<MapData, u32, u16>,
    interfaces: Array<MapData, u32>,
    vlans: HashMap<MapData, Plain<VlanTag>, u32>,
    forwarded: LpmTrie<MapData, [u8; 20], u32>,
    held: RingBuf<MapData>,
    held_own: RingBuf<MapData>,
    dropped: RingBuf<MapData>,
    /// What the programs work in. Between their runs all of it is free.
    pub memory: WorkingMemory,
    /// `seal`, of what our stack sends.
    of_stack: BySlot,
    ebpf: Ebpf,
}

/// The object, its programs loaded into the kernel.
pub fn load() -> Ebpf {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(OBJECT)
        .expect("this test needs root with CAP_BPF");
    for name in PROGRAMS {
        program(&mut ebpf, name).load().unwrap_or_else(|error| panic!("{name} does not load: {error}"));
    }
    ebpf
}

pub fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

/// Adds an entry as soon as the kernel has memory at hand: with PREEMPT_RT it may not have for the second of two.
fn patiently(mut add: impl FnMut() -> Result<(), MapError>) {
    for _ in 0..1000 {
        match add() {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOMEM) => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            result => return result.unwrap(),
        }
    }
    panic!("the kernel has no memory for an entry");
}

impl Lab {
    pub fn new() -> Self {
        let mut ebpf = load();
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root with CAP_SYS_ADMIN");
        let link = Command::new("ip").args("link add near type veth peer name far".split(' ')).status();
        assert!(link.expect("iproute2 is installed").success(), "a veth cannot be made");
        let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
        let (ifindex, other_ifindex) = (index("near"), index("far"));
        let seal = program(&mut ebpf, "seal").fd().unwrap();
        let of_stack = BySlot::new(SLOT, seal.as_fd()).expect("a program that calls another");
        let mut lab = Self {
            ifindex,
            other_ifindex,
            settings: take(&mut ebpf, maps::SETTINGS),
            ports: take(&mut ebpf, maps::PORTS),
            peers: take(&mut ebpf, maps::PEERS),
            locals: take(&mut ebpf, maps::LOCALS),
            policies: take(&mut ebpf, maps::POLICIES),
            counters: take(&mut ebpf, maps::COUNTERS),
            buckets: take(&mut ebpf, maps::BUCKETS),
            sessions: take(&mut ebpf, maps::SESSIONS),
            slots: take(&mut ebpf, maps::SLOTS),
            interfaces: take(&mut ebpf, maps::INTERFACES),
            vlans: take(&mut ebpf, maps::VLANS),
            forwarded: take(&mut ebpf, maps::FORWARDED),
            held: take(&mut ebpf, maps::HELD),
            held_own: take(&mut ebpf, maps::HELD_OWN),
            dropped: take(&mut ebpf, maps::DROPPED),
            memory: WorkingMemory::take(&mut ebpf),
            of_stack,
            ebpf,
        };
        let settings =
            Settings { layout_version: LAYOUT_VERSION, lane0: other_ifindex, lane1: LANE1, netns: 0 };
        lab.settings.set(0, Plain(settings), 0).unwrap();
        patiently(|| lab.slots.insert(ifindex, SLOT as u16, 0));
        lab.interfaces.set(SLOT, ifindex, 0).unwrap();
        patiently(|| lab.counters.insert(Counters::OF_NO_NEIGHBOR, Plain(Counters::default()), 0));
        lab
    }

    /// A lab in which the connection's neighbour is configured, and its session is `session`.
    pub fn with(connection: &Connection, session: Option<&Session>) -> Self {
        let mut lab = Self::new();
        lab.add_neighbor(connection);
        if let Some(session) = session {
            lab.put(connection, session);
        }
        lab
    }

    /// Configures the connection's neighbour as the daemon would: one address, on any interface or its own.
    pub fn add_neighbor(&mut self, connection: &Connection) {
        let rule = PeerRule { neighbor: connection.neighbor, scope: connection.scope, flags: 0 };
        self.set_peer(connection.scope, mapped(connection.peer.ip()), 128, rule);
        self.set_policy(connection.neighbor, connection.policy());
        patiently(|| self.locals.insert(mapped(connection.local.ip()), 1, 0));
    }

    /// `bits` of the IPv4-mapped or IPv6 address count.
    pub fn set_peer(&mut self, scope: u32, address: [u8; 16], bits: u32, rule: PeerRule) {
        patiently(|| self.peers.insert(&prefix(scope, address, bits), Plain(rule), 0));
    }

    pub fn set_policy(&mut self, neighbor: u32, policy: Policy) {
        self.ports.set(policy.port.into(), 1, 0).unwrap();
        if policy.kmp_port != 0 {
            self.ports.set(policy.kmp_port.into(), 1, 0).unwrap();
        }
        self.policies.set(neighbor, Plain(policy), 0).unwrap();
        patiently(|| self.counters.insert(neighbor, Plain(Counters::default()), 0));
        self.refill(neighbor);
    }

    pub fn remove_counters(&mut self, neighbor: u32) {
        self.counters.remove(&neighbor).unwrap();
    }

    pub fn add_local(&mut self, address: [u8; 16]) {
        patiently(|| self.locals.insert(address, 1, 0));
    }

    pub fn remove_local(&mut self, address: [u8; 16]) {
        self.locals.remove(&address).unwrap();
    }

    /// Says that ends of the neighbour's sessions within `bits` of `address` are behind `ifindex`.
    pub fn forward(&mut self, neighbor: u32, address: [u8; 16], bits: u32, ifindex: u32) {
        patiently(|| self.forwarded.insert(&prefix(neighbor, address, bits), ifindex, 0));
    }

    pub fn add_vlan(&mut self, tag: VlanTag, ifindex: u32) {
        patiently(|| self.vlans.insert(Plain(tag), ifindex, 0));
    }

    /// Fills the neighbour's token buckets.
    pub fn refill(&mut self, neighbor: u32) {
        for number in [neighbor, Bucket::OF_ALL] {
            patiently(|| self.buckets.insert(number, Plain(Bucket::default()), 0));
        }
        patiently(|| self.counters.insert(neighbor, Plain(self.counters(neighbor)), 0));
    }

    /// Gives the interface by which sealed segments leave room for any of them.
    pub fn widen(&self) {
        let link = Command::new("ip").args("link set near mtu 65000".split(' ')).status();
        assert!(link.expect("iproute2 is installed").success(), "the MTU cannot be set");
    }

    pub fn put(&mut self, connection: &Connection, session: &Session) {
        patiently(|| self.sessions.insert(Plain(connection.quartet()), Plain(*session), 0));
    }

    pub fn remove(&mut self, connection: &Connection) {
        self.sessions.remove(&Plain(connection.quartet())).unwrap();
    }

    pub fn session(&self, connection: &Connection) -> Option<Session> {
        self.sessions.get(&Plain(connection.quartet()), 0).ok().map(|session| session.0)
    }

    /// What was counted, with a full bucket of records to tell of it.
    pub fn counters(&self, neighbor: u32) -> Counters {
        Counters { events: Tokens::default(), ..self.counters.get(&neighbor, 0).unwrap().0 }
    }

    /// The next held segment and its frame, of either ring: those that anybody can forge, and all others.
    pub fn take_held(&mut self) -> Option<(Held, Vec<u8>)> {
        if let Some(record) = self.held.next() {
            return Some(Self::held_of(&record));
        }
        self.take_held_own()
    }

    /// The same, of the ring for what nobody can forge.
    pub fn take_held_own(&mut self) -> Option<(Held, Vec<u8>)> {
        self.held_own.next().map(|record| Self::held_of(&record))
    }

    fn held_of(record: &[u8]) -> (Held, Vec<u8>) {
        let (head, frame) = record.split_at(size_of::<Held>());
        // SAFETY: the head has the size of `Held`, which any octets are, and the read needs no alignment.
        let held = unsafe { head.as_ptr().cast::<Held>().read_unaligned() };
        assert_eq!(frame.len(), held.frame_len as usize, "the record ends with its frame");
        (held, frame.to_vec())
    }

    /// The next record of a drop.
    pub fn take_dropped(&mut self) -> Option<Dropped> {
        let record = self.dropped.next()?;
        assert_eq!(record.len(), size_of::<Dropped>());
        // SAFETY: as above.
        Some(unsafe { record.as_ptr().cast::<Dropped>().read_unaligned() })
    }

    /// Runs the program called `name`.
    pub fn run(&mut self, name: &str, context: Context, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let program = program(&mut self.ebpf, name);
        context
            .run(program.fd().unwrap().as_fd(), frame)
            .unwrap_or_else(|error| panic!("{name} on {} octets: {error}", frame.len()))
    }

    /// Runs the program called `name` on a frame that arrives at `near` with `tc_index`, which a test-run may not set.
    pub fn run_with_index(&mut self, name: &str, tc_index: u32, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let next = program(&mut self.ebpf, name).fd().unwrap();
        let first = BySlot::new(tc_index, next.as_fd()).expect("a program that calls another");
        Context { ifindex: self.ifindex, ..Context::default() }.run(first.program(), frame).unwrap()
    }

    /// Nanoseconds that `ingress` takes for a frame, and its verdict.
    pub fn time_ingress(&mut self, frame: &[u8]) -> (Verdict, u32) {
        let context = Context { ifindex: self.ifindex, ..Context::default() };
        let program = program(&mut self.ebpf, "ingress").fd().unwrap().as_fd();
        let (verdict, _, nanoseconds) = context.timed_run(program, frame).unwrap();
        (verdict, nanoseconds)
    }

    /// What the program called `name`, which judges no frame, answers to `record`.
    pub fn answer(&mut self, name: &str, record: &[u8]) -> u32 {
        let options = TestRunOptions { data_in: Some(record), ..TestRunOptions::default() };
        program(&mut self.ebpf, name).test_run(options).unwrap().return_value
    }

    /// The programs.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Tells the programs of a lane that is there.
    pub fn use_lane(&mut self, lane0: &str, lane1: &str) {
        let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
        let settings =
            Settings { layout_version: LAYOUT_VERSION, lane0: index(lane0), lane1: index(lane1), netns: 0 };
        self.settings.set(0, Plain(settings), 0).unwrap();
    }

    /// Gives an interface the slot after that of [`Lab::ifindex`].
    pub fn add_interface(&mut self, ifindex: u32) {
        patiently(|| self.slots.insert(ifindex, SLOT as u16 + 1, 0));
        self.interfaces.set(SLOT + 1, ifindex, 0).unwrap();
    }

    /// Attaches the program called `name` until the lab goes.
    pub fn attach(&mut self, name: &str, interface: &str, hook: TcAttachType) {
        // Below Linux 6.6 programs are attached as filters of the qdisc clsact. It may be there from another program.
        let _ = qdisc_add_clsact(interface);
        program(&mut self.ebpf, name).attach(interface, hook).unwrap();
    }

    /// Lets a frame of our stack for the wire of `near` run through `seal`, as if from `egress` by the lane.
    pub fn seal_of_stack(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        Context::default().run(self.of_stack.program(), frame).unwrap()
    }

    /// Lets a frame of ours that the daemon sends or lets go, for the wire of `near`, run through `seal`.
    pub fn seal(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.run("seal", Context { mark: self.ifindex, ..Context::default() }, frame)
    }

    /// Lets a frame arrive at `near`.
    pub fn ingress(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.run("ingress", Context { ifindex: self.ifindex, ..Context::default() }, frame)
    }

    /// Lets a frame leave by `near`.
    pub fn egress(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.run("egress", Context { ifindex: self.ifindex, ..Context::default() }, frame)
    }

    /// Lets a frame that arrived by `arrived` leave by `near`.
    pub fn forwarded(&mut self, arrived: u32, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let context = Context { ifindex: self.ifindex, ingress_ifindex: arrived, ..Context::default() };
        self.run("egress", context, frame)
    }

    /// Seals what must be sealed.
    pub fn sealed(&mut self, segment: &Segment) -> Segment {
        let (verdict, out) = self.seal(&segment.frame());
        assert_eq!(verdict, Verdict::Redirect, "{:?}", self.take_dropped());
        Segment::of_frame(&out)
    }

    /// Lets arrive what must verify.
    pub fn verified(&mut self, segment: &Segment) -> Segment {
        let (verdict, out) = self.ingress(&segment.frame());
        assert_eq!(verdict, Verdict::Pass, "{:?}", self.take_dropped());
        Segment::of_frame(&out)
    }

    /// What the programs are asked for a frame that they must drop for `reason`: that it is counted once and
    /// told once, and that nothing else is.
    pub fn expect_drop(
        &mut self,
        connection: &Connection,
        direction: Direction,
        context: Context,
        frame: &[u8],
        reason: DropReason,
    ) -> Dropped {
        self.refill(connection.neighbor);
        let before = (self.counters(connection.neighbor), self.session(connection));
        let (program, context) = match direction {
            Direction::Inbound => ("ingress", Context { ifindex: self.ifindex, ..context }),
            Direction::Outbound => ("seal", Context { mark: self.ifindex, ..context }),
        };
        let (verdict, _) = self.run(program, context, frame);
        let dropped = self.take_dropped();
        assert_eq!(verdict, Verdict::Drop, "{reason:?}, {dropped:?}");
        let dropped = dropped.unwrap_or_else(|| panic!("{reason:?} is not told"));
        assert_eq!(DropReason::from_number(dropped.reason), Some(reason));
        assert_eq!(dropped.direction, direction as u8);
        assert_eq!(dropped.neighbor, connection.neighbor);
        assert!(dropped.time > 0);
        assert!(self.take_dropped().is_none(), "{reason:?} is told twice");
        assert!(self.take_held().is_none(), "{reason:?}: held as well");
        assert_eq!(self.counters(connection.neighbor), with_one_more(before.0, reason));
        if let Some(session) = before.1 {
            let after = self.session(connection).unwrap();
            assert_eq!(
                Counters::from(after.counters),
                with_one_more(session.counters.into(), reason),
                "of the session"
            );
            assert_eq!((after.send_seq, after.recv_seq), (session.send_seq, session.recv_seq));
            assert_eq!(after.last_segment, session.last_segment);
        }
        dropped
    }
}

/// What a run does not give back is lost for good, and nothing goes any more once all is.
impl Drop for Lab {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.memory.busy(), [0; 0], "a run has kept its working memory");
        }
    }
}

/// The octets of a layout.
pub fn octets<T>(layout: &T) -> &[u8] {
    // SAFETY: used for the layouts only, which have no hidden padding.
    unsafe { std::slice::from_raw_parts((&raw const *layout).cast(), size_of::<T>()) }
}

/// A key of the tries: a number, and a prefix of so many bits.
fn prefix(number: u32, address: [u8; 16], bits: u32) -> lpm_trie::Key<[u8; 20]> {
    let mut data = [0; 20];
    data[..4].copy_from_slice(&number.to_be_bytes());
    data[4..].copy_from_slice(&address);
    lpm_trie::Key::new(32 + bits, data)
}

fn with_one_more(mut counters: Counters, reason: DropReason) -> Counters {
    counters.dropped[reason as usize] += 1;
    counters
}

fn take<M: TryFrom<Map>>(ebpf: &mut Ebpf, name: &str) -> M {
    let map = ebpf.take_map(name).unwrap_or_else(|| panic!("{name} is missing"));
    map.try_into().ok().unwrap_or_else(|| panic!("{name} has another shape"))
}
