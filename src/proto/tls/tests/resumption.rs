//! Tickets: who takes whose, and for how long.

use std::{sync::Arc, time::Duration};

use boring::ssl::{SslSession, SslVersion};

use super::world::{AUTHORITY, OPTIONS, Pipe, SERVER, file, instant, keys};
use crate::{
    limits,
    proto::tls::{
        ClientCa, Options, ServerConfig, TicketKeys,
        client::{Household, Wishes},
    },
};

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

fn config(keys: &Arc<TicketKeys>) -> ServerConfig {
    ServerConfig::new(&[SERVER.identity()], &OPTIONS, keys).unwrap()
}

fn household(version: SslVersion) -> Household {
    let (version_min, version_max) = (Some(version), Some(version));
    Household::new(&Wishes { version_min, version_max, ..Wishes::default() })
}

/// Connects, talks, and says whether the ticket was taken.
fn visit(config: &ServerConfig, household: &Household, ticket: Option<&SslSession>) -> bool {
    let mut pipe = Pipe::new(config, household.client(Some("example.org"), ticket));
    pipe.exchange(usize::MAX).unwrap();
    // TLS 1.3 sends its tickets along with the first data.
    pipe.talk(usize::MAX, b"ping", b"pong");
    assert_eq!(pipe.session.resumed(), pipe.client.stream.ssl().session_reused());
    pipe.session.resumed()
}

#[test]
fn whoever_shares_the_keys_takes_the_tickets() {
    let shared = keys();
    for version in VERSIONS {
        let household = household(version);
        assert!(!visit(&config(&shared), &household, None));
        let ticket = household.ticket().unwrap();
        assert!(visit(&config(&shared), &household, Some(&ticket)));
        assert!(!visit(&config(&keys()), &household, Some(&ticket)), "other keys");
    }
}

#[test]
fn a_ticket_outlives_one_rotation_and_not_two() {
    for version in VERSIONS {
        let mut now = instant();
        let keys = TicketKeys::new(now).unwrap();
        let (config, household) = (config(&keys), household(version));
        visit(&config, &household, None);
        let ticket = household.ticket().unwrap();

        assert!(!keys.rotate(now + limits::TLS_TICKET_KEY_LIFETIME / 2).unwrap(), "too early");
        now += limits::TLS_TICKET_KEY_LIFETIME;
        assert!(keys.rotate(now).unwrap());
        assert!(visit(&config, &household, Some(&ticket)), "{version:?}: under the previous key");
        // Which gave a new ticket, under the current key.
        let renewed = household.ticket().unwrap();

        now += limits::TLS_TICKET_KEY_LIFETIME;
        assert!(keys.rotate(now).unwrap());
        assert!(!visit(&config, &household, Some(&ticket)), "{version:?}: the key is gone");
        assert!(visit(&config, &household, Some(&renewed)), "{version:?}: renewed in time");
    }
}

#[test]
fn a_rotation_that_comes_too_late_leaves_no_key_behind() {
    let start = instant();
    let keys = TicketKeys::new(start).unwrap();
    let (config, household) = (config(&keys), household(SslVersion::TLS1_3));
    visit(&config, &household, None);
    let ticket = household.ticket().unwrap();
    let late = start + 2 * limits::TLS_TICKET_KEY_LIFETIME + Duration::from_secs(1);
    assert!(keys.rotate(late).unwrap());
    assert!(!visit(&config, &household, Some(&ticket)));
}

#[test]
fn a_ticket_does_not_carry_over_to_another_certificate() {
    let shared = keys();
    let other = AUTHORITY.issue(&["example.org"]);
    let other = ServerConfig::new(&[other.identity()], &OPTIONS, &shared).unwrap();
    for version in VERSIONS {
        let household = household(version);
        visit(&config(&shared), &household, None);
        assert!(!visit(&other, &household, household.ticket().as_ref()));
    }
}

#[test]
fn a_ticket_does_not_lead_around_the_client_certificate() {
    let shared = keys();
    let pem = AUTHORITY.certificate.to_pem().unwrap();
    let client_ca = Some(ClientCa::from_pem(&file("ca.pem", &pem)).unwrap());
    let options = Options { client_ca, ..OPTIONS };
    let strict = ServerConfig::new(&[SERVER.identity()], &options, &shared).unwrap();
    for version in VERSIONS {
        let household = household(version);
        visit(&config(&shared), &household, None);
        let ticket = household.ticket();
        assert!(ticket.is_some());
        let mut pipe = Pipe::new(&strict, household.client(Some("example.org"), ticket.as_ref()));
        assert!(pipe.exchange(usize::MAX).is_err(), "{version:?}: no certificate was shown");
    }
}

#[test]
fn a_resumed_session_knows_the_client_certificate() {
    let client = AUTHORITY.issue(&["client"]);
    let pem = AUTHORITY.certificate.to_pem().unwrap();
    let client_ca = Some(ClientCa::from_pem(&file("ca.pem", &pem)).unwrap());
    let options = Options { client_ca, ..OPTIONS };
    let config = ServerConfig::new(&[SERVER.identity()], &options, &keys()).unwrap();
    for version in VERSIONS {
        let household = Household::new(&Wishes {
            version_min: Some(version),
            version_max: Some(version),
            certificate: Some((&client.certificate, &client.key)),
            ..Wishes::default()
        });
        visit(&config, &household, None);
        let ticket = household.ticket();
        let mut pipe = Pipe::new(&config, household.client(Some("example.org"), ticket.as_ref()));
        pipe.exchange(usize::MAX).unwrap();
        assert!(pipe.session.resumed());
        let peer = pipe.session.peer_certificates().unwrap();
        assert!(peer == [client.certificate.to_der().unwrap()]);
    }
}
