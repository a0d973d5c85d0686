//! The house: which room may use which, how long a file may be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::support::repository;

/// Which rooms each room may use; ARCHITECTURE.md explains it. `*` is every room.
const MAY_USE: [(&str, &[&str]); 28] = [
    ("main", &["cli"]),
    ("cli", &["*"]),
    ("fuzzing", &["*"]),
    ("settings", &["fetch", "message", "routing", "weights"]),
    ("fetch", &[]),
    ("message", &["weights"]),
    ("routing", &["message"]),
    ("vision", &["kernels"]),
    ("dataset", &["message"]),
    ("evaluation", &["message", "weights"]),
    ("statistics", &[]),
    ("evidence", &["message", "routing", "statistics"]),
    ("evidence_store", &["control", "evidence", "kafka", "message", "pipeline", "routing", "settings", "telemetry"]),
    ("training", &["dataset", "engine", "evaluation", "message", "ofa", "store", "text", "vision", "weights"]),
    ("synth", &["message", "vision"]),
    ("text", &[]),
    ("weights", &[]),
    ("kernels", &[]),
    ("ofa", &["kernels", "weights"]),
    ("store", &["ofa", "text", "message", "weights"]),
    ("engine", &["store", "ofa", "vision", "text", "message", "weights", "telemetry"]),
    ("kafka", &["message"]),
    ("delivery", &["message"]),
    (
        "pipeline",
        &[
            "delivery",
            "fetch",
            "message",
            "vision",
            "routing",
            "engine",
            "kafka",
            "settings",
            "store",
            "telemetry",
            "text",
        ],
    ),
    ("control", &["pipeline", "engine", "routing", "kafka", "settings", "telemetry"]),
    ("admin", &["control", "evidence", "evidence_store", "http", "message", "pipeline", "routing", "settings"]),
    ("telemetry", &["http"]),
    ("http", &[]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn room(path: &Path) -> String {
    let inside = path.strip_prefix(repository("src")).unwrap();
    inside.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// Rooms that a file names after `crate::`, in `use` lines (groups included) and in paths.
fn used(text: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for rest in text.split("crate::").skip(1) {
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group.split([',', '\n']).map(str::trim).take_while(|name| !name.starts_with('}')).collect(),
            None => vec![rest],
        };
        for name in names {
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if MAY_USE.iter().any(|(room, _)| *room == name) {
                rooms.insert(name);
            }
        }
    }
    rooms
}

#[test]
fn no_room_reaches_where_the_table_does_not_let_it() {
    let table: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    let mut wrong = Vec::new();
    let mut uses = 0;
    for path in sources(&repository("src")).iter().filter(|path| !path.ends_with("src/lib.rs")) {
        let room = room(path);
        let allowed = table.get(room.as_str()).unwrap_or_else(|| panic!("room `{room}` is not in the table"));
        for other in used(&fs::read_to_string(path).unwrap()) {
            uses += 1;
            if other != room && !allowed.contains(&other.as_str()) && !allowed.contains(&"*") {
                wrong.push(format!("{} uses `{other}`, which `{room}` may not", path.display()));
            }
        }
    }
    assert!(uses > 30, "only {uses} uses were seen: the reading of `use` lines is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_their_own_rooms_name_the_large_libraries() {
    for (library, rooms) in [
        ("rdkafka::", &["kafka"][..]),
        ("burn::", &["ofa", "engine", "kernels", "training"]),
        ("axum::", &["http", "telemetry", "admin"]),
        ("gemm::", &["kernels"]),
        ("redb::", &["evidence_store"]),
        ("ureq::", &["store", "admin", "fetch"]),
    ] {
        for path in sources(&repository("src")) {
            let named = fs::read_to_string(&path).unwrap().contains(library);
            assert!(!named || rooms.contains(&room(&path).as_str()), "{} names {library}", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_in_the_room_of_kernels_and_where_libraries_in_c_are_called() {
    let callers =
        ["src/kafka/identity.rs", "src/kafka/topic_ids.rs", "src/vision/jpeg/library.rs", "src/vision/webp/library.rs"]
            .map(repository);
    for path in sources(&repository("src")).into_iter().filter(|path| !callers.contains(path)) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("unsafe {") || room(&path) == "kernels", "{}", path.display());
    }
}

#[test]
fn every_file_can_be_read_in_one_sitting() {
    const LINES_MAX: usize = 430;
    for folder in ["src", "tests", "benches"] {
        for path in sources(&repository(folder)) {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
        }
    }
}
