//! What one request costs in the HTTP/1 engine and the routing table, without any I/O.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use fasterapi::{
    proto::{
        h1::{H1, Options, Step},
        head::{BodyLength, Method, RequestHead, ResponseHead},
        route::{RouteSpec, Routes},
    },
    span::{Field, Span},
};

const OPTIONS: Options = Options { body_size_max: 1 << 20 };
const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

const CURL: &str = "GET /user/12345 HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\
    Accept-Encoding: gzip\r\n\r\n";

const BROWSER: &str = "GET /search?q=rust%20http&page=2 HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"128\", \"Not;A=Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\r\n";

const CHUNKED: &str = "POST /items HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
    Transfer-Encoding: chunked\r\n\r\n10\r\n{\"name\": \"thing\"\r\n10\r\n, \"price\": 12.5}\r\n0\r\n\r\n";

/// Decodes a whole request on a fresh engine, as after a keep-alive response.
fn decode(input: &[u8], head: &mut RequestHead) -> usize {
    let mut engine = H1::new();
    let mut at = 0;
    while !engine.request_done() {
        match engine.decode(&input[at..], &OPTIONS, head) {
            Ok(Step::Head { consumed } | Step::Body { consumed, .. } | Step::End { consumed }) => {
                at += consumed;
            }
            Ok(Step::NeedMore) | Err(_) => panic!("the request is whole and valid"),
        }
    }
    at
}

fn decoding(c: &mut Criterion) {
    let mut head = RequestHead::default();
    for (name, input) in [("curl GET", CURL), ("browser GET", BROWSER), ("chunked POST", CHUNKED)] {
        c.bench_function(&format!("decode {name}"), |b| {
            b.iter(|| decode(black_box(input.as_bytes()), &mut head));
        });
    }
}

fn encoding(c: &mut Criterion) {
    let mut blob = Vec::new();
    let mut span = |text: &str| {
        let start = blob.len();
        blob.extend_from_slice(text.as_bytes());
        Span::new(start, text.len()).expect("short")
    };
    let fields = [
        ("content-type", "application/json"),
        ("content-length", "17"),
        ("cache-control", "no-store"),
        ("x-request-id", "0123456789abcdef"),
        ("vary", "accept-encoding"),
    ]
    .map(|(name, value)| Field { name: span(name), value: span(value) });
    let head =
        ResponseHead { status: 200, blob: &blob, fields: &fields, body: BodyLength::Known(17) };
    let mut out = Vec::with_capacity(4096);
    c.bench_function("encode head of 5 fields", |b| {
        b.iter(|| {
            out.clear();
            let encoded = H1::new().encode_head(black_box(&head), DATE, &mut out);
            assert!(encoded.is_ok());
            out.len()
        });
    });
}

fn routing(c: &mut Criterion) {
    let paths = [
        "/",
        "/health",
        "/user/{user_id}",
        "/user/{user_id}/posts/{post_id}",
        "/items",
        "/items/{item_id:int}",
        "/files/{path:path}",
        "/reports/{name}.pdf",
    ];
    let specs = (0..)
        .zip(paths)
        .map(|(id, path)| RouteSpec { id, path: path.to_owned(), methods: vec!["GET".to_owned()] })
        .collect();
    let routes = Routes::new(specs, true).expect("valid");
    let mut params = Vec::new();
    for path in [
        "/health",
        "/user/12345",
        "/user/12345/posts/678",
        "/items/42",
        "/reports/q3.pdf",
        "/nowhere",
    ] {
        c.bench_function(&format!("find {path}"), |b| {
            b.iter(|| routes.find(Method::Get, b"GET", black_box(path.as_bytes()), &mut params));
        });
    }
}

criterion_group!(benches, decoding, encoding, routing);
criterion_main!(benches);
