//! The admin listener: is it alive, is it ready. Served by the edge itself, whatever the workers do.
//!
//! Invariant: at most `ADMIN_CONNECTIONS_MAX` connections, one request each, each bounded in bytes and in time.

use std::{
    cell::Cell,
    net::{Shutdown, TcpListener as StdListener},
    rc::Rc,
    sync::Arc,
};

use serde::Serialize;
use tokio::{sync::Semaphore, time::timeout};
use tokio_uring::{
    buf::BoundedBuf,
    net::{TcpListener, TcpStream},
};

use crate::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_EXCHANGE_MAX, ADMIN_HEAD_SIZE_MAX};

/// What the probes are told.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Health {
    /// Workers that serve.
    pub(super) workers_ready: usize,
    /// Workers that there should be.
    pub(super) workers: usize,
    /// The server is about to end.
    pub(super) draining: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    status: &'a str,
    #[serde(flatten)]
    health: Option<Health>,
}

/// Says where it listens, and accepts until it is dropped.
pub(super) async fn serve(listener: StdListener, health: Rc<Cell<Health>>) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!("admin listener on http://{address} (/healthz, /readyz)");
    }
    let listener = TcpListener::from_std(listener);
    let permits = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = Rc::clone(&health);
                tokio_uring::spawn(async move {
                    // The stream outlives the exchange: an operation that was given up holds on to the socket until
                    // it completes, and the shutdown makes it.
                    let _ = timeout(ADMIN_EXCHANGE_MAX, exchange(&stream, &health)).await;
                    let _ = stream.shutdown(Shutdown::Both);
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("admin listener: {error}");
                // Out of descriptors, most likely; one of our own may come free.
                tokio::time::sleep(ADMIN_EXCHANGE_MAX / 10).await;
            }
        }
    }
}

/// Any error is the client's going away.
async fn exchange(stream: &TcpStream, health: &Cell<Health>) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(ADMIN_HEAD_SIZE_MAX);
    let response = loop {
        let (read, buffer) = read_more(stream, head).await;
        head = buffer;
        let ended = read? == 0;
        if let Some(response) = answer(&head, health.get()) {
            break response;
        }
        if ended {
            return Ok(());
        }
    };
    stream.write_all(response).await.0?;
    stream.shutdown(Shutdown::Write)
}

async fn read_more(stream: &TcpStream, buffer: Vec<u8>) -> (std::io::Result<usize>, Vec<u8>) {
    let (begin, end) = (buffer.len(), buffer.capacity());
    let (read, slice) = stream.read(buffer.slice(begin..end)).await;
    (read, slice.into_inner())
}

/// The response, or `None` while the head is not complete.
fn answer(head: &[u8], health: Health) -> Option<Vec<u8>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Partial) if head.len() < ADMIN_HEAD_SIZE_MAX => return None,
        Ok(httparse::Status::Partial) => {
            return Some(response("431 Request Header Fields Too Large", "too large", None, true));
        }
        Err(_) => return Some(response("400 Bad Request", "bad request", None, true)),
        Ok(httparse::Status::Complete(_)) => {}
    }
    let with_body = match request.method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => return Some(response("405 Method Not Allowed", "GET or HEAD", None, true)),
    };
    let target = request.path.unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let ready = health.workers_ready > 0 && !health.draining;
    let (status, word) = match path {
        "/healthz" => ("200 OK", "ok"),
        "/readyz" if ready => ("200 OK", "ready"),
        "/readyz" => ("503 Service Unavailable", "not ready"),
        _ => return Some(response("404 Not Found", "not found", None, with_body)),
    };
    Some(response(status, word, Some(health), with_body))
}

fn response(status: &str, word: &str, health: Option<Health>, with_body: bool) -> Vec<u8> {
    let body = sonic_rs::to_string(&Body { status: word, health })
        .unwrap_or_else(|error| unreachable!("numbers and words are JSON: {error}"));
    let allow = if status.starts_with("405") { "allow: GET, HEAD\r\n" } else { "" };
    let mut text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\n{allow}connection: close\r\n\r\n",
        body.len()
    );
    if with_body {
        text.push_str(&body);
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(head: &str, health: Health) -> String {
        String::from_utf8(answer(head.as_bytes(), health).unwrap()).unwrap()
    }

    #[test]
    fn probes_are_answered_by_path_and_health() {
        let ready = Health { workers_ready: 1, workers: 2, draining: false };
        let none = Health { workers_ready: 0, ..ready };
        let draining = Health { draining: true, ..ready };
        for (request, health, status, body) in [
            (
                "GET /healthz",
                none,
                "200",
                r#"{"status":"ok","workers_ready":0,"workers":2,"draining":false}"#,
            ),
            (
                "GET /healthz",
                draining,
                "200",
                r#"{"status":"ok","workers_ready":1,"workers":2,"draining":true}"#,
            ),
            (
                "GET /readyz",
                ready,
                "200",
                r#"{"status":"ready","workers_ready":1,"workers":2,"draining":false}"#,
            ),
            (
                "GET /readyz?x=1",
                none,
                "503",
                r#"{"status":"not ready","workers_ready":0,"workers":2,"draining":false}"#,
            ),
            (
                "GET /readyz",
                draining,
                "503",
                r#"{"status":"not ready","workers_ready":1,"workers":2,"draining":true}"#,
            ),
            ("HEAD /readyz", ready, "200", ""),
            ("GET /", ready, "404", r#"{"status":"not found"}"#),
            ("POST /healthz", ready, "405", r#"{"status":"GET or HEAD"}"#),
        ] {
            let response = ask(&format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n"), health);
            assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {response}");
            assert!(response.ends_with(&format!("\r\n\r\n{body}")), "{request}: {response}");
        }
    }

    #[test]
    fn a_head_is_awaited_bounded_and_checked() {
        let health = Health::default();
        assert_eq!(answer(b"", health), None);
        assert_eq!(answer(b"GET /healthz HTTP/1.1\r\nhost: x\r\n", health), None);
        let long = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(ADMIN_HEAD_SIZE_MAX));
        assert!(ask(&long, health).starts_with("HTTP/1.1 431 "));
        assert!(ask("\0\0", health).starts_with("HTTP/1.1 400 "));
    }
}
