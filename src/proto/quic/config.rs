//! quiche's options: ours, said once.
//!
//! Invariant: what a client may make us hold is in `limits.rs`, and its windows are those of exchanges.

use boring::ssl::SslContextBuilder;
use quiche::{CongestionControlAlgorithm, PROTOCOL_VERSION};

use super::{Congestion, Options, QuicError};
use crate::limits;

pub(super) fn build(
    context: SslContextBuilder,
    options: &Options,
) -> Result<quiche::Config, QuicError> {
    let bytes = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    let mut config = quiche::Config::with_boring_ssl_ctx_builder(PROTOCOL_VERSION, context)?;
    config.set_max_idle_timeout(u64::try_from(options.idle_timeout.as_millis()).unwrap_or(0));
    // The exchange's credit is the stream's window; quiche would let windows grow.
    config.set_initial_max_data(bytes(limits::QUIC_CONNECTION_WINDOW));
    config.set_max_connection_window(bytes(limits::QUIC_CONNECTION_WINDOW));
    config.set_initial_max_stream_data_bidi_remote(bytes(limits::EXCHANGE_WINDOW));
    config.set_max_stream_window(bytes(limits::EXCHANGE_WINDOW));
    config.set_initial_max_stream_data_uni(bytes(limits::QUIC_CONTROL_WINDOW));
    config.set_initial_max_streams_bidi(limits::QUIC_STREAMS_MAX);
    config.set_initial_max_streams_uni(limits::QUIC_CONTROL_STREAMS_MAX);
    config.set_active_connection_id_limit(limits::QUIC_PATHS_MAX);
    config.set_max_recv_udp_payload_size(limits::QUIC_DATAGRAM_SIZE_MAX);
    config.set_max_send_udp_payload_size(limits::QUIC_DATAGRAM_SIZE_MAX);
    config.discover_pmtu(true);
    config.set_disable_active_migration(false);
    config.grease(true);
    config.enable_pacing(true);
    config.set_cc_algorithm(match options.congestion {
        Congestion::Cubic => CongestionControlAlgorithm::CUBIC,
        Congestion::Bbr2 => CongestionControlAlgorithm::Bbr2Gcongestion,
    });
    if options.early_data {
        config.enable_early_data();
    }
    Ok(config)
}
