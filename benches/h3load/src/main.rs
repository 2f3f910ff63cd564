//! Load for HTTP/3 servers, and for TLS handshakes over TCP: as h2load is for HTTP/2, on quinn, h3 and rustls.
//!
//! Invariant: one thread does all of the client's work, so pinning the process pins the client; every request is counted
//! once, as done or as an error. Deliberately absent: verifying certificates, HTTP over TCP, pacing of the load itself.

mod handshakes;
mod load;
mod report;
mod trust;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};

/// Asks one URL over and over, and says how fast the answers came.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Where to ask: https://ADDRESS:PORT/PATH, the address in digits.
    url: http::Uri,
    /// Connections.
    #[arg(short, long, default_value_t = 1)]
    connections: usize,
    /// Requests under way on each connection at one time.
    #[arg(short = 'm', long, default_value_t = 1)]
    streams: usize,
    /// Requests in all; else as many as the time allows.
    #[arg(short = 'n', long, conflicts_with = "duration")]
    requests: Option<u64>,
    /// Seconds.
    #[arg(short, long, default_value = "5", value_parser = seconds)]
    duration: Duration,
    /// Seconds before the duration whose requests do not count.
    #[arg(short, long, default_value = "0", value_parser = seconds)]
    warm_up: Duration,
    /// The method of each request [default: GET, with a body POST].
    #[arg(long)]
    method: Option<http::Method>,
    /// Send so many bytes with each request.
    #[arg(long, default_value_t = 0)]
    upload: u64,
    /// Send nothing that a server has to ignore (RFC 9114 §7.2.8).
    #[arg(long)]
    no_grease: bool,
    /// The name that the server is asked for.
    #[arg(long, default_value = "localhost")]
    name: String,
    /// Measure TLS handshakes over TCP instead, one request after each.
    #[arg(long, value_enum)]
    handshakes: Option<Handshakes>,
    /// The result as one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Handshakes {
    /// Each with a certificate and a key exchange.
    Full,
    /// With a ticket of the one before; how many were is in the result.
    Resumed,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .map_err(|_| "not a number of seconds")
        .and_then(|seconds| {
            Duration::try_from_secs_f64(seconds).map_err(|_| "not a time that passes")
        })
        .map_err(str::to_owned)
}

impl Options {
    fn method(&self) -> http::Method {
        let usual = if self.upload > 0 { http::Method::POST } else { http::Method::GET };
        self.method.clone().unwrap_or(usual)
    }

    fn address(&self) -> Result<SocketAddr, String> {
        let authority = self.url.authority().ok_or("the URL names no server")?;
        authority.as_str().parse().map_err(|_| format!("{authority} is not ADDRESS:PORT"))
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let json = options.json;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("h3load: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match options.handshakes {
            Some(kind) => handshakes::measure(&options, kind).await,
            None => load::measure(&options).await,
        }
    });
    match result {
        Ok(report) => {
            report.print(json);
            if report.done > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("h3load: {error}");
            ExitCode::FAILURE
        }
    }
}
