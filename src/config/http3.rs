//! HTTP/3: options, and what they add up to.
//!
//! Invariant: an [`Http3`] is there only beside TLS and a port. It is asked for: it opens a UDP port, which whoever has a
//! firewall, or another server on that port, wants to know of. Deliberately absent: sockets, and what is in the certificates.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use thiserror::Error;

use crate::limits::ALT_SVC_MAX_AGE_S;

/// The command line's part.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "HTTP/3")]
pub struct Http3Args {
    /// Speak HTTP/3 as well, on the UDP port of the same number, with the certificates of TLS
    #[arg(long, env = "FASTERAPI_HTTP3", value_parser = clap::builder::BoolishValueParser::new())]
    http3: bool,
    /// For how long clients of the other versions remember that there is HTTP/3 (Alt-Svc); 0: they are not told
    #[arg(long, value_name = "SECONDS", default_value_t = ALT_SVC_MAX_AGE_S, env = "FASTERAPI_ALT_SVC_MAX_AGE")]
    alt_svc_max_age: u64,
    /// When clients have to show first that they receive what is sent to their address, which takes a round trip: while many
    /// handshakes are in progress (auto), always or never
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        env = "FASTERAPI_QUIC_RETRY"
    )]
    quic_retry: Retry,
    /// How the rate of sending is found
    #[arg(
        long,
        value_enum,
        value_name = "ALGORITHM",
        default_value = "cubic",
        env = "FASTERAPI_QUIC_CONGESTION"
    )]
    quic_congestion: Congestion,
    /// Take requests in a returning client's first flight, if their methods are safe. Somebody on the way can repeat them
    #[arg(long = "quic-0rtt", env = "FASTERAPI_QUIC_0RTT", value_parser = clap::builder::BoolishValueParser::new())]
    quic_0rtt: bool,
    /// Write down what happens to each QUIC connection, in a file of this directory (qlog). For finding mistakes: it is slow
    #[arg(long, value_name = "DIR", env = "FASTERAPI_QLOG_DIR")]
    qlog_dir: Option<PathBuf>,
}

/// When clients have to show their address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Retry {
    /// While many handshakes are in progress.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How the rate of sending is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// BBR, version 2.
    Bbr2,
}

/// Options that contradict each other, or the system.
#[derive(Debug, Error)]
pub enum Http3ConfigError {
    /// QUIC is encrypted.
    #[error("--http3 needs TLS: give --tls-cert and --tls-key, or --tls-dev")]
    NeedsTls,
    /// A Unix socket has no UDP port beside it.
    #[error("--http3 with --uds: a Unix socket has no port")]
    Uds,
    /// An option that has no meaning without it.
    #[error("{0} needs --http3")]
    NeedsHttp3(&'static str),
    /// Not a directory.
    #[error("--qlog-dir {0}: not a directory")]
    QlogDir(PathBuf),
}

/// HTTP/3, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http3 {
    /// Zero: it is not advertised.
    pub alt_svc_max_age: u64,
    /// When clients have to show their address.
    pub retry: Retry,
    /// How the rate of sending is found.
    pub congestion: Congestion,
    /// Take data in a client's first flight.
    pub early_data: bool,
    /// Where to write down what happens; absolute.
    pub qlog_dir: Option<PathBuf>,
}

impl Http3Args {
    /// `None` when it was not asked for.
    pub(super) fn resolve(
        self,
        current_dir: &Path,
        tls: bool,
        unix: bool,
    ) -> Result<Option<Http3>, Http3ConfigError> {
        if !self.http3 {
            let asked = [("--quic-0rtt", self.quic_0rtt), ("--qlog-dir", self.qlog_dir.is_some())];
            return match asked.into_iter().find(|(_, asked)| *asked) {
                Some((option, _)) => Err(Http3ConfigError::NeedsHttp3(option)),
                None => Ok(None),
            };
        }
        if !tls {
            return Err(Http3ConfigError::NeedsTls);
        }
        if unix {
            return Err(Http3ConfigError::Uds);
        }
        let qlog_dir = self.qlog_dir.map(|dir| current_dir.join(dir));
        if let Some(dir) = qlog_dir.as_ref().filter(|dir| !dir.is_dir()) {
            return Err(Http3ConfigError::QlogDir(dir.clone()));
        }
        Ok(Some(Http3 {
            alt_svc_max_age: self.alt_svc_max_age,
            retry: self.quic_retry,
            congestion: self.quic_congestion,
            early_data: self.quic_0rtt,
            qlog_dir,
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        http3: Http3Args,
    }

    fn resolve(args: &[&str], tls: bool, unix: bool) -> Result<Option<Http3>, String> {
        let line = Line::try_parse_from(["test"].iter().chain(args)).unwrap();
        line.http3.resolve(Path::new("/"), tls, unix).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_asked_for() {
        assert_eq!(resolve(&[], true, false), Ok(None));
        let http3 = resolve(&["--http3"], true, false).unwrap().unwrap();
        assert_eq!((http3.retry, http3.congestion), (Retry::Auto, Congestion::Cubic));
        assert_eq!((http3.early_data, http3.alt_svc_max_age), (false, ALT_SVC_MAX_AGE_S));
        let args =
            ["--http3", "--quic-retry", "always", "--quic-congestion", "bbr2", "--quic-0rtt"];
        let http3 = resolve(&args, true, false).unwrap().unwrap();
        assert_eq!((http3.retry, http3.congestion), (Retry::Always, Congestion::Bbr2));
        assert!(http3.early_data);
    }

    #[test]
    fn what_it_needs_is_named() {
        let error = |args: &[&str], tls, unix| resolve(args, tls, unix).unwrap_err();
        assert!(error(&["--http3"], false, false).contains("--tls-cert"));
        assert!(error(&["--http3"], true, true).contains("--uds"));
        assert_eq!(error(&["--quic-0rtt"], true, false), "--quic-0rtt needs --http3");
        assert_eq!(error(&["--qlog-dir", "tmp"], true, false), "--qlog-dir needs --http3");
        let args = ["--http3", "--qlog-dir", "nowhere/at/all"];
        assert_eq!(error(&args, true, false), "--qlog-dir /nowhere/at/all: not a directory");
    }
}
