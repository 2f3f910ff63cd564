//! Watches the application's files while it is developed (`--reload`): inotify(7) below each directory.
//!
//! Invariant: a directory is watched from before it is listed, so that no file in it is missed between the two. Changes that
//! come close together are one; a queue that overflowed is a change. Deliberately absent: what a change leads to.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use glob::{MatchOptions, Pattern};
use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_uring::fs::File;

use crate::{
    config,
    limits::{WATCH_SETTLE, WATCH_SETTLE_MAX, WATCHED_DIRECTORIES_MAX},
};

/// `struct inotify_event` up to its name: wd, mask, cookie, length of the name.
const EVENT_HEAD_SIZE: usize = 16;
/// Holds several events of the longest names.
const READ_SIZE: usize = 16 * 1024;
const MASK_IS_DIR: u32 = 0x4000_0000;
const MASK_OVERFLOW: u32 = 0x4000;
const MASK_IGNORED: u32 = 0x8000;
/// A file as such, or whatever a rename brought or took. What is only created is not written yet.
const MASK_CHANGED: u32 = 0x8 | 0x40 | 0x80 | 0x200;
const MASK_CREATED: u32 = 0x100;

/// Directories that are watched, still outside the runtime.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: OwnedFd,
    filter: Filter,
    /// By watch descriptor: which directory, below which root.
    dirs: HashMap<i32, (PathBuf, usize)>,
    roots: Vec<PathBuf>,
    full: bool,
}

/// Which files count.
#[derive(Debug)]
struct Filter {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

/// Begins to watch.
pub(super) fn open(options: &config::Watch) -> io::Result<Watch> {
    // Blocking: in the runtime the waiting is the kernel's.
    let inotify = inotify::init(CreateFlags::CLOEXEC)?;
    let filter = Filter { include: options.include.clone(), exclude: options.exclude.clone() };
    let roots = options.dirs.clone();
    let mut watch = Watch { inotify, filter, dirs: HashMap::new(), roots, full: false };
    for root in 0..watch.roots.len() {
        let Some(dir) = watch.roots.get(root).cloned() else { continue };
        watch.add(&dir, root, &mut BTreeSet::new());
    }
    tracing::debug!("watching {} directories", watch.dirs.len());
    Ok(watch)
}

impl Watch {
    /// Tells of changes until nobody listens. Inside the runtime.
    pub(super) fn start(self, changes: mpsc::Sender<Vec<PathBuf>>) {
        let (batches, events) = mpsc::channel(1);
        match self.inotify.try_clone() {
            Ok(inotify) => tokio_uring::spawn(read(inotify, batches)),
            Err(error) => return tracing::error!("files are not watched: {error}"),
        };
        tokio_uring::spawn(self.settle(events, changes));
    }

    /// Waits for a change, and then until things are quiet.
    async fn settle(
        mut self,
        mut events: mpsc::Receiver<Vec<u8>>,
        changes: mpsc::Sender<Vec<PathBuf>>,
    ) {
        while let Some(batch) = events.recv().await {
            let mut changed = BTreeSet::new();
            self.handle(&batch, &mut changed);
            if changed.is_empty() {
                continue;
            }
            let quiet = async {
                while let Ok(Some(batch)) = timeout(WATCH_SETTLE, events.recv()).await {
                    // Excluded files do not keep the others waiting.
                    self.handle(&batch, &mut changed);
                }
            };
            // Over: they keep changing.
            let _ = timeout(WATCH_SETTLE_MAX, quiet).await;
            if changes.send(changed.into_iter().collect()).await.is_err() {
                return;
            }
        }
    }

    fn handle(&mut self, mut batch: &[u8], changed: &mut BTreeSet<PathBuf>) {
        while let Some((event, rest)) = Event::parse(batch) {
            batch = rest;
            if event.mask & MASK_OVERFLOW != 0 {
                changed.extend(self.roots.iter().cloned());
            } else if event.mask & MASK_IGNORED != 0 {
                self.dirs.remove(&event.wd);
            } else if let Some((dir, root)) = self.dirs.get(&event.wd) {
                let (path, root) = (dir.join(event.name), *root);
                let is_dir = event.mask & MASK_IS_DIR != 0;
                if is_dir && event.mask & (MASK_CREATED | MASK_CHANGED) != 0 {
                    // New, or renamed into place: with files that may have been there before the watch.
                    self.add(&path, root, changed);
                } else if event.mask & MASK_CHANGED != 0 || is_link(&path) {
                    self.note(path, root, changed);
                }
            }
        }
    }

    /// Watches a directory and all below it; files that are found count as changed.
    fn add(&mut self, dir: &Path, root: usize, found: &mut BTreeSet<PathBuf>) {
        let mut pending = vec![dir.to_owned()];
        while let Some(dir) = pending.pop() {
            if self.is_excluded(&dir, root) || !self.watch(&dir, root) {
                continue;
            }
            // One that went away meanwhile has nothing to be seen.
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            for entry in entries.flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                    Ok(_) => self.note(entry.path(), root, found),
                    Err(_) => {}
                }
            }
        }
    }

    /// False when it cannot be watched.
    fn watch(&mut self, dir: &Path, root: usize) -> bool {
        if self.dirs.len() >= WATCHED_DIRECTORIES_MAX {
            if !std::mem::replace(&mut self.full, true) {
                tracing::warn!(
                    "only {WATCHED_DIRECTORIES_MAX} directories are watched; exclude some"
                );
            }
            return false;
        }
        let what = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW
            | WatchFlags::EXCL_UNLINK;
        match inotify::add_watch(&self.inotify, dir, what) {
            Ok(wd) => {
                self.dirs.insert(wd, (dir.to_owned(), root));
                true
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => false,
            Err(error) => {
                let hint =
                    if error == Errno::NOSPC { " (fs.inotify.max_user_watches)" } else { "" };
                tracing::warn!("{} is not watched: {error}{hint}", dir.display());
                false
            }
        }
    }

    fn note(&self, path: PathBuf, root: usize, changed: &mut BTreeSet<PathBuf>) {
        if !self.is_excluded(&path, root)
            && self.relative(&path, root).is_some_and(|below| matches(&self.filter.include, below))
        {
            changed.insert(path);
        }
    }

    /// It, or something between it and its root.
    fn is_excluded(&self, path: &Path, root: usize) -> bool {
        let Some(below) = self.relative(path, root) else { return false };
        below
            .ancestors()
            .filter(|part| !part.as_os_str().is_empty())
            .any(|part| matches(&self.filter.exclude, part))
    }

    fn relative<'a>(&self, path: &'a Path, root: usize) -> Option<&'a Path> {
        path.strip_prefix(self.roots.get(root)?).ok()
    }
}

/// A pattern with a slash is compared with the whole path, any other one with the name.
fn matches(patterns: &[Pattern], path: &Path) -> bool {
    const OPTIONS: MatchOptions = MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: false,
    };
    let name = path.file_name().map(Path::new).unwrap_or(path);
    patterns.iter().any(|pattern| {
        let of = if pattern.as_str().contains('/') { path } else { name };
        pattern.matches_path_with(of, OPTIONS)
    })
}

/// A link is created and never written.
fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_symlink())
}

struct Event<'a> {
    wd: i32,
    mask: u32,
    name: &'a OsStr,
}

impl<'a> Event<'a> {
    /// The first event of those that a read brought, and the rest.
    fn parse(batch: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = batch.split_at_checked(EVENT_HEAD_SIZE)?;
        let word = |at: usize| Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let (name, rest) = rest.split_at_checked(word(12)? as usize)?;
        // Padded with zeros.
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Some((
            Self { wd: word(0)?.cast_signed(), mask: word(4)?, name: OsStr::from_bytes(name) },
            rest,
        ))
    }
}

/// Passes on what the kernel says, for as long as somebody takes it.
async fn read(inotify: OwnedFd, batches: mpsc::Sender<Vec<u8>>) {
    let file = File::from_std(inotify.into());
    loop {
        let (read, mut buffer) = file.read_at(Vec::with_capacity(READ_SIZE), 0).await;
        match read {
            Ok(count) => buffer.truncate(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return tracing::error!("files are not watched any more: {error}"),
        }
        if batches.send(buffer).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::new(text).unwrap()).collect()
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("fasterapi-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn options(dir: &Path) -> config::Watch {
        config::Watch {
            dirs: vec![dir.to_owned()],
            include: patterns(&["*.py", "conf/*.toml"]),
            exclude: patterns(&[".*", "__pycache__", "build/out"]),
        }
    }

    /// Each step, and the change that it makes.
    fn changes(dir: &Path, steps: &[(&dyn Fn(), Option<&str>)]) {
        let watch = open(&options(dir)).unwrap();
        tokio_uring::start(async {
            let (change, mut changed) = mpsc::channel(1);
            watch.start(change);
            for (index, (step, expected)) in steps.iter().enumerate() {
                step();
                let Some(expected) = expected else { continue };
                let got = timeout(Duration::from_secs(20), changed.recv()).await;
                let got = got.unwrap_or_else(|_| panic!("step {index}")).unwrap();
                assert_eq!(got, [dir.join(expected)], "step {index}");
            }
        });
    }

    #[test]
    fn every_way_to_save_a_file_is_one_change() {
        let dir = scratch("watch");
        fs::create_dir_all(dir.join("build/out")).unwrap();
        let write = |name: &str| fs::write(dir.join(name), "x").unwrap();
        let rename = |from: &str, to: &str| fs::rename(dir.join(from), dir.join(to)).unwrap();
        changes(
            &dir,
            &[
                (&|| write("main.py"), Some("main.py")),
                // What does not count makes no change: the next one tells.
                (&|| write("notes.txt"), None),
                (&|| write(".hidden.py"), None),
                (&|| write("build/out/made.py"), None),
                (&|| write("main.py"), Some("main.py")),
                // As editors save: a new file takes the name.
                (&|| write("main.py.tmp"), None),
                (&|| rename("main.py.tmp", "main.py"), Some("main.py")),
                // A directory that was made a moment before its file.
                (&|| fs::create_dir_all(dir.join("a/b")).unwrap(), None),
                (&|| write("a/b/deep.py"), Some("a/b/deep.py")),
                (&|| fs::create_dir(dir.join("__pycache__")).unwrap(), None),
                (&|| write("__pycache__/x.py"), None),
                (&|| fs::create_dir(dir.join("conf")).unwrap(), None),
                (&|| write("conf/x.toml"), Some("conf/x.toml")),
                (&|| rename("a", "c"), Some("c/b/deep.py")),
                (&|| fs::remove_file(dir.join("c/b/deep.py")).unwrap(), Some("c/b/deep.py")),
                (
                    &|| {
                        std::os::unix::fs::symlink(dir.join("main.py"), dir.join("link.py"))
                            .unwrap();
                    },
                    Some("link.py"),
                ),
            ],
        );
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_the_kernel_says_is_read_whole_or_not_at_all() {
        let mut batch = Vec::new();
        for (wd, name) in [(1_i32, "a.py"), (2, "")] {
            let padded = name.len().next_multiple_of(16);
            batch.extend_from_slice(&wd.to_ne_bytes());
            batch.extend_from_slice(&8_u32.to_ne_bytes());
            batch.extend_from_slice(&0_u32.to_ne_bytes());
            batch.extend_from_slice(&u32::try_from(padded).unwrap().to_ne_bytes());
            batch.extend_from_slice(name.as_bytes());
            batch.resize(batch.len() + padded - name.len(), 0);
        }
        let (first, rest) = Event::parse(&batch).unwrap();
        assert_eq!((first.wd, first.mask, first.name.to_str()), (1, 8, Some("a.py")));
        let (second, rest) = Event::parse(rest).unwrap();
        assert_eq!((second.wd, second.name.to_str()), (2, Some("")));
        assert!(rest.is_empty() && Event::parse(rest).is_none());
        for cut in 1..32 {
            assert!(Event::parse(&batch[..cut]).is_none(), "{cut}");
        }
    }
}
