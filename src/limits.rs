//! Every bound of the system, in one place, tied together by `const` assertions.
//!
//! Invariant: no queue, buffer or loop in the crate is bounded by a number that is not named here.
//! Configuration may lower or raise a *default*; it never moves a bound that a `const` assertion ties.

/// Request head: start line, fields and blank line together. RFC 9112 §3 recommends at least 8000 bytes.
pub const HEAD_SIZE_MAX: usize = 32 * 1024;
/// Fields in one request or response head.
pub const HEAD_FIELDS_MAX: usize = 100;
/// The start line alone; longer is answered 414. RFC 9112 §3 recommends at least 8000 bytes; every protocol version
/// holds its targets to it, because a request record carries the target twice.
pub const START_LINE_SIZE_MAX: usize = 8 * 1024;
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

const _: () = assert!(RING_SIZE.is_power_of_two());
const _: () = assert!(RECORD_SIZE_MAX.is_multiple_of(RECORD_ALIGN));
// A request record: its fixed part and tables (4 KiB), a blob that holds the head and the target once more (raw and
// decoded), and an inline body must fit one record.
const _: () = assert!(
    4096 + HEAD_SIZE_MAX + START_LINE_SIZE_MAX + INLINE_BODY_SIZE_MAX
        <= RECORD_SIZE_MAX - RECORD_ALIGN
);
// Spans are 16 bits wide.
const _: () = assert!(HEAD_SIZE_MAX + START_LINE_SIZE_MAX <= u16::MAX as usize);
const _: () = assert!(START_LINE_SIZE_MAX < HEAD_SIZE_MAX);
const _: () = assert!(EXCHANGE_WINDOW <= CHUNK_COUNT * CHUNK_SIZE);
