//! How operators reach a running instance: the admin API, and the commands that use it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use ofa_stream::{
    admin::{ChangeRequest, Client, ClientError},
    control::{Applied, Report},
};
use serde_json::{Value, json};

use crate::{
    broker::cluster,
    instance::{Instance, READ_TOKEN, TOKEN, client, operated},
    support::program,
};

#[test]
fn the_admin_api_lets_in_who_may_and_refuses_by_code() {
    let cluster = cluster();
    let instance = Instance::start(&operated(&cluster.bootstrap_servers()));
    instance.running.log_line("Taking requests.");
    let digest = instance.report().config_digest;
    let address = page_address(&instance);
    let refused = |client: &Client, method: &str, path: &str| match client.send::<Value>(method, path, String::new()) {
        Err(ClientError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    for path in ["/v1/status", "/v1/rollback", "/v1/openapi.json", "/"] {
        assert_eq!(refused(&client(&address, "another-token-entirely"), "GET", path), "unauthorized");
    }
    let reading = client(&address, READ_TOKEN);
    reading.get::<Report>("/v1/status").unwrap();
    for (method, path) in [("POST", "/v1/rollback"), ("PUT", "/v1/config"), ("DELETE", "/v1/config")] {
        assert_eq!(refused(&reading, method, path), "forbidden");
    }
    let large = "#".repeat(2 << 20);
    let cases = [
        ("GET", "/v1/nothing", "", "no_such_address"),
        ("POST", "/v1/rollback", "", "no_history"),
        ("POST", "/v1/rollback", "{", "bad_request"),
        ("POST", "/v1/default/ofa_huge", "", "unknown_name"),
        ("POST", "/v1/experiments/other/pause", "", "unknown_name"),
        ("POST", "/v1/experiments/both/promote/third", "", "unknown_name"),
        ("PUT", "/v1/config", "[kafka", "settings"),
        ("PUT", "/v1/config?dry_run=perhaps", "", "bad_request"),
        ("POST", "/v1/rollback?dry_run=true", "", "bad_request"),
        ("POST", "/v1/rollback", r#"{"dryrun": true}"#, "bad_request"),
        ("POST", "/v1/default/ofa_small", "[]", "bad_request"),
        ("POST", "/v1/default/ofa_small", r#"["ann", "why", false]"#, "bad_request"),
        ("POST", "/v1/default/ofa_small", "null", "bad_request"),
        ("PATCH", "/v1/config", "", "no_such_method"),
        ("PUT", "/v1/config", &large, "too_large"),
    ];
    for (method, path, body, code) in cases {
        assert_eq!(instance.code(method, path, body), code, "{method} {path} {body}");
    }
    assert_eq!(instance.report().config_digest, digest, "nothing changed");

    let asked = ChangeRequest { dry_run: true, ..ChangeRequest::default() };
    let tried: Applied = instance.api.post("/v1/default/ofa_small", &asked).unwrap();
    assert!(tried.dry_run && tried.config_digest != digest && tried.revision == 0);
    assert_eq!(instance.report().config_digest, digest, "it was only tried");

    // Every address of the description is answered, with more than "no such address" or "no such method".
    let document: Value = instance.api.get("/v1/openapi.json").unwrap();
    let mut addresses = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace(['{', '}'], "");
            let answer = instance.api.send::<Value>(&method.to_uppercase(), &path, String::new());
            let known = match &answer {
                Ok(_) => true,
                Err(ClientError::Refused { code, .. }) => code != "no_such_address" && code != "no_such_method",
                Err(_) => false,
            };
            assert!(known, "{method} {path}: {answer:?}");
            addresses += 1;
        }
    }
    assert!(addresses >= 11, "{addresses}");
}

/// A token that may do so much, and the codes that refuse it.
const ROLES: [(&str, usize); 5] = [
    ("a-token-that-is-unknown", 0),
    ("token-of-a-looker", 1),
    (READ_TOKEN, 1),
    ("token-of-a-reviewer", 2),
    ("token-of-an-operator", 3),
];

#[test]
fn every_role_may_do_what_it_may_on_every_route_and_the_audit_has_the_name_of_the_token() {
    let cluster = cluster();
    let tokens = tempfile::tempdir().unwrap();
    let mut people = String::new();
    for (role, name, token) in [
        ("look", "leo", "token-of-a-looker"),
        ("review", "rui", "token-of-a-reviewer"),
        ("operate", "ann", "token-of-an-operator"),
    ] {
        let file = tokens.path().join(name);
        std::fs::write(&file, token).unwrap();
        people +=
            &format!("[[admin.people]]\nname = \"{name}\"\nrole = \"{role}\"\ntoken_file = \"{}\"\n", file.display());
    }
    let instance = Instance::start(&(operated(&cluster.bootstrap_servers()) + &people));
    instance.running.log_line("Taking requests.");
    let address = page_address(&instance);

    let document: Value = instance.api.get("/v1/openapi.json").unwrap();
    let mut walked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let looks = method == "get" || ["/v1/predict", "/v1/explain", "/v1/simulate"].contains(&path.as_str());
            let needed = if looks { 1 } else { 3 };
            for (token, may) in ROLES {
                let (method, path) = (method.to_uppercase(), path.replace(['{', '}'], ""));
                let answer = client(&address, token).send::<Value>(&method, &path, String::new());
                let code = match &answer {
                    Ok(_) => "",
                    Err(ClientError::Refused { code, .. }) => code,
                    Err(error) => panic!("{method} {path}: {error}"),
                };
                let refused = ["unauthorized", "forbidden"].contains(&code);
                assert_eq!(refused, may < needed, "{method} {path} with {token}: {code}");
                walked += 1;
            }
        }
    }
    assert!(walked >= 60, "{walked}");

    let ann = client(&address, "token-of-an-operator");
    let claim = ChangeRequest { by: "bob".to_owned(), why: "a test".to_owned(), ..ChangeRequest::default() };
    ann.post::<Applied>("/v1/experiments/both/pause", &claim).unwrap();
    let audit: Value = instance.api.get("/v1/audit?limit=1").unwrap();
    assert_eq!((audit[0]["by"].as_str(), audit[0]["claimed"].as_str()), (Some("ann"), Some("bob")));

    // A token is changed, and one is taken away, without a restart.
    std::fs::write(tokens.path().join("ann"), "another-token-of-ann").unwrap();
    std::fs::remove_file(tokens.path().join("leo")).unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    client(&address, "another-token-of-ann").get::<Report>("/v1/status").unwrap();
    for gone in ["token-of-an-operator", "token-of-a-looker"] {
        assert!(client(&address, gone).get::<Report>("/v1/status").is_err(), "{gone}");
    }
}

#[test]
fn a_request_is_tried_on_some_versions_and_explained() {
    let cluster = cluster();
    let instance = Instance::start(&operated(&cluster.bootstrap_servers()));
    instance.running.log_line("Taking requests.");
    let looking = client(&page_address(&instance), READ_TOKEN);
    let request = |image: Value| json!({"request_id": "tried", "text": "a mug", "image": image}).to_string();
    let mug = request(json!({"base64": crate::broker::image("mug.jpg")}));
    let verdicts: Vec<Value> = looking.send("POST", "/v1/predict?versions=ofa_base,ofa_small", mug.clone()).unwrap();
    let names: Vec<&str> = verdicts.iter().map(|verdict| verdict["model_version"].as_str().unwrap()).collect();
    assert_eq!(names, ["ofa_base", "ofa_small"]);
    assert!(verdicts.iter().all(|verdict| verdict["request_id"] == "tried" && verdict.get("source").is_none()));
    let routed: Vec<Value> = looking.send("POST", "/v1/predict", mug.clone()).unwrap();
    let explained: Value = looking.send("POST", "/v1/explain", mug.clone()).unwrap();
    assert_eq!(explained["version"], routed[0]["model_version"]);
    assert_eq!(explained["probabilities"], json!({"ofa_base": 0.25, "ofa_small": 0.75}));
    assert_eq!(explained["steps"][0]["decided"], true);

    let settings = std::fs::read_to_string(instance.running.folder().join("pipeline.toml")).unwrap();
    let half = settings.replace("traffic_ratio = 1.0", "traffic_ratio = 0.5");
    let body = json!({"units": 10_000, "text": "a mug", "settings": half}).to_string();
    let shares: Value = looking.send("POST", "/v1/simulate", body).unwrap();
    assert_eq!(shares["units"], 10_000);
    let moved = shares["against"]["moved"]["share"].as_f64().unwrap();
    // Half of the units leave the experiment, and a quarter of them had the default version already.
    assert!((moved - 0.375).abs() < 0.03, "{moved}");

    let code = |path: &str, body: String| match looking.send::<Value>("POST", path, body) {
        Err(ClientError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code("/v1/predict", request(json!({"url": "https://example.com/mug.jpg"}))), "image_url_refused");
    assert_eq!(code("/v1/predict?versions=ofa_huge", mug), "unknown_name");
    assert_eq!(code("/v1/predict", "{".to_owned()), "malformed_json");
    assert_eq!(code("/v1/explain", request(json!({"base64": "AAAA"}))), "image_format_unsupported");
    assert_eq!(instance.metric("ofa_records_consumed_total", ""), 0.0, "nothing of it is traffic");
}

#[test]
fn the_door_refuses_foreign_names_and_origins() {
    let cluster = cluster();
    let allowed =
        operated(&cluster.bootstrap_servers()).replace("[admin]\n", "[admin]\nallowed_hosts = [\"ops.example\"]\n");
    let instance = Instance::start(&allowed);
    instance.running.log_line("Taking requests.");
    let address = page_address(&instance);
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(request.replace('\n', "\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let get = |host: &str| {
        ask(&format!("GET /v1/status HTTP/1.1\nHost: {host}\nAuthorization: Bearer {TOKEN}\nConnection: close\n\n"))
    };
    for (host, status) in
        [(address.as_str(), "200"), ("ops.example", "200"), ("localhost", "200"), ("evil.example", "421")]
    {
        let answer = get(host);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
        assert!(answer.contains("x-content-type-options: nosniff") && answer.contains("cache-control: no-store"));
    }
    assert!(get(&address).contains("etag: \""));
    let post = format!(
        "POST /v1/rollback HTTP/1.1\nHost: {address}\nOrigin: http://evil.example\nAuthorization: Bearer {TOKEN}\n\
         Content-Length: 0\nConnection: close\n\n"
    );
    assert!(ask(&post).contains("origin_refused"));
    assert!(ask(&format!("GET / HTTP/1.0\nHost: {address}\n\n")).contains("http_version"));
}

fn page_address(instance: &Instance) -> String {
    instance.api.address().trim_start_matches("http://").to_owned()
}

#[test]
fn the_commands_change_what_serves_and_show_it() {
    let cluster = cluster();
    let instance = Instance::start(&operated(&cluster.bootstrap_servers()));
    instance.running.log_line("Taking requests.");
    let config = instance.running.folder().join("pipeline.toml");
    let [next, batches] = ["next.toml", "batches.toml"].map(|name| instance.running.folder().join(name));
    let file = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&next, file.replace("traffic_ratio = 1.0", "traffic_ratio = 0.5")).unwrap();
    let small = "[model_versions.versions.ofa_small]\n";
    std::fs::write(&batches, file.replace(small, &format!("{small}batch_size = 3\n"))).unwrap();

    let run = |arguments: &[&str]| {
        let mut command = program();
        command.args(arguments).arg("--config").arg(&config).arg("--admin").arg(instance.api.address());
        let output = command.env("USER", "ann").output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        // Times and digests differ from run to run; that they are there is what matters.
        let pattern =
            regex::Regex::new(r"sha256:[0-9a-f]{12}|after [0-9.]+ ms|\S+ serves by|20\d\d-\S+|127\S+").unwrap();
        pattern.replace_all(&format!("{out}{err}"), "…").into_owned()
    };
    let [next, batches, config_file] = [&next, &batches, &config].map(|file| file.to_str().unwrap());
    let folder = config_file.trim_end_matches("pipeline.toml");

    let mut shown = Vec::new();
    for arguments in [
        &["status"][..],
        &["pause", "both", "--why", "it looks bad"],
        &["set-default", "ofa_small", "--dry-run"],
        &["set-default", "ofa_small"],
        &["promote", "both", "treatment", "--by", "bob"],
        &["rollback"],
        &["apply", next, "--why", "half of them"],
        &["status"],
        &["use-file"],
        &["apply", batches, "--dry-run"],
        &["apply", batches],
        &["apply", batches, "--dry-run"],
        &["use-file"],
        &["apply", config_file, "--dry-run"],
        &["clear"],
        &["resume", "both"],
        &["promote", "both", "control"],
        &["explain", "--live", "--request-id", "r"],
        &["pause", "neither"],
        &["audit", "--limit", "4"],
    ] {
        let output = run(arguments);
        shown.push(format!("$ {}\n{output}", arguments.join(" ").replace(folder, "")));
    }

    insta::assert_snapshot!(shown.join("\n"));

    let elsewhere =
        program().args(["status", "--admin", "http://127.0.0.1:9", "--config"]).arg(&config).output().unwrap();
    let error = String::from_utf8(elsewhere.stderr).unwrap();
    assert!(error.contains("http://127.0.0.1:9 does not answer"), "{error}");
}

#[test]
fn a_command_takes_the_token_that_the_program_made_before_one_that_may_only_look() {
    let cluster = cluster();
    let settings = operated(&cluster.bootstrap_servers());
    let instance = Instance::start(&settings.replace(&format!("write_token = \"{TOKEN}\"\n"), ""));
    instance.running.log_line("Taking requests.");
    let config = instance.running.folder().join("pipeline.toml");
    let run = |command: &[&str]| {
        let mut program = program();
        program.args(command).arg("--config").arg(&config).args(["--admin", instance.api.address()]);
        let output = program.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run(&["pause", "both"]), (Some(0), String::new()));
    // Whoever may not read the folder can still look.
    std::fs::remove_file(instance.running.folder().join("control/token")).unwrap();
    assert_eq!(run(&["status"]).0, Some(0));
    let (code, error) = run(&["resume", "both"]);
    assert!(code == Some(1) && error.contains("token"), "{error}");
}
