//! Every bound of the system, in one place, tied together by `const` assertions.
//!
//! Invariant: no queue, buffer or loop in the crate is bounded by a number that is not named here.
//! Configuration may lower or raise a *default*; it never moves a bound that a `const` assertion ties.

use std::time::Duration;

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

/// Empty lines tolerated before a request line; RFC 9112 §2.2 asks for at least one.
pub const LEADING_EMPTY_LINES_MAX: usize = 4;
/// Hexadecimal digits of one chunk size: as many as fit a `u64`.
pub const CHUNK_SIZE_DIGITS_MAX: u8 = 16;
/// A head or a body that arrives slower than this, once the grace is over, is answered 408.
pub const RATE_MIN_BYTES_PER_S: u64 = 1024;
/// How long a transfer may be slower than [`RATE_MIN_BYTES_PER_S`].
pub const RATE_GRACE_MS: u64 = 10_000;
/// A request's head must be complete this long after its first byte; 408 otherwise.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest pause inside a request's body; 408 otherwise. (The minimum rate comes on top.)
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection without a request is closed after this.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// From a complete head to the end of the response, unless configured otherwise: none. It bounds streams and long
/// downloads too, and how long those are meant to last is known to the application alone.
pub const REQUEST_TIMEOUT: Duration = NEVER;
/// Exchanges that one worker has at one time, over all shards, unless configured otherwise; what gunicorn gives an
/// asynchronous worker.
pub const INFLIGHT_MAX: u32 = 1000;
/// Requests of all shards that wait for a worker, unless configured otherwise; more are answered 503.
pub const QUEUE_MAX: usize = 1024;
/// How long one of them waits, unless configured otherwise, before it is answered 503. Long enough for a lone worker that
/// died to be replaced, [`RESPAWN_DELAY_MAX`] included.
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a shard looks whether other shards' exchanges have made room for what waits: nobody tells it.
pub const QUEUE_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// A worker that holds an overdue exchange and takes nothing out of its ring for this long, unless configured otherwise,
/// has a stuck event loop.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);
/// A request of this size or less is kept to be repeated when its place in the ring is about to be written again.
pub const REPEATABLE_SIZE_MAX: usize = 8 * 1024;
/// "No limit", as a time that can be added to any other.
pub const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// A send that is not taken is given up after this and the time that its bytes take at [`RATE_MIN_BYTES_PER_S`].
pub const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long input is dropped behind the last response, so that the client gets to read it.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Received bytes of one connection that are dropped because nothing more of it is read; then receiving stops. Enough for a client that
/// sends all of a short upload before it looks for the answer.
pub const LINGER_SIZE_MAX: usize = 1024 * 1024;
/// Deadlines are looked at this often; every timeout may be late by as much.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// Received bytes of one connection that wait for an earlier exchange or for the worker; then receiving stops.
pub const INPUT_SIZE_MAX: usize = 64 * 1024;
/// While more than this is unsent, no further pipelined request is taken.
pub const UNSENT_SIZE_MAX: usize = 64 * 1024;
/// A body that nobody wants is read to its end, and the connection kept, up to this length.
pub const DISCARD_SIZE_MAX: u64 = 64 * 1024;
/// Buffers that a shard keeps for reuse, and the largest that it keeps.
pub const SPARE_BUFFERS_MAX: usize = 256;
/// See [`SPARE_BUFFERS_MAX`].
pub const SPARE_BUFFER_SIZE_MAX: usize = 64 * 1024;

/// One WebSocket message, inflated, unless configured otherwise; larger ends the WebSocket with 1009.
pub const WS_MESSAGE_SIZE_MAX: u64 = 16 * 1024 * 1024;
/// The largest piece in which a WebSocket message is handed on.
pub const WS_PIECE_SIZE_MAX: usize = CHUNK_SIZE;
/// The body of a Ping, Pong or Close; RFC 6455 §5.5.
pub const WS_CONTROL_SIZE_MAX: usize = 125;
/// Pongs that wait to be sent; of more, the latest (RFC 6455 §5.5.3 asks for no more than one).
pub const WS_PONGS_MAX: usize = 8;
/// From one Ping to the next, unless configured otherwise.
pub const WS_PING_INTERVAL: Duration = Duration::from_secs(20);
/// A client that is silent for so long after a Ping is given up, unless configured otherwise.
pub const WS_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the edge's Close waits for the client's.
pub const WS_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// A shorter WebSocket message is not compressed: what it saves does not pay for it.
pub const WS_DEFLATE_SIZE_MIN: usize = 128;
/// How hard WebSocket messages are compressed, 0-9.
pub const WS_DEFLATE_LEVEL: i32 = 1;
/// Compressors, and decompressors, that a shard keeps for messages to come.
pub const WS_SPARE_CODERS_MAX: usize = 16;
/// Plaintext of one TLS record (RFC 8446 §5.1); larger writes become several.
pub const TLS_PLAINTEXT_SIZE_MAX: usize = 16 * 1024;
/// The length that the header of a TLS record may announce (RFC 5246 §6.2.3; TLS 1.3 allows less). An incomplete record
/// waits up to this size.
pub const TLS_CIPHERTEXT_SIZE_MAX: usize = TLS_PLAINTEXT_SIZE_MAX + 2048;
/// The key that encrypts session tickets is replaced after this; its tickets are taken for as long again.
pub const TLS_TICKET_KEY_LIFETIME: Duration = Duration::from_secs(8 * 60 * 60);
/// Shorter RSA keys are refused: NIST SP 800-131A, and browsers.
pub const TLS_RSA_KEY_BITS_MIN: u32 = 2048;
/// A TLS handshake must be over this long after the connection was accepted, unless configured otherwise.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// TLS handshakes in progress, unless configured otherwise; for one more the oldest is closed.
pub const HANDSHAKES_MAX: usize = 1024;
/// The certificate files are looked at this often.
pub const CERTIFICATE_WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// How long browsers keep to TLS after `--hsts` without a number: what their preload list asks for, two years.
pub const HSTS_MAX_AGE_S: u64 = 63_072_000;
/// How long a certificate made by `--tls-dev` is valid.
pub const TLS_DEV_VALIDITY: Duration = Duration::from_secs(30 * 24 * 60 * 60);

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
/// The fixed part of a request record with its tables of fields and path parameters.
pub const RECORD_TABLES_SIZE_MAX: usize = 1024;
/// What a request record says of the client's certificate; issuers that the client sent along and that do not fit are left out.
pub const CLIENT_CERTIFICATE_SIZE_MAX: usize = 6 * 1024;
/// Body bytes that ride inside a record; what is longer goes through chunks.
pub const INLINE_BODY_SIZE_MAX: usize = 16 * 1024;
/// One block of a segment's arena.
pub const CHUNK_SIZE: usize = 64 * 1024;
/// Blocks of one arena; pages are committed only when a chunk is first written.
pub const CHUNK_COUNT: usize = 64;
/// Body bytes that one side may send on an exchange before the other gave credit.
pub const EXCHANGE_WINDOW: usize = 4 * CHUNK_SIZE;
/// Bytes of one response that a handler may have queued in its worker before its next write waits.
pub const OUTPUT_QUEUED_MAX: usize = CHUNK_SIZE;
/// Records that one drain takes from one lane before the others get their turn.
pub const DRAIN_RECORDS_MAX: usize = 256;

/// Shards of one process.
pub const SHARDS_MAX: usize = 64;
/// Threads of one worker that run a WSGI application.
pub const WSGI_THREADS_MAX: i64 = 256;
/// Workers of one pool.
pub const WORKERS_MAX: usize = 256;

/// Calls that one executor holds at one time, begun or not, unless configured otherwise; more are refused.
pub const CALLS_MAX: usize = 64 * 1024;
/// The arguments of one call, or its result, unless configured otherwise.
pub const CALL_SIZE_MAX: usize = 256 * 1024 * 1024;
/// The names of module and function together; they travel where a request's path does.
pub const CALL_NAME_SIZE_MAX: usize = START_LINE_SIZE_MAX;

/// While the streams of a connection hold more of their responses than this, none of its further requests is begun.
pub const STREAMS_UNSENT_MAX: usize = 2 * EXCHANGE_WINDOW;
/// The windows of all responses of one connection with many streams: each new one gets a quarter of what is left of this...
pub const STREAMS_WINDOW: usize = 4 * EXCHANGE_WINDOW;
/// ...but not less than [`EXCHANGE_WINDOW`] halved so many times. What it gets beyond that comes as its client reads.
pub const WINDOW_HALVINGS_MAX: u8 = 6;
/// A connection that has so many requests begun gets no more of them begun while more than half of what the workers may have is
/// under way: a client that does not read must not have all of it.
pub const STREAMS_SHARE: usize = 32;
/// Events of one connection with many streams that are served before other connections get their turn.
pub const STREAM_EVENTS_MAX: usize = 64;
/// HTTP/2: requests of one connection at one time (RFC 9113 §5.1.2).
pub const H2_STREAMS_MAX: u32 = 128;
/// Request-body bytes that one HTTP/2 connection may send at one time, over all its streams. Each stream's own window is
/// [`EXCHANGE_WINDOW`].
pub const H2_CONNECTION_WINDOW: usize = 4 * EXCHANGE_WINDOW;
/// The same, when workers leave so much lying that other streams of the connection could not send any more.
pub const H2_CONNECTION_WINDOW_MAX: usize = 32 * EXCHANGE_WINDOW;
/// Received bytes that an HTTP/2 engine takes at a time. So few that frames of one byte are given on before the library
/// holds them against the client.
pub const H2_INPUT_SIZE_MAX: usize = 16 * 1024;
/// While more than this is encoded and not sent, no response body is taken and no frame is read.
pub const H2_UNSENT_SIZE_MAX: usize = 256 * 1024;
/// Response-body bytes that one stream may put into a connection's output while others wait.
pub const H2_QUANTUM: usize = 16 * 1024;
/// Streams that the client reset before the engine saw them, at one time.
pub const H2_UNSEEN_RESETS_MAX: usize = 20;
/// Streams that were reset by us and may still be sent to.
pub const H2_ECHOES_MAX: usize = 20;
/// Streams that the client had us reset by breaking a rule, over the life of one connection.
pub const H2_FORCED_RESETS_MAX: usize = 256;
/// Requests that the client let be begun and then cancelled, in a row...
pub const H2_CANCELLED_MAX: u64 = 200;
/// ...and how many of them are forgiven in a second.
pub const H2_CANCELLED_PER_S: u64 = 20;
/// Frames that are neither a request nor part of a body, in a row. Requests and bodies earn more of them.
pub const H2_CONTROL_FRAMES_MAX: u64 = 10_000;
/// How many of them are forgiven in a second.
pub const H2_CONTROL_FRAMES_PER_S: u64 = 100;
/// How many of them a request earns.
pub const H2_CONTROL_FRAMES_PER_REQUEST: u64 = 8;
/// Body bytes, in either direction, that earn one of them.
pub const H2_CONTROL_FRAME_EARNED_BY: u64 = 1024;
/// How many of them one SETTINGS counts for: each one is applied to every stream.
pub const H2_SETTINGS_COST: u64 = 10;
/// Bytes of such frames beyond [`H2_CONTROL_BYTES_PER_PAYLOAD`] for each byte of heads and bodies; nginx grants as many.
pub const H2_CONTROL_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// See [`H2_CONTROL_BYTES_MAX`].
pub const H2_CONTROL_BYTES_PER_PAYLOAD: u64 = 8;
/// How many of them are forgiven in a second.
pub const H2_CONTROL_BYTES_PER_S: u64 = 4 * 1024;
/// A client that is owed an answer and is silent for so long is asked for a sign of life...
pub const H2_PING_INTERVAL: Duration = Duration::from_secs(30);
/// ...and given up after this. What was sent before may still lie in the kernel, behind a slow link.
pub const H2_PING_TIMEOUT: Duration = Duration::from_secs(60);
/// A client without a request that was told that the server leaves, and has not shown that it heard, is left after this.
pub const H2_LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// QUIC connections of one shard, unless configured otherwise.
pub const QUIC_CONNECTIONS_MAX: usize = 32 * 1024;
/// Handshakes of one client in progress (an IPv4 address, or an IPv6 network of 64 bits) from which on it has to show that...
pub const QUIC_RETRY_PER_ADDRESS_FROM: usize = 32;
/// ...and those that it may have at all.
pub const QUIC_HANDSHAKES_PER_ADDRESS_MAX: usize = 256;
/// A QUIC connection without a packet for so long is over (RFC 9000 §10.1).
pub const QUIC_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// For a client to come back with the token of a Retry.
pub const QUIC_TOKEN_LIFETIME: Duration = Duration::from_secs(10);
/// Stateless resets of one shard in a second.
pub const QUIC_RESETS_PER_S: u32 = 100;
/// Connection ids that a client may give us, and paths that a connection has in its life: quiche keeps those that a client
/// has left, so that after as many changes of its address it needs a new connection.
pub const QUIC_PATHS_MAX: u64 = 16;
/// Connection ids that a client has of us at one time, if it takes as many.
pub const QUIC_IDS_MAX: usize = 4;
/// The largest UDP payload that is tried: Ethernet's, less the headers of IPv6 and UDP.
pub const QUIC_DATAGRAM_SIZE_MAX: usize = 1452;
/// How long a client may keep an acknowledgement back (RFC 9000 §18.2, `max_ack_delay`).
pub const QUIC_ACK_DELAY_MAX: Duration = Duration::from_millis(25);
/// A packet with nothing but a PING: with the longest id, the packet's number, and the tag (RFC 9000 §17.3.1).
pub const QUIC_PING_SIZE_MAX: usize = 64;
/// For how long clients remember that there is HTTP/3 (RFC 7838 §3.1), unless configured otherwise: a day.
pub const ALT_SVC_MAX_AGE_S: u64 = 86_400;
/// Sends of one shard's UDP socket in flight; connections wait for one to complete.
pub const UDP_SENDS_MAX: usize = 64;
/// Of one connection's turn to send.
pub const QUIC_BATCHES_MAX: usize = 4;
/// What is to be sent within so short a time is sent at once.
pub const QUIC_PACING_GRAIN: Duration = Duration::from_micros(500);
/// A QUIC timer that is due is not looked at again before this.
pub const QUIC_TIMER_GRAIN: Duration = Duration::from_millis(1);
/// Datagrams that landed at the wrong shard and wait for the right one.
pub const FORWARDS_MAX: usize = 256;
/// HTTP/3: requests of one connection at one time (RFC 9000 §4.6).
pub const H3_STREAMS_MAX: u64 = 128;
/// The client's unidirectional streams at one time: control, QPACK's two, and such as have no meaning.
pub const H3_UNI_STREAMS_MAX: u64 = 8;
/// What one of them may send before it was read.
pub const H3_UNI_WINDOW: u64 = 16 * 1024;
/// Request bytes that one stream may send at first before they were read...
pub const H3_STREAM_WINDOW: u64 = 64 * 1024;
/// ...and once it was seen that they are read quickly. So much less than [`H3_CONNECTION_WINDOW`] that eight streams whose
/// workers are slow do not close that.
pub const H3_STREAM_WINDOW_MAX: u64 = EXCHANGE_WINDOW as u64;
/// Request bytes that all streams of a connection may send before they were read.
pub const H3_CONNECTION_WINDOW: usize = 9 * EXCHANGE_WINDOW;
/// STREAM frames of one connection that QUIC keeps because they cannot be read yet, each in an allocation of its own: some
/// 150 bytes for one byte. A client that fills the window with frames of 256 bytes has not used them up.
pub const H3_PIECES_MAX: usize = 11 * 1024;
/// CRYPTO frames of one connection in its life. A handshake takes a few; browsers cut theirs up into dozens.
pub const H3_CRYPTO_PIECES_MAX: usize = 1024;
/// Request-body bytes of all streams of a connection that were read and workers have not taken.
pub const H3_UNRETURNED_MAX: usize = 32 * EXCHANGE_WINDOW;
/// A frame on the control stream that has a meaning.
pub const H3_CONTROL_FRAME_SIZE_MAX: u64 = 1024;
/// Response bytes of one connection that QUIC keeps because they were not acknowledged.
pub const H3_UNACKED_SIZE_MAX: usize = 4 * 1024 * 1024;
/// Response-body bytes that are taken between two outputs.
pub const H3_UNSENT_SIZE_MAX: usize = 256 * 1024;
/// Response-body bytes that one stream may put into a connection's output while others wait.
pub const H3_QUANTUM: usize = 16 * 1024;
/// The largest piece of a request's body that is handed on.
pub const H3_PIECE_SIZE_MAX: usize = 16 * 1024;
/// What of a request that nobody wants is read, before its client is asked to stop.
pub const H3_DISCARDED_MAX: u64 = 64 * 1024;
/// Streams that QUIC may have kept although both sides are done with them; a connection with as many is replaced.
pub const H3_LINGERING_MAX: usize = 32;
/// Datagrams of one send; the kernel's UDP_MAX_SEGMENTS.
pub const H3_BATCH_SEGMENTS_MAX: usize = 64;
/// Bytes of one send: an IPv6 packet's payload, less the headers.
pub const H3_BATCH_SIZE_MAX: usize = 65_487;
/// Datagrams whose times to be sent lie within this go in one send.
pub const H3_PACING_TICK: Duration = Duration::from_millis(1);
/// Requests that the client let be begun and then cancelled, in a row...
pub const H3_CANCELLED_MAX: u64 = H2_CANCELLED_MAX;
/// ...and how many of them are forgiven in a second.
pub const H3_CANCELLED_PER_S: u64 = H2_CANCELLED_PER_S;
/// Frames that are neither a request nor part of a body, in a row.
pub const H3_FRAMES_MAX: u64 = H2_CONTROL_FRAMES_MAX;
/// How many of them are forgiven in a second.
pub const H3_FRAMES_PER_S: u64 = H2_CONTROL_FRAMES_PER_S;
/// How many of them a request earns.
pub const H3_FRAMES_PER_REQUEST: u64 = H2_CONTROL_FRAMES_PER_REQUEST;
/// Bytes of datagrams that bring nothing, in a row: of streams that cannot be read, of retransmissions, of control. Twice the
/// window: a client that fills it while nobody reads has not used them up.
pub const H3_BYTES_MAX: u64 = 2 * H3_CONNECTION_WINDOW as u64;
/// How many of them are forgiven in a second.
pub const H3_BYTES_PER_S: u64 = 16 * 1024;
/// What a datagram counts for beside its bytes: it is decrypted and looked up.
pub const H3_DATAGRAM_COST: u64 = 256;
/// How many of them each byte of a head or body, in either direction, earns...
pub const H3_BYTES_PER_PAYLOAD: u64 = 8;
/// ...a request...
pub const H3_BYTES_PER_REQUEST: u64 = 4 * 1024;
/// ...and a piece of a response.
pub const H3_BYTES_PER_SENT_PIECE: u64 = 1024;
/// A client that is owed an answer and is silent for so long is asked for a sign of life; QUIC's idle timeout gives it up.
pub const H3_PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long requests are served that may have crossed our GOAWAY, at most.
pub const H3_GOAWAY_WAIT: Duration = Duration::from_secs(1);
/// A client that was told that the server leaves, has no request, and has not acknowledged the last response, is left after
/// so long a silence.
pub const H3_LEAVE_TIMEOUT: Duration = H2_LEAVE_TIMEOUT;

/// Submission queue of a shard's uring: operations that one system call submits.
pub const SUBMISSIONS_MAX: u32 = 1024;
/// Completion queue of a shard's uring; what does not fit overflows into kernel memory and is flushed later.
pub const COMPLETIONS_MAX: u32 = 8192;
/// Buffers that a shard lends to the kernel for receiving. A power of two.
pub const RECV_BUFFER_COUNT: u16 = 1024;
/// One of them.
pub const RECV_BUFFER_SIZE: u32 = 4096;
/// Buffers that a shard lends to the kernel for receiving datagrams. A power of two.
pub const DATAGRAM_BUFFER_COUNT: u16 = 64;
/// One of them: the largest payload that generic receive offload makes, and what is said of it.
pub const DATAGRAM_BUFFER_SIZE: u32 = 64 * 1024 + 256;
/// Datagrams of one send; the kernel's own bound (`UDP_MAX_SEGMENTS`) was 64 for long.
pub const DATAGRAM_SEGMENTS_MAX: usize = 64;
/// Bytes of one send: what one IP packet holds.
pub const DATAGRAM_BATCH_SIZE_MAX: usize = 65_507;
/// Of the kernel's queues of a UDP socket, in each direction, as far as it grants that.
pub const UDP_BUFFER_SIZE: usize = 4 * 1024 * 1024;
/// One send operation; the kernel takes no more in one go (its `MAX_RW_COUNT`).
pub const SEND_SIZE_MAX: u32 = 0x7fff_f000;
/// Turns that a driver waits for cancelled operations when it is dropped...
pub const TEARDOWN_TURNS_MAX: u32 = 100;
/// ...each at most this long.
pub const TEARDOWN_TURN_MS: u64 = 10;

/// How long a shard or a worker spins for work before it sleeps, where each has a CPU of its own.
pub const SPIN_MAX: Duration = Duration::from_micros(50);
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
/// From the request to stop until workers are killed, unless configured otherwise: what orchestrators grant by default.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(30);
/// The part of such a time after which the shards cut off what is in flight.
pub const fn drain_part(shutdown: Duration) -> Duration {
    // Of 30 seconds, 25.
    match shutdown.checked_div(6) {
        Some(rest) => shutdown.saturating_sub(rest),
        None => shutdown,
    }
}
/// For what is in flight at a worker that was replaced, while an application is developed (`--reload`).
pub const RETIRE_MAX_WHILE_DEVELOPING: Duration = Duration::from_secs(1);
/// For a stuck worker to write down where its threads stand.
pub const STACK_DUMP_MAX: Duration = Duration::from_millis(500);
/// For a worker that failed, or that is stopped while it starts, to end by itself.
pub const WORKER_EXIT_MAX: Duration = Duration::from_secs(5);
/// Processes of one place, those that are leaving it included, before it is filled again.
pub const PLACE_PROCESSES_MAX: usize = 4;
/// For killed workers to be reaped.
pub const REAP_MAX: Duration = Duration::from_secs(2);

/// Connections that wait to be accepted, unless configured otherwise; the kernel's `net.core.somaxconn` may hold less.
pub const LISTEN_BACKLOG: i32 = 4096;
/// Networks of proxies that are believed; each of them is looked at for each request of one.
pub const PROXY_NETWORKS_MAX: usize = 64;
/// How often the requests and the memory of workers are looked at where they are limited.
pub const USAGE_INTERVAL: Duration = Duration::from_secs(1);
/// For workers to answer a ping before their event loops are reported as late.
pub const PONG_MAX: Duration = Duration::from_millis(250);

/// Connections of the control socket at one time.
pub const CONTROL_CONNECTIONS_MAX: usize = 32;
/// One request there, with its end of line.
pub const CONTROL_REQUEST_SIZE_MAX: usize = 4 * 1024;
/// From accepting one of its connections until the request is there, and for the client to take the answer.
pub const CONTROL_EXCHANGE_MAX: Duration = Duration::from_secs(5);
/// One answer there, as far as the client reads.
pub const CONTROL_ANSWER_SIZE_MAX: usize = 16 * 1024 * 1024;
/// Bytes of an error with its traceback in such an answer.
pub const CONTROL_ERROR_SIZE_MAX: usize = 256 * 1024;

/// After that long, and again and again, `fasterapi ctl` says that it still waits for an answer...
pub const CTL_WAIT: Duration = Duration::from_secs(10);
/// ...and after so many times gives up: an hour, more than a reload takes unless `--start-timeout` says otherwise.
pub const CTL_WAITS_MAX: u32 = 360;

/// Directories that `--reload` watches.
pub const WATCHED_DIRECTORIES_MAX: usize = 16 * 1024;
/// Changes of files that come closer together than this are one.
pub const WATCH_SETTLE: Duration = Duration::from_millis(200);
/// Files that keep changing are reported after this none the less.
pub const WATCH_SETTLE_MAX: Duration = Duration::from_secs(2);

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
const _: () = assert!(drain_part(SHUTDOWN_MAX).as_millis() < SHUTDOWN_MAX.as_millis());
// One attach message has two segments and the doorbell of each shard, and the worker's doorbell; the kernel's SCM_MAX_FD.
const _: () = assert!(3 * SHARDS_MAX < 253);
const _: () = assert!(RECORD_SIZE_MAX.is_multiple_of(RECORD_ALIGN));
// A request record: its fixed part and tables, a blob that holds the head and the target once more (raw and
// decoded), the client's certificate and an inline body must fit one record.
const _: () = assert!(
    RECORD_TABLES_SIZE_MAX
        + HEAD_SIZE_MAX
        + START_LINE_SIZE_MAX
        + CLIENT_CERTIFICATE_SIZE_MAX
        + INLINE_BODY_SIZE_MAX
        <= RECORD_SIZE_MAX - RECORD_ALIGN
);
const _: () = assert!(START_LINE_SIZE_MAX < HEAD_SIZE_MAX);
// A head's blob holds the head and, when the path was percent-encoded, the decoded path as well; spans are 16
// bits wide.
const _: () = assert!(HEAD_SIZE_MAX + START_LINE_SIZE_MAX <= u16::MAX as usize);
// The chunk decoder counts both in 16 bits.
const _: () = assert!(TRAILERS_SIZE_MAX < u16::MAX as usize);
const _: () = assert!(CHUNK_EXTENSIONS_SIZE_MAX < u16::MAX as usize);
const _: () = assert!(CHUNK_SIZE_DIGITS_MAX as u32 * 4 <= u64::BITS);
const _: () = assert!(EXCHANGE_WINDOW <= CHUNK_COUNT * CHUNK_SIZE);
// While a worker has unreturned credit for half a window or less, as it keeps to, there is enough for a piece.
const _: () = assert!(WS_PIECE_SIZE_MAX <= EXCHANGE_WINDOW / 2);
// A piece of a message is one record's payload, and the reason of a Close fits where pieces lie.
const _: () = assert!(WS_CONTROL_SIZE_MAX <= WS_PIECE_SIZE_MAX && WS_PIECE_SIZE_MAX <= CHUNK_SIZE);
const _: () =
    assert!(H2_CONNECTION_WINDOW >= EXCHANGE_WINDOW && H2_CONNECTION_WINDOW <= i32::MAX as usize);
// The library charges 255 bytes for each byte that comes alone in a frame of ten, until it is given on, and closes a
// connection at half its window.
const _: () = assert!(H2_INPUT_SIZE_MAX / 10 * 255 < H2_CONNECTION_WINDOW / 2);
const _: () = assert!(H2_QUANTUM <= H2_UNSENT_SIZE_MAX);
const _: () = assert!(H3_CONNECTION_WINDOW >= EXCHANGE_WINDOW);
const _: () = assert!(H3_UNRETURNED_MAX >= H3_CONNECTION_WINDOW);
const _: () = assert!(H3_CONNECTION_WINDOW / H3_PIECES_MAX <= 256);
// What QUIC keeps of one hostile client.
const _: () = assert!(H3_CONNECTION_WINDOW + 160 * H3_PIECES_MAX <= 4 * 1024 * 1024);
const _: () = assert!(H3_STREAM_WINDOW <= H3_STREAM_WINDOW_MAX);
const _: () = assert!(8 * H3_STREAM_WINDOW_MAX < H3_CONNECTION_WINDOW as u64);
// A head is read when all of it is here.
const _: () = assert!(HEAD_SIZE_MAX as u64 <= H3_STREAM_WINDOW);
const _: () = assert!(H3_CONTROL_FRAME_SIZE_MAX <= H3_UNI_WINDOW);
const _: () =
    assert!(H3_QUANTUM <= H3_UNSENT_SIZE_MAX && H3_UNSENT_SIZE_MAX <= H3_UNACKED_SIZE_MAX);
const _: () = assert!(OUTPUT_QUEUED_MAX <= CHUNK_SIZE);
// What an engine puts together goes out with one operation.
const _: () = assert!(
    H3_BATCH_SEGMENTS_MAX <= DATAGRAM_SEGMENTS_MAX && H3_BATCH_SIZE_MAX <= DATAGRAM_BATCH_SIZE_MAX
);
const _: () = assert!(EXCHANGE_WINDOW >> WINDOW_HALVINGS_MAX > 0);
// Multishot operations complete more often than they are submitted.
const _: () = assert!(COMPLETIONS_MAX >= 4 * SUBMISSIONS_MAX);
// The kernel's own bounds for queues and for a ring of provided buffers.
const _: () = assert!(SUBMISSIONS_MAX.is_power_of_two() && SUBMISSIONS_MAX <= 32 * 1024);
const _: () = assert!(COMPLETIONS_MAX.is_power_of_two() && COMPLETIONS_MAX <= 64 * 1024);
const _: () = assert!(RECV_BUFFER_COUNT.is_power_of_two() && RECV_BUFFER_COUNT <= 32 * 1024);
