//! A status for people: a line about the server, one for each shard, one for each worker process.
//!
//! Invariant: a column is as wide as its widest cell, numbers stand to the right. Scripts read `--json`.

use std::{collections::BTreeMap, fmt::Write};

use super::protocol::{Process, Status, Worker};

pub(super) fn of(status: &Status) -> String {
    let server = &status.server;
    let mut text = format!(
        "{} on {}, pid {}, up {}, generation {}, workers {}/{} ready{}\n\n",
        server.app,
        server.url,
        server.pid,
        age(server.uptime_s),
        server.generation,
        server.workers_ready,
        server.workers,
        if server.draining { ", stopping" } else { "" },
    );
    let mut workers = vec![strings([
        "worker",
        "pid",
        "incarnation",
        "generation",
        "state",
        "in flight",
        "requests",
        "RSS",
        "loop lag",
        "tasks",
        "up",
        "restarts",
    ])];
    for worker in &status.workers {
        workers.extend(of_worker(worker));
    }
    render(&workers, &[4, 11], &mut text);
    text.push('\n');
    let mut shards = vec![strings([
        "shard",
        "connections",
        "exchanges",
        "queued",
        "chunks",
        "begun",
        "redispatched",
        "failed",
        "overdue",
        "shed",
        "abandoned",
        "withdrawn",
    ])];
    for shard in &status.shards {
        let counts = [
            shard.connections,
            shard.exchanges,
            shard.queued,
            shard.chunks,
            shard.begun,
            shard.redispatched,
            shard.failed,
            shard.overdue,
            shard.shed,
            shard.abandoned,
            shard.withdrawn,
        ];
        let counts = counts.iter().map(u64::to_string);
        shards.push(std::iter::once(shard.shard.to_string()).chain(counts).collect());
    }
    render(&shards, &[], &mut text);
    text
}

fn of_worker(worker: &Worker) -> Vec<Vec<String>> {
    let place = worker.worker.to_string();
    let restarts = causes(&worker.restarts);
    if worker.processes.is_empty() {
        let mut row = strings(["", "-", "-", "-", "waiting", "-", "-", "-", "-", "-", "-", ""]);
        row.splice(..1, [place]);
        row.splice(11.., [restarts]);
        return vec![row];
    }
    let row = |(index, process): (usize, &Process)| {
        let optional =
            |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
        vec![
            place.clone(),
            process.pid.to_string(),
            process.incarnation.to_string(),
            process.generation.to_string(),
            process.state.clone(),
            process.in_flight.to_string(),
            process.requests.to_string(),
            process.rss_bytes.map_or_else(|| "-".to_owned(), memory),
            lag(process),
            optional(process.tasks),
            age(process.uptime_s),
            // Of the place: once.
            if index == 0 { restarts.clone() } else { String::new() },
        ]
    };
    worker.processes.iter().enumerate().map(row).collect()
}

fn lag(process: &Process) -> String {
    match process.loop_lag_ms {
        Some(lag) if process.loop_silent => format!("> {lag:.0} ms"),
        Some(lag) => format!("{lag:.1} ms"),
        None => "-".to_owned(),
    }
}

fn causes(restarts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> =
        restarts.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

fn memory(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// In its two largest units.
fn age(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time for people"
    )]
    let seconds = seconds as u64;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

fn strings<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn render(rows: &[Vec<String>], left: &[usize], text: &mut String) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            // Writing to a string does not fail.
            let _ = match left.contains(&column) {
                true => write!(line, "{gap}{cell:<width$}"),
                false => write!(line, "{gap}{cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::protocol::{Server, Shard};

    fn process() -> Process {
        Process {
            pid: 4711,
            incarnation: 2,
            generation: 1,
            state: "ready".into(),
            in_flight: 3,
            requests: 1234,
            rss_bytes: Some(45 << 20),
            loop_lag_ms: Some(0.34),
            loop_silent: false,
            tasks: Some(5),
            uptime_s: 61.9,
        }
    }

    #[test]
    fn a_status_is_a_table() {
        let restarts = BTreeMap::from([("killed".to_owned(), 1), ("drain".to_owned(), 12)]);
        let stuck =
            Process { loop_lag_ms: Some(251.2), loop_silent: true, tasks: None, ..process() };
        let status = Status {
            server: Server {
                version: "0".into(),
                pid: 1,
                uptime_s: 90_000.0,
                app: "main:app".into(),
                url: "http://127.0.0.1:8000".into(),
                generation: 1,
                workers_ready: 1,
                workers: 2,
                draining: false,
            },
            shards: vec![Shard { connections: 7, begun: 99, ..Shard::default() }],
            workers: vec![
                Worker { worker: 0, restarts: restarts.clone(), processes: vec![process(), stuck] },
                Worker { worker: 1, restarts: BTreeMap::new(), processes: Vec::new() },
            ],
            restarts,
        };
        let expected = "\
main:app on http://127.0.0.1:8000, pid 1, up 1 d 1 h, generation 1, workers 1/2 ready

worker   pid  incarnation  generation  state    in flight  requests     RSS  loop lag  tasks         up  restarts
     0  4711            2           1  ready            3      1234  45 MiB    0.3 ms      5  1 min 1 s  drain 12, killed 1
     0  4711            2           1  ready            3      1234  45 MiB  > 251 ms      -  1 min 1 s
     1     -            -           -  waiting          -         -       -         -      -          -  -

shard  connections  exchanges  queued  chunks  begun  redispatched  failed  overdue  shed  abandoned  withdrawn
    0            7          0       0       0     99             0       0        0     0          0          0
";
        assert_eq!(of(&status), expected);
    }
}
