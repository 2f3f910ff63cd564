//! HTTP/2 through the shard: the library's own client on the scripted kernel, and frames by hand where it would not send them.

pub(super) mod peer;

use std::{future::Future, pin::Pin, task::Poll, time::Duration};

use bytes::Bytes;
use h2::{Reason, client::Builder};

use self::peer::{Peer, body, cx, frame, frames, get, ok, raw, seen};
use super::script::Stage;
use crate::{
    ipc::message::{Cancellation, ToWorker},
    limits,
    proto::h2::PREFACE,
    shard::{Limits, Report},
};

#[test]
fn streams_of_one_connection_are_answered_in_any_order() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let mut asked: Vec<_> =
        (0..3).map(|i| peer.ask(&mut stage, "GET", &format!("/user/{i}"))).collect();
    let ids: Vec<_> = (0..3).map(|_| stage.take_tagged()).collect();
    for (id, tag) in ids.iter().rev() {
        stage.respond(*id, None, tag.as_bytes(), true);
        stage.publish();
        peer.run(&mut stage);
        let at: usize = tag.parse().unwrap();
        assert_eq!(seen(&mut asked[at]), ok(tag.as_bytes()));
    }
    assert_eq!((stage.load.get(), stage.held()), (0, (1, 0)));
}

#[test]
fn a_preface_may_arrive_in_any_pieces_and_what_only_begins_like_one_is_http_1() {
    let mut stage = Stage::new();
    let whole = [&PREFACE[..], &frame(4, 0, 0, &[]), &get(1)].concat();
    for at in 1..PREFACE.len() {
        let client = stage.connect();
        stage.send(client, &whole[..at]);
        assert!(stage.sent_bytes(client).is_empty());
        stage.send(client, &whole[at..]);
        let id = stage.take();
        stage.respond(id, Some(0), b"", true);
        stage.publish();
        assert!(frames(&stage.take_sent(client)).iter().any(|frame| frame.0 == 1), "{at}");
        let other = stage.connect();
        stage.send(other, b"P");
        stage.send(other, b"OST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\nx");
        let id = stage.take();
        stage.respond(id, Some(0), b"", true);
        stage.publish();
        assert!(stage.sent(other).starts_with("HTTP/1.1 200 "), "{}", stage.sent(other));
    }
}

#[test]
fn the_edge_answers_streams_without_a_worker() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("GET", "/echo", 405),
        ("GET", "/slash", 307),
        ("OPTIONS", "/echo", 200),
    ] {
        let mut asked = peer.ask(&mut stage, method, path);
        let Some(Ok((found, _))) = seen(&mut asked) else { panic!("{method} {path}") };
        assert_eq!(found, status, "{method} {path}");
    }
    // The body that follows is nobody's.
    let (mut asked, mut upload) = peer.send("POST", "/nowhere", false);
    upload.send_data(vec![7; 1000].into(), false).unwrap();
    peer.run(&mut stage);
    assert!(matches!(seen(&mut asked), Some(Ok((404, _)))));
    assert_eq!(stage.held(), (1, 0));
}

#[test]
fn a_short_body_travels_with_its_head() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let (_asked, mut upload) = peer.send("POST", "/echo", false);
    upload.send_data(Bytes::from_static(b"short"), true).unwrap();
    peer.run(&mut stage);
    let Ok(Some((_, ToWorker::Request(request)))) = stage.lane.receive() else { panic!() };
    assert_eq!((request.version, request.body, request.end), (20, &b"short"[..], true));
}

#[test]
fn an_upload_keeps_its_order_when_room_comes_back_behind_its_back() {
    let mut stage = Stage::new();
    let mut peers = Vec::new();
    let mut uploads = Vec::new();
    // More than the arena and the ring hold.
    for _ in 0..4 {
        let mut peer = Peer::new(&mut stage);
        for _ in 0..6 {
            let (asked, mut upload) = peer.send("POST", "/echo", false);
            upload.send_data(vec![1; limits::EXCHANGE_WINDOW - 4].into(), false).unwrap();
            uploads.push((asked, upload));
        }
        peer.run(&mut stage);
        peers.push(peer);
    }
    let waits = stage.shard.core.exchanges.iter().find(|(_, e)| !e.backlog.is_empty());
    let (index, exchange) = waits.expect("somebody found no room");
    let id = stage.shard.core.exchanges.id(index);
    let _ = exchange;
    // The worker takes everything, and gives it back, in the middle of a turn of the shard's.
    let mut taken = Vec::new();
    take_bodies(&mut stage, id, &mut taken);
    stage.lane.publish().unwrap();
    stage.shard.core.read_lanes();
    stage.shard.core.upload(index, b"last");
    stage.settle();
    take_bodies(&mut stage, id, &mut taken);
    assert_eq!(taken.len(), limits::EXCHANGE_WINDOW);
    assert!(taken.ends_with(b"\x01last"), "{:?}", &taken[taken.len() - 8..]);
}

/// The body bytes of one exchange among all that the worker is sent.
fn take_bodies(stage: &mut Stage, wanted: u64, taken: &mut Vec<u8>) {
    while let Some((id, message)) = stage.lane.receive().unwrap() {
        match message {
            ToWorker::Request(request) if id == wanted => taken.extend_from_slice(request.body),
            ToWorker::Body { data, .. } if id == wanted => taken.extend_from_slice(data),
            _ => {}
        }
    }
}

#[test]
fn a_worker_that_dies_resets_the_streams_that_it_had_begun_and_no_other() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let mut begun = peer.ask(&mut stage, "GET", "/big");
    let mut repeated = peer.ask(&mut stage, "GET", "/hang");
    let (mut posted, mut upload) = peer.send("POST", "/echo", false);
    upload.send_data(Bytes::from_static(b"half"), false).unwrap();
    peer.run(&mut stage);
    let first = stage.take();
    stage.take();
    stage.take();
    stage.respond(first, Some(100), b"begun", false);
    stage.publish();
    peer.run(&mut stage);
    let dead = stage.attach();
    let mut sibling = peer.ask(&mut stage, "GET", "/user/alive");
    let (id, _) = stage.take_tagged();
    drop(dead);
    stage.dies(0);
    peer.run(&mut stage);
    assert_eq!(seen(&mut begun), Some(Err(Some(Reason::INTERNAL_ERROR))));
    assert!(matches!(seen(&mut posted), Some(Ok((502, _)))));
    assert_eq!(seen(&mut repeated), None, "idempotent, and nothing of an answer was out");
    let again = stage.take();
    stage.respond(again, None, b"again", true);
    stage.respond(id, None, b"alive", true);
    stage.publish();
    peer.run(&mut stage);
    assert_eq!(seen(&mut repeated), ok(b"again"));
    assert_eq!(seen(&mut sibling), ok(b"alive"));
    assert_eq!((stage.load.get(), stage.held()), (0, (1, 0)));
}

#[test]
fn a_reset_cancels_its_exchange_and_leaves_the_others_alone() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let cancelled = peer.ask(&mut stage, "GET", "/hang");
    let mut other = peer.ask(&mut stage, "GET", "/big");
    let (first, second) = (stage.take(), stage.take());
    drop(cancelled);
    peer.run(&mut stage);
    let received = stage.lane.receive().unwrap();
    assert!(
        matches!(received, Some((id, ToWorker::Cancel(Cancellation::ClientGone))) if id == first)
    );
    assert!(stage.lane.send_abort(first).unwrap());
    stage.respond(second, None, b"ok", true);
    stage.publish();
    peer.run(&mut stage);
    assert_eq!(seen(&mut other), ok(b"ok"));
    assert_eq!((stage.load.get(), stage.held()), (0, (1, 0)));
    assert_eq!(stage.gauge(|gauges| &gauges.abandoned), 1);
}

#[test]
fn rapid_resets_cost_their_connection_and_leave_nothing_behind() {
    rapid_resets(true);
}

#[test]
fn rapid_resets_cost_their_connection_though_what_they_withdraw_costs_no_worker_anything() {
    rapid_resets(false);
}

/// `taken`: the worker is there in time for each request.
fn rapid_resets(taken: bool) {
    let mut stage = Stage::new();
    let client = raw(&mut stage);
    let mut honest = Peer::new(&mut stage);
    let mut asked = honest.ask(&mut stage, "GET", "/big");
    let kept = stage.take();
    let mut cancelled = 0;
    for number in 0..1000 {
        if !stage.is_receiving(client) {
            break;
        }
        let stream = 2 * number + 1;
        stage.send(client, &get(stream));
        if taken && let Some((_, message)) = stage.lane.receive().unwrap() {
            assert!(matches!(message, ToWorker::Request(_)), "{message:?}");
        }
        if stage.is_receiving(client) {
            stage.send(client, &frame(3, 0, stream, &8_u32.to_be_bytes()));
        }
        while let Some((id, message)) = stage.lane.receive().unwrap() {
            assert!(taken && matches!(message, ToWorker::Cancel(_)), "{message:?}");
            assert!(stage.lane.send_abort(id).unwrap());
            cancelled += 1;
        }
        stage.publish();
    }
    let begun = stage.gauge(|gauges| &gauges.begun) - 1;
    let withdrawn = stage.gauge(|gauges| &gauges.withdrawn);
    assert_eq!((cancelled, withdrawn), if taken { (begun, 0) } else { (0, begun) });
    assert!((100..300).contains(&begun), "{begun} were let through");
    let sent = frames(&stage.take_sent(client));
    assert_eq!(sent.last().map(|frame| frame.0), Some(7), "GOAWAY");
    stage.respond(kept, None, b"ok", true);
    stage.publish();
    honest.run(&mut stage);
    assert_eq!(seen(&mut asked), ok(b"ok"));
    stage.wait(limits::LINGER_TIMEOUT * 2);
    assert_eq!((stage.load.get(), stage.held()), (0, (1, 0)));
}

#[test]
fn a_request_and_its_reset_in_one_piece_never_reach_a_worker() {
    let mut stage = Stage::new();
    let client = raw(&mut stage);
    stage.send(client, &[get(1), frame(3, 0, 1, &8_u32.to_be_bytes())].concat());
    assert!(stage.lane.receive().unwrap().is_none());
    assert_eq!(stage.gauge(|gauges| &gauges.begun), 0);
}

#[test]
fn a_client_that_takes_nothing_stops_its_own_worker_and_begins_no_more() {
    let mut stage = Stage::new();
    let mut peer = Peer::with(&mut stage, Builder::new().initial_window_size(0));
    let mut asked: Vec<_> = (0..8).map(|_| peer.ask(&mut stage, "GET", "/big")).collect();
    for _ in 0..8 {
        let (id, window) = take_window(&mut stage);
        let window = vec![7; window];
        let id = &id;
        stage.respond(*id, None, &window[..limits::INLINE_BODY_SIZE_MAX], false);
        let mut at = limits::INLINE_BODY_SIZE_MAX;
        while at < window.len() {
            at += stage.lane.send_body(*id, &window[at..], false).unwrap().unwrap_or(0);
            stage.publish();
        }
    }
    peer.run(&mut stage);
    assert!(stage.lane.receive().unwrap().is_none(), "no credit for what is not taken");
    let mut late = peer.ask(&mut stage, "GET", "/hang");
    assert!(stage.lane.receive().unwrap().is_none(), "too much is held already");
    // Another connection does not notice.
    let mut other = Peer::new(&mut stage);
    let mut answered = other.ask(&mut stage, "GET", "/hang");
    let id = stage.take();
    stage.respond(id, None, b"ok", true);
    stage.publish();
    other.run(&mut stage);
    assert_eq!(seen(&mut answered), ok(b"ok"));
    // The client gives up: what was held is let go, and the one that waited is begun.
    for asked in asked.drain(..) {
        drop(asked);
    }
    peer.run(&mut stage);
    let mut begun = None;
    while let Some((id, message)) = stage.lane.receive().unwrap() {
        match message {
            ToWorker::Cancel(_) => assert!(stage.lane.send_abort(id).unwrap()),
            ToWorker::Request(_) => begun = Some(id),
            _ => {}
        }
    }
    stage.respond(begun.expect("the one that waited"), Some(0), b"", true);
    stage.publish();
    peer.run(&mut stage);
    assert_eq!(seen(&mut late), ok(b""));
    assert_eq!((stage.load.get(), stage.held()), (0, (2, 0)));
}

/// The next request at the worker: its id, and the window of its response.
fn take_window(stage: &mut Stage) -> (u64, usize) {
    match stage.lane.receive().unwrap() {
        Some((id, ToWorker::Request(request))) => (id, limits::EXCHANGE_WINDOW >> request.halvings),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_windows_of_a_connections_responses_are_bounded_together() {
    let mut stage = Stage::new();
    let client = raw(&mut stage);
    let requests: Vec<_> = (0..limits::H2_STREAMS_MAX).flat_map(|i| get(2 * i + 1)).collect();
    for piece in requests.chunks(limits::RECV_BUFFER_SIZE as usize) {
        stage.send(client, piece);
    }
    let streams = limits::H2_STREAMS_MAX as usize;
    let windows: Vec<_> = (0..streams).map(|_| take_window(&mut stage).1).collect();
    assert_eq!(windows[0], limits::EXCHANGE_WINDOW, "one alone has a whole one");
    let least = limits::EXCHANGE_WINDOW >> limits::WINDOW_HALVINGS_MAX;
    assert!(windows.iter().sum::<usize>() <= limits::STREAMS_WINDOW + streams * least);
}

#[test]
fn a_narrow_window_grows_when_there_is_room_and_its_client_reads() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let mut asked: Vec<_> = (0..20).map(|_| peer.ask(&mut stage, "GET", "/big")).collect();
    let taken: Vec<_> = (0..20).map(|_| take_window(&mut stage)).collect();
    let (last, window) = taken[19];
    assert!(window < limits::EXCHANGE_WINDOW);
    for (id, _) in &taken[..19] {
        stage.respond(*id, Some(0), b"", true);
    }
    stage.respond(last, None, b"", false);
    stage.publish();
    peer.run(&mut stage);
    let Poll::Ready(Ok(response)) = Pin::new(&mut asked[19]).poll(&mut cx()) else { panic!() };
    let mut stream = response.into_body();
    let (mut credit, mut most) = (window, 0);
    for _ in 0..100 {
        most = most.max(credit);
        assert_eq!(stage.lane.send_body(last, &vec![7; credit], false), Ok(Some(credit)));
        credit = 0;
        stage.publish();
        peer.run(&mut stage);
        body(&mut stream).unwrap();
        peer.run(&mut stage);
        while let Some((_, message)) = stage.lane.receive().unwrap() {
            let ToWorker::Credit(more) = message else { panic!("{message:?}") };
            credit += usize::try_from(more).unwrap();
        }
        if most == limits::EXCHANGE_WINDOW {
            break;
        }
    }
    assert_eq!(most, limits::EXCHANGE_WINDOW);
    assert_eq!(stage.held(), (1, 1));
}

#[test]
fn a_worker_that_sends_beyond_a_narrow_window_is_at_fault() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let _asked: Vec<_> = (0..20).map(|_| peer.ask(&mut stage, "GET", "/big")).collect();
    let taken: Vec<_> = (0..20).map(|_| take_window(&mut stage)).collect();
    let (last, window) = taken[19];
    stage.respond(last, None, b"", false);
    stage.lane.send_body(last, &vec![7; window + 1], false).unwrap();
    stage.publish();
    let faulty = std::iter::from_fn(|| stage.reports.try_recv().ok());
    assert!(faulty.into_iter().any(|report| matches!(report, Report::Faulty { .. })));
}

#[test]
fn a_client_that_takes_nothing_is_given_up_and_its_worker_told() {
    let mut stage = Stage::new();
    let mut peer = Peer::with(&mut stage, Builder::new().initial_window_size(0));
    let mut asked = peer.ask(&mut stage, "GET", "/big");
    let id = stage.take();
    stage.respond(id, None, b"body", false);
    stage.publish();
    peer.run(&mut stage);
    stage.wait(limits::SEND_TIMEOUT * 2);
    stage.wait(limits::SEND_TIMEOUT * 2);
    let received = stage.lane.receive().unwrap();
    assert!(matches!(received, Some((_, ToWorker::Cancel(_)))), "{received:?}");
    peer.run(&mut stage);
    let Poll::Ready(Ok(response)) = Pin::new(&mut asked).poll(&mut cx()) else { panic!() };
    assert!(body(&mut response.into_body()).is_err());
}

#[test]
fn a_server_that_stops_says_so_and_finishes_what_it_has() {
    let mut stage = Stage::new();
    let mut busy = Peer::new(&mut stage);
    let mut idle = Peer::new(&mut stage);
    let mut asked = busy.ask(&mut stage, "GET", "/hang");
    let id = stage.take();
    stage.drain();
    // Asked for before the client could know.
    let mut late = busy.ask(&mut stage, "GET", "/big");
    idle.run(&mut stage);
    assert!(matches!(idle.over, Some(Ok(()))), "{:?}", idle.over);
    let second = stage.take();
    stage.respond(id, None, b"ok", true);
    stage.respond(second, None, b"late", true);
    stage.publish();
    busy.run(&mut stage);
    assert_eq!((seen(&mut asked), seen(&mut late)), (ok(b"ok"), ok(b"late")));
    assert!(matches!(busy.over, Some(Ok(()))), "{:?}", busy.over);
    stage.finish(busy.token);
    stage.finish(idle.token);
    assert_eq!((stage.load.get(), stage.held()), (0, (0, 0)));
}

#[test]
fn a_client_that_has_sent_fin_gets_what_it_asked_for() {
    let mut stage = Stage::new();
    let client = raw(&mut stage);
    stage.send(client, &get(1));
    let id = stage.take();
    stage.finish(client);
    assert!(stage.lane.receive().unwrap().is_none(), "it is not cancelled");
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    let sent = stage.take_sent(client);
    assert!(frames(&sent).iter().any(|frame| frame.0 == 0), "{:?}", frames(&sent));
    assert_eq!((stage.load.get(), stage.held()), (0, (0, 0)));
}

#[test]
fn a_client_that_is_gone_behind_its_fin_is_found_out() {
    let mut stage = Stage::new();
    let client = raw(&mut stage);
    stage.send(client, &get(1));
    stage.take();
    stage.finish(client);
    stage.wait(limits::SWEEP_INTERVAL);
    let sent = frames(&stage.take_sent(client));
    assert!(sent.iter().any(|frame| frame.0 == 6), "a PING draws its RST: {sent:?}");
}

#[test]
fn an_upload_that_can_not_be_finished_any_more_is_cancelled() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let (_asked, mut upload) = peer.send("POST", "/echo", false);
    upload.send_data(Bytes::from_static(b"half"), false).unwrap();
    peer.run(&mut stage);
    let id = stage.take();
    stage.finish(peer.token);
    let received = stage.lane.receive().unwrap();
    assert!(matches!(received, Some((_, ToWorker::Cancel(Cancellation::ClientGone)))));
    assert!(stage.lane.send_abort(id).unwrap());
    stage.publish();
    assert_eq!((stage.load.get(), stage.held()), (0, (0, 0)));
}

#[test]
fn deadlines_are_for_streams() {
    let limits = Limits { request_timeout: Duration::from_secs(3), ..Limits::default() };
    let mut stage = Stage::with(limits);
    let mut peer = Peer::new(&mut stage);
    let mut late = peer.ask(&mut stage, "GET", "/hang");
    let mut cut = peer.ask(&mut stage, "GET", "/big");
    let (first, second) = (stage.take(), stage.take());
    stage.respond(second, None, b"begun", false);
    stage.publish();
    peer.run(&mut stage);
    stage.wait(Duration::from_secs(4));
    peer.run(&mut stage);
    assert!(matches!(seen(&mut late), Some(Ok((504, _)))));
    assert_eq!(seen(&mut cut), Some(Err(Some(Reason::INTERNAL_ERROR))));
    for id in [first, second] {
        let received = stage.lane.receive().unwrap();
        assert!(matches!(received, Some((_, ToWorker::Cancel(Cancellation::DeadlinePassed)))));
        assert!(stage.lane.send_abort(id).unwrap());
    }
    stage.publish();
    assert_eq!((stage.load.get(), stage.held()), (0, (1, 0)));
}

#[test]
fn a_body_that_does_not_come_is_408_and_its_siblings_go_on() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let (mut slow, _upload) = peer.send("POST", "/echo", false);
    let mut sibling = peer.ask(&mut stage, "GET", "/hang");
    stage.take();
    let id = stage.take();
    stage.wait(limits::BODY_TIMEOUT * 2);
    peer.run(&mut stage);
    assert!(matches!(seen(&mut slow), Some(Ok((408, _)))));
    stage.respond(id, None, b"ok", true);
    stage.publish();
    peer.run(&mut stage);
    assert_eq!(seen(&mut sibling), ok(b"ok"));
}

#[test]
fn a_download_is_as_fast_as_its_client_takes_it_and_whole() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let mut asked = peer.ask(&mut stage, "GET", "/big");
    let id = stage.take();
    let total: usize = 3_000_000;
    let bytes: Vec<u8> = (0..total).map(|at| u8::try_from(at % 251).unwrap()).collect();
    stage.respond(id, Some(total as u64), b"", false);
    stage.publish();
    peer.run(&mut stage);
    let Poll::Ready(Ok(response)) = Pin::new(&mut asked).poll(&mut cx()) else { panic!() };
    let mut stream = response.into_body();
    let (mut got, mut at, mut credit) = (Vec::new(), 0, limits::EXCHANGE_WINDOW);
    while got.len() < total {
        let piece = credit.min(total - at);
        if piece > 0 {
            let end = at + piece == total;
            let taken = stage.lane.send_body(id, &bytes[at..at + piece], end).unwrap();
            let taken = taken.unwrap_or(0);
            (at, credit) = (at + taken, credit - taken);
        }
        stage.publish();
        peer.run(&mut stage);
        got.extend(body(&mut stream).unwrap());
        while let Some((_, message)) = stage.lane.receive().unwrap() {
            let ToWorker::Credit(more) = message else { panic!("{message:?}") };
            credit += usize::try_from(more).unwrap();
        }
    }
    assert!(got == bytes, "it is what was sent");
    assert_eq!((stage.load.get(), stage.held()), (0, (1, 0)));
}

#[test]
fn many_connections_with_many_streams_leave_nothing_behind() {
    let mut stage = Stage::new();
    let mut asked = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..20 {
        let mut peer = Peer::new(&mut stage);
        asked.extend((0..20).map(|i| peer.ask(&mut stage, "GET", &format!("/user/{i}"))));
        peers.push(peer);
    }
    for _ in 0..400 {
        let (id, tag) = stage.take_tagged();
        stage.respond(id, None, tag.as_bytes(), true);
    }
    stage.publish();
    for peer in &mut peers {
        peer.run(&mut stage);
    }
    for (at, asked) in asked.iter_mut().enumerate() {
        assert_eq!(seen(asked), ok((at % 20).to_string().as_bytes()));
    }
    assert_eq!((stage.load.get(), stage.held()), (0, (20, 0)));
}

#[test]
fn the_access_log_says_which_version_it_was() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let _asked = peer.ask(&mut stage, "GET", "/nowhere");
    stage.wait(limits::SWEEP_INTERVAL);
    let Ok(Report::AccessLog(lines)) = stage.reports.try_recv() else { panic!("no line") };
    let lines = String::from_utf8(lines).unwrap();
    assert!(lines.contains("\"GET /nowhere HTTP/2.0\" 404 "), "{lines}");
}
