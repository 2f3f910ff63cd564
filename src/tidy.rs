//! The architecture as a unit test: reads the sources and says where they left the drawing in lib.rs.
//!
//! Invariant: every rule here is one that a reader could check by eye; what the compiler or clippy can check is absent.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Who may name whom as `crate::…`. `None`: everybody. A new module at the top of src gets a row.
const LAYERS: &[(&str, Option<&[&str]>)] = &[
    ("limits", Some(&[])),
    ("span", Some(&[])),
    ("proto", Some(&["limits", "span"])),
    ("uring", Some(&["limits"])),
    ("ipc", Some(&["limits", "span"])),
    ("pool", Some(&["limits", "span", "ipc"])),
    ("executor", Some(&["limits", "span", "ipc", "pool"])),
    ("shard", Some(&["limits", "span", "proto", "uring", "ipc", "pool"])),
    ("sim", Some(&["limits", "proto", "uring", "ipc", "pool", "shard"])),
    ("config", Some(&["limits"])),
    ("ctl", Some(&["limits", "config"])),
    ("control", None),
    ("lib", None),
    ("main", None),
    ("tidy", None),
];

/// STYLE: about 400 are comfortable.
const LINES_MAX: usize = 800;

struct Source {
    /// Relative to the root of the repository, `/` between the parts.
    path: String,
    text: String,
}

impl Source {
    /// The module at the top of src that this file belongs to; `None` outside src.
    fn layer(&self) -> Option<&str> {
        let first = self.path.strip_prefix("src/")?.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }

    fn is_test(&self) -> bool {
        self.path.split('/').any(|part| matches!(part, "tests" | "tests.rs"))
    }

    /// The numbered lines (from 1) of the product: comments blanked, and nothing from the inline test module on.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> =
            if self.is_test() { Vec::new() } else { self.text.lines().collect() };
        let end = lines
            .windows(2)
            .position(|pair| {
                pair[0].starts_with("#[cfg(")
                    && pair[0].contains("test")
                    && pair[1].starts_with("mod ")
                    && pair[1].ends_with('{')
            })
            .unwrap_or(lines.len());
        lines.into_iter().take(end).enumerate().map(|(at, line)| {
            let comment = line.find("//").unwrap_or(line.len());
            (at + 1, &line[..comment])
        })
    }

    /// The modules that the product's code names as `crate::name` or inside `crate::{…}`.
    fn names(&self) -> Vec<String> {
        let code: String = self.code().flat_map(|(_, line)| [line, "\n"]).collect();
        let after = code.match_indices("crate::").filter(|(at, _)| {
            !code[..*at].ends_with(|c: char| c == '$' || c == '_' || c.is_alphanumeric())
        });
        after.flat_map(|(at, found)| roots(&code[at + found.len()..])).collect()
    }
}

/// The first path segments of what follows `crate::`: one name, or those directly inside a brace.
fn roots(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else { return vec![ident(rest)] };
    let mut depth = 1_usize;
    let mut found = Vec::new();
    let mut expected = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => expected = true,
            _ if expected && !c.is_whitespace() => {
                found.push(ident(&group[at..]));
                expected = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

fn ident(text: &str) -> String {
    text.chars().take_while(|c| *c == '_' || c.is_alphanumeric()).collect()
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> = ["src", "pyworker/src", "fuzz/fuzz_targets", "benches"]
        .iter()
        .map(|folder| root.join(folder))
        .collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        // Some of them come and go.
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("a folder that can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source is UTF-8");
                let path = path.strip_prefix(root).expect("it was found under root");
                let path = path.display().to_string();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(
        found.iter().any(|source| source.path == "src/lib.rs"),
        "the sources are not where they should be"
    );
    found
}

/// Fails with everything that was found, not only with the first.
fn report(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn a_layer_names_only_layers_below_it() {
    let layers: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let mut complaints = Vec::new();
    for source in sources() {
        let Some(layer) = source.layer() else { continue };
        let Some(allowed) = layers.get(layer) else {
            complaints.push(format!("{}: `{layer}` has no row in LAYERS", source.path));
            continue;
        };
        let Some(allowed) = allowed else { continue };
        for name in source.names() {
            if name != layer && !allowed.contains(&name.as_str()) {
                complaints.push(format!("{}: {layer} may not name {name}", source.path));
            }
        }
    }
    report(&complaints);
}

#[test]
fn every_file_says_first_what_it_owns_and_stays_one_noun() {
    let mut complaints = Vec::new();
    for source in sources() {
        // A fuzz target's `#![no_main]` may come before it.
        let first = source.text.lines().find(|line| !line.is_empty() && !line.starts_with("#!["));
        if !first.is_some_and(|line| line.starts_with("//! ")) {
            complaints.push(format!("{}: does not open with //!", source.path));
        }
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            complaints.push(format!("{}: {lines} lines, at most {LINES_MAX}", source.path));
        }
    }
    report(&complaints);
}

#[test]
fn nothing_is_left_for_later_and_no_path_climbs_twice() {
    let banned = ["#[ignore", "todo!(", "unimplemented!(", "super::super"];
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.path != "src/tidy.rs") {
        for (at, line) in source.text.lines().enumerate() {
            for word in banned.iter().filter(|word| line.contains(**word)) {
                complaints.push(format!("{}:{}: {word}", source.path, at + 1));
            }
        }
    }
    report(&complaints);
}

#[test]
fn ipc_takes_its_atomics_from_sync_so_that_loom_sees_them_all() {
    let banned = ["sync::atomic", "loom::sync"];
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.layer() == Some("ipc")) {
        if source.path.ends_with("ipc/sync.rs") {
            continue;
        }
        for (at, line) in source.code() {
            if banned.iter().any(|path| line.contains(path)) {
                complaints.push(format!("{}:{at}: {}", source.path, line.trim()));
            }
        }
    }
    report(&complaints);
}

/// STYLE: the same name stands at the store, at the load, and in the list in ipc/mod.rs.
#[test]
fn every_happens_before_edge_of_ipc_has_two_ends_and_is_listed() {
    const LABEL: &str = "// edge: ";
    const ORDERS: [&str; 4] =
        ["Ordering::Acquire", "Ordering::Release", "Ordering::AcqRel", "Ordering::SeqCst"];

    let sources = sources();
    let list = sources
        .iter()
        .find(|source| source.path == "src/ipc/mod.rs")
        .map_or("", |source| &source.text);
    let mut ends: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.layer() == Some("ipc")) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, code) in source.code() {
            let line = lines[at - 1];
            let label = |line: &str| line.contains(LABEL);
            if let Some((_, name)) = line.split_once(LABEL) {
                let name = name.split_whitespace().next().unwrap_or_default();
                ends.entry(name).or_default().push(format!("{}:{at}", source.path));
            } else if ORDERS.iter().any(|order| code.contains(order))
                && !(at > 1 && label(lines[at - 2]))
            {
                complaints
                    .push(format!("{}:{at}: orders other data, but names no edge", source.path));
            }
        }
    }
    for (name, places) in ends {
        if places.len() < 2 {
            complaints.push(format!("{}: `{name}` has no other end", places.join(", ")));
        }
        if !list.contains(&format!("`{name}`")) {
            complaints.push(format!(
                "{}: `{name}` is not in the list in src/ipc/mod.rs",
                places.join(", ")
            ));
        }
    }
    report(&complaints);
}

#[test]
fn use_trees_are_read_to_their_roots() {
    assert_eq!(roots("span::{Field, Span};"), ["span"]);
    assert_eq!(
        roots("{\n    ipc::{self, ring},\n    limits,\n    span::Span,\n};"),
        ["ipc", "limits", "span"]
    );
}
