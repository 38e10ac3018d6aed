//! Messages of the vhost-user protocol as bytes: a header of three words and a body, all in the byte order of the host.
//!
//! Specification: `docs/interop/vhost-user` of QEMU 10.0, "Message specification". Pure; descriptors and waiting are
//! [`super::channel`]'s. Left out: requests that no device here sends (migration, dirty log, IOTLB, post-copy).

/// Bytes of a header.
pub(super) const HEADER: usize = 12;
/// Bytes of a body at most: the largest that we send or expect is a configuration space of 256 bytes, or a table of 8 regions.
pub(super) const MAX_BODY: usize = 4096;
/// Bytes before the content of a configuration body.
pub(super) const CONFIG_HEADER: usize = 12;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// What the front end asks.
#[doc(alias = "VhostUserRequest")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Request {
    GetFeatures = 1,
    SetFeatures = 2,
    SetOwner = 3,
    SetMemTable = 5,
    SetVringNum = 8,
    SetVringAddr = 9,
    SetVringBase = 10,
    GetVringBase = 11,
    SetVringKick = 12,
    SetVringCall = 13,
    GetProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    GetQueueNum = 17,
    SetVringEnable = 18,
    SetBackendReqFd = 21,
    GetConfig = 24,
    SetConfig = 25,
    GetInflightFd = 31,
    SetInflightFd = 32,
    GetMaxMemSlots = 36,
    AddMemReg = 37,
    RemMemReg = 38,
}

/// What a back end sends of its own accord: its configuration space changed.
pub(super) const CONFIG_CHANGE: u32 = 2;

/// `VHOST_USER_F_PROTOCOL_FEATURES`, among the virtio features.
pub(super) const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// Protocol features that we use.
pub(super) mod protocol {
    /// More than one queue.
    pub(in super::super) const MQ: u64 = 1 << 0;
    /// The back end notes what it writes where we see it. Not used.
    pub(in super::super) const LOG_SHMFD: u64 = 1 << 1;
    /// Any request may ask for an answer.
    pub(in super::super) const REPLY_ACK: u64 = 1 << 3;
    /// The back end has requests of its own.
    pub(in super::super) const BACKEND_REQ: u64 = 1 << 5;
    /// The back end has the configuration space.
    pub(in super::super) const CONFIG: u64 = 1 << 9;
    /// Requests under way are noted where they outlive the back end.
    pub(in super::super) const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// Memory regions come and go one by one.
    pub(in super::super) const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// All of them.
    pub(in super::super) const KNOWN: u64 =
        MQ | REPLY_ACK | BACKEND_REQ | CONFIG | INFLIGHT_SHMFD | CONFIGURE_MEM_SLOTS;

    /// Sentences of `info virtio-status`, in its order.
    const TEXTS: [(u64, &str); 6] = [
        (
            CONFIGURE_MEM_SLOTS,
            "VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS: Configuration for memory slots supported",
        ),
        (INFLIGHT_SHMFD, "VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD: Shared inflight I/O buffers supported"),
        (
            CONFIG,
            "VHOST_USER_PROTOCOL_F_CONFIG: Vhost-user messaging for virtio device configuration space supported",
        ),
        (
            BACKEND_REQ,
            "VHOST_USER_PROTOCOL_F_BACKEND_REQ: Socket fd for back-end initiated requests supported",
        ),
        (REPLY_ACK, "VHOST_USER_PROTOCOL_F_REPLY_ACK: Requested operation status ack. supported"),
        (MQ, "VHOST_USER_PROTOCOL_F_MQ: Multiqueue protocol supported"),
    ];

    /// The sentences for these features.
    pub(in super::super) fn texts(features: u64) -> Vec<&'static str> {
        TEXTS.iter().filter(|(bit, _)| features & bit != 0).map(|(_, text)| *text).collect()
    }
}

/// The start of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The request, or the one that is answered.
    pub(super) request: u32,
    /// Version, and what kind of message it is.
    pub(super) flags: u32,
    /// Bytes that follow.
    pub(super) size: u32,
}

impl Header {
    /// Of a request.
    pub(super) fn request(request: Request, need_reply: bool, size: usize) -> Self {
        let flags = if need_reply { VERSION | NEED_REPLY } else { VERSION };
        // Bodies are at most `MAX_BODY`.
        Self { request: request as u32, flags, size: size as u32 }
    }

    /// Of an answer to a request of the back end.
    pub(super) fn reply(request: u32, size: usize) -> Self {
        Self { request, flags: VERSION | REPLY, size: size as u32 }
    }

    pub(super) fn is_reply(self) -> bool {
        self.flags & REPLY != 0
    }

    pub(super) fn needs_reply(self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// Whether it is of the version that there is.
    pub(super) fn is_current(self) -> bool {
        self.flags & VERSION_MASK == VERSION
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        for (word, value) in bytes.chunks_exact_mut(4).zip([self.request, self.flags, self.size]) {
            word.copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: [u8; HEADER]) -> Self {
        let [r0, r1, r2, r3, f0, f1, f2, f3, s0, s1, s2, s3] = bytes;
        Self {
            request: u32::from_ne_bytes([r0, r1, r2, r3]),
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            size: u32::from_ne_bytes([s0, s1, s2, s3]),
        }
    }
}

/// A region of guest memory as the back end maps it.
///
/// The addresses in the front end's space, by which back ends look rings up, are the guest's own addresses: they need only be
/// different for different memory, and so nobody learns where this program has anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RegionBody {
    /// First guest address.
    pub(super) guest: u64,
    /// Bytes.
    pub(super) size: u64,
    /// Where it starts in the file.
    pub(super) offset: u64,
}

impl RegionBody {
    fn words(self) -> [u64; 4] {
        [self.guest, self.size, self.guest, self.offset]
    }

    /// The body of a request about this region alone.
    pub(super) fn single(self) -> Vec<u8> {
        words(&[&[0], &self.words()[..]].concat())
    }

    /// The body of a request that names all regions there are.
    pub(super) fn table(regions: &[Self]) -> Vec<u8> {
        let mut body = Vec::from((regions.len() as u32).to_ne_bytes());
        body.extend(0u32.to_ne_bytes());
        body.extend(regions.iter().flat_map(|region| words(&region.words())));
        body
    }
}

/// Words of 64 bits in a row.
pub(super) fn words(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// A queue and a number that says something about it.
pub(super) fn vring_state(queue: u16, number: u32) -> Vec<u8> {
    [u32::from(queue).to_ne_bytes(), number.to_ne_bytes()].concat()
}

/// Where the parts of a queue are, in the front end's addresses ([`RegionBody`]).
pub(super) fn vring_addr(queue: u16, desc: u64, avail: u64, used: u64) -> Vec<u8> {
    let mut body = vring_state(queue, 0);
    // Nobody logs writes.
    body.extend(words(&[desc, used, avail, 0]));
    body
}

/// A part of the configuration space with its content.
pub(super) fn config(offset: u32, content: &[u8]) -> Vec<u8> {
    let head = [offset, content.len() as u32, 0];
    let mut body: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
    body.extend(content);
    body
}

/// Where requests under way are noted: a part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct InflightBody {
    /// Bytes.
    pub(super) size: u64,
    /// Where it starts in the file.
    pub(super) offset: u64,
    /// Queues it is for.
    pub(super) queues: u16,
    /// Entries of the largest of them.
    pub(super) queue_size: u16,
}

impl InflightBody {
    /// Bytes of it. The structure ends with padding, which is sent as well.
    pub(super) const SIZE: usize = 24;

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut body = words(&[self.size, self.offset]);
        body.extend([self.queues.to_ne_bytes(), self.queue_size.to_ne_bytes()].concat());
        body.resize(Self::SIZE, 0);
        body
    }

    pub(super) fn from_bytes(body: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(u16::from_ne_bytes(body.get(at..at + 2)?.try_into().ok()?));
        if body.len() != Self::SIZE {
            return None;
        }
        Some(Self { size: word(body, 0)?, offset: word(body, 8)?, queues: half(16)?, queue_size: half(18)? })
    }
}

/// The word of 64 bits at `at`.
pub(super) fn word(body: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(body.get(at..at + 8)?.try_into().ok()?))
}

/// The word of 32 bits at `at`.
pub(super) fn short(body: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?))
}
