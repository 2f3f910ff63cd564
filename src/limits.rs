//! Every bound of the system, in one place, tied together by `const` assertions.
//!
//! Invariant: no queue, buffer or loop in the crate is bounded by a number that is not named here.
//! Configuration may lower or raise a *default*; it never moves a bound that a `const` assertion ties.

use std::time::Duration;

/// Request head: start line, fields and blank line together. RFC 9112 §3 recommends at least 8000 bytes.
pub const HEAD_SIZE_MAX: usize = 32 * 1024;
/// Fields in one request or response head.
pub const HEAD_FIELDS_MAX: usize = 100;
/// The start line alone; longer is answered 414.
pub const START_LINE_SIZE_MAX: usize = 16 * 1024;
/// Trailer section of one chunked body.
pub const TRAILERS_SIZE_MAX: usize = 8 * 1024;
/// Chunk extensions of one body, summed.
pub const CHUNK_EXTENSIONS_SIZE_MAX: usize = 4 * 1024;
/// Request body, unless configured otherwise; larger is answered 413.
pub const BODY_SIZE_MAX: u64 = 32 * 1024 * 1024;

/// Path parameters of one route.
pub const ROUTE_PARAMS_MAX: usize = 16;
/// Routes that a worker may announce.
pub const ROUTES_MAX: usize = 16 * 1024;

/// One direction of a lane: bytes of its ring. A power of two.
pub const RING_SIZE: usize = 256 * 1024;
/// Alignment of a record in a ring, and the size of its header.
pub const RECORD_ALIGN: usize = 16;
/// A record with its header: never more than a quarter of the ring, so that a wrap can always make room.
pub const RECORD_SIZE_MAX: usize = RING_SIZE / 4;
/// Body bytes that ride inside a record; what is longer goes through chunks.
pub const INLINE_BODY_SIZE_MAX: usize = 16 * 1024;
/// One block of a segment's arena.
pub const CHUNK_SIZE: usize = 64 * 1024;
/// Blocks of one arena; pages are committed only when a chunk is first written.
pub const CHUNK_COUNT: usize = 64;
/// Body bytes that one side may send on an exchange before the other gave credit.
pub const EXCHANGE_WINDOW: usize = 4 * CHUNK_SIZE;
/// Records that one drain takes from one lane before the others get their turn.
pub const DRAIN_RECORDS_MAX: usize = 256;

/// Shards of one process.
pub const SHARDS_MAX: usize = 64;
/// Workers of one pool.
pub const WORKERS_MAX: usize = 256;

/// How long a shard or a worker spins for work before it sleeps, where each has a CPU of its own.
pub const SPIN_MAX: Duration = Duration::from_micros(50);
/// Descriptors of one attach message: the worker's doorbell; two segments and the doorbell of each shard.
pub const ATTACH_FDS_MAX: usize = 1 + 3 * SHARDS_MAX;
/// Bytes of one line on a worker's control channel: a manifest of `ROUTES_MAX` long paths, or a traceback.
pub const CONTROL_LINE_SIZE_MAX: usize = 4 * 1024 * 1024;
/// From the start of a worker process until it is ready.
pub const WORKER_START_MAX: Duration = Duration::from_secs(120);
/// Before the first respawn of a worker that failed; doubles with each failure.
pub const RESPAWN_DELAY_MIN: Duration = Duration::from_millis(50);
/// What the doubling ends at.
pub const RESPAWN_DELAY_MAX: Duration = Duration::from_secs(5);
/// After that long, a ready worker's earlier failures are forgotten.
pub const WORKER_HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// From the request to stop until the shards cut off what is in flight.
pub const DRAIN_MAX: Duration = Duration::from_secs(25);
/// From the request to stop until workers are killed: what orchestrators grant by default.
pub const STOP_MAX: Duration = Duration::from_secs(30);
/// For a worker that failed, or that is stopped while it starts, to end by itself.
pub const WORKER_EXIT_MAX: Duration = Duration::from_secs(5);
/// For killed workers to be reaped.
pub const REAP_MAX: Duration = Duration::from_secs(2);

/// Connections that wait to be accepted; the kernel's `net.core.somaxconn` may hold less.
pub const LISTEN_BACKLOG: i32 = 4096;
/// Connections of the admin listener at one time.
pub const ADMIN_CONNECTIONS_MAX: usize = 32;
/// One request head there.
pub const ADMIN_HEAD_SIZE_MAX: usize = 8 * 1024;
/// From accepting one of its connections to closing it.
pub const ADMIN_EXCHANGE_MAX: Duration = Duration::from_secs(5);
/// Batches of access-log lines that wait for a slow file or pipe; more are dropped and counted.
pub const ACCESS_LOG_BATCHES_MAX: usize = 1024;

const _: () = assert!(RING_SIZE.is_power_of_two());
const _: () = assert!(RESPAWN_DELAY_MIN.as_millis() < RESPAWN_DELAY_MAX.as_millis());
const _: () = assert!(DRAIN_MAX.as_millis() < STOP_MAX.as_millis());
// The kernel's SCM_MAX_FD.
const _: () = assert!(ATTACH_FDS_MAX <= 253);
const _: () = assert!(RECORD_SIZE_MAX.is_multiple_of(RECORD_ALIGN));
// A request record: its fixed part and tables (4 KiB), a blob that may hold the target twice (raw and
// decoded), and an inline body must fit one record.
const _: () =
    assert!(4096 + HEAD_SIZE_MAX + INLINE_BODY_SIZE_MAX <= RECORD_SIZE_MAX - RECORD_ALIGN);
// Spans are 16 bits wide.
const _: () = assert!(HEAD_SIZE_MAX <= u16::MAX as usize);
const _: () = assert!(START_LINE_SIZE_MAX < HEAD_SIZE_MAX);
const _: () = assert!(EXCHANGE_WINDOW <= CHUNK_COUNT * CHUNK_SIZE);
