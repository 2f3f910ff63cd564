//! What one request, one connection and one worker may take: options with the defaults of [`crate::limits`].
//!
//! Invariant: a value that was parsed is final and within its bounds; "no limit" is one of them. Deliberately absent: what
//! becomes of whoever exceeds a limit (the shard's), and bounds that no operator moves.

use std::{fmt, str::FromStr, time::Duration};

use clap::{Args, ValueEnum};
use thiserror::Error;

use crate::limits::{
    BODY_SIZE_MAX, BODY_TIMEOUT, HEAD_TIMEOUT, INFLIGHT_MAX, KEEPALIVE_TIMEOUT, NEVER, QUEUE_MAX,
    QUEUE_TIMEOUT, REQUEST_TIMEOUT, STUCK_AFTER,
};

/// See the module.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Largest request body, in bytes or with k, m or g; 0: no limit. Larger ones are answered 413
    #[arg(long, value_name = "SIZE", default_value_t = Size(BODY_SIZE_MAX), env = "FASTERAPI_BODY_MAX")]
    pub body_max: Size,
    /// From a complete request head to the end of its response, streams included; 0: no limit. Answered 504, or cut off once
    /// the response has begun
    #[arg(long, value_name = "SECONDS", default_value_t = Seconds(REQUEST_TIMEOUT), env = "FASTERAPI_REQUEST_TIMEOUT")]
    pub request_timeout: Seconds,
    /// From the first byte of a request head to its last; 0: no limit. Answered 408
    #[arg(long, value_name = "SECONDS", default_value_t = Seconds(HEAD_TIMEOUT), env = "FASTERAPI_HEADER_TIMEOUT")]
    pub header_timeout: Seconds,
    /// Longest pause inside a request body; 0: no limit. Answered 408
    #[arg(long, value_name = "SECONDS", default_value_t = Seconds(BODY_TIMEOUT), env = "FASTERAPI_BODY_TIMEOUT")]
    pub body_timeout: Seconds,
    /// How long a connection is kept without a request; 0: for ever
    #[arg(long, aliases = ["timeout-keep-alive", "keep-alive"], value_name = "SECONDS", default_value_t = Seconds(KEEPALIVE_TIMEOUT), env = "FASTERAPI_KEEPALIVE_TIMEOUT")]
    pub keepalive_timeout: Seconds,
    /// Requests that one worker has at one time (uvicorn's --limit-concurrency, gunicorn's --worker-connections); 0: no limit.
    /// More wait
    #[arg(long, value_name = "N", default_value_t = INFLIGHT_MAX, env = "FASTERAPI_INFLIGHT_MAX")]
    pub inflight_max: u32,
    /// Requests that wait for a worker at one time; 0: none. More are answered 503 at once
    #[arg(long, value_name = "N", default_value_t = QUEUE_MAX, env = "FASTERAPI_QUEUE_MAX")]
    pub queue_max: usize,
    /// How long a request waits for a worker; 0: no limit. Answered 503
    #[arg(long, value_name = "SECONDS", default_value_t = Seconds(QUEUE_TIMEOUT), env = "FASTERAPI_QUEUE_TIMEOUT")]
    pub queue_timeout: Seconds,
    /// Which requests go to a second worker when the first died over them
    #[arg(long, value_enum, default_value_t = Retry::Idempotent, env = "FASTERAPI_RETRY")]
    pub retry: Retry,
    /// A worker with an overdue request that takes in nothing for this long is killed; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = Seconds(STUCK_AFTER), env = "FASTERAPI_STUCK_TIMEOUT")]
    pub stuck_timeout: Seconds,
}

/// Which requests are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Retry {
    /// Those whose methods may be repeated (RFC 9110 §9.2.2): GET, HEAD, PUT, DELETE, OPTIONS, TRACE
    Idempotent,
    /// None: a worker that died over a request costs it a 502
    Never,
}

/// Why a limit is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LimitError {
    /// Not a size.
    #[error("expected bytes, with k, m or g for powers of 1024")]
    Size,
    /// Not a time.
    #[error("expected seconds, at most {} of them", NEVER.as_secs())]
    Seconds,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub(super) u64);

impl Size {
    /// In bytes; `None` for "no limit".
    pub fn limit(self) -> Option<u64> {
        (self.0 > 0).then_some(self.0)
    }

    /// In bytes; the largest number there is for "no limit".
    pub fn bytes(self) -> u64 {
        if self.0 == 0 { u64::MAX } else { self.0 }
    }
}

impl FromStr for Size {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let units = [(['k', 'K'], 10), (['m', 'M'], 20), (['g', 'G'], 30)];
        let unit = units.into_iter().find(|(letters, _)| text.ends_with(letters.as_slice()));
        let (digits, shift) = match unit {
            Some((letters, shift)) => (text.trim_end_matches(letters.as_slice()), shift),
            None => (text, 0),
        };
        // `parse` would take a sign.
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) || text.len() > digits.len() + 1 {
            return Err(LimitError::Size);
        }
        let number: u64 = digits.parse().map_err(|_| LimitError::Size)?;
        number.checked_mul(1 << shift).map(Self).ok_or(LimitError::Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "g"), (20, "m"), (10, "k")];
        let whole = |shift: &u32| self.0 > 0 && self.0.trailing_zeros() >= *shift;
        match units.into_iter().find(|(shift, _)| whole(shift)) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub(super) Duration);

impl Seconds {
    /// As a duration; `None` for "no limit".
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }

    /// As a duration, where zero is "at once".
    pub fn exactly(self) -> Duration {
        self.0
    }

    /// As a duration; [`NEVER`] for "no limit".
    pub fn duration(self) -> Duration {
        if self.0.is_zero() { NEVER } else { self.0 }
    }
}

impl FromStr for Seconds {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let seconds: f64 = text.parse().map_err(|_| LimitError::Seconds)?;
        let time = Duration::try_from_secs_f64(seconds).map_err(|_| LimitError::Seconds)?;
        // Less than the clock's unit is not "no limit".
        let vanished = time.is_zero() && seconds > 0.0;
        if time <= NEVER && !vanished { Ok(Self(time)) } else { Err(LimitError::Seconds) }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == NEVER { write!(f, "0") } else { write!(f, "{}", self.0.as_secs_f64()) }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        limits: Limits,
    }

    fn parse(args: &[&str]) -> Limits {
        Line::try_parse_from(["test"].iter().chain(args)).unwrap().limits
    }

    fn error(args: &[&str]) -> String {
        Line::try_parse_from(["test"].iter().chain(args)).err().unwrap().to_string()
    }

    #[test]
    fn a_size_has_a_unit_or_is_in_bytes() {
        for (text, bytes) in
            [("1", 1), ("64k", 64 << 10), ("32m", 32 << 20), ("2G", 2 << 30), ("0", u64::MAX)]
        {
            assert_eq!(parse(&["--body-max", text]).body_max.bytes(), bytes, "{text}");
        }
        for text in ["", "m", "1kk", "1.5m", "-1", "+1", "1 m", "64kb", "17179869184g"] {
            let error = error(&[&format!("--body-max={text}")]);
            assert!(error.contains("k, m or g") || text.is_empty(), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_time_is_in_seconds_and_may_have_decimals() {
        let parsed = parse(&["--request-timeout", "2.5", "--queue-timeout", "0"]);
        assert_eq!(parsed.request_timeout.duration(), Duration::from_millis(2500));
        assert_eq!(parsed.queue_timeout.duration(), NEVER);
        for text in ["-1", "nan", "inf", "1e99", "5s", "1e-12", "", "400000000"] {
            assert!(
                error(&[&format!("--queue-timeout={text}")]).contains("--queue-timeout"),
                "{text:?}"
            );
        }
    }

    #[test]
    fn the_defaults_are_those_of_limits_and_are_shown_as_they_are_written() {
        let parsed = parse(&[]);
        assert_eq!(parsed.body_max.bytes(), BODY_SIZE_MAX);
        assert_eq!(parsed.header_timeout.duration(), HEAD_TIMEOUT);
        assert_eq!(parsed.request_timeout.duration(), REQUEST_TIMEOUT);
        assert_eq!((parsed.inflight_max, parsed.queue_max), (INFLIGHT_MAX, QUEUE_MAX));
        assert_eq!(parsed.retry, Retry::Idempotent);
        let shown = (parsed.body_max.to_string(), parsed.request_timeout.to_string());
        assert_eq!(shown, ("32m".into(), "0".into()));
        assert_eq!(parse(&["--retry", "never"]).retry, Retry::Never);
    }
}
