//! The control socket: what an operator on this machine asks of the server, one request to a connection.
//!
//! Invariant: only the server's own user and root are listened to. The socket file has mode 0600 from the moment it exists,
//! whatever the umask, and the peer's credentials are looked at besides. Connections are bounded in number, bytes and time.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{Mode, fchmod},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
    },
    process::geteuid,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{
    error::SystemError,
    listen::{SocketFile, remove_stale},
};
use crate::{
    ctl::protocol::{self, Answer, Request},
    limits::{
        CONTROL_CONNECTIONS_MAX, CONTROL_EXCHANGE_MAX, CONTROL_REQUEST_SIZE_MAX, LISTEN_BACKLOG,
    },
};

/// A request, and where the answer goes.
pub(super) type Asked = (Request, oneshot::Sender<Answer>);

/// A socket that listens, still outside the runtime.
#[derive(Debug)]
pub(super) struct Socket {
    socket: OwnedFd,
    /// Removes the socket file at the end.
    _file: SocketFile,
}

/// Makes the socket, and its folder when that is `/run/fasterapi` or whatever else is ours alone.
pub(super) fn open(path: &Path) -> Result<Socket, SystemError> {
    let error = |error| SystemError::ListenUnix { path: path.to_owned(), error };
    remove_stale(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let made =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).and_then(|socket| {
            // unix(7): bind(2) makes the file with the socket's own mode, less the umask.
            fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            bind(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(socket)
        });
    let socket = made.map_err(|errno| error(errno.into()))?;
    let file = SocketFile::new(path).map_err(error)?;
    listen(&socket, LISTEN_BACKLOG).map_err(|errno| error(errno.into()))?;
    Ok(Socket { socket, _file: file })
}

/// A folder that holds nothing but control sockets: ours alone, or made so.
pub(super) fn make_private_dir(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(dir)?;
            let ours = found.is_dir() && found.uid() == geteuid().as_raw();
            if ours && found.mode() & 0o022 == 0 {
                return Ok(());
            }
            Err(io::Error::other("somebody else may write there"))
        }
        made => made,
    }
}

/// Accepts until it is dropped.
pub(super) async fn serve(socket: Socket, asked: mpsc::Sender<Asked>) {
    let listener = match UnixListener::from_std(socket.socket.into()) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("control socket: {error}"),
    };
    let permits = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let asked = asked.clone();
                tokio_uring::spawn(async move {
                    if let Err(error) = exchange(stream, &asked).await {
                        tracing::debug!("control socket: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("control socket: {error}");
                // Out of descriptors, most likely; one of our own may come free.
                tokio::time::sleep(CONTROL_EXCHANGE_MAX / 10).await;
            }
        }
    }
}

async fn exchange(mut stream: UnixStream, asked: &mpsc::Sender<Asked>) -> io::Result<()> {
    let peer = sockopt::socket_peercred(&stream)?.uid;
    let answer = if peer == geteuid() || peer.is_root() {
        match timeout(CONTROL_EXCHANGE_MAX, read_line(&mut stream)).await?? {
            Some(line) => respond(&line, asked).await,
            None => Answer::error("the request is too long"),
        }
    } else {
        tracing::warn!("control socket: user {} was refused", peer.as_raw());
        Answer::error("this server belongs to another user")
    };
    timeout(CONTROL_EXCHANGE_MAX, stream.write_all(&protocol::line(&answer))).await??;
    stream.shutdown().await
}

/// `None`: longer than a request may be.
async fn read_line(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut limited = stream.take(CONTROL_REQUEST_SIZE_MAX as u64);
    let mut buffer = [0; 512];
    loop {
        let count = limited.read(&mut buffer).await?;
        let read = buffer.get(..count).unwrap_or_default();
        if let Some(end) = memchr::memchr(b'\n', read) {
            line.extend_from_slice(read.get(..end).unwrap_or_default());
            return Ok(Some(line));
        }
        line.extend_from_slice(read);
        if count == 0 {
            let over = line.len() >= CONTROL_REQUEST_SIZE_MAX;
            return if over { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
}

/// A client that goes away while it waits is told in vain: what it waits for ends in a bounded time.
async fn respond(line: &[u8], asked: &mpsc::Sender<Asked>) -> Answer {
    let request = match protocol::parse(line) {
        Ok(request) => request,
        Err(error) => return Answer::error(format!("not a request: {error}")),
    };
    let (reply, answer) = oneshot::channel();
    let ended = || Answer::error("the server is stopping");
    if asked.send((request, reply)).await.is_err() {
        return ended();
    }
    answer.await.unwrap_or_else(|_| ended())
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt, net::UnixListener};

    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("fasterapi-{name}-{}", std::process::id()))
    }

    #[test]
    fn the_file_is_private_whatever_the_umask_and_goes_with_the_socket() {
        let path = scratch("private.sock");
        drop(UnixListener::bind(&path).unwrap());
        let lax = rustix::process::umask(Mode::empty());
        let made = open(&path);
        rustix::process::umask(lax);
        let socket = made.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let error = open(&path).unwrap_err();
        assert!(matches!(error, SystemError::SocketInUse(_)), "{error}");
        drop(socket);
        assert!(!path.exists());
        let error = open(Path::new("/nowhere/at/all.sock")).unwrap_err().to_string();
        assert!(error.starts_with("cannot listen on /nowhere/at/all.sock: "), "{error}");
    }

    #[test]
    fn a_folder_that_others_may_write_is_not_used() {
        let dir = scratch("private.d");
        make_private_dir(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        make_private_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(make_private_dir(&dir).is_err());
        fs::remove_dir(&dir).unwrap();
        std::os::unix::fs::symlink("/tmp", &dir).unwrap();
        assert!(make_private_dir(&dir).is_err());
        fs::remove_file(&dir).unwrap();
        assert!(make_private_dir(Path::new("/nowhere/at/all")).is_err());
    }
}
