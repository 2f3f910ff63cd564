//! TLS 1.3 handshakes over TCP, each on a connection of its own: full, or resumed with a ticket.

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

/// Until the server has shown that the handshake is over for it, too; a ticket comes no later.
async fn shake(
    options: &Options,
    connector: &TlsConnector,
    kind: Handshakes,
) -> Result<(), Box<dyn Error>> {
    let socket = TcpStream::connect(options.address()?).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(options.name.clone())?;
    let mut stream = connector.connect(name, socket).await?;
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        options.url.path(),
        options.name
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = [0; 4096];
    while stream.read(&mut answer).await? > 0 {}
    let found = stream.get_ref().1.handshake_kind();
    match (kind, found) {
        (Handshakes::Full, Some(HandshakeKind::Full))
        | (Handshakes::Resumed, Some(HandshakeKind::Resumed)) => Ok(()),
        _ => Err(format!("the handshake was {found:?}").into()),
    }
}

pub async fn measure(options: &Options, kind: Handshakes) -> Result<Report, Box<dyn Error>> {
    let config = trust::client(b"http/1.1", kind == Handshakes::Resumed)?;
    let connector = TlsConnector::from(Arc::new(config));
    // The first ticket; that one cannot be resumed.
    if kind == Handshakes::Resumed {
        for _ in 0..options.connections * 2 {
            drop(shake(options, &connector, kind).await);
        }
    }
    let counts_from = Instant::now() + options.warm_up;
    let tally = Rc::new(Tally::new(counts_from));
    let left = Rc::new(Cell::new(options.requests));
    LocalSet::new()
        .run_until(async {
            let workers = (0..options.connections).map(|_| async {
                loop {
                    match left.get() {
                        Some(0) => return,
                        Some(more) => left.set(Some(more - 1)),
                        None if Instant::now() >= counts_from + options.duration => return,
                        None => {}
                    }
                    let begun = Instant::now();
                    match shake(options, &connector, kind).await {
                        Ok(()) => tally.done(begun, 200, 0),
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
