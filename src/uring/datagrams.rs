//! Datagrams as the kernel takes and gives them: addresses, control messages, and the options of a UDP socket.
//!
//! Invariant: what the kernel wrote is read through bounds-checked bytes, as if it were a client's; what does not parse is no
//! datagram. Deliberately absent: QUIC, and the submission entries (`ring.rs`), which point into what is laid out here.

#![expect(unsafe_code, reason = "socket options for which rustix has no call")]

use std::{
    ffi::c_int,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use rustix::net::{
    AddressFamily, getsockname,
    sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery},
};

use crate::limits::{DATAGRAM_SEGMENTS_MAX, UDP_BUFFER_SIZE};

/// A `sockaddr_in6`, the longer of the two.
pub(super) const NAME_SIZE: usize = 28;
/// Room for the control messages of one receive or send: at most four, of at most 40 bytes.
pub(super) const CONTROL_SIZE: usize = 160;
/// A `cmsghdr`: its length as a `size_t`, then level and type.
const CMSG_HEADER_SIZE: usize = size_of::<usize>() + 2 * size_of::<c_int>();

/// Datagrams of one size, the last one perhaps shorter, that came from one address.
#[derive(Debug)]
pub struct Arrived<'a> {
    /// Who sent them.
    pub from: SocketAddr,
    /// To which of our addresses; the port is that of the socket.
    pub to: IpAddr,
    /// Size of all but the last.
    pub segment: usize,
    /// The two bits of RFC 3168 §5.
    pub ecn: u8,
    /// All of them, one after the other. Decryption is done in place.
    pub data: &'a mut [u8],
}

/// Datagrams to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatagramBatch {
    /// All of them, one after the other; not empty, at most 65,507 bytes.
    pub data: Vec<u8>,
    /// Size of all but the last, at most [`DATAGRAM_SEGMENTS_MAX`] of them.
    pub segment: usize,
    /// From which of our addresses; the kernel chooses if it is unspecified.
    pub from: IpAddr,
    /// Where they go.
    pub to: SocketAddr,
    /// The two bits of RFC 3168 §5.
    pub ecn: u8,
}

impl DatagramBatch {
    /// How many.
    pub fn count(&self) -> usize {
        self.data.len().div_ceil(self.segment.max(1))
    }
}

/// What a receive left in its buffer, apart from the payload.
pub(super) struct Envelope {
    pub(super) from: SocketAddr,
    pub(super) to: IpAddr,
    /// `None`: it is one datagram.
    pub(super) segment: Option<usize>,
    pub(super) ecn: u8,
}

impl Envelope {
    /// Reads name and control data as recvmsg(2) wrote them.
    pub(super) fn parse(name: &[u8], control: &[u8]) -> Option<Self> {
        let from = parse_name(name)?;
        let mut envelope = Self { from, to: unspecified(from), segment: None, ecn: 0 };
        for (level, kind, data) in ControlMessages(control) {
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    envelope.segment = int(data).and_then(|size| usize::try_from(size).ok());
                }
                // One byte there, an int in its sibling (ip(7), ipv6(7)).
                (libc::IPPROTO_IP, libc::IP_TOS) => envelope.ecn = data.first()? & 3,
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    envelope.ecn = u8::try_from(int(data)? & 3).ok()?;
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // The interface, the address that answers it, and the address in the packet.
                    let address: [u8; 4] = data.get(8..12)?.try_into().ok()?;
                    envelope.to = Ipv4Addr::from(address).into();
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let address: [u8; 16] = data.get(..16)?.try_into().ok()?;
                    envelope.to = Ipv6Addr::from(address).into();
                }
                _ => {}
            }
        }
        Some(envelope)
    }
}

fn unspecified(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn int(data: &[u8]) -> Option<c_int> {
    Some(c_int::from_ne_bytes(data.get(..size_of::<c_int>())?.try_into().ok()?))
}

/// The messages of a control buffer (cmsg(3)): level, type, data. Ends at the first that does not fit.
struct ControlMessages<'a>(&'a [u8]);

impl<'a> Iterator for ControlMessages<'a> {
    type Item = (c_int, c_int, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        const WORD: usize = size_of::<usize>();
        let (header, _) = self.0.split_at_checked(CMSG_HEADER_SIZE)?;
        let len = usize::from_ne_bytes(header.get(..WORD)?.try_into().ok()?);
        let level = int(header.get(WORD..)?)?;
        let kind = int(header.get(WORD + size_of::<c_int>()..)?)?;
        let data = self.0.get(CMSG_HEADER_SIZE..len)?;
        self.0 = self.0.get(len.next_multiple_of(WORD)..).unwrap_or_default();
        Some((level, kind, data))
    }
}

/// A control buffer that is being filled.
pub(super) struct Control {
    pub(super) bytes: [u8; CONTROL_SIZE],
    pub(super) len: usize,
}

impl Control {
    /// What sendmsg(2) is told of a batch of which `segmented` says whether it is cut by the kernel.
    pub(super) fn of(batch: &DatagramBatch, segmented: bool) -> Self {
        let mut control = Self { bytes: [0; CONTROL_SIZE], len: 0 };
        if segmented {
            let size = u16::try_from(batch.segment).unwrap_or(u16::MAX);
            control.put(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
        }
        match batch.from {
            IpAddr::V4(address) if !address.is_unspecified() => {
                // Interface 0: whichever has the address.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&address.octets());
                control.put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(address) if !address.is_unspecified() => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&address.octets());
                control.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            _ => {}
        }
        if batch.ecn != 0 {
            let bits = c_int::from(batch.ecn & 3).to_ne_bytes();
            if is_ipv4(batch.to.ip()) {
                control.put(libc::IPPROTO_IP, libc::IP_TOS, &bits);
            } else {
                control.put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &bits);
            }
        }
        control
    }

    fn put(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let len = CMSG_HEADER_SIZE + data.len();
        let header = len.to_ne_bytes().into_iter();
        let header = header.chain(level.to_ne_bytes()).chain(kind.to_ne_bytes());
        let message = header.chain(data.iter().copied());
        for (to, from) in self.bytes[self.len..].iter_mut().zip(message) {
            *to = from;
        }
        self.len += len.next_multiple_of(size_of::<usize>());
        assert!(self.len <= CONTROL_SIZE, "CONTROL_SIZE has room for what is sent");
    }
}

/// A mapped address is IPv4 for the kernel.
fn is_ipv4(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    }
}

/// As a `sockaddr_in` or `sockaddr_in6`, and its length.
pub(super) fn name_of(address: SocketAddr) -> ([u8; NAME_SIZE], u8) {
    let mut name = [0; NAME_SIZE];
    let (family, len) = match address {
        SocketAddr::V4(address) => {
            name[4..8].copy_from_slice(&address.ip().octets());
            (AddressFamily::INET, 16)
        }
        SocketAddr::V6(address) => {
            name[4..8].copy_from_slice(&address.flowinfo().to_be_bytes());
            name[8..24].copy_from_slice(&address.ip().octets());
            name[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
            (AddressFamily::INET6, 28)
        }
    };
    name[..2].copy_from_slice(&family.as_raw().to_ne_bytes());
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    (name, len)
}

/// The inverse of [`name_of`].
fn parse_name(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(name.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(name.get(2..4)?.try_into().ok()?);
    if family == AddressFamily::INET.as_raw() {
        let address: [u8; 4] = name.get(4..8)?.try_into().ok()?;
        Some((Ipv4Addr::from(address), port).into())
    } else if family == AddressFamily::INET6.as_raw() {
        let address: [u8; 16] = name.get(8..24)?.try_into().ok()?;
        let scope = u32::from_ne_bytes(name.get(24..28)?.try_into().ok()?);
        // A flow label would make two addresses of one peer.
        Some(SocketAddrV6::new(address.into(), port, 0, scope).into())
    } else {
        None
    }
}

/// Makes a UDP socket what [`super::Driver::recv_datagrams`] and [`super::Driver::send_datagrams`] expect: the address that a
/// datagram was sent to and its ECN bits come with it, several come at once where the kernel can (udp(7), `UDP_GRO`), and
/// none is ever fragmented (RFC 9000 §14).
///
/// # Errors
/// When the kernel refuses what it cannot do without; a missing `UDP_GRO` and smaller buffers are none.
pub fn prepare(socket: impl AsFd) -> io::Result<()> {
    let socket = socket.as_fd();
    let is_v6 = matches!(SocketAddr::try_from(getsockname(socket)?), Ok(SocketAddr::V6(_)));
    if is_v6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        sockopt::set_ipv6_recvtclass(socket, true)?;
        sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE)?;
        // For the IPv4 half of a dual-stack socket; one that is IPv6 only has none.
        let half = sockopt::set_ip_recvtos(socket, true)
            .and_then(|()| sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE));
        if let Err(error) = half {
            tracing::debug!("this socket has no IPv4 half: {error}");
        }
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        sockopt::set_ip_recvtos(socket, true)?;
        sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)?;
    }
    if let Err(error) = set(socket, libc::SOL_UDP, libc::UDP_GRO, 1) {
        tracing::debug!("datagrams arrive one by one: {error}");
    }
    // Beyond net.core.{r,w}mem_max only with CAP_NET_ADMIN; the kernel cuts down what it does not grant.
    if sockopt::set_socket_recv_buffer_size_force(socket, UDP_BUFFER_SIZE).is_err() {
        sockopt::set_socket_recv_buffer_size(socket, UDP_BUFFER_SIZE)?;
    }
    if sockopt::set_socket_send_buffer_size_force(socket, UDP_BUFFER_SIZE).is_err() {
        sockopt::set_socket_send_buffer_size(socket, UDP_BUFFER_SIZE)?;
    }
    Ok(())
}

/// One instruction of classic BPF: code, jump if true, jump if false, operand (the kernel's networking/filter.rst).
pub type Instruction = (u16, u8, u8, u32);

/// Has the kernel ask this program which of the sockets that share a port (SO_REUSEPORT, in the order in which they were
/// bound) gets a datagram, whose payload the program sees. For a number that is none of theirs it goes by the hash of the
/// addresses, as without a program. For any one of them, once all are bound.
///
/// # Errors
/// When the kernel refuses.
pub fn steer(socket: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let len = libc::c_ushort::try_from(filter.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    set_raw(
        socket.as_fd(),
        libc::SOL_SOCKET,
        libc::SO_ATTACH_REUSEPORT_CBPF,
        (&raw const program).cast(),
        size_of_val(&program),
    )
}

fn set(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    set_raw(socket, level, name, (&raw const value).cast(), size_of_val(&value))
}

fn set_raw(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: *const libc::c_void,
    size: usize,
) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
    // SAFETY: `value` is `size` bytes that both callers own across the call; a program's instructions, which it points to,
    // are owned by `steer` and copied by the kernel.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const _: () = assert!(DATAGRAM_SEGMENTS_MAX <= 64);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_survives_the_round_trip() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[fe80::1%3]:443", "[::ffff:10.0.0.1]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let (name, len) = name_of(address);
            assert_eq!(parse_name(&name[..usize::from(len)]), Some(address));
        }
    }

    #[test]
    fn what_is_said_of_a_batch_reads_back() {
        let batch = DatagramBatch {
            data: vec![0; 3000],
            segment: 1200,
            from: "::1".parse().unwrap(),
            to: "[::1]:443".parse().unwrap(),
            ecn: 2,
        };
        let control = Control::of(&batch, true);
        let said: Vec<_> = ControlMessages(&control.bytes[..control.len])
            .map(|(level, kind, data)| (level, kind, data.len()))
            .collect();
        assert_eq!(
            said,
            [
                (libc::SOL_UDP, libc::UDP_SEGMENT, 2),
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 20),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 4),
            ]
        );
        assert_eq!(batch.count(), 3);
        // A mapped address needs the options of IPv4.
        let batch = DatagramBatch { to: "[::ffff:10.0.0.1]:443".parse().unwrap(), ..batch };
        let control = Control::of(&batch, false);
        let last = ControlMessages(&control.bytes[..control.len]).last().unwrap();
        assert_eq!((last.0, last.1), (libc::IPPROTO_IP, libc::IP_TOS));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_within_their_bounds(name: Vec<u8>, control: Vec<u8>) {
            let _ = Envelope::parse(&name, &control);
            let (known, _) = name_of("127.0.0.1:1".parse().unwrap());
            prop_assert!(ControlMessages(&control).count() <= control.len() / CMSG_HEADER_SIZE);
            prop_assert!(Envelope::parse(&known, &[]).is_some());
        }
    }
}
