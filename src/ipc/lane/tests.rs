//! Both ends of a lane in one thread: bodies, chunks, arming, what of a request arrives.

use super::*;
use crate::{
    ipc::{
        layout::Geometry,
        message::{CERTIFICATE_OVERHEAD, Certificate, Tls},
    },
    limits::{
        CLIENT_CERTIFICATE_SIZE_MAX, EXCHANGE_WINDOW, HEAD_FIELDS_MAX, HEAD_SIZE_MAX,
        ROUTE_PARAMS_MAX, START_LINE_SIZE_MAX,
    },
    span::{Field, Span},
};

fn pair(geometry: Geometry) -> (EdgeLane, WorkerLane) {
    let (e, w) = (Arc::new(Segment::heap(geometry)), Arc::new(Segment::heap(geometry)));
    let bell = || StdArc::new(Doorbell::new().unwrap());
    let edge = EdgeLane::new(Arc::clone(&e), Arc::clone(&w), bell());
    (edge, WorkerLane::new(w, e, bell()))
}

#[test]
fn a_request_and_its_response_arrive_as_they_were_sent() {
    let (mut edge, mut worker) = pair(Geometry::PRODUCT);
    let span = |start, len| Span::new(start, len).unwrap();
    let request = Request {
        route: 7,
        method: 2,
        version: 11,
        method_name: span(0, 4),
        raw_path: span(4, 8),
        path: span(4, 8),
        query: span(12, 3),
        authority: span(15, 1),
        fields: &[Field { name: span(15, 1), value: span(16, 2) }],
        params: &[span(10, 2)],
        blob: b"POST/user/42q=1hxy",
        content_length: Some(5),
        peer: Some("127.0.0.1:4711".parse().unwrap()),
        secure: false,
        tls: None,
        websocket: false,
        halvings: 0,
        body: b"hello",
        end: true,
    };
    assert_eq!(edge.send_request(9, &request), Ok(true));
    edge.publish().unwrap();
    let Ok(Some((9, ToWorker::Request(got)))) = worker.receive() else { panic!("the request") };
    assert_eq!((got.route, got.method, got.version, got.end), (7, 2, 11, true));
    assert_eq!(got.path.of(got.blob), Some(&b"/user/42"[..]));
    assert_eq!(got.params[0].of(got.blob), Some(&b"42"[..]));
    assert_eq!((got.fields, got.body, got.peer), (request.fields, request.body, request.peer));
    assert_eq!(got.content_length, Some(5));

    let blob = b"content-typetext/plain";
    let fields = [Field { name: span(0, 12), value: span(12, 10) }];
    let response = Response {
        status: 201,
        fields: &fields,
        blob,
        content_length: Some(2),
        body: b"ok",
        end: true,
    };
    assert_eq!(worker.send_response(9, &response), Ok(true));
    worker.publish().unwrap();
    let Ok(Some((9, FromWorker::Response(got)))) = edge.receive() else { panic!("the response") };
    assert_eq!(
        (got.status, got.body, got.end, got.content_length),
        (201, &b"ok"[..], true, Some(2))
    );
    assert_eq!(got.fields[0].value.of(got.blob), Some(&b"text/plain"[..]));
}

#[test]
fn a_body_longer_than_the_arena_passes_chunk_by_chunk_and_every_chunk_comes_back() {
    let (mut edge, mut worker) = pair(Geometry::new(4096, 8192, 4).unwrap());
    let body: Vec<u8> = (0..200_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let (mut sent, mut got, mut ended) = (0, Vec::new(), false);
    while !ended {
        while sent < body.len() {
            let Some(taken) = worker.send_body(3, &body[sent..], true).unwrap() else { break };
            sent += taken;
        }
        worker.publish().unwrap();
        while let Some((3, FromWorker::Body { data, end })) = edge.receive().unwrap() {
            got.extend_from_slice(data);
            ended = end;
        }
        edge.publish().unwrap();
        assert!(worker.receive().unwrap().is_none());
    }
    assert_eq!(got, body);
    assert_eq!(worker.leased_chunks(), 0);
}

#[test]
fn a_message_keeps_its_kind_and_its_end_however_long_it_is() {
    let (mut edge, mut worker) = pair(SMALL);
    let data = [7; 500];
    for (is_text, more, len) in
        [(true, false, 5), (false, true, 0), (true, true, 300), (false, false, 500)]
    {
        let piece = Piece { data: &data[..len], is_text, more };
        assert_eq!(edge.send_message(3, piece), Ok(Some(len)));
        edge.publish().unwrap();
        let (mut got, mut open) = (0, true);
        while open {
            let Ok(Some((3, ToWorker::Message(part)))) = worker.receive() else {
                panic!("a part of the message")
            };
            assert_eq!(part.is_text, is_text);
            got += part.data.len();
            open = got < len;
            assert_eq!(part.more, more || open);
        }
        worker.publish().unwrap();
        assert!(edge.receive().unwrap().is_none(), "chunks came back");
    }
    let close = Close { code: 4000, reason: b"enough" };
    assert_eq!(worker.send_close(3, close), Ok(true));
    worker.publish().unwrap();
    let Ok(Some((3, FromWorker::Close(got)))) = edge.receive() else { panic!("the close") };
    assert_eq!(got, close);
}

#[test]
fn a_kick_is_sent_only_to_a_side_that_armed() {
    let (mut edge, mut worker) = pair(Geometry::PRODUCT);
    edge.send_cancel(1, Cancellation::ClientGone).unwrap();
    assert_eq!(edge.publish(), Ok(false));
    assert_eq!(worker.arm(), Ok(true), "there is a record already");
    while worker.receive().unwrap().is_some() {}
    worker.publish().unwrap();
    assert_eq!(worker.arm(), Ok(false));
    edge.send_cancel(2, Cancellation::ClientGone).unwrap();
    assert_eq!(edge.publish(), Ok(true));
    edge.send_cancel(3, Cancellation::ClientGone).unwrap();
    assert_eq!(edge.publish(), Ok(false), "one kick a sleep");
}

/// 128 bytes of inline body, records of up to 256.
const SMALL: Geometry = Geometry::new(1024, 256, 2).unwrap();

#[test]
fn a_side_that_waits_for_a_chunk_sleeps_until_the_release_instead_of_finding_room_in_the_ring() {
    let (mut edge, mut worker) = pair(SMALL);
    assert_eq!(worker.send_body(1, &[5; 2000], true), Ok(Some(512)), "the whole arena");
    assert_eq!(worker.send_body(1, &[5; 1488], true), Ok(None));
    worker.publish().unwrap();
    assert_eq!(worker.arm(), Ok(false));
    while edge.receive().unwrap().is_some() {}
    assert_eq!(edge.publish(), Ok(true), "the RELEASE wakes it");
    assert!(worker.receive().unwrap().is_none());
    assert_eq!(worker.send_body(1, &[5; 1488], true), Ok(Some(512)));
}

#[test]
fn a_side_that_waits_for_a_long_record_is_not_woken_by_room_for_a_short_one() {
    let (mut edge, mut worker) = pair(SMALL);
    let blob = [b'x'; 160];
    let response = Response {
        status: 200,
        fields: &[],
        blob: &blob,
        content_length: None,
        body: &[],
        end: true,
    };
    while worker.send_response(1, &response).unwrap() {}
    worker.publish().unwrap();
    assert_eq!(worker.send_credit(1, 1), Ok(true), "a short one still fits");
    worker.publish().unwrap();
    assert_eq!(worker.arm(), Ok(false), "but the long one does not");
    assert!(edge.receive().unwrap().is_some());
    assert_eq!(edge.publish(), Ok(true));
    assert_eq!(worker.send_response(1, &response), Ok(true));
}

#[test]
fn of_two_records_that_were_refused_the_shorter_decides_when_to_wake() {
    let (mut edge, mut worker) = pair(SMALL);
    let response = |blob| Response {
        status: 200,
        fields: &[],
        blob,
        content_length: None,
        body: &[],
        end: true,
    };
    while worker.send_abort(1).unwrap() {}
    assert_eq!(worker.send_response(1, &response(&[b'x'; 200])), Ok(false));
    worker.publish().unwrap();
    assert_eq!(worker.arm(), Ok(false));
    assert!(edge.receive().unwrap().is_some());
    assert_eq!(edge.publish(), Ok(true), "room for an ABORT");
    assert_eq!(worker.send_abort(1), Ok(true));
    assert_eq!(worker.send_response(1, &response(&[b'x'; 200])), Ok(false));
    worker.publish().unwrap();
    assert_eq!(worker.arm(), Ok(false));
    while edge.receive().unwrap().is_some() {}
    assert_eq!(edge.publish(), Ok(true));
    assert_eq!(worker.send_response(1, &response(&[b'x'; 200])), Ok(true));
}

#[test]
fn chunks_that_could_not_be_given_back_for_want_of_room_are_given_back_after_the_kick() {
    let (mut edge, mut worker) = pair(SMALL);
    while edge.send_cancel(1, Cancellation::ClientGone).unwrap() {}
    edge.publish().unwrap();
    assert_eq!(worker.send_body(2, &[6; 512], true), Ok(Some(512)));
    worker.publish().unwrap();
    while edge.receive().unwrap().is_some() {}
    edge.publish().unwrap();
    assert_eq!(edge.arm(), Ok(false), "the RELEASE found no room");
    assert_eq!(worker.leased_chunks(), 2);
    while worker.receive().unwrap().is_some() {}
    assert_eq!(worker.publish(), Ok(true), "there is room now");
    edge.publish().unwrap();
    assert!(worker.receive().unwrap().is_none());
    assert_eq!(worker.leased_chunks(), 0);
}

#[test]
fn what_is_known_of_the_clients_tls_arrives_in_front_of_the_body() {
    let (mut edge, mut worker) = pair(Geometry::PRODUCT);
    let certificate =
        Certificate { subject: b"CN=client", issuer: b"CN=authority", chain: &[0x30, 1, 7] };
    let blob = b"GET/";
    for certificate in [None, Some(certificate), Some(Certificate::default())] {
        let tls = Tls { version: 0x0304, cipher_suite: 0x1302, certificate };
        let span = |start, len| Span::new(start, len).unwrap();
        let request = Request {
            route: 0,
            method: 0,
            version: 11,
            method_name: span(0, 3),
            raw_path: span(3, 1),
            path: span(3, 1),
            query: span(4, 0),
            authority: span(4, 0),
            fields: &[],
            params: &[],
            blob,
            content_length: Some(4),
            peer: None,
            secure: true,
            tls: Some(tls),
            websocket: true,
            halvings: 3,
            body: b"body",
            end: true,
        };
        assert_eq!(edge.send_request(1, &request), Ok(true));
        edge.publish().unwrap();
        let Ok(Some((1, ToWorker::Request(got)))) = worker.receive() else { panic!() };
        assert_eq!((got.tls, got.blob, got.body), (Some(tls), &blob[..], &b"body"[..]));
        assert!(got.secure && got.websocket);
        assert_eq!(got.halvings, 3);
    }
}

#[test]
fn an_absurd_credit_is_a_fault_and_never_reaches_the_books() {
    let (mut edge, mut worker) = pair(SMALL);
    worker.send_credit(1, EXCHANGE_WINDOW as u64).unwrap();
    worker.send_credit(1, u64::MAX).unwrap();
    worker.publish().unwrap();
    assert!(matches!(edge.receive(), Ok(Some((1, FromWorker::Credit(_))))));
    assert_eq!(edge.receive().unwrap_err(), Fault::Payload { what: "credit" });
}

#[test]
fn the_longest_request_that_the_limits_allow_fits_a_record() {
    let (mut edge, mut worker) = pair(Geometry::PRODUCT);
    let blob = vec![b'a'; HEAD_SIZE_MAX + START_LINE_SIZE_MAX];
    let body = vec![b'b'; INLINE_BODY_SIZE_MAX];
    let chain = vec![b'c'; CLIENT_CERTIFICATE_SIZE_MAX - CERTIFICATE_OVERHEAD];
    let certificate = Certificate { chain: &chain, ..Certificate::default() };
    let whole = Span::new(0, blob.len()).unwrap();
    let request = Request {
        route: 0,
        method: 0,
        version: 11,
        method_name: whole,
        raw_path: whole,
        path: whole,
        query: whole,
        authority: whole,
        fields: &[Field { name: whole, value: whole }; HEAD_FIELDS_MAX],
        params: &[whole; ROUTE_PARAMS_MAX],
        blob: &blob,
        content_length: None,
        peer: None,
        secure: false,
        tls: Some(Tls { version: 0x0304, cipher_suite: 0x1302, certificate: Some(certificate) }),
        websocket: false,
        halvings: 0,
        body: &body,
        end: false,
    };
    assert!(request.fits());
    let more = Certificate { subject: b"x", ..certificate };
    let tls = Tls { version: 0x0304, cipher_suite: 0x1302, certificate: Some(more) };
    assert!(!Request { tls: Some(tls), ..request }.fits());
    assert_eq!(edge.send_request(1, &request), Ok(true));
    edge.publish().unwrap();
    assert!(matches!(worker.receive(), Ok(Some((1, ToWorker::Request(_))))));
    let response = Response {
        status: 200,
        fields: &[Field::default(); HEAD_FIELDS_MAX + 1],
        blob: &[],
        content_length: None,
        body: &[],
        end: true,
    };
    assert!(!response.fits(), "the edge would take it for a fault");
}
