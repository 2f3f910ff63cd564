//! Cost of one record and of one message, without sleeping and without a second core.

use std::{hint::black_box, os::fd::AsFd, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fasterapi::{
    ipc::{
        Doorbell, EdgeLane, Segment, WorkerLane,
        layout::Geometry,
        message::{FromWorker, Request, Response, ToWorker},
        ring::{Consumer, Producer, publish},
        segment::Writer,
    },
    span::{Field, Span},
};

fn rings(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring");
    for size in [64_usize, 1024] {
        let here = Arc::new(Segment::heap(Geometry::PRODUCT));
        let there = Arc::new(Segment::heap(Geometry::PRODUCT));
        let (mut tx, mut no_rx) = (
            Producer::new(Arc::clone(&here), Arc::clone(&there)),
            Consumer::new(Arc::clone(&here), Arc::clone(&there)),
        );
        let (mut no_tx, mut rx) =
            (Producer::new(Arc::clone(&there), Arc::clone(&here)), Consumer::new(there, here));
        let (bytes, mut payload) = (vec![7; size], Vec::new());
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("claim, commit, publish, take, release: {size} B"), |b| {
            b.iter(|| {
                let Ok(Some(mut claim)) = tx.claim(size) else { panic!("the ring is empty") };
                claim.put(black_box(&bytes));
                claim.commit(1, 0, 1);
                publish(&mut tx, &mut no_rx);
                payload.clear();
                assert!(matches!(rx.take(&mut payload), Ok(Some(_))));
                publish(&mut no_tx, &mut rx);
                black_box(&payload);
            });
        });
    }
    group.finish();
}

fn lanes() -> (EdgeLane, WorkerLane) {
    let geometry = Geometry::PRODUCT;
    let (own_e, e) = Segment::create("bench-e", geometry, Writer::Creator).expect("memfd");
    let (peer_w, w) = Segment::create("bench-w", geometry, Writer::Receiver).expect("memfd");
    let peer_e = Segment::attach(e.as_fd(), false).expect("map");
    let own_w = Segment::attach(w.as_fd(), true).expect("map");
    let bell = Arc::new(Doorbell::new().expect("eventfd"));
    (EdgeLane::new(own_e, peer_w, Arc::clone(&bell)), WorkerLane::new(own_w, peer_e, bell))
}

/// A blob of these texts, and where each lies.
fn blob_of(texts: &[&str]) -> (Vec<u8>, Vec<Span>) {
    let mut blob = Vec::new();
    let spans = texts.iter().map(|text| {
        let span = Span::new(blob.len(), text.len()).expect("short");
        blob.extend_from_slice(text.as_bytes());
        span
    });
    let spans = spans.collect();
    (blob, spans)
}

fn fields_of(spans: &[Span]) -> Vec<Field> {
    spans.as_chunks().0.iter().map(|[name, value]| Field { name: *name, value: *value }).collect()
}

fn messages(c: &mut Criterion) {
    let (mut edge, mut worker) = lanes();
    let (blob, spans) = blob_of(&[
        "GET",
        "/api/v1/users/4711",
        "fields=name",
        "api.example.com",
        "host",
        "api.example.com",
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0",
        "accept",
        "application/json, text/plain, */*",
        "accept-encoding",
        "gzip, deflate, br",
        "authorization",
        "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0NzExIn0.c2lnbmF0dXJl",
    ]);
    let fields = fields_of(&spans[4..]);
    let request = Request {
        route: 3,
        method: 0,
        version: 11,
        method_name: spans[0],
        raw_path: spans[1],
        path: spans[1],
        query: spans[2],
        authority: spans[3],
        fields: &fields,
        params: &[Span::new(17, 4).expect("short")],
        blob: &blob,
        content_length: None,
        peer: "192.0.2.7:51234".parse().ok(),
        secure: false,
        tls: None,
        websocket: false,
        halvings: 0,
        body: &[],
        end: true,
    };
    c.bench_function("request, 5 fields: encode, publish, receive, parse", |b| {
        b.iter(|| {
            assert_eq!(edge.send_request(1, black_box(&request)), Ok(true));
            edge.publish().expect("own worker");
            let message = worker.receive();
            assert!(matches!(message, Ok(Some((1, ToWorker::Request(_))))));
            black_box(&message);
            worker.publish().expect("own edge");
        });
    });

    let (blob, spans) = blob_of(&[
        "content-type",
        "application/json",
        "cache-control",
        "no-store",
        "x-request-id",
        "0af7651916cd43dd8448eb211c80319c",
    ]);
    let (fields, body) = (fields_of(&spans), vec![b'{'; 128]);
    let response = Response {
        status: 200,
        fields: &fields,
        blob: &blob,
        content_length: Some(128),
        body: &body,
        end: true,
    };
    c.bench_function("response, 3 fields, 128 B: encode, publish, receive, parse", |b| {
        b.iter(|| {
            assert_eq!(worker.send_response(1, black_box(&response)), Ok(true));
            worker.publish().expect("own edge");
            let message = edge.receive();
            assert!(matches!(message, Ok(Some((1, FromWorker::Response(_))))));
            black_box(&message);
            edge.publish().expect("own worker");
        });
    });
}

criterion_group!(benches, rings, messages);
criterion_main!(benches);
