//! Requests over HTTP/3: so many connections, so many streams on each, until the time or the number is over.

use std::{cell::Cell, error::Error, future::poll_fn, rc::Rc, sync::Arc};

use bytes::{Buf, Bytes};
use h3::client::SendRequest;
use http::{Method, Request, Uri};
use quinn::{ClientConfig, Endpoint, TransportConfig, VarInt, crypto::rustls::QuicClientConfig};
use tokio::{task::LocalSet, time::Instant};

use crate::{
    Options,
    report::{Report, Tally},
    trust,
};

/// Windows that do not stand in the way of 1 GB.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
const PIECE: usize = 64 * 1024;

/// What the tasks of one connection, and of all, share.
struct Load {
    url: Uri,
    method: Method,
    upload: u64,
    until: Instant,
    /// Requests that may still begin, if they are counted.
    left: Cell<Option<u64>>,
    tally: Tally,
}

impl Load {
    fn may_begin(&self) -> bool {
        match self.left.get() {
            Some(0) => false,
            Some(left) => {
                self.left.set(Some(left - 1));
                true
            }
            None => Instant::now() < self.until,
        }
    }
}

type Requests = SendRequest<h3_quinn::OpenStreams, Bytes>;

async fn connect(
    endpoint: &Endpoint,
    options: &Options,
) -> Result<(quinn::Connection, Requests), Box<dyn Error>> {
    let connection = endpoint.connect(options.address()?, &options.name)?.await?;
    let (mut driver, requests) = h3::client::builder()
        .send_grease(!options.no_grease)
        .build(h3_quinn::Connection::new(connection.clone()))
        .await?;
    tokio::task::spawn_local(async move {
        // Its end is seen by each request.
        drop(poll_fn(|cx| driver.poll_close(cx)).await);
    });
    Ok((connection, requests))
}

/// One request; its status, and how many bytes came with it.
async fn ask(requests: &mut Requests, load: &Load) -> Result<(u16, u64), Box<dyn Error>> {
    let mut request = Request::builder().method(load.method.clone()).uri(load.url.clone());
    if load.upload > 0 {
        request = request.header("content-length", load.upload);
    }
    let mut stream = requests.send_request(request.body(())?).await?;
    let mut left = load.upload;
    while left > 0 {
        let size = left.min(PIECE as u64);
        stream.send_data(Bytes::from_static(&[0x5a; PIECE]).slice(..size as usize)).await?;
        left -= size;
    }
    stream.finish().await?;
    let status = stream.recv_response().await?.status().as_u16();
    let mut bytes = 0;
    while let Some(mut piece) = stream.recv_data().await? {
        bytes += piece.remaining() as u64;
        piece.advance(piece.remaining());
    }
    Ok((status, bytes))
}

async fn stream(mut requests: Requests, load: Rc<Load>) {
    while load.may_begin() {
        let begun = Instant::now();
        match ask(&mut requests, &load).await {
            Ok((status @ 200..400, bytes)) => load.tally.done(begun, status, bytes),
            Ok((status, _)) => load.tally.failed(&format_args!("status {status}")),
            Err(error) => {
                load.tally.failed(&error);
                // A connection that is gone would fail as fast as it can be asked.
                return;
            }
        }
    }
}

pub async fn measure(options: &Options) -> Result<Report, Box<dyn Error>> {
    let crypto = QuicClientConfig::try_from(trust::client(b"h3", false)?)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(CONNECTION_WINDOW.into())
        .max_idle_timeout(Some(VarInt::from_u32(30_000).into()));
    config.transport_config(Arc::new(transport));
    let local = if options.address()?.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let mut endpoint = Endpoint::client(local.parse()?)?;
    endpoint.set_default_client_config(config);

    let tasks = LocalSet::new();
    let load = tasks
        .run_until(async {
            let mut connections = Vec::new();
            for _ in 0..options.connections {
                connections.push(connect(&endpoint, options).await?);
            }
            let counts_from = Instant::now() + options.warm_up;
            let load = Rc::new(Load {
                url: options.url.clone(),
                method: options.method(),
                upload: options.upload,
                until: counts_from + options.duration,
                left: Cell::new(options.requests),
                tally: Tally::new(counts_from),
            });
            let begun: Vec<_> = connections
                .iter()
                .flat_map(|(_, requests)| std::iter::repeat_n(requests, options.streams))
                .map(|requests| tokio::task::spawn_local(stream(requests.clone(), load.clone())))
                .collect();
            for task in begun {
                task.await?;
            }
            for (connection, _) in &connections {
                load.tally.received(connection.stats().udp_rx.bytes);
            }
            Ok::<_, Box<dyn Error>>(load)
        })
        .await?;
    let report = load.tally.report("requests");
    endpoint.close(VarInt::from_u32(0x100), b"");
    endpoint.wait_idle().await;
    Ok(report)
}
