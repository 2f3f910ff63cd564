//! Listening sockets, bound before anything else is started.
//!
//! Invariant: an address is ours alone. SO_REUSEPORT, by which shards share a port, would let a second server of the same user
//! join unnoticed; so the first socket is bound without it, which fails if anybody listens there, and is opened to its
//! siblings afterwards.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    io::{Errno, ioctl_fionbio},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, getsockname, ipproto, listen,
        socket_with, sockopt,
    },
};

use super::{error::SystemError, inherit};
use crate::{
    config::Bind,
    limits::LISTEN_BACKLOG,
    shard::{Listener, ListenerKind},
    uring::{self, Instruction},
};

/// One listener for each shard.
#[derive(Debug)]
pub(super) struct Listeners {
    /// As many as there are shards.
    pub(super) sockets: Vec<Listener>,
    /// For people: `http://127.0.0.1:8000`, `unix:/run/app.sock`.
    pub(super) url: String,
    /// For ASGI's `server`.
    pub(super) server: (String, Option<u16>),
    /// Removes the socket file at the end.
    _file: Option<SocketFile>,
}

pub(super) fn open(
    to: &Bind,
    kind: ListenerKind,
    shards: usize,
    backlog: i32,
) -> Result<Listeners, SystemError> {
    match to {
        Bind::Tcp(host, port) => open_tcp((host, *port), kind, shards, backlog),
        Bind::Unix(path) => open_unix(path, kind, shards, backlog),
        Bind::Inherited(fd) => {
            let opened =
                inherit::take(*fd).and_then(|socket| open_inherited(&socket, kind, shards));
            opened.map_err(|error| SystemError::Inherited { fd: *fd, error })
        }
    }
}

/// All shards accept from the one socket; its backlog is the business of whoever made it.
fn open_inherited(socket: &OwnedFd, kind: ListenerKind, shards: usize) -> io::Result<Listeners> {
    ioctl_fionbio(socket, true)?;
    let bound = getsockname(socket)?;
    let (address, name) = match SocketAddr::try_from(bound.clone()) {
        Ok(address) => (Some(address), String::new()),
        Err(_) => {
            let bound = SocketAddrUnix::try_from(bound)?;
            let path = bound.path_bytes().unwrap_or_default();
            (None, String::from_utf8_lossy(path).into_owned())
        }
    };
    if address.is_some() {
        // Accepted sockets inherit it.
        sockopt::set_tcp_nodelay(socket, true)?;
    }
    let listener = |_| Ok(Listener { socket: socket.try_clone()?, address, kind });
    Ok(Listeners {
        sockets: (0..shards).map(listener).collect::<io::Result<_>>()?,
        url: address.map_or_else(|| format!("unix:{name}"), |address| url(kind, address)),
        server: address.map_or((name, None), |a| (a.ip().to_string(), Some(a.port()))),
        _file: None,
    })
}

fn url(kind: ListenerKind, address: SocketAddr) -> String {
    let scheme = if kind == ListenerKind::Tls { "https" } else { "http" };
    format!("{scheme}://{address}")
}

/// A blocking socket, for tokio-uring: there the waiting is the kernel's.
pub(super) fn open_admin(address: SocketAddr) -> Result<std::net::TcpListener, SystemError> {
    let socket = bind_tcp(address, SocketFlags::CLOEXEC, Sharing::Alone);
    let socket = socket.and_then(|socket| listen(&socket, LISTEN_BACKLOG).map(|()| socket));
    Ok(socket.map_err(|errno| tcp_error(address, errno))?.into())
}

fn open_tcp(
    (host, port): (&str, u16),
    kind: ListenerKind,
    shards: usize,
    backlog: i32,
) -> Result<Listeners, SystemError> {
    let mut address = resolve(host, port)?;
    let error = |errno| tcp_error(address, errno);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let first = bind_tcp(address, flags, Sharing::Alone).map_err(error)?;
    let bound = getsockname(&first).and_then(SocketAddr::try_from).map_err(error)?;
    if shards > 1 {
        sockopt::set_socket_reuseport(&first, true).map_err(error)?;
    }
    address = bound;
    let error = |errno| tcp_error(address, errno);
    let mut sockets = vec![first];
    for _ in 1..shards {
        sockets.push(bind_tcp(address, flags, Sharing::WithSiblings).map_err(error)?);
    }
    // After all are bound: a connection goes to one of those that listen, and shall find every one of them.
    for socket in &sockets {
        listen(socket, backlog).map_err(error)?;
    }
    let listener = |socket| Listener { socket, address: Some(address), kind };
    Ok(Listeners {
        sockets: sockets.into_iter().map(listener).collect(),
        url: url(kind, address),
        server: (address.ip().to_string(), Some(address.port())),
        _file: None,
    })
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, SystemError> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok((ip, port).into());
    }
    let found = (bare, port)
        .to_socket_addrs()
        .and_then(|mut all| all.next().ok_or_else(|| io::Error::other("it has no address")));
    found.map_err(|error| SystemError::Resolve { host: host.to_owned(), error })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    WithSiblings,
}

fn bind_tcp(address: SocketAddr, flags: SocketFlags, sharing: Sharing) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // Connections of an earlier server in TIME_WAIT do not keep the port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Accepted sockets inherit it.
    sockopt::set_tcp_nodelay(&socket, true)?;
    if sharing == Sharing::WithSiblings {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

/// A UDP socket for each shard, on the port that TCP has; the kernel is told how to choose among them.
pub(super) fn open_datagrams(
    address: SocketAddr,
    shards: usize,
    steering: &[Instruction],
) -> Result<Vec<OwnedFd>, SystemError> {
    let error = |errno| udp_error(address, errno);
    let other = |error| SystemError::ListenUdp { address, error };
    // As with TCP: alone at first, so that nobody is joined unnoticed. Their order is what the kernel counts by.
    let first = bind_udp(address, Sharing::Alone).map_err(error)?;
    if shards > 1 {
        sockopt::set_socket_reuseport(&first, true).map_err(error)?;
    }
    let mut sockets = vec![first];
    for _ in 1..shards {
        sockets.push(bind_udp(address, Sharing::WithSiblings).map_err(error)?);
    }
    for socket in &sockets {
        uring::prepare(socket).map_err(other)?;
    }
    if let Some(first) = sockets.first().filter(|_| shards > 1)
        && let Err(error) = uring::steer(first, steering)
    {
        tracing::info!("datagrams are handed on between shards: {error}");
    }
    Ok(sockets)
}

/// A blocking socket: the uring then waits for room instead of failing.
fn bind_udp(address: SocketAddr, sharing: Sharing) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(ipproto::UDP))?;
    if sharing == Sharing::WithSiblings {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

fn udp_error(address: SocketAddr, errno: Errno) -> SystemError {
    match errno {
        Errno::ADDRINUSE => SystemError::UdpAddressInUse(address),
        errno => SystemError::ListenUdp { address, error: errno.into() },
    }
}

fn tcp_error(address: SocketAddr, errno: Errno) -> SystemError {
    match errno {
        Errno::ADDRINUSE => SystemError::AddressInUse(address),
        Errno::ACCESS | Errno::PERM => SystemError::AddressDenied(address),
        errno => SystemError::Listen { address, error: errno.into() },
    }
}

fn open_unix(
    path: &Path,
    kind: ListenerKind,
    shards: usize,
    backlog: i32,
) -> Result<Listeners, SystemError> {
    let error = |error| SystemError::ListenUnix { path: path.to_owned(), error };
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(error)?;
    let file = SocketFile::new(path).map_err(error)?;
    listener.set_nonblocking(true).map_err(error)?;
    // std listens with a backlog of its own choice; listening again sets ours.
    listen(&listener, backlog).map_err(|errno| error(errno.into()))?;
    let mut sockets = Vec::with_capacity(shards);
    for _ in 0..shards {
        let socket = listener.as_fd().try_clone_to_owned().map_err(error)?;
        sockets.push(Listener { socket, address: None, kind });
    }
    let name = path.to_string_lossy().into_owned();
    Ok(Listeners { sockets, url: format!("unix:{name}"), server: (name, None), _file: Some(file) })
}

/// A server that was killed leaves its socket file behind. It is ours to remove when nobody listens on it.
pub(super) fn remove_stale(path: &Path) -> Result<(), SystemError> {
    let error = |error| SystemError::ListenUnix { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(error(cause)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SystemError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SystemError::SocketInUse(path.to_owned())),
        Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(error)
        }
        Err(cause) => Err(error(cause)),
    }
}

/// The socket file, as long as it is the one that we made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let identity = identity(path)?;
        // The server may change its directory; the path must not change its meaning.
        Ok(Self { path: std::path::absolute(path)?, identity })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::TcpStream};

    use super::*;

    fn tcp(host: &str, port: u16, shards: usize) -> Result<Listeners, SystemError> {
        open(&Bind::Tcp(host.into(), port), ListenerKind::Plain, shards, LISTEN_BACKLOG)
    }

    fn port(listeners: &Listeners) -> u16 {
        listeners.server.1.unwrap()
    }

    fn socket_path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("fasterapi-{name}-{}", std::process::id()))
    }

    #[test]
    fn shards_share_a_port_and_nobody_else_does() {
        for (first_shards, second_shards) in [(1, 1), (1, 2), (2, 1), (3, 3)] {
            let first = tcp("127.0.0.1", 0, first_shards).unwrap();
            let port = port(&first);
            assert_eq!(first.sockets.len(), first_shards);
            let error = tcp("127.0.0.1", port, second_shards).unwrap_err();
            assert!(matches!(error, SystemError::AddressInUse(_)), "{error}");
            let expected = format!("127.0.0.1:{port} is in use by another process");
            assert_eq!(error.to_string(), expected);
            drop(first);
            tcp("127.0.0.1", port, second_shards).unwrap();
        }
    }

    #[test]
    fn connections_reach_every_shard() {
        let listeners = tcp("127.0.0.1", 0, 2).unwrap();
        let address = listeners.sockets[0].address.unwrap();
        let accept = |index: usize| {
            rustix::net::accept(&listeners.sockets[index].socket).map(|_| index).ok()
        };
        let mut clients = Vec::new();
        let mut reached = HashSet::new();
        while reached.len() < 2 {
            assert!(clients.len() < 1000, "only {reached:?} of 1000 connections");
            clients.push(TcpStream::connect(address).unwrap());
            reached.extend([0, 1].into_iter().filter_map(accept));
        }
    }

    #[test]
    fn ipv6_and_names_are_understood() {
        assert!(tcp("localhost", 0, 1).unwrap().url.starts_with("http://"));
        assert!(matches!(tcp("no.such.host.invalid", 0, 1), Err(SystemError::Resolve { .. })));
        assert_eq!(resolve("[::1]", 80).unwrap(), "[::1]:80".parse().unwrap());
        assert_eq!(resolve("::", 80).unwrap(), "[::]:80".parse().unwrap());
        let error = tcp("192.0.2.1", 0, 1).unwrap_err();
        assert!(error.to_string().starts_with("cannot listen on 192.0.2.1:0: "), "{error}");
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_ours_removed_at_the_end() {
        let path = socket_path("stale");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listeners =
            open(&Bind::Unix(path.clone()), ListenerKind::Plain, 2, LISTEN_BACKLOG).unwrap();
        assert_eq!(listeners.sockets.len(), 2);
        UnixStream::connect(&path).unwrap();
        drop(listeners);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_in_use_is_refused() {
        let path = socket_path("used");
        let first =
            open(&Bind::Unix(path.clone()), ListenerKind::Plain, 1, LISTEN_BACKLOG).unwrap();
        let error =
            open(&Bind::Unix(path.clone()), ListenerKind::Plain, 1, LISTEN_BACKLOG).unwrap_err();
        assert!(matches!(error, SystemError::SocketInUse(_)), "{error}");
        // Somebody else's file under our name is not ours to remove.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        drop(first);
        let error =
            open(&Bind::Unix(path.clone()), ListenerKind::Plain, 1, LISTEN_BACKLOG).unwrap_err();
        assert!(matches!(error, SystemError::NotASocket(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
        let error = open(
            &Bind::Unix("/nowhere/at/all.sock".into()),
            ListenerKind::Plain,
            1,
            LISTEN_BACKLOG,
        )
        .unwrap_err();
        assert!(
            error.to_string().starts_with("cannot listen on /nowhere/at/all.sock: "),
            "{error}"
        );
    }

    #[test]
    fn a_socket_that_was_passed_down_is_served_by_every_shard() {
        use std::os::fd::IntoRawFd;

        let made = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = made.local_addr().unwrap();
        let opened = open(&Bind::Inherited(made.into_raw_fd()), ListenerKind::Tls, 2, 1).unwrap();
        assert_eq!((opened.sockets.len(), opened.url), (2, format!("https://{address}")));
        assert_eq!(opened.server, ("127.0.0.1".to_owned(), Some(address.port())));
        assert!(opened.sockets.iter().all(|listener| listener.address == Some(address)));

        let path = socket_path("inherited");
        let made = UnixListener::bind(&path).unwrap();
        let fd = made.into_raw_fd();
        let opened = open(&Bind::Inherited(fd), ListenerKind::Plain, 1, 1).unwrap();
        let name = path.to_string_lossy().into_owned();
        assert_eq!(
            (opened.url.clone(), opened.server.clone()),
            (format!("unix:{name}"), (name, None))
        );
        drop(opened);
        assert!(path.exists(), "whoever made the file removes it");
        fs::remove_file(&path).unwrap();

        let error = open(&Bind::Inherited(0), ListenerKind::Plain, 1, 1).unwrap_err().to_string();
        assert_eq!(error, "--fd 0: that is a standard stream");
    }
}
