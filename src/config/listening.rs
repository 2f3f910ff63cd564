//! The options that say where clients come in, and through which proxies.
//!
//! Invariant: as of [`super`]: what comes out is final. There is one way in; naming two is an error, not a choice.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::RawFd,
    path::PathBuf,
    str::FromStr,
};

use clap::{ArgAction, Args, builder::BoolishValueParser};
use thiserror::Error;

use crate::limits::{LISTEN_BACKLOG, PROXY_NETWORKS_MAX};

/// The proxies that are believed unless others are named: those on the same machine.
const TRUSTED: &str = "127.0.0.1,::1";

#[derive(Debug, Args)]
#[command(next_help_heading = "Listening")]
pub(super) struct ListeningArgs {
    /// Address or host name to listen on
    #[arg(long, default_value = "127.0.0.1", env = "FASTERAPI_HOST")]
    host: String,
    /// Port to listen on; 0 lets the system choose
    #[arg(long, default_value_t = 8000, env = "FASTERAPI_PORT")]
    port: u16,
    /// Listen on a Unix socket instead of a port
    #[arg(long, value_name = "PATH", env = "FASTERAPI_UDS")]
    uds: Option<PathBuf>,
    /// Listen on a socket that this process was started with, by its descriptor
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), conflicts_with = "uds", env = "FASTERAPI_FD")]
    fd: Option<RawFd>,
    /// All of these in one word, as gunicorn has it: HOST, HOST:PORT, unix:PATH or fd://N
    #[arg(short, long, value_name = "ADDRESS", conflicts_with_all = ["host", "port", "uds", "fd"], env = "FASTERAPI_BIND")]
    bind: Option<Bind>,
    /// Connections that the kernel keeps until they are accepted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..), default_value_t = LISTEN_BACKLOG, env = "FASTERAPI_BACKLOG")]
    backlog: i32,
    /// Believe X-Forwarded-For and X-Forwarded-Proto of the proxies that --forwarded-allow-ips names
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value_t = true,
        action = ArgAction::Set,
        value_parser = BoolishValueParser::new(),
        env = "FASTERAPI_PROXY_HEADERS"
    )]
    proxy_headers: bool,
    #[arg(long, hide = true, overrides_with = "proxy_headers")]
    no_proxy_headers: bool,
    /// Proxies that are believed: addresses, networks (10.0.0.0/8), or * for all; those on a Unix socket always are
    /// [default: $FORWARDED_ALLOW_IPS, else 127.0.0.1,::1]
    #[arg(long, value_name = "LIST", env = "FASTERAPI_FORWARDED_ALLOW_IPS")]
    forwarded_allow_ips: Option<Proxies>,
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// A host name or address, and a port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
    /// A listening socket that is there already.
    Inherited(RawFd),
}

/// What is wrong with an address or a network.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ListeningError {
    /// Not an address to listen on.
    #[error("expected HOST, HOST:PORT, unix:PATH or fd://N")]
    Bind,
    /// Not a list of networks.
    #[error("{0:?} is neither an address nor a network")]
    Network(String),
    /// Each is looked at for each request.
    #[error("at most {PROXY_NETWORKS_MAX} networks")]
    TooManyNetworks,
}

impl FromStr for Bind {
    type Err = ListeningError;

    fn from_str(text: &str) -> Result<Self, ListeningError> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            // gunicorn takes both forms.
            return Ok(Self::Unix(path.strip_prefix("//").unwrap_or(path).into()));
        }
        if let Some(fd) = text.strip_prefix("fd://") {
            let fd = fd.parse().ok().filter(|fd| *fd >= 0);
            return fd.map(Self::Inherited).ok_or(ListeningError::Bind);
        }
        let is_v6 = |host: &str| host.contains(':') && !host.starts_with('[');
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !is_v6(host) && !port.ends_with(']') => {
                (host, port.parse().map_err(|_| ListeningError::Bind)?)
            }
            _ => (text, 8000),
        };
        // `:8000` is every address, as for gunicorn.
        let host = if host.is_empty() && !text.is_empty() { "0.0.0.0" } else { host };
        let sound = !host.is_empty() && !host.contains(['/', ' ']);
        sound.then(|| Self::Tcp(host.to_owned(), port)).ok_or(ListeningError::Bind)
    }
}

/// Proxies that are believed: networks, by address and number of leading bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxies(pub Vec<(IpAddr, u8)>);

impl FromStr for Proxies {
    type Err = ListeningError;

    fn from_str(text: &str) -> Result<Self, ListeningError> {
        if text.trim() == "*" {
            let families: [IpAddr; 2] =
                [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
            return Ok(Self(families.map(|all| (all, 0)).to_vec()));
        }
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let found =
            words.map(|word| network(word).ok_or_else(|| ListeningError::Network(word.to_owned())));
        let found = found.collect::<Result<Vec<_>, _>>()?;
        if found.len() > PROXY_NETWORKS_MAX {
            return Err(ListeningError::TooManyNetworks);
        }
        Ok(Self(found))
    }
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(a, bits)| (a, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(width), |bits| bits.parse().ok()).filter(|bits| *bits <= width)?;
    Some((address, bits))
}

/// Where clients come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The address.
    pub bind: Bind,
    /// Connections that wait to be accepted.
    pub backlog: i32,
    /// The proxies that are believed; `None`: nobody is.
    pub proxies: Option<Proxies>,
}

impl ListeningArgs {
    /// `allowed`: what the environment says to all servers of Python applications.
    pub(super) fn resolve(self, allowed: Option<&str>) -> Result<Listening, ListeningError> {
        let asked = self.forwarded_allow_ips.map_or_else(|| allowed.unwrap_or(TRUSTED).parse(), Ok);
        let bind = match (self.bind, self.uds, self.fd) {
            (Some(bind), ..) => bind,
            (None, Some(path), _) => Bind::Unix(path),
            (None, None, Some(fd)) => Bind::Inherited(fd),
            (None, None, None) => Bind::Tcp(self.host, self.port),
        };
        let believes = self.proxy_headers && !self.no_proxy_headers;
        let proxies = if believes { Some(asked?) } else { None };
        Ok(Listening { bind, backlog: self.backlog, proxies })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{resolve, usage_error};

    fn listening(args: &[&str]) -> Listening {
        resolve(&[&["main"], args].concat()).unwrap().listening
    }

    fn tcp(host: &str, port: u16) -> Bind {
        Bind::Tcp(host.to_owned(), port)
    }

    #[test]
    fn there_is_one_way_in() {
        assert_eq!(listening(&[]).bind, tcp("127.0.0.1", 8000));
        assert_eq!(listening(&["--fd", "3"]).bind, Bind::Inherited(3));
        assert_eq!(listening(&["--uds", "/run/a.sock"]).bind, Bind::Unix("/run/a.sock".into()));
        for args in [
            &["--uds", "a", "--fd", "3"][..],
            &["-b", ":80", "--port", "80"],
            &["-b", "unix:a", "--uds", "a"],
            &["--fd", "-1"],
        ] {
            usage_error(&[&["main"], args].concat());
        }
    }

    #[test]
    fn one_word_says_it_as_for_gunicorn() {
        for (text, expected) in [
            ("0.0.0.0:80", tcp("0.0.0.0", 80)),
            (":80", tcp("0.0.0.0", 80)),
            ("localhost", tcp("localhost", 8000)),
            ("[::1]:80", tcp("[::1]", 80)),
            ("[::1]", tcp("[::1]", 8000)),
            ("::1", tcp("::1", 8000)),
            ("unix:/run/a.sock", Bind::Unix("/run/a.sock".into())),
            ("unix:///run/a.sock", Bind::Unix("/run/a.sock".into())),
            ("fd://3", Bind::Inherited(3)),
        ] {
            assert_eq!(listening(&["--bind", text]).bind, expected);
        }
        for text in ["", "host:http", "unix:", "fd://", "fd://-1", "http://x", "x:99999"] {
            assert_eq!(text.parse::<Bind>(), Err(ListeningError::Bind), "{text}");
        }
    }

    #[test]
    fn proxies_of_the_same_machine_are_believed_unless_others_are_named() {
        let local = Proxies(vec![network("127.0.0.1").unwrap(), network("::1").unwrap()]);
        assert_eq!(listening(&[]).proxies, Some(local.clone()));
        assert_eq!(listening(&["--proxy-headers"]).proxies, Some(local));
        assert_eq!(listening(&["--no-proxy-headers"]).proxies, None);
        assert_eq!(listening(&["--proxy-headers=false"]).proxies, None);
        let named = listening(&["--forwarded-allow-ips", "10.0.0.0/8, ::1"]).proxies;
        assert_eq!(
            named,
            Some(Proxies(vec![("10.0.0.0".parse().unwrap(), 8), ("::1".parse().unwrap(), 128)]))
        );
        assert_eq!(listening(&["--forwarded-allow-ips", ""]).proxies, Some(Proxies(Vec::new())));
        let all = listening(&["--forwarded-allow-ips", "*"]).proxies.unwrap();
        assert!(all.0.iter().all(|(_, bits)| *bits == 0) && all.0.len() == 2);
    }

    #[test]
    fn a_network_that_is_none_is_named() {
        for text in ["10.0.0.0/33", "::/129", "10.0.0.0/", "proxy", "10.0.0.0/8,x"] {
            let error = usage_error(&["main", "--forwarded-allow-ips", text]);
            assert!(error.contains("neither an address nor a network"), "{error}");
        }
        let many = vec!["10.0.0.1"; PROXY_NETWORKS_MAX + 1].join(",");
        assert_eq!(many.parse::<Proxies>(), Err(ListeningError::TooManyNetworks));
    }
}
