//! How a ring comes to be: the ladder of set-up flags, the opcodes it is restricted to, and, when there is no ring to
//! be had, the one line that says why and what to do about it.
//!
//! Invariant: a ring leaves this module enabled, and restricted unless the kernel refused that.
//! Deliberately absent: operations, and memory of any kind.

use std::{fmt, fs, io};

use io_uring::{Builder, IoUring, Probe, opcode, register::Restriction, squeue};
use rustix::io::Errno;

use crate::limits::{COMPLETIONS_MAX, RECV_BUFFER_COUNT, RECV_BUFFER_SIZE, SUBMISSIONS_MAX};

/// The operations that a shard needs; the kernel refuses all others with EACCES.
const OPCODES: [u8; 8] = [
    opcode::Accept::CODE,
    opcode::AsyncCancel::CODE,
    opcode::Close::CODE,
    opcode::PollAdd::CODE,
    opcode::Recv::CODE,
    opcode::RecvMsg::CODE,
    opcode::Send::CODE,
    opcode::SendMsg::CODE,
];

/// Sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Entries of the submission queue.
    pub submissions: u32,
    /// Entries of the completion queue.
    pub completions: u32,
    /// Buffers to receive into; a power of two.
    pub buffer_count: u16,
    /// Bytes of one of them.
    pub buffer_size: u32,
    /// Buffers to receive datagrams into, of [`DATAGRAM_BUFFER_SIZE`](crate::limits::DATAGRAM_BUFFER_SIZE) each; a power of
    /// two, or none.
    pub datagram_buffers: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            submissions: SUBMISSIONS_MAX,
            completions: COMPLETIONS_MAX,
            buffer_count: RECV_BUFFER_COUNT,
            buffer_size: RECV_BUFFER_SIZE,
            datagram_buffers: 0,
        }
    }
}

/// Which set of flags the kernel accepted, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Completions are worked off only when we ask, submissions without an indirection array (Linux 6.6).
    DeferNoArray,
    /// Completions are worked off only when we ask (Linux 6.1).
    Defer,
    /// Completions are worked off at our next system call, without an interrupt (Linux 6.0).
    Cooperative,
    /// Completions interrupt us.
    Plain,
}

impl Rung {
    const LADDER: [Self; 4] = [Self::DeferNoArray, Self::Defer, Self::Cooperative, Self::Plain];

    fn flags(self, builder: &mut Builder) {
        builder.setup_submit_all().setup_clamp().setup_r_disabled().dontfork();
        match self {
            Self::DeferNoArray => {
                Self::Defer.flags(builder);
                builder.setup_no_sqarray();
            }
            Self::Defer => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
            }
            Self::Cooperative => {
                builder.setup_single_issuer().setup_coop_taskrun().setup_taskrun_flag();
            }
            Self::Plain => {}
        }
    }
}

/// What the kernel granted; one line for the start-up log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The set-up flags.
    pub rung: Rung,
    /// True when the kernel refuses every operation that a shard does not need.
    pub restricted: bool,
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.rung {
            Rung::DeferNoArray => "io_uring with deferred task work and no submission array",
            Rung::Defer => "io_uring with deferred task work",
            Rung::Cooperative => "io_uring with cooperative task work",
            Rung::Plain => "io_uring without set-up flags",
        })?;
        if self.restricted {
            write!(f, ", restricted to {} operations", OPCODES.len())
        } else {
            f.write_str(", unrestricted")
        }
    }
}

/// Why there is no ring: the cause and the fix, in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The sysctl forbids it to everybody.
    #[error(
        "io_uring is disabled by kernel.io_uring_disabled=2; run `sysctl -w kernel.io_uring_disabled=0`"
    )]
    Disabled,
    /// The sysctl forbids it to us.
    #[error(
        "io_uring is reserved to kernel.io_uring_group by kernel.io_uring_disabled=1; \
         run `sysctl -w kernel.io_uring_disabled=0` or add this user to that group"
    )]
    Reserved,
    /// A container runtime forbids it.
    #[error(
        "io_uring is blocked by seccomp, as Docker's default profile does; run with `--security-opt seccomp=unconfined` \
         or a profile that allows io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Blocked,
    /// The kernel lacks it, or lacks multishot receive.
    #[error(
        "this kernel is too old for io_uring as it is used here, or was built without; run Linux 6.0 or newer"
    )]
    TooOld,
    /// No descriptor left.
    #[error("io_uring needs a file descriptor and none is left; raise `ulimit -n`")]
    Descriptors,
    /// No memory left.
    #[error(
        "io_uring got no memory for its queues; free some, or raise `ulimit -l` or the container's memory limit"
    )]
    Memory,
    /// Forbidden by none of the above.
    #[error(
        "io_uring was refused ({0}); check the security policy (SELinux, AppArmor, systemd) of this service"
    )]
    Refused(Errno),
}

impl Unavailable {
    /// Finds the cause of a set-up error.
    fn of(error: &io::Error) -> Self {
        let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::diagnose(Errno::from_io_error(error).unwrap_or(Errno::IO), &sysctl, &status)
    }

    /// `sysctl` and `status` are what /proc says, empty when it says nothing.
    fn diagnose(errno: Errno, sysctl: &str, status: &str) -> Self {
        let filtered = status
            .lines()
            .find_map(|line| line.strip_prefix("Seccomp:"))
            .is_some_and(|mode| mode.trim() == "2");
        match (errno, sysctl.trim()) {
            (Errno::PERM, "2") => Self::Disabled,
            (Errno::PERM, "1") => Self::Reserved,
            (Errno::PERM | Errno::NOSYS | Errno::ACCESS, _) if filtered => Self::Blocked,
            (Errno::NOSYS | Errno::INVAL, _) => Self::TooOld,
            (Errno::MFILE | Errno::NFILE, _) => Self::Descriptors,
            (Errno::NOMEM, _) => Self::Memory,
            (other, _) => Self::Refused(other),
        }
    }
}

impl From<io::Error> for Unavailable {
    fn from(error: io::Error) -> Self {
        Self::of(&error)
    }
}

/// A ring on the highest rung that the kernel knows. It is disabled: `enable` it when its memory is registered.
pub(super) fn create(options: &Options) -> Result<(IoUring, Rung), Unavailable> {
    for rung in Rung::LADDER {
        match build(options, rung) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
            Ok(ring) => {
                let mut probe = Probe::new();
                ring.submitter().register_probe(&mut probe)?;
                // Multishot receive has no probe of its own; this operation came with the same release, 6.0.
                let is_recent = probe.is_supported(opcode::SendZc::CODE);
                return if is_recent { Ok((ring, rung)) } else { Err(Unavailable::TooOld) };
            }
        }
    }
    Err(Unavailable::TooOld)
}

pub(super) fn build(options: &Options, rung: Rung) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(options.completions);
    rung.flags(&mut builder);
    builder.build(options.submissions)
}

/// Restricts the ring to [`OPCODES`], forbids any further registration, and lets it take submissions.
/// From here on it belongs to the calling thread. Returns whether the restrictions hold.
pub(super) fn enable(ring: &IoUring) -> Result<bool, Unavailable> {
    let flags = squeue::Flags::BUFFER_SELECT | squeue::Flags::SKIP_SUCCESS;
    let mut restrictions: Vec<_> = OPCODES.into_iter().map(Restriction::sqe_op).collect();
    restrictions.push(Restriction::sqe_flags_allowed(flags.bits()));
    let submitter = ring.submitter();
    let restricted = submitter.register_restrictions(&mut restrictions).is_ok();
    submitter.register_enable_rings()?;
    Ok(restricted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERED: &str = "Name:\tx\nNoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n";
    const OPEN: &str = "Name:\tx\nNoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n";

    #[test]
    fn the_cause_is_named() {
        for (errno, sysctl, status, cause) in [
            (Errno::PERM, "2\n", OPEN, Unavailable::Disabled),
            (Errno::PERM, "2\n", FILTERED, Unavailable::Disabled),
            (Errno::PERM, "1\n", OPEN, Unavailable::Reserved),
            (Errno::PERM, "0\n", FILTERED, Unavailable::Blocked),
            (Errno::NOSYS, "", FILTERED, Unavailable::Blocked),
            (Errno::NOSYS, "", OPEN, Unavailable::TooOld),
            (Errno::INVAL, "0\n", OPEN, Unavailable::TooOld),
            (Errno::MFILE, "0\n", OPEN, Unavailable::Descriptors),
            (Errno::NOMEM, "0\n", FILTERED, Unavailable::Memory),
            (Errno::PERM, "0\n", OPEN, Unavailable::Refused(Errno::PERM)),
            (Errno::PERM, "", "", Unavailable::Refused(Errno::PERM)),
        ] {
            assert_eq!(Unavailable::diagnose(errno, sysctl, status), cause);
            assert_eq!(cause.to_string().lines().count(), 1);
        }
    }

    #[test]
    fn every_rung_that_this_kernel_knows_is_usable() {
        for rung in Rung::LADDER {
            let ring = match build(&Options::default(), rung) {
                Ok(ring) => ring,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => continue,
                Err(error) => panic!("{rung:?}: {error}"),
            };
            assert!(enable(&ring).unwrap(), "{rung:?}");
        }
    }

    #[test]
    fn features_fit_a_log_line() {
        let features = Features { rung: Rung::Defer, restricted: true };
        assert_eq!(
            features.to_string(),
            "io_uring with deferred task work, restricted to 8 operations"
        );
    }
}
