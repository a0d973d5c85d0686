//! How operators reach a running instance: the admin API, and the commands that use it.

use ofa_stream::{
    admin::{ChangeRequest, Client, ClientError},
    control::{Applied, Report},
};
use serde_json::Value;

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
            regex::Regex::new(r"sha256:[0-9a-f]{12}|after [0-9.]+ ms|\S+:\d+ serves|20\d\d-\S+|127\S+").unwrap();
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
