//! quiche's options: ours, said once.
//!
//! Invariant: streams and windows are the engine's to say ([`h3::bound`]); all else is said here.

use boring::ssl::SslContextBuilder;
use quiche::{CongestionControlAlgorithm, PROTOCOL_VERSION};

use super::{Congestion, Options, QuicError};
use crate::{limits, proto::h3};

pub(super) fn build(
    context: SslContextBuilder,
    options: &Options,
) -> Result<quiche::Config, QuicError> {
    let mut config = quiche::Config::with_boring_ssl_ctx_builder(PROTOCOL_VERSION, context)?;
    config.set_max_idle_timeout(u64::try_from(options.idle_timeout.as_millis()).unwrap_or(0));
    h3::bound(&mut config)?;
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
