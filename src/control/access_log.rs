//! Access-log lines on their way to a file or to stdout.
//!
//! Invariant: a slow or failing destination delays nobody: at most `ACCESS_LOG_BATCHES_MAX` batches wait for it, the rest is
//! dropped, counted and reported. Whole batches are written, in order.

use std::{
    fs::OpenOptions,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
};
use tokio_uring::{buf::BoundedBuf, fs::File};

use super::error::SystemError;
use crate::{config, limits::ACCESS_LOG_BATCHES_MAX};

/// "Where the file stands": right for files opened to append, for pipes, and for a stdout shared with others.
const CURRENT_POSITION: u64 = u64::MAX;

enum Job {
    Write(Vec<u8>),
    Reopen,
}

/// The way in.
pub(super) struct AccessLog {
    jobs: mpsc::Sender<Job>,
    writer: JoinHandle<()>,
    dropped: u64,
}

/// An open destination, still outside the runtime.
#[derive(Debug)]
pub(super) struct Destination {
    file: std::fs::File,
    /// To open it again by; `None`: stdout.
    path: Option<PathBuf>,
}

impl Destination {
    /// `None` when there is to be no access log.
    pub(super) fn open(to: &config::AccessLog) -> Result<Option<Self>, SystemError> {
        let (file, path) = match to {
            config::AccessLog::Off => return Ok(None),
            config::AccessLog::Stdout => {
                let fd = io::stdout().as_fd().try_clone_to_owned();
                (fd.map(std::fs::File::from), None)
            }
            config::AccessLog::File(path) => (open_file(path), Some(path.clone())),
        };
        let named = || path.clone().unwrap_or_else(|| "stdout".into());
        let file = file.map_err(|error| SystemError::AccessLog { path: named(), error })?;
        Ok(Some(Self { file, path }))
    }
}

fn open_file(path: &Path) -> io::Result<std::fs::File> {
    OpenOptions::new().append(true).create(true).open(path)
}

impl AccessLog {
    /// Starts writing. Inside the runtime.
    pub(super) fn start(to: Destination) -> Self {
        let (jobs, queue) = mpsc::channel(ACCESS_LOG_BATCHES_MAX);
        Self { jobs, writer: tokio_uring::spawn(write(to, queue)), dropped: 0 }
    }

    /// Takes lines, or drops them.
    pub(super) fn put(&mut self, lines: Vec<u8>) {
        match self.jobs.try_send(Job::Write(lines)) {
            Ok(()) => {
                if self.dropped > 0 {
                    tracing::warn!("access log: {} batches were dropped", self.dropped);
                    self.dropped = 0;
                }
            }
            Err(TrySendError::Full(_)) => {
                if self.dropped == 0 {
                    tracing::warn!("access log: the destination is too slow, dropping lines");
                }
                self.dropped += 1;
            }
            Err(TrySendError::Closed(_)) => unreachable!("the writer ends after its sender"),
        }
    }

    /// Opens the file again under its name, which log rotation gave to a new file.
    pub(super) fn reopen(&self) {
        // A queue that is full is reported by `put`; the operator can send the signal again.
        let _ = self.jobs.try_send(Job::Reopen);
    }

    /// Writes what is queued, for at most that long.
    pub(super) async fn finish(self, at_most: Duration) {
        drop(self.jobs);
        if tokio::time::timeout(at_most, self.writer).await.is_err() {
            tracing::warn!("access log: the destination is too slow, the last lines are lost");
        }
    }
}

async fn write(to: Destination, mut queue: mpsc::Receiver<Job>) {
    let mut file = File::from_std(to.file);
    let mut failed = 0_u64;
    while let Some(job) = queue.recv().await {
        match job {
            Job::Write(lines) => match write_all(&file, lines).await {
                Ok(()) if failed > 0 => {
                    tracing::warn!("access log: writing again, {failed} batches were lost");
                    failed = 0;
                }
                Ok(()) => {}
                Err(error) => {
                    if failed == 0 {
                        tracing::error!("access log: {error}; lines are lost");
                    }
                    failed += 1;
                }
            },
            Job::Reopen => {
                let Some(path) = &to.path else { continue };
                match open_file(path) {
                    Ok(reopened) => {
                        let old = std::mem::replace(&mut file, File::from_std(reopened));
                        // Everything that was written to it is with the kernel already.
                        let _ = old.close().await;
                        tracing::info!("access log: reopened {}", path.display());
                    }
                    Err(error) => {
                        tracing::error!("access log: cannot reopen {}: {error}", path.display());
                    }
                }
            }
        }
    }
    // As above.
    let _ = file.close().await;
}

async fn write_all(file: &File, mut lines: Vec<u8>) -> io::Result<()> {
    let mut done = 0;
    while done < lines.len() {
        let (written, rest) = file.write_at(lines.slice(done..), CURRENT_POSITION).submit().await;
        lines = rest.into_inner();
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_are_appended_and_a_rotated_file_is_left_alone() {
        let path = std::env::temp_dir().join(format!("fasterapi-access-{}", std::process::id()));
        let rotated = path.with_extension("1");
        fs::write(&path, "before\n").unwrap();
        let to = Destination::open(&config::AccessLog::File(path.clone())).unwrap().unwrap();
        tokio_uring::start(async {
            let mut log = AccessLog::start(to);
            log.put(b"one\n".to_vec());
            log.put(vec![b'x'; 1 << 20]);
            log.put(b"\ntwo\n".to_vec());
            log.finish(Duration::from_secs(10)).await;
        });
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("before\none\nxxx") && text.ends_with("x\ntwo\n"));
        assert_eq!(text.len(), 7 + 4 + (1 << 20) + 5);

        let to = Destination::open(&config::AccessLog::File(path.clone())).unwrap().unwrap();
        fs::rename(&path, &rotated).unwrap();
        tokio_uring::start(async {
            let mut log = AccessLog::start(to);
            log.put(b"old\n".to_vec());
            log.reopen();
            log.put(b"new\n".to_vec());
            log.finish(Duration::from_secs(10)).await;
        });
        assert!(fs::read_to_string(&rotated).unwrap().ends_with("two\nold\n"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        fs::remove_file(path).unwrap();
        fs::remove_file(rotated).unwrap();
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let to = config::AccessLog::File("/dev/full".into());
        let to = Destination::open(&to).unwrap().unwrap();
        tokio_uring::start(async {
            let mut log = AccessLog::start(to);
            (0..3).for_each(|_| log.put(b"line\n".to_vec()));
            log.finish(Duration::from_secs(10)).await;
        });
    }

    #[test]
    fn a_destination_that_cannot_be_opened_is_named() {
        let to = config::AccessLog::File("/nowhere/access.log".into());
        let error = Destination::open(&to).unwrap_err().to_string();
        assert!(error.starts_with("cannot open the access log /nowhere/access.log: "), "{error}");
        assert!(Destination::open(&config::AccessLog::Off).unwrap().is_none());
    }
}
