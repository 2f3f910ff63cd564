//! How clients reach the server by TLS: options, and what they add up to.
//!
//! Invariant: a [`Tls`] is complete: every certificate has a key, and what makes sense over TLS only was not asked for without
//! it. Deliberately absent: what is in the files.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use thiserror::Error;

use super::limits::Seconds;
use crate::limits::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, HSTS_MAX_AGE_S};

/// Where a redirect listens unless it is told.
const EVERYWHERE: &str = "0.0.0.0";

/// The command line's part.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// Speak TLS with this certificate: PEM, the leaf first, then its issuers. May be repeated: clients get the one for the
    /// name that they ask for (exact, or `*.` for one label), otherwise the first
    #[arg(long, aliases = ["ssl-certfile", "certfile"], value_name = "PATH", env = "FASTERAPI_TLS_CERT")]
    tls_cert: Vec<PathBuf>,
    /// The certificate's private key, PEM, not encrypted; one for each --tls-cert, in the same order [default: in the file of
    /// the certificate]
    #[arg(long, aliases = ["ssl-keyfile", "keyfile"], value_name = "PATH", env = "FASTERAPI_TLS_KEY")]
    tls_key: Vec<PathBuf>,
    /// Speak TLS with a certificate made at start, for localhost, 127.0.0.1 and ::1; nobody trusts it
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key"], env = "FASTERAPI_TLS_DEV", value_parser = clap::builder::BoolishValueParser::new())]
    tls_dev: bool,
    /// Let in only clients with a certificate of these authorities (PEM)
    #[arg(long, value_name = "PATH", env = "FASTERAPI_CLIENT_CA")]
    client_ca: Option<PathBuf>,
    /// Oldest version of TLS to speak
    #[arg(
        long,
        value_enum,
        value_name = "VERSION",
        default_value = "1.2",
        env = "FASTERAPI_TLS_MIN_VERSION"
    )]
    tls_min_version: Version,
    /// From accepting a connection to the end of its TLS handshake; 0: no limit
    #[arg(long, value_name = "SECONDS", default_value_t = Seconds(HANDSHAKE_TIMEOUT), env = "FASTERAPI_HANDSHAKE_TIMEOUT")]
    handshake_timeout: Seconds,
    /// TLS handshakes in progress at one time; for one more the oldest is closed
    #[arg(long, value_name = "N", default_value_t = HANDSHAKES_MAX, value_parser = at_least_one, env = "FASTERAPI_HANDSHAKES_MAX")]
    handshakes_max: usize,
    /// Tell browsers to come back by TLS only (Strict-Transport-Security), for so many seconds [default: two years]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "63072000", env = "FASTERAPI_HSTS")]
    hsts: Option<u64>,
    /// Listen for HTTP in clear on this port or address as well, and send whoever comes to the TLS port
    #[arg(long, value_name = "[HOST:]PORT", env = "FASTERAPI_REDIRECT_HTTP")]
    redirect_http: Option<String>,
    /// The port that clients reach the TLS listener by, for --redirect-http [default: the one that it listens on]
    #[arg(long, value_name = "PORT", env = "FASTERAPI_HTTPS_PORT")]
    https_port: Option<u16>,
}

// The help says it as a number of years, and clap wants it as text.
const _: () = assert!(HSTS_MAX_AGE_S == 63_072_000);

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Version {
    /// RFC 5246.
    #[value(name = "1.2")]
    Tls12,
    /// RFC 8446.
    #[value(name = "1.3")]
    Tls13,
}

/// Options that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TlsConfigError {
    /// Certificates and keys are not pairs.
    #[error(
        "--tls-cert was given {certificates} times and --tls-key {keys} times: each certificate needs its key"
    )]
    Unpaired {
        /// How many certificates.
        certificates: usize,
        /// How many keys.
        keys: usize,
    },
    /// An option that has no meaning in clear.
    #[error("{0} needs TLS: give --tls-cert and --tls-key, or --tls-dev")]
    NeedsTls(&'static str),
    /// Neither a port nor an address.
    #[error("--redirect-http {0:?}: expected PORT or HOST:PORT")]
    Redirect(String),
    /// Where to send clients does not show.
    #[error(
        "--redirect-http with --uds or --fd needs --https-port: which port clients come by does not show"
    )]
    RedirectWhere,
}

/// TLS, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Where certificates come from.
    pub source: Source,
    /// Authorities that clients need a certificate of; absolute.
    pub client_ca: Option<PathBuf>,
    /// The oldest version to speak.
    pub version_min: Version,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How many may be in progress, all shards together.
    pub handshakes_max: usize,
    /// `max-age` of Strict-Transport-Security, if it is sent.
    pub hsts_max_age: Option<u64>,
    /// Host and port of the listener in clear that redirects.
    pub redirect: Option<(String, u16)>,
    /// The port that clients reach TLS by, when it is not the one that is listened on.
    pub https_port: Option<u16>,
}

/// Where certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Files of certificates and keys, at least one pair; absolute.
    Files(Vec<(PathBuf, PathBuf)>),
    /// Made at start.
    Dev,
}

impl TlsArgs {
    /// `None` when nothing asks for TLS. `host` is where a redirect listens that names only a port: where the server does, or on
    /// every address when it has no port of its own.
    pub(super) fn resolve(
        self,
        current_dir: &Path,
        host: Option<&str>,
    ) -> Result<Option<Tls>, TlsConfigError> {
        let source = match (self.tls_dev, self.tls_cert.len(), self.tls_key.len()) {
            (true, ..) => Source::Dev,
            (_, 0, 0) => return self.check_unused().map(|()| None),
            (_, certificates, 0) if certificates > 0 => {
                let path = |path: &PathBuf| current_dir.join(path);
                Source::Files(self.tls_cert.iter().map(|both| (path(both), path(both))).collect())
            }
            (_, certificates, keys) if certificates == keys => {
                let pairs = self.tls_cert.iter().zip(&self.tls_key);
                let path = |path: &PathBuf| current_dir.join(path);
                Source::Files(pairs.map(|(chain, key)| (path(chain), path(key))).collect())
            }
            (_, certificates, keys) => {
                return Err(TlsConfigError::Unpaired { certificates, keys });
            }
        };
        let redirect = self
            .redirect_http
            .map(|text| redirect(&text, host.unwrap_or(EVERYWHERE)))
            .transpose()?;
        if redirect.is_some() && host.is_none() && self.https_port.is_none() {
            return Err(TlsConfigError::RedirectWhere);
        }
        Ok(Some(Tls {
            source,
            client_ca: self.client_ca.map(|path| current_dir.join(path)),
            version_min: self.tls_min_version,
            handshake_timeout: self.handshake_timeout.duration(),
            handshakes_max: self.handshakes_max,
            hsts_max_age: self.hsts,
            redirect,
            https_port: self.https_port,
        }))
    }

    /// Whoever asks for one of these believes that TLS is on.
    fn check_unused(&self) -> Result<(), TlsConfigError> {
        let asked = [
            ("--client-ca", self.client_ca.is_some()),
            ("--hsts", self.hsts.is_some()),
            ("--redirect-http", self.redirect_http.is_some()),
            ("--https-port", self.https_port.is_some()),
        ];
        match asked.into_iter().find(|(_, asked)| *asked) {
            Some((option, _)) => Err(TlsConfigError::NeedsTls(option)),
            None => Ok(()),
        }
    }
}

fn redirect(text: &str, host: &str) -> Result<(String, u16), TlsConfigError> {
    let (host, port) = text.rsplit_once(':').unwrap_or((host, text));
    match port.parse() {
        Ok(port) if !host.is_empty() => Ok((host.to_owned(), port)),
        _ => Err(TlsConfigError::Redirect(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        tls: TlsArgs,
    }

    fn resolve(args: &[&str]) -> Result<Option<Tls>, TlsConfigError> {
        let line = Line::try_parse_from(["test"].iter().chain(args)).unwrap();
        line.tls.resolve(Path::new("/here"), Some("0.0.0.0"))
    }

    #[test]
    fn without_a_certificate_there_is_no_tls_and_nothing_that_needs_it() {
        assert_eq!(resolve(&[]), Ok(None));
        for args in [
            &["--client-ca", "ca.pem"][..],
            &["--hsts"],
            &["--redirect-http", "80"],
            &["--https-port", "443"],
        ] {
            assert_eq!(
                resolve(args),
                Err(TlsConfigError::NeedsTls(match args[0] {
                    "--client-ca" => "--client-ca",
                    "--hsts" => "--hsts",
                    "--redirect-http" => "--redirect-http",
                    _ => "--https-port",
                }))
            );
        }
    }

    #[test]
    fn certificates_and_keys_are_paired_in_order() {
        let pairs = |args: &[&str]| resolve(args).unwrap().unwrap().source;
        let path = |path: &str| PathBuf::from(path);
        let files = [
            "--tls-cert",
            "a.crt",
            "--tls-key",
            "a.key",
            "--tls-cert",
            "/b.crt",
            "--tls-key",
            "/b.key",
        ];
        let expected =
            vec![(path("/here/a.crt"), path("/here/a.key")), (path("/b.crt"), path("/b.key"))];
        assert_eq!(pairs(&files), Source::Files(expected));
        let both = vec![(path("/here/both.pem"), path("/here/both.pem"))];
        assert_eq!(pairs(&["--tls-cert", "both.pem"]), Source::Files(both));
        assert_eq!(pairs(&["--tls-dev"]), Source::Dev);
        for (args, certificates, keys) in [
            (&["--tls-key", "a"][..], 0, 1),
            (&["--tls-cert", "a", "--tls-cert", "b", "--tls-key", "c"], 2, 1),
        ] {
            assert_eq!(resolve(args), Err(TlsConfigError::Unpaired { certificates, keys }));
        }
        assert!(Line::try_parse_from(["test", "--tls-dev", "--tls-cert", "a"]).is_err());
    }

    #[test]
    fn a_redirect_listens_where_the_server_does_unless_it_says_otherwise() {
        let redirect =
            |text| Ok(resolve(&["--tls-dev", "--redirect-http", text])?.unwrap().redirect);
        assert_eq!(redirect("80"), Ok(Some(("0.0.0.0".to_owned(), 80))));
        assert_eq!(redirect("[::1]:8080"), Ok(Some(("[::1]".to_owned(), 8080))));
        assert_eq!(redirect("example.org:80"), Ok(Some(("example.org".to_owned(), 80))));
        for text in ["", "http", ":80", "80:", "99999"] {
            assert_eq!(redirect(text), Err(TlsConfigError::Redirect(text.to_owned())));
        }
        let line = Line::try_parse_from(["test", "--tls-dev", "--redirect-http", "80"]).unwrap();
        let unix = line.tls.resolve(Path::new("/"), None);
        assert_eq!(unix, Err(TlsConfigError::RedirectWhere));
    }

    #[test]
    fn hsts_lasts_two_years_unless_it_says_otherwise() {
        let hsts = |args: &[&str]| resolve(args).unwrap().unwrap().hsts_max_age;
        assert_eq!(hsts(&["--tls-dev"]), None);
        assert_eq!(hsts(&["--tls-dev", "--hsts"]), Some(HSTS_MAX_AGE_S));
        assert_eq!(hsts(&["--tls-dev", "--hsts", "0"]), Some(0));
    }

    #[test]
    fn versions_and_limits_have_defaults_and_bounds() {
        let tls = resolve(&["--tls-dev"]).unwrap().unwrap();
        assert_eq!((tls.version_min, tls.handshakes_max), (Version::Tls12, HANDSHAKES_MAX));
        assert_eq!(tls.handshake_timeout, HANDSHAKE_TIMEOUT);
        let tls = resolve(&["--tls-dev", "--tls-min-version", "1.3"]).unwrap().unwrap();
        assert_eq!(tls.version_min, Version::Tls13);
        for args in [["--handshakes-max", "0"], ["--tls-min-version", "1.1"]] {
            assert!(Line::try_parse_from(["test"].iter().chain(&args)).is_err(), "{args:?}");
        }
    }
}
