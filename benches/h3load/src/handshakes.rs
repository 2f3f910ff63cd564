//! TLS 1.3 handshakes over TCP, each on a connection of its own: full, or resumed with a ticket.
//!
//! Invariant: every handshake under way has tickets of its own, so that none is full for want of one that another has taken;
//! what each turned out to be is counted, whatever was wished for.

use std::{cell::Cell, error::Error, rc::Rc, sync::Arc};

use rustls::{HandshakeKind, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use crate::{
    Handshakes, Options,
    report::{Report, Tally},
    trust,
};

/// A handshake, one request and its answer, to the end of the connection; TLS 1.3 sends no ticket before the handshake is over.
async fn shake(
    options: &Options,
    connector: &TlsConnector,
) -> Result<(u16, HandshakeKind), Box<dyn Error>> {
    let socket = TcpStream::connect(options.address()?).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(options.name.clone())?;
    let mut stream = connector.connect(name, socket).await?;
    let head = format!(
        "{} {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        options.method(),
        options.url.path(),
        options.name
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let kind = stream.get_ref().1.handshake_kind().ok_or("the handshake did not end")?;
    Ok((status(&answer)?, kind))
}

fn status(answer: &[u8]) -> Result<u16, Box<dyn Error>> {
    let code = answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    Ok(str::from_utf8(code.ok_or("the answer is not one of HTTP/1.1")?)?.parse()?)
}

pub async fn measure(options: &Options, kind: Handshakes) -> Result<Report, Box<dyn Error>> {
    let mut connectors = Vec::new();
    for _ in 0..options.connections {
        let config = trust::client(b"http/1.1", kind == Handshakes::Resumed)?;
        let connector = TlsConnector::from(Arc::new(config));
        // For the first ticket.
        if kind == Handshakes::Resumed {
            shake(options, &connector).await?;
        }
        connectors.push(connector);
    }
    let counts_from = Instant::now() + options.warm_up;
    let tally = Rc::new(Tally::new(counts_from));
    let left = Rc::new(Cell::new(options.requests));
    LocalSet::new()
        .run_until(async {
            let workers = connectors.iter().map(|connector| async {
                loop {
                    match left.get() {
                        Some(0) => return,
                        Some(more) => left.set(Some(more - 1)),
                        None if Instant::now() >= counts_from + options.duration => return,
                        None => {}
                    }
                    let begun = Instant::now();
                    match shake(options, connector).await {
                        Ok((status, kind)) => {
                            tally.done(begun, status, 0);
                            tally.handshake(begun, kind == HandshakeKind::Resumed);
                        }
                        Err(error) => tally.failed(&error),
                    }
                }
            });
            all(workers.collect()).await;
        })
        .await;
    Ok(tally.report("handshakes"))
}

/// Polls all of them until all are over.
async fn all<F: Future<Output = ()>>(workers: Vec<F>) {
    let mut workers: Vec<_> = workers.into_iter().map(|worker| Some(Box::pin(worker))).collect();
    std::future::poll_fn(|cx| {
        let mut is_over = true;
        for worker in &mut workers {
            if worker.as_mut().is_some_and(|worker| worker.as_mut().poll(cx).is_ready()) {
                *worker = None;
            }
            is_over &= worker.is_none();
        }
        if is_over { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
