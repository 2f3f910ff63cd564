//! What the WebSocket engine accepts, what it refuses, and what it sends.

mod deflate;
mod handshake;
mod keepalive;
mod peers;
mod rules;
mod send;
mod splits;
mod utf8;

use super::{Deflate, Options, Workspace, Ws};
use crate::proto::fuzzing::{WsEvent, origin, ws_events};

/// The mask of the RFC's examples.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const CONTINUE: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const NO_TAKEOVER: Deflate =
    Deflate { server_takeover: false, client_takeover: false, server_window_bits: 15 };
const TAKEOVER: Deflate =
    Deflate { server_takeover: true, client_takeover: true, server_window_bits: 15 };

/// A masked frame with this first byte.
fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | u8::try_from(len).expect("short")),
        len @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(len).expect("two bytes").to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn options(deflate: Option<Deflate>) -> Options {
    Options { deflate, message_size_max: 1_000_000, ..Options::default() }
}

/// What a stream means, whole.
fn events(deflate: Option<Deflate>, stream: impl AsRef<[u8]>) -> Vec<WsEvent> {
    let stream = stream.as_ref();
    ws_events(&options(deflate), stream, std::iter::once(stream.len()))
}

fn engine(deflate: Option<Deflate>) -> (Ws, Workspace) {
    (Ws::new(options(deflate), origin()), Workspace::default())
}

/// What the engine sends unasked.
fn output(engine: &mut Ws) -> Vec<u8> {
    let mut out = Vec::new();
    engine.poll_output(&mut out);
    assert!(!engine.has_output());
    out
}
