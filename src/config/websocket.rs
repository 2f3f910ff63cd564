//! How WebSockets are run: options as uvicorn names them, with the defaults of [`crate::limits`].
//!
//! Invariant: as [`super::limits`].

use clap::{Args, builder::BoolishValueParser};

use super::limits::{Seconds, Size};
use crate::limits::{WS_MESSAGE_SIZE_MAX, WS_PING_INTERVAL, WS_PING_TIMEOUT};

/// See the module.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "WebSockets")]
pub struct WebSockets {
    /// Largest message, in bytes or with k, m or g; 0: no limit. Larger ones end the WebSocket with 1009
    #[arg(long, value_name = "SIZE", default_value_t = Size(WS_MESSAGE_SIZE_MAX), env = "FASTERAPI_WS_MAX_SIZE")]
    pub ws_max_size: Size,
    /// From one ping to the next; 0: none
    #[arg(long, value_name = "SECONDS", default_value_t = Seconds(WS_PING_INTERVAL), env = "FASTERAPI_WS_PING_INTERVAL")]
    pub ws_ping_interval: Seconds,
    /// How long a client may be silent after a ping; 0: for ever. Then the WebSocket ends with 1011
    #[arg(long, value_name = "SECONDS", default_value_t = Seconds(WS_PING_TIMEOUT), env = "FASTERAPI_WS_PING_TIMEOUT")]
    pub ws_ping_timeout: Seconds,
    /// Compress messages for clients that ask for it
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, default_value_t = true,
          value_parser = BoolishValueParser::new(), env = "FASTERAPI_WS_PER_MESSAGE_DEFLATE")]
    pub ws_per_message_deflate: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        websockets: WebSockets,
    }

    fn parse(args: &[&str]) -> WebSockets {
        Line::try_parse_from(["test"].iter().chain(args)).unwrap().websockets
    }

    #[test]
    fn the_defaults_are_uvicorns() {
        let parsed = parse(&[]);
        assert_eq!(parsed.ws_max_size.bytes(), 16 * 1024 * 1024);
        assert_eq!(parsed.ws_ping_interval.limit(), Some(WS_PING_INTERVAL));
        assert_eq!(parsed.ws_ping_timeout.limit(), Some(WS_PING_TIMEOUT));
        assert!(parsed.ws_per_message_deflate);
    }

    #[test]
    fn pings_and_compression_can_be_had_without() {
        let parsed = parse(&["--ws-ping-interval", "0", "--ws-per-message-deflate", "false"]);
        assert_eq!(parsed.ws_ping_interval.limit(), None);
        assert!(!parsed.ws_per_message_deflate);
    }
}
