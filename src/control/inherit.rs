//! A listening socket that this process was started with: by systemd, by a supervisor, by the server that it takes over from.
//!
//! Invariant: it is taken once, before this process opens anything that could have its number, and is close-on-exec from then
//! on, so that no worker has it.
#![expect(unsafe_code, reason = "a descriptor by its number is nobody's until somebody says so")]

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use rustix::{
    io::{FdFlags, fcntl_getfd, fcntl_setfd},
    net::sockopt,
};

/// The first that is not one of the standard streams.
const FIRST: RawFd = 3;

/// Takes it over.
pub(super) fn take(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < FIRST {
        return Err(io::Error::other("that is a standard stream"));
    }
    if !std::fs::exists(format!("/proc/self/fd/{fd}"))? {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: It is open, and nothing in this process owns it: `control::run` comes here before it opens anything, for the one
    // number that the operator gave.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl_setfd(&socket, fcntl_getfd(&socket)? | FdFlags::CLOEXEC)?;
    // ENOTSOCK of what is no socket at all.
    if !sockopt::socket_acceptconn(&socket)? {
        return Err(io::Error::other("a socket that does not listen"));
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::IntoRawFd};

    use super::*;

    #[test]
    fn only_a_listening_socket_is_taken() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let taken = TcpListener::from(take(socket.into_raw_fd()).unwrap());
        assert_eq!(taken.local_addr().unwrap(), address);

        let file = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let client = std::net::TcpStream::connect(address).unwrap().into_raw_fd();
        for fd in [file, client, 2, 1 << 20] {
            assert!(take(fd).is_err(), "{fd}");
        }
    }
}
