//! Round trips with clients that share no code with the engine: soketto's framing with miniz's DEFLATE, and
//! tungstenite's client (which shares its frame headers with us, but nothing above them).

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
};

use flate2::{Compress, Compression, Decompress};
use proptest::{collection::vec, prelude::*};
use soketto::{
    Parsing,
    base::{Codec, Header, OpCode},
};
use tungstenite::{Message, WebSocket, protocol::Role};

use super::*;
use crate::proto::ws::{Kind, Phase, Piece, Step};

/// Messages both ways: kind, content, and where it is cut.
#[derive(Clone, Debug)]
struct Sample {
    is_text: bool,
    data: Vec<u8>,
    cuts: Vec<usize>,
    is_packed: bool,
}

impl Sample {
    fn pieces(&self) -> Vec<&[u8]> {
        let mut cuts: Vec<_> = self.cuts.iter().map(|cut| cut % (self.data.len() + 1)).collect();
        cuts.extend([0, self.data.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| &self.data[pair[0]..pair[1]]).collect()
    }

    const fn kind(&self) -> Kind {
        if self.is_text { Kind::Text } else { Kind::Binary }
    }
}

fn sample() -> impl Strategy<Value = Sample> {
    let text = prop_oneof![
        "\\PC{0,300}".prop_map(String::into_bytes),
        ("[a-f]{1,20}", 1..2000_usize).prop_map(|(text, times)| text.repeat(times).into_bytes()),
    ];
    let data = prop_oneof![
        text.prop_map(|data| (true, data)),
        vec(any::<u8>(), 0..2000).prop_map(|data| (false, data)),
    ];
    (data, vec(any::<usize>(), 0..4), any::<bool>())
        .prop_map(|((is_text, data), cuts, is_packed)| Sample { is_text, data, cuts, is_packed })
}

/// A client made of soketto's codec and miniz.
struct Client {
    codec: Codec,
    deflate: Option<Deflate>,
    compress: Compress,
    decompress: Decompress,
    mask: u32,
}

impl Client {
    fn new(deflate: Option<Deflate>) -> Self {
        let mut codec = Codec::new();
        codec.add_reserved_bits((deflate.is_some(), false, false));
        Self {
            codec,
            deflate,
            compress: Compress::new(Compression::default(), false),
            decompress: Decompress::new(false),
            mask: 0x1234_5678,
        }
    }

    fn send(&mut self, sample: &Sample, stream: &mut Vec<u8>) {
        let is_packed = sample.is_packed && self.deflate.is_some();
        let packed;
        let mut sample = sample.clone();
        if is_packed {
            if self.deflate.is_some_and(|deflate| !deflate.client_takeover) {
                self.compress.reset();
            }
            packed = deflate::pack(&mut self.compress, &sample.data);
            sample.data = packed;
        }
        let pieces = sample.pieces();
        for (at, piece) in pieces.iter().enumerate() {
            let opcode = match (at, sample.is_text) {
                (0, true) => OpCode::Text,
                (0, false) => OpCode::Binary,
                _ => OpCode::Continue,
            };
            self.mask = self.mask.rotate_left(5).wrapping_add(99);
            let mut header = Header::new(opcode);
            header.set_fin(at + 1 == pieces.len()).set_rsv1(at == 0 && is_packed);
            header.set_masked(true).set_mask(self.mask).set_payload_len(piece.len());
            stream.extend_from_slice(self.codec.encode_header(&header));
            let mut payload = piece.to_vec();
            Codec::apply_mask(&header, &mut payload);
            stream.extend_from_slice(&payload);
        }
    }

    /// The messages in what the engine sent.
    fn receive(&mut self, mut stream: &[u8]) -> Vec<(Kind, Vec<u8>)> {
        let mut messages = Vec::new();
        let mut begun: Option<(Kind, bool, Vec<u8>)> = None;
        while !stream.is_empty() {
            let Ok(Parsing::Done { value: header, offset }) = self.codec.decode_header(stream)
            else {
                panic!("no frame at {:.40}", stream.escape_ascii().to_string());
            };
            assert!(!header.is_masked());
            let (payload, rest) = stream[offset..].split_at(header.payload_len());
            stream = rest;
            let (kind, is_packed, mut data) = match (header.opcode(), begun.take()) {
                (OpCode::Continue, Some(message)) => message,
                (OpCode::Text, None) => (Kind::Text, header.is_rsv1(), Vec::new()),
                (OpCode::Binary, None) => (Kind::Binary, header.is_rsv1(), Vec::new()),
                other => panic!("{other:?}"),
            };
            data.extend_from_slice(payload);
            if !header.is_fin() {
                begun = Some((kind, is_packed, data));
                continue;
            }
            if is_packed {
                if self.deflate.is_some_and(|deflate| !deflate.server_takeover) {
                    self.decompress.reset(false);
                }
                data = deflate::unpack(&mut self.decompress, &data);
            }
            messages.push((kind, data));
        }
        assert!(begun.is_none());
        messages
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn messages_make_the_round_trip_with_soketto_and_miniz(
        samples in vec(sample(), 1..8),
        deflate in prop_oneof![Just(None), Just(Some(NO_TAKEOVER)), Just(Some(TAKEOVER))],
        size in 1_usize..5000,
    ) {
        let expected: Vec<_> =
            samples.iter().map(|sample| (sample.kind(), sample.data.clone())).collect();
        let mut client = Client::new(deflate);
        let mut stream = Vec::new();
        for sample in &samples {
            client.send(sample, &mut stream);
        }
        let found: Vec<_> = ws_events(&options(deflate), &stream, std::iter::repeat(size))
            .into_iter()
            .map(|event| match event {
                WsEvent::Message(kind, data) => (kind, data),
                other => panic!("{other:?}"),
            })
            .collect();
        prop_assert!(found == expected);

        let (mut engine, mut work) = engine(deflate);
        let mut out = Vec::new();
        for sample in &samples {
            let pieces = sample.pieces();
            for (at, data) in pieces.iter().enumerate() {
                let more = at + 1 < pieces.len();
                let piece = Piece { data, kind: sample.kind(), more };
                engine.encode_piece(piece, &mut work, &mut out).expect("valid");
            }
        }
        prop_assert!(client.receive(&out) == expected);
    }
}

/// Both directions of a connection in memory.
#[derive(Debug, Default)]
struct Pipe {
    to_client: VecDeque<u8>,
    to_server: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.to_client.read(buf) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            other => other,
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.to_server.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_whole_session_with_tungstenites_client() {
    let mut client = WebSocket::from_raw_socket(Pipe::default(), Role::Client, None);
    let (mut engine, mut work) = engine(None);
    let large = "x".repeat(100_000);
    client.send(Message::text(large.clone())).expect("sent");
    client.send(Message::Ping("p".into())).expect("sent");
    client.send(Message::binary(vec![1, 2, 3])).expect("sent");

    let input = std::mem::take(&mut client.get_mut().to_server);
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        match engine.decode(&input[at..], &mut work) {
            Ok(Step::NeedMore { consumed }) => {
                at += consumed;
                break;
            }
            Ok(Step::Piece { consumed, data, kind, more }) => {
                at += consumed;
                let data = data.to_vec();
                let back = Piece { data: &data, kind, more };
                engine.poll_output(&mut out);
                engine.encode_piece(back, &mut work, &mut out).expect("valid");
            }
            other => panic!("{:.200}", format!("{other:?}")),
        }
    }
    assert_eq!(at, input.len());
    engine.encode_close(Some((4000, b"enough")), origin(), &mut out).expect("valid");

    client.get_mut().to_client.extend(out);
    let mut next = || client.read().expect("a message");
    assert!(next() == Message::text(large));
    assert_eq!(next(), Message::Pong("p".into()));
    assert_eq!(next(), Message::binary(vec![1, 2, 3]));
    let Message::Close(Some(close)) = next() else { panic!("the Close comes last") };
    assert_eq!((u16::from(close.code), close.reason.as_str()), (4000, "enough"));
    client.flush().expect("sent");
    let input = std::mem::take(&mut client.get_mut().to_server);
    assert!(matches!(engine.decode(&input, &mut work), Ok(Step::Close { code: 4000, .. })));
    assert_eq!(engine.phase(), Phase::Over);
}
